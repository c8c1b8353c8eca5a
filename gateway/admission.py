"""Where a request's task waits until the gate of its pool lets it in. (T)

Invariant: a task that is cancelled while it waits has left the queue; one that was let in holds its permit, even if it
is cancelled before it runs again.
"""

from __future__ import annotations

import outcome
import trio

from gateway.errors import Overloaded
from gateway.gate import Gate, Permit, Ticket


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
