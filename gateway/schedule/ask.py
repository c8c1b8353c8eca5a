"""One request as schedulers look at it. (P)

Invariant: nothing is decoded or hashed before a plugin asks for it, and nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from gateway.estimate import BYTES_PER_TOKEN as BYTES_PER_TOKEN
from gateway.prefix import Blocks, chain
from gateway.types import InferenceRequest, Operation

if TYPE_CHECKING:
    from gateway.schedule.explain import Explanation

_COMPUTES_NOTHING: Final = (Operation.TOKENIZE, Operation.DETOKENIZE, Operation.COUNT_TOKENS)


class Ask:
    """``model`` is the name the engines will be asked for, ``now`` the time of the decision (Trio's clock, seconds).

    ``hits``: prompt tokens that an endpoint (by id) is believed to hold, as found by the last scorer that looked.
    ``known``: leading blocks an endpoint had before this request was placed there, by plugin and endpoint.
    ``left_out``: the filter that left nobody, if one did. ``explanation``: where to write down what is weighed.
    ``priority``: that of its objective.
    """

    __slots__ = (
        "_chains", "_text", "_tokens", "bytes_per_token", "explanation", "hits", "known", "left_out", "model", "now",
        "priority", "request",
    )  # fmt: skip

    def __init__(
        self, request: InferenceRequest, model: str, now: float, bytes_per_token: float = BYTES_PER_TOKEN
    ) -> None:
        self.request = request
        self.model = model
        self.now = now
        self.bytes_per_token = bytes_per_token
        self.hits: dict[str, float] = {}
        self.known: dict[tuple[object, str], int] = {}
        self.left_out = ""
        self.priority = 0
        self.explanation: Explanation | None = None
        self._tokens = 0.0
        self._text: bytes | None = b"" if request.operation in _COMPUTES_NOTHING else None
        self._chains: dict[Blocks, Sequence[int]] = {}

    def again(self, now: float) -> Ask:
        """The same to be asked once more, while its first answer is still under way."""
        other = Ask(self.request, self.model, now, self.bytes_per_token)
        other.priority = self.priority
        other._tokens, other._text, other._chains = self._tokens, self._text, self._chains
        return other

    @property
    def text(self) -> bytes:
        """The prompt's canonical text, equal for equal prefixes whatever the client's JSON looks like; b"" where
        nothing is computed of it.
        """
        text = self._text
        if text is None:
            render = getattr(self.request.view, "prompt_text", None)
            self._tokens = 0.0
            text = self._text = b"" if render is None else render().encode("utf-8", "surrogatepass")
        return text

    @property
    def read(self) -> bool:
        """Whether anybody has asked for the text."""
        return self._text is not None

    @property
    def tokens(self) -> float:
        """About how many tokens the prompt is long, at least 1; told from the whole body while nobody has read it."""
        tokens = self._tokens
        if not tokens:
            text = self._text
            length = len(self.request.body if text is None else text)
            tokens = self._tokens = length / self.bytes_per_token if length > self.bytes_per_token else 1.0
        return tokens

    def counted(self, tokens: int) -> None:
        """A tokenizer has told how long the prompt is; with it goes this prompt's own ratio of bytes to tokens, by
        which whatever is held of it is measured, so that a prompt held whole stays held whole.
        """
        length = len(self.text)
        if tokens > 0 and length:
            self.bytes_per_token = length / tokens
        self._tokens = max(float(tokens), 1.0)

    @property
    def chains(self) -> Mapping[Blocks, Sequence[int]]:
        """Those of `chain` that anybody has asked for."""
        return self._chains

    def chain(self, blocks: Blocks) -> Sequence[int]:
        """The prompt's block hashes, each covering all text before it. Prompts of different models share none."""
        hashes = self._chains.get(blocks)
        if hashes is None:
            text = self.text
            short = len(text) < blocks.size and not blocks.published
            hashes = self._chains[blocks] = () if short else chain(text, self.model.encode(), blocks)
        return hashes

    def uncached(self, endpoint: str) -> float:
        """Prompt tokens that this endpoint would have to compute, at least 1: the last one always is."""
        return max(1.0, self.tokens - self.hits.get(endpoint, 0.0))
