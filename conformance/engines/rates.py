"""A provider's rate limits: what is left of a minute's requests and tokens. (P)

Invariant: never more is granted in one window than its limit, and a refusal costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

PERIOD_S = 60.0


class Rates:
    """Limits by name, over windows of ``period`` seconds. A window begins with the first cost after the one before."""

    def __init__(self, limits: Mapping[str, int], period: float = PERIOD_S) -> None:
        self.limits = dict(limits)
        self._period = period
        self._used = dict.fromkeys(limits, 0)
        self._ends = -math.inf

    def take(self, costs: Mapping[str, int], now: float) -> str | None:
        """Charge all of ``costs``; or nothing, and the name of the first limit they exceed."""
        for name, limit in self.limits.items():
            if costs.get(name, 0) > limit - self._spent(name, now):
                return name
        if now >= self._ends:
            self._used = dict.fromkeys(self.limits, 0)
            self._ends = now + self._period
        for name in self.limits:
            self._used[name] += costs.get(name, 0)
        return None

    def remaining(self, name: str, now: float) -> int:
        return self.limits[name] - self._spent(name, now)

    def reset(self, now: float) -> float:
        """Seconds until everything is there again; 0 when it is."""
        return max(0.0, self._ends - now)

    def _spent(self, name: str, now: float) -> int:
        return self._used[name] if now < self._ends else 0


def elapse(seconds: float) -> str:
    """A duration as Go writes it: 20ms, 1.5s, 6m0s; rounded up to a millisecond."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    return f"{minutes}m{text}" if minutes else text
