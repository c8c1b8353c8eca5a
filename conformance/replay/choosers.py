"""Ways of choosing an engine that need no gateway: the ends of the scale that a scheduler is measured on. (P)

Invariant: a `Chooser` learns of a request's fate only what a gateway would: that it placed it, that its first token
came, that it ended. `Oracle` alone looks into the engines.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol

from conformance.replay.fleet import Fleet
from conformance.replay.traces import Request
from gateway.types import Load


class Chooser(Protocol):
    """One gateway's mind. Engines are known by their index, times are seconds of the replay."""

    def choose(self, request: Request, now: float, /) -> Iterable[int]:
        """Engines, best first: the next one is tried when one fails."""

    def placed(self, request: Request, engine: int, now: float, /) -> None: ...
    def answered(self, request: Request, engine: int, now: float, /) -> None:
        """Its first token is here."""

    def ended(self, request: Request, engine: int, now: float, cached: int | None, /) -> None:
        """It is over; ``cached`` prompt tokens were not computed. None: it failed."""

    def scraped(self, engine: int, load: Load | None, now: float, /) -> None:
        """Its numbers as they were at ``load.at``; None: it did not answer."""

    def share(self, now: float, /) -> bytes:
        """What the other gateways are to know, b"" if there is nothing."""

    def shared(self, message: bytes, now: float, /) -> None:
        """What another gateway's `share` gave."""

    def tick(self, now: float, stepped: Sequence[float], /) -> Sequence[int]:
        """Four times a second: when each engine last made tokens, for those who wait for some. The requests (by index)
        without a first token that are to be tried elsewhere, because their engine is stuck."""


class Counting:
    """Base of the simple ones: counts what is in flight where."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        self.fleet, self.rng = fleet, rng
        self.inflight = [0] * len(fleet.engines)

    def placed(self, request: Request, engine: int, now: float) -> None:
        self.inflight[engine] += 1

    def answered(self, request: Request, engine: int, now: float) -> None:
        pass

    def ended(self, request: Request, engine: int, now: float, cached: int | None) -> None:
        self.inflight[engine] -= 1

    def scraped(self, engine: int, load: Load | None, now: float) -> None:
        pass

    def share(self, now: float) -> bytes:
        return b""

    def shared(self, message: bytes, now: float) -> None:
        pass

    def tick(self, now: float, stepped: Sequence[float]) -> Sequence[int]:
        return ()


class Random(Counting):
    """Any engine."""

    def choose(self, request: Request, now: float) -> Iterable[int]:
        count = len(self.inflight)
        return self.rng.sample(range(count), count)


class RoundRobin(Counting):
    """Each engine in its turn."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(fleet, rng)
        self._next = rng.randrange(len(fleet.engines))

    def choose(self, request: Request, now: float) -> Iterable[int]:
        count = len(self.inflight)
        first = self._next
        self._next = (first + 1) % count
        return [(first + i) % count for i in range(count)]


class LeastInFlight(Counting):
    """The engine with the fewest requests of ours, any of those that tie."""

    def choose(self, request: Request, now: float) -> Iterable[int]:
        count = len(self.inflight)
        return sorted(self.rng.sample(range(count), count), key=self.inflight.__getitem__)


class Oracle(Counting):
    """The engine with the least uncomputed work, known exactly; with a shared cache, affinity cannot go wrong."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(fleet, rng)
        self._work = [0] * len(fleet.engines)
        self._own: dict[int, int] = {}

    def choose(self, request: Request, now: float) -> Iterable[int]:
        engines, work = self.fleet.engines, self._work
        well = [engine.index for engine in engines if not engine.hung]
        return sorted(well, key=lambda i: (work[i] * engines[i].slow, self.inflight[i]))

    def placed(self, request: Request, engine: int, now: float) -> None:
        super().placed(request, engine, now)
        batch = self.fleet.engines[engine].batch
        hits = batch.pool.hits(self._reusable(request))
        own = self._own[request.index] = max(1, request.prompt - hits * batch.block_size)
        self._work[engine] += own

    def answered(self, request: Request, engine: int, now: float) -> None:
        self._work[engine] -= self._own.pop(request.index)

    def ended(self, request: Request, engine: int, now: float, cached: int | None) -> None:
        super().ended(request, engine, now, cached)
        self._work[engine] -= self._own.pop(request.index, 0)

    def _reusable(self, request: Request) -> Sequence[int]:
        return self.fleet.hashes(request)


BASELINES: dict[str, type[Random | RoundRobin | LeastInFlight | Oracle]] = {
    "random": Random,
    "round-robin": RoundRobin,
    "least-inflight": LeastInFlight,
    "oracle": Oracle,
}
