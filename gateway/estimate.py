"""How many tokens a request will take, learned from what engines told of earlier ones. (P)

Invariant: estimates are finite and positive whatever engines report, and what is kept is bounded whatever clients send.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from gateway.types import InferenceRequest, Operation, Usage

BYTES_PER_TOKEN: Final = 4.0
"""About what tokenizers make of English and of code, until a model has shown its own."""
OUTPUT_TOKENS: Final = 256.0
"""What an answer is taken to be long while nobody has seen one."""
_RATIO: Final = (1.0, 16.0)
_RATIO_PART: Final = 0.02
_LENGTH_PART: Final = 0.05
_TELLING: Final = 16
"""Prompts of so few tokens are mostly chat template: they say nothing of the text."""
_MOST_CHOICES: Final = 128
_LONGEST: Final = 1e9
_NO_MODEL: Final = (Operation.TOKENIZE, Operation.DETOKENIZE, Operation.COUNT_TOKENS)
_NO_ANSWER: Final = (*_NO_MODEL, Operation.EMBEDDINGS, Operation.RERANK)

_Key = TypeVar("_Key")


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """Tokens that a request will take of an engine: those of its prompt, cached or not, and of all its answers."""

    input: float
    output: float


class _Means(Generic[_Key]):
    """A moving mean for each key: of all its values at first, of the last ``1 / part`` or so later.

    At most ``most`` keys; the one that has learned nothing for longest is forgotten for a new one.
    """

    __slots__ = ("_means", "_most", "_part")

    def __init__(self, part: float, most: int) -> None:
        self._part = part
        self._most = most
        self._means: dict[_Key, tuple[float, float]] = {}

    def get(self, key: _Key) -> float | None:
        known = self._means.get(key)
        return None if known is None else known[0]

    def learn(self, key: _Key, value: float, prior: float) -> None:
        """``prior``: what was believed of a new key; it counts as one value."""
        means = self._means
        mean, seen = means.pop(key, (prior, 1.0))
        if len(means) >= self._most:
            del means[next(iter(means))]
        seen += 1.0
        part = self._part if self._part * seen > 1.0 else 1.0 / seen
        means[key] = mean + part * (value - mean), seen


class Estimator:
    """Bytes a token by model; tokens of an answer by caller and model, else by model, else a guess.

    Models and callers are kept by the names given, ``models`` and ``callers`` of them at most.
    """

    __slots__ = ("_answers", "_lengths", "_ratios")

    def __init__(self, *, models: int = 1000, callers: int = 10_000) -> None:
        self._ratios: _Means[str] = _Means(_RATIO_PART, models)
        self._lengths: _Means[str] = _Means(_LENGTH_PART, models)
        self._answers: _Means[tuple[tuple[str, str], str]] = _Means(_LENGTH_PART, callers)

    def ratio(self, model: str) -> float:
        """Bytes of canonical text that make a token of this model's, 1 to 16."""
        ratio = self._ratios.get(model)
        return BYTES_PER_TOKEN if ratio is None else ratio

    def tokens(self, request: InferenceRequest, text_bytes: int, exact: int | None = None) -> Estimate:
        """``text_bytes``: length of the prompt's canonical text; ``exact``: its tokens, where somebody has counted."""
        if request.operation in _NO_MODEL:
            return Estimate(0.0, 0.0)
        prompt = text_bytes / self.ratio(request.model) if exact is None else float(exact)
        return Estimate(max(prompt, 1.0), self.output(request))

    def output(self, request: InferenceRequest) -> float:
        """Tokens of all the request's answers: what such answers are long, and no more than the client allows."""
        if request.operation in _NO_ANSWER:
            return 0.0
        length = self._answers.get((request.identity.flow, request.model))
        if length is None:
            length = self._lengths.get(request.model)
            if length is None:
                length = OUTPUT_TOKENS
        limit: int | None = getattr(request.view, "output_limit", None)
        if limit is not None and limit < length:
            length = float(max(limit, 0))
        return length * _answers(request)

    def observe(self, request: InferenceRequest, text_bytes: int, usage: Usage) -> None:
        """Learn from what an engine told at an answer's end. One cut short says nothing; ``text_bytes`` 0: not read."""
        model = request.model
        if text_bytes > 0 and usage.prompt > _TELLING:
            least, most = _RATIO
            self._ratios.learn(model, min(max(text_bytes / usage.prompt, least), most), BYTES_PER_TOKEN)
        if request.operation in _NO_ANSWER or usage.completion <= 0:
            return
        length = min(usage.completion / _answers(request), _LONGEST)
        expected = self._lengths.get(model)
        prior = OUTPUT_TOKENS if expected is None else expected
        self._answers.learn((request.identity.flow, model), length, prior)
        self._lengths.learn(model, length, prior)


def _answers(request: InferenceRequest) -> int:
    """How many the client wants; what engines refuse anyway is not believed."""
    choices: int = getattr(request.view, "choices", 1)
    prompts: int = getattr(request.view, "prompts", 1)
    return min(max(choices, 1), _MOST_CHOICES) * prompts
