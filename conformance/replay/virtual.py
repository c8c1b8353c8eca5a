"""A replay under virtual time: arrivals, steps of engines and scrapes in the order of their moments. (P)

Invariant: the same trace, scenario and chooser give the same outcome to the last bit; every request ends exactly once.
"""

from __future__ import annotations

import enum
import heapq
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from conformance.load.histogram import Histogram
from conformance.replay.choosers import Chooser
from conformance.replay.fleet import Engine, Fleet, Flight
from conformance.replay.outcome import Fate, Outcome
from conformance.replay.traces import Request

SCRAPE_TIMEOUT_S = 1.0
TICK_S = 0.25
Make = Callable[[Fleet, random.Random], Chooser]


class Event(enum.IntEnum):
    STEP = 0
    SCRAPE = 1
    SCRAPED = 2
    LATE = 3
    HANG = 4
    SILENT = 5
    TICK = 6
    SHARE = 7
    SHARED = 8


class Replay:
    """One trace through one fleet by one way of choosing, of which every gateway has its own instance."""

    def __init__(self, fleet: Fleet, make: Make) -> None:
        scenario = self.scenario = fleet.scenario
        self.fleet, self.engines = fleet, fleet.engines
        self._rng = random.Random(f"{scenario.seed}/arrivals")
        self.choosers = [make(fleet, random.Random(f"{scenario.seed}/{i}")) for i in range(scenario.gateways)]
        self.fates = [Fate() for _ in fleet.trace.requests]
        self.gaps = Histogram()
        self._rankings: dict[int, Iterator[int]] = {}
        self._flights: dict[int, Flight] = {}
        self._events: list[tuple[float, int, Event, Any]] = []
        self._count = 0
        self._open = len(fleet.trace.requests)

    def play(self) -> Outcome:
        """Until every request has ended."""
        self._prepare()
        events, step = self._events, Event.STEP
        handle: dict[Event, Callable[[float, Any], None]] = {
            Event.SCRAPE: self._scrape,
            Event.SCRAPED: self._scraped,
            Event.LATE: self._late,
            Event.HANG: self._hang,
            Event.SILENT: self._silent,
            Event.TICK: self._tick,
            Event.SHARE: self._share,
            Event.SHARED: self._shared,
        }
        speed = self.scenario.speed
        arrivals = iter(self.fleet.trace.requests)
        request = next(arrivals, None)
        arrival = math.inf if request is None else request.at / speed
        now = 0.0
        while self._open:
            if request is not None and arrival <= events[0][0]:
                now = arrival
                self._arrive(request, now)
                request = next(arrivals, None)
                arrival = math.inf if request is None else request.at / speed
                continue
            now, _, event, subject = heapq.heappop(events)
            if event is step:
                self._step(now, subject)
            else:
                handle[event](now, subject)
        return Outcome(self.fates, self.gaps, [engine.computed for engine in self.engines], now)

    def _prepare(self) -> None:
        scenario = self.scenario
        for gateway in range(scenario.gateways):
            self._push(TICK_S, Event.TICK, gateway)
            if scenario.sharing and scenario.gateways > 1:
                self._push(scenario.sharing * (gateway + 1) / scenario.gateways, Event.SHARE, gateway)
            for engine in self.engines:
                self._push(self._rng.random() * scenario.interval, Event.SCRAPE, (gateway, engine))
        for index, at in scenario.hang.items():
            self._push(at, Event.HANG, self.engines[index])

    def _push(self, at: float, event: Event, subject: object) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, event, subject))

    # -- requests -------------------------------------------------------------------------------------------------

    def _arrive(self, request: Request, now: float) -> None:
        gateways = len(self.choosers)
        gateway = self._rng.randrange(gateways) if gateways > 1 else 0
        self._rankings[request.index] = iter(self.choosers[gateway].choose(request, now))
        self._attempt(request, gateway, now)

    def _attempt(self, request: Request, gateway: int, now: float) -> None:
        fate = self.fates[request.index]
        index = next(self._rankings[request.index], None) if fate.attempts < self.scenario.attempts else None
        if index is None:
            self._fail(request)
            return
        fate.attempts += 1
        engine = self.engines[index]
        self.choosers[gateway].placed(request, index, now)
        flight = self._flights[request.index] = Flight(request, self.fleet.hashes(request), gateway, index, now)
        engine.batch.submit(flight, now)
        self._wake(engine)
        if self.scenario.timeout < math.inf:
            self._push(now + self.scenario.timeout, Event.LATE, flight)

    def _fail(self, request: Request) -> None:
        self.fates[request.index].failed = True
        self._close(request)

    def _close(self, request: Request) -> None:
        del self._rankings[request.index]
        self._flights.pop(request.index, None)  # nothing flew where every engine was left out
        self._open -= 1

    def _late(self, now: float, flight: Flight) -> None:
        """No first token in time, or no hope of one: another engine is tried."""
        if not flight.generated and not flight.over:
            fate = self.fates[flight.request.index]
            fate.lost = max(fate.lost, now - flight.at)
            self._abort(flight, now)
            self._attempt(flight.request, flight.gateway, now)

    def _silent(self, now: float, flight: Flight) -> None:
        """No further token in time: what the client has cannot be taken back."""
        self._abort(flight, now)
        self._fail(flight.request)

    def _abort(self, flight: Flight, now: float) -> None:
        engine = self.engines[flight.engine]
        engine.batch.abort(flight, now)
        self._wake(engine)
        self.choosers[flight.gateway].ended(flight.request, flight.engine, now, None)

    def _first(self, now: float, flight: Flight) -> None:
        fate = self.fates[flight.request.index]
        fate.ttft = now - flight.request.at / self.scenario.speed
        fate.cached = flight.cached
        fate.engine = flight.engine
        self.choosers[flight.gateway].answered(flight.request, flight.engine, now)

    def _ended(self, now: float, flight: Flight) -> None:
        request = flight.request
        if request.output > 1:
            self.fates[request.index].itl = (now - flight.first_at) / (request.output - 1)
        self.choosers[flight.gateway].ended(request, flight.engine, now, flight.cached)
        self._close(request)

    # -- engines --------------------------------------------------------------------------------------------------

    def _wake(self, engine: Engine) -> None:
        """Have the engine step when its batch wants to; a step under way is not asked again."""
        if engine.scheduled or engine.hung:
            return
        due = engine.batch.next_at()
        if due < math.inf:
            engine.scheduled = True
            self._push(due, Event.STEP, engine)

    def _step(self, now: float, engine: Engine) -> None:
        engine.scheduled = False
        if engine.hung:
            return
        before = engine.stepped
        decoded = engine.step(now)
        if decoded:
            self.gaps.record(now - before, decoded)
        for flight in engine.first:
            self._first(now, flight)
        for flight in engine.ended:
            self._ended(now, flight)
        self._wake(engine)
        if self.fleet.shared and engine.ended:
            for other in self.engines:  # who found the shared cache full may find room now
                other.batch.admit(now)
                self._wake(other)

    def _hang(self, now: float, engine: Engine) -> None:
        engine.hung = True
        for flight in (*engine.batch.running, *engine.batch.waiting):
            if flight.generated:
                self._push(now + self.scenario.timeout, Event.SILENT, flight)

    # -- what gateways learn of engines ---------------------------------------------------------------------------

    def _scrape(self, now: float, subject: tuple[int, Engine]) -> None:
        _, engine = subject
        load = None if engine.hung else engine.load(now)
        wait = self.scenario.delay if load else SCRAPE_TIMEOUT_S
        self._push(now + wait, Event.SCRAPED, (*subject, load))
        self._push(now + self.scenario.interval * (0.9 + 0.2 * self._rng.random()), Event.SCRAPE, subject)

    def _scraped(self, now: float, subject: tuple[int, Engine, Any]) -> None:
        gateway, engine, load = subject
        self.choosers[gateway].scraped(engine.index, load, now)

    def _share(self, now: float, gateway: int) -> None:
        self._push(now + self.scenario.delay, Event.SHARED, (gateway, self.choosers[gateway].share(now)))
        self._push(now + self.scenario.sharing, Event.SHARE, gateway)

    def _shared(self, now: float, subject: tuple[int, bytes]) -> None:
        gateway, message = subject
        for other, chooser in enumerate(self.choosers):
            if message and other != gateway:
                chooser.shared(message, now)

    def _tick(self, now: float, gateway: int) -> None:
        for index in self.choosers[gateway].tick(now, [engine.stepped for engine in self.engines]):
            self._late(now, self._flights[index])
        self._push(now + TICK_S, Event.TICK, gateway)
