"""A workload under virtual time with a gateway's door before its pool: who waits there and who is let in. (P)

Invariant: gate, pool and profile are the gateway's own and are told what its data walk tells them, at the same moments:
a request's coming, its dispatch, its tokens four times a second, its end and usage.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple, cast

import msgspec

from conformance.fairness.orders import MakeOrder, Ours, Placed, Plain
from conformance.fairness.service import Service
from conformance.fairness.workload import Workload
from conformance.replay.fleet import Engine, Fleet, Flight
from conformance.replay.outcome import Outcome
from conformance.replay.production import Production, configured, production
from conformance.replay.traces import Request
from conformance.replay.virtual import Replay
from gateway.config.sharing import Fairness
from gateway.errors import Overloaded
from gateway.estimate import Estimate, Estimator
from gateway.gate import Gate
from gateway.permit import Permit
from gateway.schedule.ask import Ask
from gateway.types import Load, Usage

_PATIENCE_S = 1e9


class _Waiting:
    """A request at the door; it is told of a permit that it did not have when it came."""

    def __init__(self, stage: Stage, request: Request, ask: Ask) -> None:
        self._stage, self._request, self._ask = stage, request, ask

    def granted(self, permit: Permit) -> None:
        self._stage.granted.append((self._request, self._ask, permit))

    def refused(self, error: Overloaded) -> None:
        raise error  # nobody's patience ends, and the queue has room for all


class Stage(Replay):
    """``order``: who is next. ``gated``: False is the gateway with fairness off."""

    def __init__(self, workload: Workload, order: MakeOrder = Ours, *, gated: bool = True) -> None:
        super().__init__(Fleet(workload.trace, workload.scenario), partial(production, configured(b"")))
        self.workload = workload
        self.gateway = _only(self.choosers)
        self.order = order(workload.fairness)
        self.gate = self._door(workload.fairness) if gated else None
        self.service = Service({client: workload.tier(client).weight for client in workload.clients()})
        self.waited = [0.0] * len(workload.trace.requests)
        self.freed: list[tuple[float, float]] = []
        self.granted: deque[tuple[Request, Ask, Permit]] = deque()
        self._permits: dict[int, Permit] = {}
        self.placed: list[Placed] = []
        self._flying: dict[int, Flight] = {}
        self._asks: dict[int, Ask] = {}
        self._started: dict[int, float] = {}
        self._estimator = Estimator()
        self._estimates: dict[int, Estimate] = {}

    def _door(self, fairness: Fairness) -> Gate:
        settings = msgspec.structs.replace(
            fairness, queue_timeout=_PATIENCE_S, max_queued=10**9, max_queued_bytes=10**12
        )
        gate = self.gateway.pool.gate = Gate(self.gateway.pool, settings)
        gate.order = self.order
        return gate

    def run(self) -> Run:
        """Play it to its end."""
        return Run(self.workload, self.play(), self.service, self.waited, self.freed, self.placed, self.order)

    # -- at the door ----------------------------------------------------------------------------------------------

    def _arrive(self, request: Request, now: float) -> None:
        self.service.arrived(request.client, now, self.workload.weighted(request))
        ask, client = self.gateway.asked(request, now), request.client
        if self.gate is None:
            self._go(request, ask, now)
            return
        self.service.waits(client, now)
        estimate = self._estimates[request.index] = self._estimator.tokens(ask.request, len(ask.text))
        waiting, tier = partial(_Waiting, self, request, ask), self.workload.tiers.get(client, "")
        flow, size = ask.request.identity.flow, len(ask.request.body)
        given = self.gate.enter(flow, tier, estimate, ask, size, math.inf, waiting)
        if isinstance(given, Permit):
            self.granted.append((request, ask, given))
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Those who were let in are placed, once whoever let them in is through: they are tasks of their own."""
        while self.granted:
            self._placed(*self.granted.popleft(), now)

    def _placed(self, request: Request, ask: Ask, permit: Permit, now: float) -> None:
        self._permits[request.index] = permit
        self.waited[request.index] = permit.waited
        self.service.released(request.client, now)
        self._go(request, ask, now)
        permit.counted(self.gateway.pool.members[self._flying[request.index].engine])

    def _go(self, request: Request, ask: Ask, now: float) -> None:
        self._asks[request.index], self._started[request.index] = ask, now
        self._rankings[request.index] = self.gateway.ranked(ask)
        self._attempt(request, 0, now)
        self._flying[request.index] = self._flights[request.index]

    # -- under way ------------------------------------------------------------------------------------------------

    def _step(self, now: float, engine: Engine) -> None:
        got, token = self.service.got, self.workload.fairness.output_token_weight
        for sequence in engine.batch.decoding:
            got(cast(Flight, sequence).request.client, now, token)
        super()._step(now, engine)
        self._go_on(now)
        self._wake(engine)

    def _first(self, now: float, flight: Flight) -> None:
        super()._first(now, flight)
        fairness = self.workload.fairness
        amount = fairness.input_token_weight * flight.request.prompt + fairness.output_token_weight
        self.service.got(flight.request.client, now, amount)

    def _ended(self, now: float, flight: Flight) -> None:
        super()._ended(now, flight)
        due = self.engines[flight.engine].batch.next_at()
        self.freed.append((now, due if due < math.inf else now))
        request = flight.request
        index, usage = request.index, Usage(request.prompt, request.output)
        del self._flying[index]
        ask = self._asks.pop(index)
        self._estimator.observe(ask.request, len(ask.text), usage)
        if self.gate is not None:
            self._note(request, now)
            self._permits.pop(index).close(now, usage)

    def _note(self, request: Request, now: float) -> None:
        """What it was charged at its dispatch, and what it came to."""
        workload, key, estimate = self.workload, (request.client, request.client), self._estimates.pop(request.index)
        weight, actual = workload.tier(request.client).weight, workload.weighted(request)
        fairness = workload.fairness
        guess = fairness.input_token_weight * estimate.input + fairness.output_token_weight * estimate.output
        start = self._started.pop(request.index)
        self.placed.append(Placed(key, start, now, guess / weight, actual / weight))
        self.order.completed(key, actual, now)

    def _tick(self, now: float, gateway: int) -> None:
        for index, permit in self._permits.items():
            permit.progress(self._flying[index].generated, now)
        super()._tick(now, gateway)
        self._go_on(now)

    def _scraped(self, now: float, subject: tuple[int, Engine, Load | None]) -> None:
        super()._scraped(now, subject)
        self._go_on(now)


def _only(choosers: Iterable[object]) -> Production:
    (chooser,) = choosers
    assert isinstance(chooser, Production)
    return chooser


class Run(NamedTuple):
    """What became of a workload. ``waited`` at the door, by request; ``freed``: when each request
    ended, and when another could begin in its place; ``placed``: what
    was charged for them, in the order of their ends."""

    workload: Workload
    outcome: Outcome
    service: Service
    waited: list[float]
    freed: list[tuple[float, float]]
    placed: list[Placed]
    order: Ours | Plain

    def ttft(self, client: str) -> list[float]:
        """Of the client's requests, in the order of the trace, the wait at the door included."""
        pairs = zip(self.workload.trace.requests, self.outcome.fates, strict=True)
        return [fate.ttft for request, fate in pairs if request.client == client]

    @property
    def last_arrival(self) -> float:
        return self.workload.trace.requests[-1].at / self.workload.scenario.speed
