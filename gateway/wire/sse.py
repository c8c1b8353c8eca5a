"""Server-sent events, bytes to events and back, as WHATWG HTML §9.2 has them. (P)

Invariant: however the bytes are split over `feed` calls, the same events come out, each as soon as its last byte is in.
Lines end with LF, CR or CRLF; a leading byte order mark is dropped; an event cut off by the end of the stream is none.
"""

from __future__ import annotations

import msgspec

MAX_EVENT = 16 * 1024 * 1024
"""Bytes one event may take: images and tool arguments come as single lines of megabytes, never of tens of them."""

_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event exceeds the bound and its end is not in sight."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: its ``data`` lines joined with LF, its ``name`` (field ``event``; b"" means message) and ``id``."""

    data: bytes
    name: bytes = b""
    id: bytes = b""


class Splitter:
    """Cuts a stream into blocks: the lines between two blank ones, joined with LF, without the blank line.

    `feed` raises EventTooLong; the splitter is then of no further use.
    """

    __slots__ = ("_after_cr", "_limit", "_pending", "_started")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._after_cr = False
        self._started = False

    @property
    def pending(self) -> bool:
        """Whether an unfinished block is held."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that ``data`` completes, oldest first. Empty blocks (extra blank lines) are left out."""
        data = self._lines(data)
        pending = self._pending
        searched = max(0, len(pending) - 1)
        pending += data
        if not self._started:
            if not self._start():
                return []
            searched = 0
        may_exceed = len(pending) > self._limit
        end = pending.rfind(b"\n\n", searched)
        blocks: list[bytes] = []
        if end >= 0:
            blocks = [block for piece in bytes(pending[:end]).split(b"\n\n") if (block := piece.strip(b"\n"))]
            del pending[: end + 2]
        if pending.startswith(b"\n"):  # one more blank line after an event, or before the first
            del pending[:1]
        if may_exceed:
            self._check(blocks)
        return blocks

    def _lines(self, data: bytes) -> bytes:
        """``data`` with LF for every line end. A CR ends its line at once; the LF that may follow it is swallowed."""
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _start(self) -> bool:
        """Drop a byte order mark; False while it may still be coming."""
        pending = self._pending
        if len(pending) < len(_BOM) and _BOM.startswith(pending):
            return False
        if pending.startswith(_BOM):
            del pending[: len(_BOM)]
        self._started = True
        return True

    def _check(self, blocks: list[bytes]) -> None:
        """Blocks are measured too, so that the bound does not depend on how the bytes were split."""
        unfinished = len(self._pending) - self._pending.endswith(b"\n")
        if max(map(len, blocks), default=0) > self._limit or unfinished > self._limit:
            raise EventTooLong(f"an event exceeds {self._limit} bytes")


class Parser:
    """Bytes to events, with the dispatch rules of the standard: no data, no event; the last id sticks."""

    __slots__ = ("_id", "_splitter")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._splitter = Splitter(limit)
        self._id = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events ``data`` completes. Raises EventTooLong."""
        events = []
        for block in self._splitter.feed(data):
            event = parse(block, self._id)
            self._id = event.id
            if event.data or has_data(block):
                events.append(event)
        return events


def parse(block: bytes, last_id: bytes = b"") -> Event:
    """One block as an event; comments and unknown fields are ignored. ``data`` is b"" where the block has none."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return Event(block[6:], id=last_id)
    data: list[bytes] = []
    name = b""
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"id" and b"\0" not in value:
            last_id = value
    return Event(b"\n".join(data), name, last_id)


def has_data(block: bytes) -> bool:
    """Whether a block has a ``data`` field, be it empty: only then does the standard dispatch an event."""
    framed = b"\n%b\n" % block
    return b"\ndata:" in framed or b"\ndata\n" in framed


def encode(event: Event) -> bytes:
    """The event on the wire; a line end inside the data starts another ``data`` line."""
    name = b"event: %b\n" % event.name if event.name else b""
    ident = b"id: %b\n" % event.id if event.id else b""
    data = b"\n".join(b"data: %b" % line for line in event.data.split(b"\n"))
    return b"%b%b%b\n\n" % (name, ident, data)
