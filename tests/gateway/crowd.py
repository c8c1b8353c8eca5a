"""Far more requests than slots, in virtual time: who was served, who was refused, and how late it was told."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from gateway.config.decode import Duration
from gateway.config.sharing import Fairness
from gateway.errors import Overloaded
from gateway.gate import Gate
from gateway.permit import Permit
from gateway.schedule.ask import Ask
from gateway.types import InferenceRequest, Operation, Usage
from tests.gateway.test_gate import Place, Pool, Tokens

WATCH_S = 0.25
AT_ONCE_S = 0.05
_USED = Usage(100, 20)


class Fate(NamedTuple):
    """When it was served or refused, by whom it was asked, how long it had waited for that."""

    at: float
    caller: str
    waited: float


class Crowd:
    """``seconds``: how long a request takes. ``arrivals``: when, and whose, without end."""

    def __init__(
        self,
        arrivals: Iterable[tuple[float, str]],
        seconds: Callable[[random.Random], float],
        *,
        slots: int,
        queue_timeout: float,
    ) -> None:
        self.place = Place(slots=slots)
        self.gate = Gate(Pool(self.place), Fairness(enabled=True, queue_timeout=Duration(queue_timeout)))
        self.served: list[Fate] = []
        self.refused: list[Fate] = []
        self.now = 0.0
        self._seconds, self._rng = seconds, random.Random(5)
        self._arrivals = iter(arrivals)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._granted: list[tuple[Permit, str, float]] = []

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._count), what))

    def play(self, until: float) -> Crowd:
        """Let it happen."""
        self._next()
        self._watch()
        while self._due[0][0] <= until:
            self.now, _, what = heapq.heappop(self._due)
            what()
            while self._granted:
                self._begin(*self._granted.pop())
        return self

    def _watch(self) -> None:
        self.gate.watch(self.now)
        self._at(self.now + WATCH_S, self._watch)

    def _next(self) -> None:
        when, caller = next(self._arrivals)
        self._at(when, lambda: self._arrive(caller))

    def _arrive(self, caller: str) -> None:
        self._next()
        ask = Ask(InferenceRequest("", Operation.CHAT, "m", b"{}"), "m", self.now)
        seat = Seat(self, caller)
        try:
            given = self.gate.enter((caller, caller), "", Tokens(100, 20), ask, 10, math.inf, lambda: seat)
        except Overloaded as error:
            seat.refused(error)
        else:
            if isinstance(given, Permit):
                seat.granted(given)

    def granted(self, permit: Permit, caller: str, since: float) -> None:
        self._granted.append((permit, caller, since))

    def _begin(self, permit: Permit, caller: str, since: float) -> None:
        self.place.present += 1
        permit.counted(self.place)
        fate = Fate(self.now, caller, self.now - since)

        def end() -> None:
            self.place.present -= 1
            self.served.append(fate)
            permit.close(self.now, _USED)

        self._at(self.now + self._seconds(self._rng), end)

    def late(self, since: float) -> float:
        """The share of refusals that were not told at once, of those from then on."""
        told = [fate.waited > AT_ONCE_S for fate in self.refused if fate.at >= since]
        return sum(told) / len(told)


class Seat:
    """One at the door."""

    def __init__(self, crowd: Crowd, caller: str) -> None:
        self.crowd, self.caller, self.since = crowd, caller, crowd.now

    def granted(self, permit: Permit, /) -> None:
        self.crowd.granted(permit, self.caller, self.since)

    def refused(self, error: Overloaded, /) -> None:
        now = self.crowd.now
        self.crowd.refused.append(Fate(now, self.caller, now - self.since))


def poisson(rate: float, caller: Callable[[random.Random, int], str], seed: int) -> Iterator[tuple[float, str]]:
    """Requests that come independently of each other."""
    rng, now = random.Random(seed), 0.0
    for index in itertools.count():
        now += rng.expovariate(rate)
        yield now, caller(rng, index)
