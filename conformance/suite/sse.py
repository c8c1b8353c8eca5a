"""Server-sent events as a client must read them (WHATWG HTML, section 9.2), strictly by lines. (P)

Invariant: any split of the bytes gives the same events; what follows the last blank line is kept in `Parser.rest`.
"""

from __future__ import annotations

import re

import msgspec

_LINE = re.compile(rb"\r\n|\n|\r")


class Event(msgspec.Struct, frozen=True):
    """``raw`` without its blank line. ``data`` joins the data lines; None for a block with none, such as a comment.

    ``at``: when its end arrived, in seconds on the run's clock.
    """

    raw: bytes
    name: str = ""
    data: str | None = None
    comments: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    at: float = 0.0


class Parser:
    """Feed it bytes, get the events they complete."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._line = 0  # where in it the line begins that has not ended
        self._seen = 0  # up to where it was searched for a line's end

    @property
    def rest(self) -> bytes:
        """What came after the last whole event."""
        return bytes(self._pending)

    def feed(self, data: bytes, at: float = 0.0) -> list[Event]:
        buffer = self._pending
        buffer += data
        whole = len(buffer) - buffer.endswith(b"\r")  # it may be half a CRLF
        events, start = [], 0
        for end in _LINE.finditer(buffer, self._seen, whole):
            if end.start() == self._line:
                if self._line > start:
                    events.append(parsed(bytes(buffer[start : self._line]), at))
                start = end.end()
            self._line = end.end()
        del buffer[:start]
        self._line, self._seen = self._line - start, whole - start
        return events


def parsed(block: bytes, at: float = 0.0) -> Event:
    """One event from its lines."""
    name, data, comments, fields = "", [], [], []
    for raw in filter(None, _LINE.split(block)):
        field, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if not field:
            comments.append(value)
            continue
        fields.append(field)
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
    text = "\n".join(data) if data else None
    return Event(block.rstrip(b"\r\n"), name, text, tuple(comments), tuple(fields), at)
