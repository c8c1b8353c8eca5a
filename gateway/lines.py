"""Lines noted by requests and written by a thread, so that whoever takes them may be slow, full or gone. (IO)

Invariant: noting a line never waits, and what is kept of lines that nobody takes is bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import trio

FLUSH_S: Final = 0.1
MAX_BUFFER: Final = 1 << 20
"""Bytes kept for a reader that stalls; lines beyond are dropped."""


class Lines:
    """``write`` takes whole lines and may block; it runs in one thread at a time. ``dropped`` counts lines for which
    there was no room since the last write, of which ``notice`` makes a line of its own.
    """

    def __init__(self, write: Callable[[bytes], None], notice: Callable[[int], bytes] = lambda dropped: b"") -> None:
        self.dropped = 0
        self._write = write
        self._notice = notice
        self._writing = threading.Lock()
        self._lines = bytearray()
        self._wanted = False

    def __len__(self) -> int:
        """Bytes not yet taken."""
        return len(self._lines)

    def room(self) -> bool:
        """Whether a line may be added; one that may not counts as dropped."""
        if len(self._lines) < MAX_BUFFER:
            return True
        self.dropped += 1
        return False

    def add(self, line: bytes) -> None:
        self._lines += line

    def wake(self) -> None:
        """Have ``write`` called soon, though there may be nothing to write."""
        self._wanted = True

    async def run(self) -> None:
        """Write what is noted until cancelled; what is left then is given another second."""
        try:
            while True:
                await trio.sleep(FLUSH_S)
                await self._flush()
        finally:
            with trio.move_on_after(1.0, shield=True):
                await self._flush()

    async def _flush(self) -> None:
        if self._lines or self.dropped or self._wanted:
            lines, self._lines = self._lines, bytearray()
            self._wanted = False
            if self.dropped:
                lines += self._notice(self.dropped)
                self.dropped = 0
            await trio.to_thread.run_sync(self._write_all, bytes(lines), abandon_on_cancel=True)

    def _write_all(self, lines: bytes) -> None:
        with self._writing:  # an abandoned write goes before the last one
            self._write(lines)


class Stamp:
    """RFC 3339 in UTC, with milliseconds. ``wall`` is seconds since the epoch."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{int(now % 1 * 1000):03d}Z"
