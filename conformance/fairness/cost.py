"""What admission costs in CPU time: the door open, the door with a queue, the accounts of limits. (IO)

Invariant: what is timed is the gateway's code and the loop around it; requests, prompts and a fleet are made before.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from conformance.fairness.workload import made
from conformance.replay.fleet import Fleet
from conformance.replay.production import Production, configured, production
from conformance.replay.scenario import Scenario
from conformance.replay.suite import Verdict
from gateway.config.sharing import Fairness, RateLimits
from gateway.errors import Overloaded
from gateway.estimate import Estimator
from gateway.gate import Gate
from gateway.ledger import Ledger
from gateway.member import Member
from gateway.permit import Permit
from gateway.schedule.ask import Ask
from gateway.store.local import Local
from gateway.types import Identity, Usage

QUEUED = 10_000
_CALLERS = 100
_PROMPT, _ANSWER = 1000, 200
_RUNNING = 64
_ROUNDS, _TIMES = 2_000, 5
_GAP_S = 0.0005


class Costs(NamedTuple):
    """Microseconds of CPU for one request."""

    uncontended: float
    queued: float
    ledger: float


def costs(queued: int = QUEUED, rounds: int = _ROUNDS) -> Costs:
    return Costs(uncontended(rounds), contended(queued, rounds), accounts(rounds))


def rows(found: Costs, queued: int = QUEUED) -> tuple[list[dict[str, Any]], list[Verdict]]:
    named = {
        "let in at once: estimate, gate, settlement": found.uncontended,
        f"{queued:,} queued: estimate, gate, queue, release, settlement": found.queued,
        "limits: three accounts reserved and settled": found.ledger,
    }
    verdicts = [
        Verdict("admission uncontended, µs of CPU", found.uncontended, 40.0),
        Verdict(f"admission with {queued:,} queued, µs of CPU", found.queued, 100.0),
    ]
    return [{"a request": name, "µs of CPU": value} for name, value in named.items()], verdicts


def _least(run: Callable[[], object], requests: int) -> float:
    """Microseconds of a request: the least of some times, since others use the machine, too."""
    best = math.inf
    gc.collect()
    gc.disable()
    try:
        for _ in range(_TIMES):
            began = time.process_time()
            run()
            best = min(best, time.process_time() - began)
    finally:
        gc.enable()
    return best / requests * 1e6


class _Stage:
    """A pool of eight engines that hold some of the prompts, its gate, and requests to come."""

    def __init__(self, requests: int, settings: Fairness) -> None:
        rng = random.Random(0)
        callers = [f"client {rng.randrange(_CALLERS)}" for _ in range(requests)]
        trace = made("costs", [(0.0, _PROMPT, _ANSWER, caller) for caller in callers], common=0.5)
        self.fleet: Production = production(configured(b""), Fleet(trace, Scenario()), rng)
        self.pool = self.fleet.pool
        self.gate = self.pool.gate = Gate(self.pool, settings)
        self.estimator = Estimator()
        self.now = 1.0
        self.asks: Sequence[Ask] = [self.fleet.asked(request, self.now) for request in trace.requests]
        for ask in self.asks[:200]:
            placement = self.pool.place(ask, rng.choice(self.pool.members), self.now)
            placement.left(self.now, Usage(_PROMPT, _ANSWER))
        for ask in self.asks:  # as the ranking needs it anyway
            self.pool.hits(ask)
        self.let_in: deque[Permit] = deque()
        self.permits: deque[tuple[Permit, Member]] = deque()

    def granted(self, permit: Permit) -> None:
        self.let_in.append(permit)

    def go_on(self) -> None:
        """Those who were let in count at an endpoint from now on."""
        while self.let_in:
            permit = self.let_in.popleft()
            member = next(member for member in self.pool.members if member.more(self.now) > 0)
            member.inflight += 1
            permit.counted(member)
            self.permits.append((permit, member))

    def refused(self, error: Overloaded) -> None:
        raise error

    def enter(self, ask: Ask) -> None:
        ask.now = self.now
        request = ask.request
        estimate = self.estimator.tokens(request, len(ask.text))
        identity = request.identity
        given = self.gate.enter(identity.flow, "", estimate, ask, len(request.body), math.inf, lambda: self)
        if isinstance(given, Permit):
            self.granted(given)
        self.go_on()

    def leave(self, permit: Permit, member: Member) -> None:
        member.inflight -= 1
        permit.progress(_ANSWER, self.now)
        permit.close(self.now, Usage(_PROMPT, _ANSWER))
        self.go_on()


def uncontended(rounds: int = _ROUNDS) -> float:
    stage = _Stage(rounds, Fairness(enabled=True))

    def run() -> None:
        for ask in stage.asks:
            stage.now += _GAP_S
            stage.enter(ask)
            stage.leave(*stage.permits.pop())

    return _least(run, rounds)


def contended(queued: int = QUEUED, rounds: int = _ROUNDS) -> float:
    """One comes and one goes, with so many waiting all the time."""
    settings = msgspec.structs.replace(Fairness(enabled=True), queue_timeout=1e9, max_queued=10 * (queued + rounds))
    stage = _Stage(queued + _RUNNING + rounds * _TIMES, settings)
    for member in stage.pool.members:
        member.room.full(_RUNNING / len(stage.pool.members), stage.now)
    comers: Iterator[Ask] = iter(stage.asks)
    for ask in itertools.islice(comers, queued + _RUNNING):
        stage.enter(ask)

    def run() -> None:
        for ask in itertools.islice(comers, rounds):
            stage.now += _GAP_S
            stage.enter(ask)
            stage.leave(*stage.permits.popleft())

    return _least(run, rounds)


def accounts(rounds: int = _ROUNDS) -> float:
    limits = RateLimits(requests_per_minute=10**9, total_tokens_per_minute=10**9, concurrent_requests=10**6)
    ledger, store = Ledger([limits]), Local()
    callers = [Identity(user=f"user {i}") for i in range(_CALLERS)]

    def run() -> None:
        now = 1.0
        for _, caller in zip(range(rounds), itertools.cycle(callers), strict=False):
            now += 0.001
            reservation = ledger.reservation(caller, "model", "route", 1000.0, 256.0)
            assert reservation is not None
            taken = store.take_nowait(reservation.demands, now)
            assert taken.granted
            reservation.granted(taken)
            store.settle(reservation.demands, taken, reservation.given_back(_PROMPT, _ANSWER), now + 0.5)

    return _least(run, rounds)
