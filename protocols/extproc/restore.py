"""The model's name that a client asked by, put back into an answer that gives the engine's. (P)

Invariant: however the answer is cut, the same bytes come out, and what is held back at a cut is never more than the
beginning of a match. Only a ``"model"`` key outside strings matches: inside one its quotes are escaped.
"""

from __future__ import annotations

import re

import msgspec


class Restorer:
    """``feed`` returns the very object it was given where nothing is replaced, held back or due."""

    __slots__ = ("_asked", "_held", "_pattern", "_spellings")

    def __init__(self, engine: str, asked: str) -> None:
        name = msgspec.json.encode(engine)
        self._asked = b"\\g<1>" + msgspec.json.encode(asked).replace(b"\\", b"\\\\")
        self._pattern = re.compile(b'("model": ?)' + re.escape(name))
        self._spellings = (b'"model":' + name, b'"model": ' + name)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        whole = self._held + data if self._held else data
        matched = 0
        if b'"model"' in whole:
            for match in self._pattern.finditer(whole):
                matched = match.end()
        cut = self._cut(whole, matched)
        self._held = whole[cut:]
        if cut < len(whole):
            whole = whole[:cut]
        return self._pattern.sub(self._asked, whole) if matched else whole

    def finish(self) -> bytes:
        """What was held back after all."""
        held, self._held = self._held, b""
        return held

    def _cut(self, data: bytes, start: int) -> int:
        """Where the end of ``data`` that may be the beginning of a match begins, not before ``start``."""
        at = data.find(b'"', max(start, len(data) - len(self._spellings[1]) + 1))
        while at >= 0:
            tail = data[at:]
            if any(spelling.startswith(tail) for spelling in self._spellings):
                return at
            at = data.find(b'"', at + 1)
        return len(data)
