"""How often an API server is asked: so many a second, later after failures, each key in its turn. (P)"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
_IDLE: Final = 64


class Bucket:
    """At most ``burst`` at once, ``rate`` a second in the long run."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, -math.inf

    def take(self, now: float) -> float:
        """0 if one more is all right now, else the seconds until it is."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0 - 1e-9:
            return (1.0 - self._tokens) / self._rate
        self._tokens -= 1.0
        return 0.0


def backoff(failures: int, base: float, ceiling: float) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(base * 2.0 ** min(failures - 1, 30), ceiling)


class Agenda(Generic[Key]):
    """Keys, each with the time at which it is its turn; the earliest first, those of one time in order."""

    def __init__(self) -> None:
        self._times: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._times)

    @property
    def first(self) -> float:
        """The time of the first, infinite if there is none."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def add(self, key: Key, at: float) -> None:
        """An earlier time stays."""
        if at < self._times.get(key, math.inf):
            self._times[key] = at
            heapq.heappush(self._heap, (at, next(self._order), key))

    def pop(self) -> Key:
        """The first; there has to be one."""
        assert self.first < math.inf
        key = heapq.heappop(self._heap)[2]
        del self._times[key]
        return key

    def discard(self, key: Key) -> None:
        self._times.pop(key, None)
        if len(self._heap) > 2 * len(self._times) + _IDLE:  # where nobody asks for the first, nobody else tidies up
            self._heap = [entry for entry in self._heap if self._times.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
