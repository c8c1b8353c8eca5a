"""Whether an answer is what an OpenAI client may expect, checked cheaply enough for the hot loop. (P)

Invariant: a verdict does not depend on how the bytes were split into reads; every failure has one short, constant name.
"""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

_TOKEN = re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments)": ?"[^"]')
_NUMBER = re.compile(rb" ?(\d+)")
_DONE = b"[DONE]"
_DONE_LINE = re.compile(rb"\[DONE\]\r?\n")  # the end of a line cannot be inside a JSON string


class Check(Protocol):
    """Reads one answer's body. ``begun``: the first token has come. The token counts are the engine's own, or None."""

    begun: bool
    output_tokens: int | None
    prompt_tokens: int | None

    def feed(self, data: bytes) -> int:
        """Take the next bytes of the body; return how many data events (``[DONE]`` aside) they ended."""
        ...

    def finish(self) -> str | None:
        """After the last byte: what is wrong, or None."""
        ...


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """``usage`` of an answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Choice(msgspec.Struct, frozen=True):
    index: int
    finish_reason: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    object: str = ""
    choices: list[_Choice] | None = None
    data: list[msgspec.Raw] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode_answer = msgspec.json.Decoder(_Answer).decode


class WholeCheck:
    """A plain JSON answer: choices that have each ended, or embeddings."""

    __slots__ = ("_body", "begun", "output_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self._body = b""
        self.begun = False
        self.output_tokens: int | None = None
        self.prompt_tokens: int | None = None

    def feed(self, data: bytes) -> int:
        """Keep the bytes; there are no events."""
        self._body = self._body + data if self._body else data
        return 0

    def finish(self) -> str | None:
        """Decode the whole body."""
        try:
            answer = _decode_answer(self._body)
        except msgspec.DecodeError:
            return "bad_json"
        if bytes(answer.error) not in (b"", b"null") or answer.object == "error":
            return "error_body"
        if answer.usage is not None:
            self.output_tokens = answer.usage.completion_tokens
            self.prompt_tokens = answer.usage.prompt_tokens
        if answer.choices is None:
            return None if answer.data else "no_choices"
        if not answer.choices or any(choice.finish_reason is None for choice in answer.choices):
            return "no_finish_reason"
        return None


class _Lines:
    """Cuts a body into runs of whole lines; the partial last line waits for its end."""

    __slots__ = ("_carry",)

    def __init__(self) -> None:
        self._carry = b""

    def whole(self, data: bytes) -> bytes:
        """All lines completed so far, possibly none."""
        if self._carry:
            data = self._carry + data
        if data.endswith(b"\n"):
            self._carry = b""
            return data
        cut = data.rfind(b"\n") + 1
        self._carry = data[cut:]
        return data[:cut]

    @property
    def clean(self) -> bool:
        """No line is left without its end."""
        return not self._carry


class QuickStreamCheck:
    """Counts events by searching for bytes, with no JSON parsed in the loop.

    JSON strings hold no raw line feed and no bare quote, so a needle that has one cannot be part of a token's text.
    ``cached_tokens`` of the prompt are None where the engine does not say.
    """

    __slots__ = ("_done", "_error", "_finished", "_lines", "begun", "cached_tokens", "output_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self._lines = _Lines()
        self._done = 0
        self._error: str | None = None
        self._finished = False
        self.begun = False
        self.cached_tokens: int | None = None
        self.output_tokens: int | None = None
        self.prompt_tokens: int | None = None

    def feed(self, data: bytes) -> int:
        """Count the events that start in the lines ended by ``data``."""
        data = self._lines.whole(data)
        events = data.count(b"\ndata:") + data.startswith(b"data:")
        if not events:
            return 0
        if self._done:
            self._error = self._error or ("done_twice" if _DONE_LINE.search(data) else "after_done")
        if not self.begun:
            self.begun = _TOKEN.search(data) is not None
        if b'{"error"' in data or b'"object":"error"' in data:
            self._error = self._error or "error_event"
        if not self._finished:
            self._finished = b'"finish_reason":"' in data or b'"finish_reason": "' in data
        if (at := data.rfind(b'"usage":')) >= 0 and data.startswith(b"{", at + 8 + data.startswith(b" ", at + 8)):
            self._read_usage(data, at)
        if _DONE in data:
            events -= self._read_done(data)
        return events

    def _read_usage(self, data: bytes, at: int) -> None:
        """Take the last usage among the lines; only the line that holds it is parsed."""
        start = data.rfind(b"data:", 0, at) + 5
        try:
            usage = _decode_answer(data[start : data.find(b"\n", at)]).usage
        except msgspec.DecodeError:
            return  # "usage" inside an object of another meaning; the full check tells
        if usage is not None:
            self.output_tokens, self.prompt_tokens = usage.completion_tokens, usage.prompt_tokens
            if usage.prompt_tokens_details is not None:
                self.cached_tokens = usage.prompt_tokens_details.cached_tokens

    def _read_done(self, data: bytes) -> int:
        """Count the ``[DONE]`` lines and see that nothing follows the first."""
        ends = [match.end() for match in _DONE_LINE.finditer(data)]
        if ends and self._error is None and data.find(b"data:", ends[0]) >= 0:
            self._error = "done_twice" if len(ends) > 1 else "after_done"
        found = len(ends)
        self._done += found
        return found

    def finish(self) -> str | None:
        """The first thing wrong, in order of what tells most."""
        if self._error is not None:
            return self._error
        if self._done > 1:
            return "done_twice"
        if not self._done:
            return "no_done"
        if not self._lines.clean:
            return "partial_line"
        return None if self._finished else "no_finish_reason"


class _Delta(msgspec.Struct, frozen=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def text(self) -> str:
        """Whatever this delta adds."""
        return (self.content or "") + (self.reasoning_content or "") + (self.reasoning or "")


class _StreamChoice(msgspec.Struct, frozen=True):
    index: int
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[_StreamChoice]
    usage: Usage | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class FullStreamCheck:
    """Parses every event: shape, id, role first, nothing after the finish, usage that adds up and comes last.

    ``usage`` demands the usage event; ``numbered`` demands that the tokens' text counts 0, 1, 2 …, which proves that
    none was lost, doubled or moved (``benchmarks/upstream`` streams such text).
    """

    __slots__ = (
        "_begun_at", "_done", "_error", "_finished", "_ids", "_lines", "_next", "_numbered", "_object", "_usage",
        "_usage_due", "begun", "output_tokens", "prompt_tokens", "tokens_seen",
    )  # fmt: skip

    def __init__(self, chat: bool, usage: bool, numbered: bool = False) -> None:
        self._lines = _Lines()
        self._object = "chat.completion.chunk" if chat else "text_completion"
        self._usage_due = usage
        self._numbered = numbered
        self._next = 0
        self._ids: set[str] = set()
        self._begun_at: set[int] = set()
        self._finished: set[int] = set()
        self._usage: Usage | None = None
        self._done = False
        self._error: str | None = None
        self.tokens_seen = 0
        self.begun = False
        self.output_tokens: int | None = None
        self.prompt_tokens: int | None = None

    def feed(self, data: bytes) -> int:
        """Parse each whole ``data:`` line; the first thing wrong is kept."""
        events = 0
        for line in self._lines.whole(data).splitlines():
            if not line.startswith(b"data:"):
                if line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                    self._fail("not_sse")
                continue
            payload = line[5:].strip()
            if payload == _DONE:
                self._fail("done_twice" if self._done else None)
                self._done = True
                continue
            events += 1
            self._fail(self._chunk(payload))
        return events

    def _fail(self, error: str | None) -> None:
        self._error = self._error or error

    def _chunk(self, payload: bytes) -> str | None:
        """One event: what is wrong with it, or None."""
        if self._done:
            return "after_done"
        try:
            chunk = _decode_chunk(payload)
        except msgspec.DecodeError:
            return "error_event" if b'"error"' in payload else "bad_event"
        if chunk.object != self._object:
            return "bad_object"
        self._ids.add(chunk.id)
        if self._usage is not None and self._usage_due and chunk.choices and len(self._finished) > 0:
            return "after_usage"
        if chunk.usage is not None:
            self._usage = chunk.usage
            self.output_tokens, self.prompt_tokens = chunk.usage.completion_tokens, chunk.usage.prompt_tokens
        for choice in chunk.choices:
            if wrong := self._choice(choice):
                return wrong
        return None

    def _choice(self, choice: _StreamChoice) -> str | None:
        """Role first, text in order, nothing after the finish."""
        if choice.index in self._finished:
            return "after_finish"
        delta = choice.delta
        if delta is not None:
            if delta.role not in (None, "assistant"):
                return "bad_role"
            if choice.index not in self._begun_at and delta.role is None:
                return "no_role"
        elif choice.text is None:
            return "no_delta"
        self._begun_at.add(choice.index)
        text = delta.text if delta is not None else choice.text or ""
        if choice.finish_reason is not None:
            self._finished.add(choice.index)
        if text or (delta is not None and delta.tool_calls):
            self.begun = True
            self.tokens_seen += 1
            return self._order(text)
        return None

    def _order(self, text: str) -> str | None:
        """Numbered text goes up by one."""
        if not self._numbered:
            return None
        number = _NUMBER.fullmatch(text.encode())
        if number is None or int(number[1]) != self._next:
            return "out_of_order"
        self._next += 1
        return None

    def finish(self) -> str | None:
        """The first thing wrong in the stream, or with the stream as a whole."""
        if self._error is not None:
            return self._error
        if not self._done:
            return "no_done"
        if not self._lines.clean:
            return "partial_line"
        if not self._begun_at or self._finished != self._begun_at:
            return "no_finish_reason"
        if len(self._ids) > len(self._begun_at):  # SGLang may give each choice its own
            return "id_changed"
        return self._wrong_usage()

    def _wrong_usage(self) -> str | None:
        """Usage is there if asked for, adds up, and counts at least one token for every event that carried text."""
        usage = self._usage
        if usage is None:
            return "no_usage" if self._usage_due else None
        if usage.total_tokens != usage.prompt_tokens + usage.completion_tokens:
            return "usage_sum"
        # llama.cpp counts one choice only.
        return "usage_count" if len(self._begun_at) == 1 and usage.completion_tokens < self.tokens_seen else None
