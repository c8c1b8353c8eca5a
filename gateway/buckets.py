"""Leaky-bucket arithmetic on explicit time: what one account has used, and what may be given back to it. (P)

Invariant: an account never holds less than it would had every request been charged what it really used when it was
let in; so nothing that is given back lets in more than exact foreknowledge would have.

All of it is additions, products and comparisons of doubles, done in the order written here, so that a script elsewhere
comes to the same numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import msgspec

from gateway.types import Demand

TOLERANCE: Final = 1e-9
"""The share of a burst by which rounding may let a level pass it: who waits just as long as it was told is let in."""

MARKS: Final = 32
KEPT: Final = 24
"""More than ``MARKS`` marks are thinned out, to ``KEPT`` at most."""


def wait(demand: Demand, used: float) -> float:
    """Seconds until ``demand`` is met by an account that has ``used`` so much, 0 if it is now; for a place, 1.

    It is met if there is room for all of it; one of more than the whole burst if the account is empty, and the rest is
    debt.
    """
    amount, burst = demand.amount, demand.burst
    excess = used if amount >= burst else used + amount - burst
    if excess <= TOLERANCE * burst:
        return 0.0
    return excess / demand.rate if demand.rate else 1.0


class Account(msgspec.Struct, gc=False):
    """``used`` at the time ``at``; from there it leaks at ``rate`` a second down to 0. A ``rate`` of 0 holds places.

    ``times`` and ``lows`` are marks, both ascending: since ``times[i]`` the level has never been below ``lows[i]``.
    Every taking leaves one, every low wipes out those above it, and giving back lowers those since the taking. They are
    exact as long as there are no more than ``MARKS``; between two that have been thinned out the lower one speaks for
    both, and before the first it is 0. So a mark may be too low and never too high.
    """

    rate: float
    at: float
    used: float = 0.0
    times: list[float] = msgspec.field(default_factory=list)
    lows: list[float] = msgspec.field(default_factory=list)

    def level(self, rate: float, now: float) -> float:
        """``used`` brought up to ``now``. A clock that went back stands still until it has caught up."""
        self.rate = rate
        passed = now - self.at
        if passed > 0.0:
            self.at = now
            used = self.used - rate * passed
            if used < 0.0:
                used = 0.0
            self.used = used
            if self.lows and self.lows[-1] > used:
                self._wipe(used)
        return self.used

    def take(self, amount: float) -> float:
        """The level with ``amount`` more, right after `level`. Takings of one moment count as one."""
        self.used = used = self.used + amount
        if self.rate:
            times = self.times
            if times and times[-1] >= self.at:
                self.lows[-1] = used
            else:
                times.append(self.at)
                self.lows.append(used)
                if len(times) > MARKS:
                    self._thin()
        return used

    def settle(self, given_back: float, taken_at: float) -> None:
        """Right after `level`. Below 0 it is a debt, charged in full; above, as much as can have been left of it.

        What a request taken at ``taken_at`` did not use would have been missing ever since. Where the level has been
        lower than that in the meantime, the bucket would have run dry, and what leaks past an empty one is lost.
        """
        if given_back <= 0.0 or not self.rate:
            self.used = max(0.0, self.used - given_back)
            return
        times, lows = self.times, self.lows
        first = bisect_right(times, taken_at) - 1
        if first < 0:
            return
        back = min(given_back, lows[first])
        self.used = max(0.0, self.used - back)
        for index in range(first, len(lows)):
            lows[index] = max(0.0, lows[index] - back)
        low = lows[first]
        start = first
        while start and lows[start - 1] >= low:
            start -= 1
        if low <= 0.0:
            start, first = 0, first + 1
        else:
            lows[start] = low
            start += 1
            first += 1
        del times[start:first], lows[start:first]

    def drained(self, now: float) -> bool:
        """Whether an account that nobody has ever heard of says the same."""
        return self.used - self.rate * (now - self.at) <= 0.0

    def _wipe(self, low: float) -> None:
        """All marks above ``low`` become one, as old as the oldest of them."""
        times, lows = self.times, self.lows
        first = len(lows) - 1
        while first and lows[first - 1] >= low:
            first -= 1
        if low > 0.0:
            lows[first] = low
            first += 1
        del times[first:], lows[first:]

    def _thin(self) -> None:
        """Leave out every mark between two of which one is less than twice the other, then the oldest.

        Those who took between two such marks cannot have more to give back together than the lower one says.
        """
        times, lows = self.times, self.lows
        kept: list[int] = []
        for index, low in enumerate(lows):
            if len(kept) > 1 and low <= 2.0 * lows[kept[-2]]:
                kept.pop()
            kept.append(index)
        kept = kept[-KEPT:]
        times[:] = [times[index] for index in kept]
        lows[:] = [lows[index] for index in kept]
