"""What one endpoint's loads say together: means over the recent past, and that the engine started anew. (P)

Invariant: a counter that is missing from a page is no restart, and counts from where it was when it is back.

The mean is that of the growth of a histogram's sum and count, older growth weighing less by half every ten seconds:
that spans some fifty pages and a few batches of prefills, and follows a change of traffic within half a minute. Unlike
a window it needs no history, and unlike a mean of means it gives every event the same weight, be a page's worth one
event or a hundred.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.types import Load

HALF_LIFE_S: Final = 10.0
_LEAST: Final = 1e-3
"""Events that have faded below this in all say nothing of the recent past: one, after a hundred seconds."""

_COUNTERS: Final = ("ttft_count", "tpot_count", "prompt_tokens", "generated_tokens", "queried_tokens", "hit_tokens")
"""Those that count in whole numbers: a sum of floats may fall by a rounding error."""


class Mean:
    """Of events known by their running sum and count."""

    __slots__ = ("_counted", "_events", "_seconds", "_summed")

    def __init__(self) -> None:
        self._summed = self._counted = 0.0
        self._seconds = self._events = 0.0

    def start(self, summed: float, counted: float) -> None:
        """What came before is not recent."""
        self._summed, self._counted = summed, counted

    def add(self, summed: float, counted: float, fade: float) -> float | None:
        """The mean now; ``fade`` is what earlier events still weigh, in [0, 1]. None while nothing is known."""
        self._seconds *= fade
        self._events *= fade
        if counted > self._counted and summed > self._summed:
            self._seconds += summed - self._summed
            self._events += counted - self._counted
            self._summed, self._counted = summed, counted
        return self._seconds / self._events if self._events >= _LEAST else None


class Recent:
    """Feed it one endpoint's loads in order."""

    __slots__ = ("_at", "_known", "_started", "_tpot", "_ttft")

    def __init__(self) -> None:
        self._known: list[float] | None = None
        self._at = 0.0
        self._started = 0.0
        self._ttft, self._tpot = Mean(), Mean()

    def note(self, load: Load) -> tuple[Load, bool]:
        """The load with ``ttft`` and ``tpot``, and whether the engine has started anew since the last one."""
        counters = [getattr(load, name) for name in _COUNTERS]
        known = self._known
        restarted = known is not None and self._is_another(load, known, counters)
        if known is None:
            self._ttft.start(load.ttft_sum, load.ttft_count)
            self._tpot.start(load.tpot_sum, load.tpot_count)
        elif restarted:
            self._ttft, self._tpot = Mean(), Mean()
        if known is None or restarted:
            self._known = counters
        else:
            self._known = [now or before for now, before in zip(counters, known, strict=True)]
        self._started = load.started or (0.0 if restarted else self._started)
        fade = 0.5 ** (max(0.0, load.at - self._at) / HALF_LIFE_S)
        self._at = load.at
        ttft = self._ttft.add(load.ttft_sum, load.ttft_count, fade)
        tpot = self._tpot.add(load.tpot_sum, load.tpot_count, fade)
        return msgspec.structs.replace(load, ttft=ttft, tpot=tpot), restarted

    def _is_another(self, load: Load, known: list[float], counters: list[float]) -> bool:
        """Whether another process speaks: it says so, or counts from a lower number, or from none all over."""
        if load.started and self._started and load.started != self._started:
            return True
        return any(map(_fell, counters, known)) or (any(known) and not any(counters))


def _fell(now: float, before: float) -> bool:
    return 0 < now < before
