"""Lines noted by anybody and written by a thread, so that whoever takes them may be slow, full or gone. (IO)

Invariant: noting a line never waits, and what is kept of lines that nobody takes is bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, Self

FLUSH_S: Final = 0.1
"""How long lines are gathered before they are written together."""
MAX_BUFFER: Final = 1 << 20
"""Bytes kept for a reader that stalls; lines beyond are dropped."""
LAST_S: Final = 1.0
"""What is left at the end is given so long."""


class Lines:
    """``write(lines, wait)`` takes bytes, waits about ``wait`` seconds if it must and can, and returns those it could
    not write yet; it is called by one thread at a time and raises nothing. ``dropped`` counts lines for which there was
    no room; of how many more ``notice`` is told once lines are taken again, and may make a line of it. Any thread notes
    lines.

    As a context, a thread writes meanwhile.
    """

    def __init__(
        self, write: Callable[[bytes, float], bytes], notice: Callable[[int], bytes] = lambda dropped: b""
    ) -> None:
        self.dropped = 0
        self._told = 0
        self._write = write
        self._notice = notice
        self._lines = bytearray()
        self._noting = threading.RLock()  # a collected object may log while its thread is noting a line
        self._writing = threading.Lock()
        self._due = False
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Bytes not yet taken."""
        return len(self._lines)

    @property
    def started(self) -> bool:
        return self._thread is not None

    def room(self) -> bool:
        """Whether a line may be added; one that may not counts as dropped."""
        if len(self._lines) < MAX_BUFFER:
            return True
        with self._noting:
            self.dropped += 1
        return False

    def add(self, line: bytes) -> None:
        with self._noting:
            self._lines += line
            if not self._due:
                self.wake()

    def wake(self) -> None:
        """Have ``write`` called soon, though there may be nothing to write."""
        self._due = True
        self._wakes.put(None)

    def push(self) -> None:
        """Write in this thread what can be written without waiting; the rest is left to the other one."""
        if self._writing.acquire(blocking=False):
            try:
                self._pass_on(0.0)
            finally:
                self._writing.release()

    def flush(self, within: float = LAST_S) -> None:
        """Write in this thread what there is; returns in time where ``write`` waits no longer than it is told."""
        deadline = time.monotonic() + within
        if self._writing.acquire(timeout=within):
            try:
                while self._pass_on(FLUSH_S) and time.monotonic() < deadline:
                    pass
            finally:
                self._writing.release()

    def start(self) -> None:
        """Once."""
        self._thread = threading.Thread(target=self._work, name="lines", daemon=True)
        self._thread.start()

    def close(self, within: float = LAST_S) -> None:
        """Stop the thread; what is left, and whatever it is at, is given ``within`` seconds."""
        self._closing.set()
        self.wake()
        if self._thread is not None:
            self._thread.join(within)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _work(self) -> None:
        left = False
        while not self._closing.is_set():
            if not left:
                self._wait()
            self._closing.wait(FLUSH_S)
            with self._writing:
                left = self._pass_on(FLUSH_S)
        self.flush()

    def _wait(self) -> None:
        """Until there is something to do; whoever pushes wakes this thread in vain, and more often than it looks."""
        self._wakes.get()
        with suppress(Empty):
            while True:
                self._wakes.get_nowait()

    def _pass_on(self, wait: float) -> bool:
        """Whether something is left."""
        with self._noting:
            self._due = False
            lines, self._lines = self._lines, bytearray()
            dropped = self.dropped
        if rest := self._write(bytes(lines), wait):
            with self._noting:
                self._lines[:0] = rest
        elif untold := dropped - self._told:
            self._told = dropped
            if notice := self._notice(untold):
                self.add(notice)
        return bool(self._lines)


class Stamp:
    """RFC 3339 in UTC, with milliseconds. ``wall`` is seconds since the epoch."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._second = self._millisecond = -1
        self._prefix = self._text = ""

    def now(self) -> str:
        now = int(self._wall() * 1000)
        if now != self._millisecond:  # many requests end in one
            self._millisecond = now
            second, rest = divmod(now, 1000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._text = f"{self._prefix}.{rest:03d}Z"
        return self._text
