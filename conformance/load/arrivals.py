"""When requests are meant to be sent in an open loop. (P)

Invariant: the mean gap is 1/rate for every process, and the same source of chance gives the same times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

Arrival = Literal["poisson", "constant", "gamma"]


class Chance(Protocol):
    """The part of ``random.Random`` used here."""

    def expovariate(self, lambd: float, /) -> float: ...
    def gammavariate(self, alpha: float, beta: float, /) -> float: ...


def arrival_times(arrival: Arrival, rate: float, chance: Chance, burstiness: float = 0.5) -> Iterator[float]:
    """Seconds from the start at which each request is due, without end.

    ``rate`` is in requests per second. ``burstiness`` is the shape of the gamma process: 1 is Poisson, less comes in
    bursts, more is steadier (its squared coefficient of variation is 1/burstiness).
    """
    due = 0.0
    while True:
        if arrival == "constant":
            gap = 1 / rate
        elif arrival == "poisson":
            gap = chance.expovariate(rate)
        else:
            gap = chance.gammavariate(burstiness, 1 / (rate * burstiness))
        due += gap
        yield due
