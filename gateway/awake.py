"""Trio's clock for a process that may be stopped: time in which it was does not pass. (IO)

A snapshot of its machine, a container that is frozen, a debugger: whoever waited for the gateway meanwhile has said
nothing late, and is not judged for it. Invariant: it never goes back, and between two looks at it no more passes than
was to be slept, and `_AWAY_S`.

`elapsed` is for what others count on meanwhile, who were not stopped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import trio

_AWAY_S: Final = 1.0
"""Beyond what a turn of the scheduler takes, garbage collection included."""
_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Seconds since some moment, those among them in which the process was stopped or its machine asleep. By Trio's
    clock, where that is not `Awake`.
    """
    if not isinstance(trio.lowlevel.current_clock(), Awake):
        return trio.current_time()
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)


class Awake(trio.abc.Clock):
    """``away``: seconds that were left out."""

    def __init__(self, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self.away = 0.0
        self._monotonic = monotonic
        self._offset = random.uniform(10_000, 1_000_000)
        self._told = 0.0
        self._due = monotonic()
        """By when somebody was to look again."""

    def start_clock(self) -> None:
        self._due = self._monotonic()

    def current_time(self) -> float:
        now = self._monotonic()
        if now - self._due > _AWAY_S:
            self.away += now - self._due
            self._offset -= now - self._due
        self._due = now
        self._told = max(self._told, now + self._offset)  # the offset is rounded
        return self._told

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Called right before the process sleeps."""
        pause = max(0.0, deadline - self.current_time())
        self._due += pause
        return pause
