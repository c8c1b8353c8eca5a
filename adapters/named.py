"""Streams of named events, passed on byte for byte: the Responses API and Anthropic's Messages. (P)

Invariant: no event is added; the stream ends with its own last event, and whatever a proxy appends to it is dropped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters import failure, usage
from adapters.stream import EventDecoder
from gateway.wire import sse


class _Part(msgspec.Struct):
    usage: usage.Counts | None = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    response: _Part | None = None
    message: Any = None
    usage: usage.Counts | None = None
    error: Any = None
    code: Any = None


_DECODER = msgspec.json.Decoder(_Event)


class NamedDecoder(EventDecoder):
    """Reads the events that count or end something; the rest only in so far as it begins the answer's text."""

    endings: frozenset[str]
    failures: frozenset[str]
    token: bytes
    """What ends the quoted type of an event that carries text."""
    weighty: tuple[bytes, ...]
    """Byte strings one of which is in every event that has to be read once text has begun."""

    def _plain(self, data: bytes) -> int:
        if b"\r" in data or not data.endswith(b"\n\n") or any(mark in data for mark in self.weighty):
            return 0
        return data.count(self.token)

    def _block(self, block: bytes) -> bytes:
        data = sse.parse(block).data
        if not data or data.strip() == b"[DONE]":
            self.progress = max(self.progress, 1)
            return block + b"\n\n" if not data else b""
        try:
            event = _DECODER.decode(data)
        except ValueError:
            return self._fail(failure.rubbish("the engine sent an event that cannot be understood"))
        if event.type in self.failures or (not event.type and event.error):
            return self._fail(failure.of_event(_failure(event), started=self.progress == 2))
        self._count(event)
        if event.type.encode().endswith(self.token[:-1]):
            self.progress = 2
            self.tokens += 1
        self.progress = max(self.progress, 1)
        if event.type in self.endings:
            self.progress = 2
            self.ended = True
        return block + b"\n\n"

    def _count(self, event: _Event) -> None:
        raise NotImplementedError

    def finish(self) -> bytes:
        return self._cut_off()


class ResponsesDecoder(NamedDecoder):
    """``response.completed`` and ``response.incomplete`` end it; their ``response.usage`` counts."""

    endings = frozenset({"response.completed", "response.incomplete"})
    failures = frozenset({"response.failed", "error"})
    token = b'.delta"'
    weighty = (b'"response.completed"', b'"response.incomplete"', b'"response.failed"', b'"error"')

    def _count(self, event: _Event) -> None:
        if event.response is not None:
            self.usage = usage.read(event.response.usage, self.usage)


class MessagesDecoder(NamedDecoder):
    """``message_stop`` ends it; usage begins in ``message_start`` and is cumulative in ``message_delta``."""

    endings = frozenset({"message_stop"})
    failures = frozenset({"error"})
    token = b'content_block_delta"'
    weighty = (b'"message_', b'"error"')

    def _count(self, event: _Event) -> None:
        if isinstance(event.message, dict):
            self.usage = usage.read(usage.loose(event.message.get("usage")), self.usage)
        self.usage = usage.read(event.usage, self.usage)


def _failure(event: _Event) -> dict[str, Any]:
    error = event.error
    if error is None and event.response is not None:
        error = event.response.error
    return {"error": error or {"message": event.message, "code": event.code}}
