"""Gateways' ports: opened, closed, drained, and told of; one that cannot be had costs no other."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.gateway_ports import GatewayPorts, Sum
from gateway.listen import Listener, open_listeners


class FakeServer:
    """Ends once it drains and nobody is left in it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.clients = 0
        self.draining = False
        self.left = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[Any]) -> None:
        task_status.started(self)
        await self.left.wait()

    def drain(self) -> None:
        self.draining = True
        self.leave()

    def leave(self, clients: int = 0) -> None:
        self.clients = max(0, self.clients - clients)
        if self.draining and not self.clients:
            self.left.set()

    def statistics(self) -> Sum:
        return Sum(self.clients, self.clients)


class Bench:
    """``refused``: ports that cannot be had; ``tried`` what was told, ``bound`` what was asked for."""

    def __init__(self) -> None:
        self.refused: dict[int, str] = {}
        self.servers: dict[int, FakeServer] = {}
        self.tried: list[Mapping[int, str]] = []
        self.bound: list[int] = []
        self.ports = GatewayPorts(self.bind, self.serve, self.tried.append, {9090: "admin"})

    async def bind(self, port: int) -> list[Listener]:
        await trio.lowlevel.checkpoint()
        self.bound.append(port)
        if port in self.refused:
            raise OSError(errno.EADDRINUSE, self.refused[port])
        return cast(list[Listener], [])

    def serve(self, port: int, listeners: list[Listener]) -> FakeServer:
        made = self.servers[port] = FakeServer(port)
        return made

    async def keep(self, *ports: int) -> None:
        self.ports.keep(ports)
        await wait_all_tasks_blocked()


def run(scenario: Callable[[Bench], Awaitable[None]]) -> Bench:
    """With the ports under way; they have drained in the end."""
    bench = Bench()

    async def main() -> None:
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                await nursery.start(bench.ports.run)
                await scenario(bench)
                bench.ports.drain()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return bench


def test_ports_come_and_go_and_are_told_of() -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.tried == []
        await bench.keep(8081, 8082)
        first = bench.servers[8081]
        await bench.keep(8082, 8081)
        assert bench.bound == [8081, 8082]
        await bench.keep(8082)
        assert (first.draining, bench.servers[8082].draining) == (True, False)
        await bench.keep(8081, 8082)
        assert bench.servers[8081] is not first

    bench = run(scenario)
    assert bench.tried == [{8081: "", 8082: ""}, {8082: ""}, {8081: "", 8082: ""}]
    assert all(server.draining for server in bench.servers.values())


def test_who_is_in_when_a_port_goes_stays_until_done_and_counts() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.keep(8081)
        old = bench.servers[8081]
        old.clients = 2
        await bench.keep()
        await bench.keep(8081)
        bench.servers[8081].clients = 1
        assert bench.ports.statistics() == Sum(3, 3)
        old.leave(2)
        await wait_all_tasks_blocked()
        assert bench.ports.statistics() == Sum(1, 1)
        bench.servers[8081].leave(1)

    run(scenario)


def test_one_that_cannot_be_had_is_tried_again_and_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.refused[8081] = "Address already in use"
        await bench.keep(8081, 8082, 9090)
        mine = "9090 is the port of the admin listener"
        assert bench.tried == [{8081: "Address already in use", 8082: "", 9090: mine}]
        assert list(bench.servers) == [8082]
        await trio.sleep(60)
        assert len(bench.tried) == 1
        bench.refused.clear()
        await trio.sleep(6)
        assert bench.tried[-1] == {8081: "", 8082: "", 9090: mine}
        assert list(bench.servers) == [8082, 8081]
        assert 9090 not in bench.bound

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert len(caplog.records) == 2  # each is said once


def test_there_are_only_so_many() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.keep(*range(2000, 2200))
        assert len(bench.servers) == 128
        assert bench.tried[0][2199] == "no more than 128 ports are listened on"
        await bench.keep(1999, *range(2000, 2200))
        assert len(bench.servers) == 128
        await bench.keep(*range(2100, 2200))
        assert set(bench.tried[-1].values()) == {""}

    run(scenario)


def test_a_port_that_comes_while_all_drain_is_not_opened() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.keep(8081)
        bench.servers[8081].clients = 1
        bench.ports.drain()
        await bench.keep(8081, 8082)
        assert list(bench.servers) == [8081]
        bench.servers[8081].leave(1)

    bench = run(scenario)
    assert bench.tried == [{8081: ""}]


def test_a_port_that_is_had_too_late_is_given_back() -> None:
    async def main() -> None:
        late, made = trio.Event(), await open_listeners("127.0.0.1", 0)

        async def bind(port: int) -> list[Listener]:
            await late.wait()
            return made

        ports = GatewayPorts(bind, lambda port, listeners: FakeServer(port))
        async with trio.open_nursery() as nursery:
            await nursery.start(ports.run)
            ports.keep([8081])
            await wait_all_tasks_blocked()
            ports.drain()
            late.set()
        assert [listener.socket.fileno() for listener in made] == [-1]
        assert ports.statistics() == Sum(0, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0))
