"""A server and its health, drained in that order. (T)

Invariant: health says that the door drains before it does.
"""

from __future__ import annotations

import trio

from protocols.grpc.health import Health
from protocols.grpc.server import Server, Statistics


class Door:
    """A server and its health. For ``linger`` seconds after `drain` it still takes whoever has not asked for health."""

    def __init__(self, server: Server, health: Health, linger: float = 0.0) -> None:
        self._server = server
        self._health = health
        self._linger = linger
        self._leaving = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.run)
            task_status.started()
            await self._leaving.wait()
            if self._server.statistics().connections:
                await trio.sleep(self._linger)
            self._server.drain()

    def drain(self) -> None:
        self._health.drain()
        self._leaving.set()

    def statistics(self) -> Statistics:
        return self._server.statistics()
