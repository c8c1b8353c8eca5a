"""A server and its health, drained in that order. (T)

Invariant: health says that the door drains before it does.
"""

from __future__ import annotations

import trio

from protocols.grpc.health import Health
from protocols.grpc.server import Server, Statistics


class Door:
    """A server and its health. For ``linger`` seconds after `settle` it still takes whoever has not asked for health,
    even where `drain` comes before.
    """

    def __init__(self, server: Server, health: Health, linger: float = 0.0) -> None:
        self._server = server
        self._health = health
        self._linger = linger
        self._until = 0.0
        self._leaving = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.run)
            task_status.started()
            await self._leaving.wait()
            if self._server.statistics().connections:
                await trio.sleep_until(self._until)
            self._server.drain()

    def settle(self) -> None:
        """Health says that this ends; whoever comes is served."""
        self._health.drain()
        self._until = trio.current_time() + self._linger

    def hand_over(self) -> None:
        """Clients are sent to whoever accepts from these sockets, too, and health says nothing of it."""
        self._health.hand_over()
        self._server.drain(handed_over=True)

    def drain(self) -> None:
        self._health.drain()
        self._leaving.set()

    def statistics(self) -> Statistics:
        return self._server.statistics()
