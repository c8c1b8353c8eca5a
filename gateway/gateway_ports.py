"""Listeners of Gateways' ports: opened and closed as Gateways come and go, drained with the others. (IO)

Nursery: `GatewayPorts.run` holds the servers, one a port. Invariant: what is told of a port is what came of opening it
last; a port that cannot be had costs no other one, and is tried again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
import trio

from gateway.listen import Listener, close_listeners

_log = logging.getLogger("infer_gateway")
_AGAIN_S: Final = 5.0
_MOST: Final = 128
"""Ports listened on at a time: whoever may write Gateways should not have all of the descriptors."""


class Statistics(Protocol):
    @property
    def connections(self) -> int: ...
    @property
    def busy(self) -> int: ...


class Server(Protocol):
    """What stands behind one port. ``run`` returns when it has drained, its listeners closed."""

    async def run(self, *, task_status: trio.TaskStatus[Any]) -> None: ...
    def settle(self) -> None: ...
    def hand_over(self, *, shared: bool = True) -> None: ...
    def drain(self) -> None: ...
    def statistics(self) -> Statistics: ...


class Sum(msgspec.Struct, frozen=True):
    connections: int
    busy: int


Bind = Callable[[int], Awaitable[list[Listener]]]


class GatewayPorts:
    """``bind`` listens on a port or raises OSError, ``serve`` makes the server of it. ``tried`` is told what came of
    all ports that are wanted whenever that changes: "", or why one cannot be had. ``taken``: ports that are others',
    and whose they are.
    """

    def __init__(
        self,
        bind: Bind,
        serve: Callable[[int, list[Listener]], Server],
        tried: Callable[[Mapping[int, str]], object] = lambda outcomes: None,
        taken: Mapping[int, str] | None = None,
    ) -> None:
        self._bind, self._serve, self._tried = bind, serve, tried
        self._taken = taken or {}
        self._wanted: tuple[int, ...] = ()
        self._outcomes: dict[int, str] = {}
        self._open: dict[int, Server] = {}
        self._servers: set[Server] = set()
        self._changed = trio.Event()
        self._settling = self._draining = False

    def keep(self, ports: Iterable[int]) -> None:
        """Listen on these and no others; who has come in by another one is seen off when what is under way is done."""
        wanted = tuple(sorted(ports))
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def settle(self) -> None:
        """Those who come are told not to come again."""
        self._settling = True
        for server in self._servers:
            server.settle()

    def hand_over(self) -> None:
        """Nobody new: a successor opens the ports itself, and is let to them here."""
        self._draining = True
        for server in self._servers:
            server.hand_over(shared=False)
        self._changed.set()

    def drain(self) -> None:
        """Nobody new; `run` returns when those who are in are done."""
        self._draining = True
        for server in self._servers:
            server.drain()
        self._changed.set()

    def statistics(self) -> Sum:
        each = [server.statistics() for server in self._servers]
        return Sum(sum(one.connections for one in each), sum(one.busy for one in each))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while not self._draining:
                self._changed = trio.Event()
                await self._settle(nursery)
                again = _AGAIN_S if any(self._outcomes.values()) else math.inf
                with trio.move_on_after(again):
                    await self._changed.wait()

    async def _settle(self, nursery: trio.Nursery) -> None:
        wanted = self._wanted
        for port in [port for port in self._open if port not in wanted]:
            self._open.pop(port).drain()
            _log.info("port %d of Gateways is closed", port)
        outcomes = {port: await self._try(port, nursery) for port in wanted}
        if outcomes != self._outcomes and not self._draining:
            self._outcomes = outcomes
            self._tried(outcomes)

    async def _try(self, port: int, nursery: trio.Nursery) -> str:
        """What came of it."""
        if port in self._open or self._draining:
            return ""
        if port in self._taken:
            problem = f"{port} is the port of the {self._taken[port]} listener"
        elif len(self._open) >= _MOST:
            problem = f"no more than {_MOST} ports are listened on"
        else:
            problem = await self._start(port, nursery)
        if problem and problem != self._outcomes.get(port):
            _log.error("a Gateway's port is not served: %s", problem)
        return problem

    async def _start(self, port: int, nursery: trio.Nursery) -> str:
        try:
            listeners = await self._bind(port)
        except OSError as error:
            return error.strerror or str(error)
        if self._draining:
            close_listeners(listeners)
            return ""
        server = self._open[port] = self._serve(port, listeners)
        if self._settling:
            server.settle()
        self._servers.add(server)
        await nursery.start(self._run, server)
        _log.info("port %d of Gateways is open", port)
        return ""

    async def _run(self, server: Server, *, task_status: trio.TaskStatus[Any]) -> None:
        try:
            await server.run(task_status=task_status)
        finally:
            self._servers.discard(server)
