"""An answer as cases look at it: status, fields, body; as JSON, as events, whole or while it arrives. (T)

Invariant: everything read is kept, so that a report can show what came up to the failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import trio

from conformance.suite import check, sse
from conformance.suite.wire import Connection, Headers, WireError

_MESSAGE = re.compile(rb'"(?:message|error|detail)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_READ = 4096
_WORDS = 100


class Answer:
    """``sent``, ``began`` (the head came), ``ended``: seconds on the run's clock; ``ended`` 0 while it goes on."""

    def __init__(self, connection: Connection, status: int, fields: Headers, sent: float) -> None:
        self.connection = connection
        self.status = status
        self.fields = fields
        self.body = bytearray()
        self.sent = sent
        self.began = trio.current_time()
        self.ended = 0.0

    @property
    def headers(self) -> dict[str, str]:
        """Fields by lower-case name; repeated ones joined by a comma."""
        found: dict[str, str] = {}
        for name, value in self.fields:
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def chunk(self) -> bytes:
        """The next bytes as they come, b"" at the end."""
        if self.ended:
            return b""
        data = await self.connection.chunk()
        self.body += data
        if not data:
            self.ended = trio.current_time()
        return data

    async def read(self) -> bytes:
        """All of the body."""
        while await self.chunk():
            pass
        return bytes(self.body)

    async def events(self) -> AsyncGenerator[sse.Event, None]:
        """Events as they arrive, comments included; ends with the body."""
        parser = sse.Parser()
        while data := await self.chunk():
            for event in parser.feed(data, trio.current_time()):
                yield event

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """The body, decoded. NaN and Infinity, which are not JSON, are a failure too."""
        try:
            return json.loads(bytes(self.body), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise check.Failure(f"the answer is not JSON: {error}", "a JSON document", self.text) from None

    def expect(self, *statuses: int) -> Answer:
        """Itself, if its status is one of those."""
        if self.status not in statuses:
            wanted = " or ".join(map(str, statuses))
            raise check.Failure(f"the status is {self.status}, not {wanted}{self._reason}", wanted, self._told)
        return self

    @property
    def _told(self) -> str:
        return f"{self.status}: {bytes(self.body[:_READ]).decode('utf-8', 'replace')}"

    @property
    def _reason(self) -> str:
        """The message of an error, in whatever shape, for the end of a line."""
        found = _MESSAGE.search(bytes(self.body[:_READ])) if self.status >= 400 else None
        words = found[1].decode("utf-8", "replace") if found else ""
        return f": {words[:_WORDS]}{'…' if len(words) > _WORDS else ''}" if words else ""

    @property
    def error(self) -> dict[str, Any]:
        """The error object of an OpenAI-shaped error; anything else is a failure."""
        return check.kind(check.member(self.json, "error", "the error's body"), dict, "the error")

    def stream(self) -> Stream:
        """The body read as a stream of events, which has to be one."""
        check.equal(self.media_type, "text/event-stream", "the content type of a stream")
        return Stream(bytes(self.body))


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class Stream:
    """A whole stream of chat or completion events, taken apart.

    ``events``: those with data, in order; ``chunks``: the JSON objects among them; ``done``: how many ``[DONE]``;
    ``after_done``: data events behind the first of them; ``rest``: bytes behind the last whole event.
    """

    def __init__(self, body: bytes) -> None:
        parser = sse.Parser()
        blocks = parser.feed(body)
        self.blocks = blocks
        self.events = [event for event in blocks if event.data is not None]
        payloads = [(event.data or "").strip() for event in self.events]
        self.done = payloads.count("[DONE]")
        self.after_done = len(payloads) - payloads.index("[DONE]") - 1 if self.done else 0
        self.chunks = [_object(text) for text in payloads if text != "[DONE]"]
        self.rest = parser.rest

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [chunk for chunk in self.chunks if chunk.get("error")]

    def choices(self, index: int = 0) -> list[dict[str, Any]]:
        """Everything said for one choice, in order."""
        return [c for chunk in self.chunks for c in chunk.get("choices") or () if c.get("index", 0) == index]

    def deltas(self, index: int = 0) -> list[dict[str, Any]]:
        return [choice.get("delta") or {} for choice in self.choices(index)]

    def text(self, index: int = 0) -> str:
        """The content of a chat, or the text of a completion."""
        return "".join(
            (choice.get("delta") or {}).get("content") or choice.get("text") or "" for choice in self.choices(index)
        )

    def reasoning(self, index: int = 0) -> str:
        """Whatever an engine calls it."""
        return "".join(d.get("reasoning_content") or d.get("reasoning") or "" for d in self.deltas(index))

    def finish(self, index: int = 0) -> list[str]:
        """Finish reasons in order; a stream that is well has one."""
        return [choice["finish_reason"] for choice in self.choices(index) if choice.get("finish_reason")]

    @property
    def usage(self) -> dict[str, Any] | None:
        """The last one said."""
        said = [chunk["usage"] for chunk in self.chunks if isinstance(chunk.get("usage"), dict)]
        return said[-1] if said else None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise check.Failure(f"an event is not JSON: {error}", "data: {…} or data: [DONE]", text) from None
    return check.kind(found, dict, "an event")


__all__ = ["Answer", "Stream", "WireError"]
