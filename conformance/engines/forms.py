"""How an answer is written: one object per reply, fed with counts of tokens, giving bytes. (P)

Invariant: what a stream shows adds up to what the whole answer shows, however the tokens were grouped into calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from conformance.engines.ask import Ask, Plan
from conformance.engines.batch import Sequence as Generation

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"
_MARK = "\ue000token\ue001"
_QUOTED_MARK = encode(_MARK)


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event."""
    prefix = f"event: {name}\n".encode() if name else b""
    return prefix + b"data: " + encode(data) + b"\n\n"


class Choice:
    """One of the answers a request gets: its plan, its generation, and how much of it has been written."""

    __slots__ = ("call_id", "closed", "generation", "id", "index", "plan", "prompt", "taken", "template")

    def __init__(self, index: int, plan: Plan, generation: Generation, prompt: bytes, id: str, call_id: str) -> None:
        self.index, self.plan, self.generation, self.prompt = index, plan, generation, prompt
        self.id, self.call_id = id, call_id
        self.taken = 0
        self.closed = False
        self.template: tuple[bytes, bytes] | None = None


class Form:
    """Base of all forms. ``stream_type`` is the stream's content type."""

    stream_type: ClassVar[bytes] = b"text/event-stream; charset=utf-8"
    headers_first: ClassVar[bool] = True
    """The stream's head is sent at once, not with the first token."""

    def __init__(self, ask: Ask, choices: Sequence[Choice], id: str, created: int) -> None:
        self.ask, self.choices, self.id, self.created = ask, choices, id, created

    def advance(self, allowance: float = float("inf")) -> tuple[bytes, int]:
        """The bytes for all tokens made since the last call (``allowance`` at most), and how many tokens they are."""
        out: list[bytes] = []
        total = 0
        for choice in self.choices:
            made = choice.generation.generated
            if made - choice.taken > allowance - total:
                made = choice.taken + int(allowance - total)
            final = made == choice.plan.length and choice.generation.over and not choice.closed
            if made > choice.taken or final:
                out.append(self.tokens(choice, choice.taken, made))
                total += made - choice.taken
                choice.taken = made
                choice.closed = final
        return b"".join(out), total

    def begin(self) -> bytes:
        """Bytes due before the first token."""
        return b""

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        """Tokens ``start`` up to ``stop``, with what opens and closes the choice at its ends."""
        raise NotImplementedError

    def end(self) -> bytes:
        """What follows the last token."""
        return b""

    def failure(self, message: str) -> bytes:
        """What ends a stream that fails; b"" where the dialect has one way for all its streams."""
        return b""

    def whole(self) -> bytes:
        """The answer to a request that is not streamed."""
        raise NotImplementedError

    # -- counts -------------------------------------------------------------------------------------------------

    @property
    def prompt_tokens(self) -> int:
        """Counted once per prompt, however many choices it has."""
        return sum(choice.generation.prompt for choice in self.choices if choice.index % self.ask.n == 0)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.plan.length for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        return sum(choice.generation.cached for choice in self.choices if choice.index % self.ask.n == 0)

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.plan.reasoning for choice in self.choices)


class Stream(Form):
    """Forms whose stream is one JSON event per token, text tokens all alike but for the text itself."""

    prefix: ClassVar[bytes] = b"data: "
    """Some servers leave out the space."""
    merges_finish: ClassVar[bool] = False
    """The last token and the finish reason share an event."""

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        out = [self.opening(choice)] if start == 0 else []
        end = choice.plan.length
        merged = self.merges_finish and stop == end and end > 0 and choice.plan.tool is None
        upto = stop - 1 if merged else stop
        if self.uniform(choice):
            self._uniform(choice, start, upto, out)
        else:
            out += [self.token(choice, at) for at in range(start, upto)]
        if stop == end:
            out.append(self.last(choice) if merged else self.closing(choice))
        return b"".join(out)

    def event(self, data: Any) -> bytes:
        return self.prefix + encode(data) + b"\n\n"

    @property
    def done(self) -> bytes:
        return self.prefix + b"[DONE]\n\n"

    def _uniform(self, choice: Choice, start: int, stop: int, out: list[bytes]) -> None:
        if stop <= start:
            return
        if choice.template is None:
            head, _, tail = self.text(choice, _MARK).partition(_QUOTED_MARK)
            choice.template = head, tail
        head, tail = choice.template
        out += (head, (tail + head).join(choice.plan.quoted[start:stop]), tail)

    def uniform(self, choice: Choice) -> bool:
        """Every token's event differs only in its text."""
        return choice.plan.plain and self.ask.logprobs is None and not self.ask.continuous_usage

    def opening(self, choice: Choice) -> bytes:
        return b""

    def text(self, choice: Choice, piece: str) -> bytes:
        """The event of a plain token."""
        raise NotImplementedError

    def token(self, choice: Choice, at: int) -> bytes:
        """The event of token ``at``, whatever it is."""
        return self.text(choice, choice.plan.pieces[at])

    def last(self, choice: Choice) -> bytes:
        """The event of the last token, finish reason included."""
        raise NotImplementedError

    def closing(self, choice: Choice) -> bytes:
        """The event after the last token."""
        raise NotImplementedError


def logprob(
    piece: str, top: int, order: Callable[[dict[str, Any]], dict[str, Any]] = lambda entry: entry
) -> dict[str, Any]:
    """One token's entry of ``logprobs.content``; the alternatives are the token with ever more marks."""

    def entry(text: str, value: float) -> dict[str, Any]:
        return order({"token": text, "logprob": value, "bytes": list(text.encode())})

    value = -0.25 - len(piece) / 16
    others = [entry(piece + "'" * rank, value - rank) for rank in range(top)]
    return {**entry(piece, value), "top_logprobs": others}


def legacy_logprobs(pieces: Sequence[str], top: int, offset: int = 0) -> dict[str, Any]:
    """The completions endpoint's older shape."""
    values = [logprob(piece, top) for piece in pieces]
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    return {
        "text_offset": offsets,
        "token_logprobs": [value["logprob"] for value in values],
        "tokens": list(pieces),
        "top_logprobs": [{each["token"]: each["logprob"] for each in value["top_logprobs"]} for value in values],
    }
