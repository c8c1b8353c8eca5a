"""What one request holds before any endpoint is asked, its limits and its pool's room; and where its task waits. (T)

Invariant: a task that is cancelled while it waits has left the queue; one that was let in holds its permit, even if it
is cancelled before it runs again. What is held comes back by `Admission.leave`, which never waits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import outcome
import trio

from gateway.errors import Overloaded
from gateway.estimate import Estimate
from gateway.gate import Gate
from gateway.permit import Permit, Place, Ticket
from gateway.ports import Store
from gateway.schedule.ask import Ask
from gateway.types import Headers, InferenceRequest, Taken, Usage

if TYPE_CHECKING:
    from gateway.ledger import Ledger, Reservation


class Admission:
    """One request's. ``queued_s``: seconds it waited for room, 0 if there was some, NaN where nobody waits."""

    __slots__ = ("_estimate", "_permit", "_request", "_reservation", "_seat", "_taken", "queued_s")

    def __init__(self, request: InferenceRequest, estimate: Estimate) -> None:
        self._request = request
        self._estimate = estimate
        self._reservation: Reservation | None = None
        self._taken: tuple[Store, Taken] | None = None
        self._permit: Permit | None = None
        self._seat: Seat | None = None
        self.queued_s = math.nan

    @property
    def expected(self) -> Usage:
        """What it will probably use: all that is known of an answer nobody has shown."""
        return Usage(round(self._estimate.input), round(self._estimate.output))

    @property
    def waiting(self) -> bool:
        """Whether it is in the queue, where it may still be told no."""
        return self._seat is not None

    @property
    def headers(self) -> Headers:
        """What the caller is told of its limits."""
        return () if self._reservation is None else self._reservation.headers()

    async def reserve(self, ledger: Ledger, store: Store, route: str, now: float) -> None:
        """Take what the request will probably use off its limits. Raises RateLimited."""
        estimate, request = self._estimate, self._request
        reservation = ledger.reservation(request.identity, request.model, route, estimate.input, estimate.output)
        if reservation is None:
            return
        taken = store.take_nowait(reservation.demands, now)
        if taken is None:
            taken = await store.take(reservation.demands)
        if not taken.granted:
            raise reservation.refusal(taken)
        reservation.granted(taken)
        self._reservation, self._taken = reservation, (store, taken)

    async def queue(self, gate: Gate, ask: Ask, deadline: float) -> None:
        """Wait for room, from ``ask.now`` on. Raises Overloaded."""
        request, since = self._request, ask.now
        identity = request.identity
        given = gate.enter(identity.flow, identity.tier, self._estimate, ask, len(request.body), deadline, Seat)
        if isinstance(given, Permit):
            self._permit, self.queued_s = given, 0.0
            return
        self._seat = cast(Seat, given.waiting)
        try:
            self._permit = await self._seat.wait(gate, given)
        finally:
            self._seat = None
            self.queued_s = trio.current_time() - since

    def move(self, gate: Gate | None, now: float, priority: int = 0) -> None:
        """To a pool that is a fallback: it lets the request in though others may wait there."""
        former, identity = self._permit, self._request.identity
        if former is not None:
            if former.gate is gate:
                return
            former.close(now)
        self._permit = None if gate is None else gate.force(identity.flow, identity.tier, self._estimate, now, priority)

    def counted(self, place: Place) -> None:
        """It counts at this endpoint from now on."""
        if self._permit is not None:
            self._permit.counted(place)

    def progress(self, tokens: int, now: float) -> None:
        """So many tokens have been made."""
        if self._permit is not None:
            self._permit.progress(tokens, now)

    def leave(self, now: float, usage: Usage | None) -> None:
        """It is over, and came to ``usage``; None: to nothing, as no engine has done any work for it. Where the engine
        has not said how long the prompt is, the estimate stands.
        """
        if usage is not None and not usage.prompt:
            usage = Usage(round(self._estimate.input), usage.completion, usage.cached)
        if self._permit is not None:
            self._permit.close(now, usage)
        if self._reservation is not None and self._taken is not None:
            store, taken = self._taken
            if usage is None:
                back = self._reservation.given_back(0, 0, served=False)
            else:
                back = self._reservation.given_back(usage.prompt, usage.completion)
            store.settle(self._reservation.demands, taken, back, now)


class Seat:
    """One task at the door (gateway.gate.Waiting)."""

    __slots__ = ("_outcome", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._outcome: outcome.Outcome[Permit] | None = None

    def granted(self, permit: Permit) -> None:
        self._end(outcome.Value(permit))

    def refused(self, error: Overloaded) -> None:
        self._end(outcome.Error(error))

    def _end(self, result: outcome.Outcome[Permit]) -> None:
        self._outcome = result
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def wait(self, gate: Gate, ticket: Ticket) -> Permit:
        """Until it is let in. Raises Overloaded."""
        if self._outcome is None:
            self._task = trio.lowlevel.current_task()

            def withdraw(_: object) -> trio.lowlevel.Abort:
                self._task = None
                gate.withdraw(ticket)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(withdraw)
        assert self._outcome is not None
        return self._outcome.unwrap()


class Alarms:
    """Gates that only the clock keeps shut are opened in time, each by one task that sleeps until then."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._set: set[Gate] = set()

    def set(self, gate: Gate, at: float) -> None:
        if gate not in self._set:
            self._set.add(gate)
            self._nursery.start_soon(self._ring, gate, at)

    async def _ring(self, gate: Gate, at: float) -> None:
        await trio.sleep_until(at)
        self._set.discard(gate)
        gate.pump(trio.current_time())
