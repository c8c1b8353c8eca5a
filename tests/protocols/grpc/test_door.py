"""A door that closes: health says so first, then it lingers, then the server drains."""

from __future__ import annotations

import trio
from trio.testing import MockClock, memory_stream_pair

from gateway.listen import open_listeners
from gateway.wire.grpc import Code
from protocols.grpc.door import Door
from protocols.grpc.health import NOT_SERVING, SERVING, Health
from protocols.grpc.server import Server
from tests.protocols.grpc.rig import Client, Echo

LINGER_S = 5.0


async def _closing(clients: int) -> float:
    """How long a door with so many clients takes to close, told by virtual time."""
    health = Health()
    server = Server([Echo(), health], await open_listeners("127.0.0.1", 0))
    door = Door(server, health, LINGER_S)
    async with trio.open_nursery() as nursery:
        closed = trio.Event()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await door.run(task_status=task_status)
            closed.set()

        await nursery.start(run)
        for _ in range(clients):
            ours, theirs = memory_stream_pair()
            server.converse(theirs, "memory")
            client = Client(ours)
            await client.start()
            assert (await client.call("Unary", b"x")).status is Code.OK
        begun = trio.current_time()
        assert health.status("") == SERVING
        door.settle()
        door.drain()
        assert health.status("") == NOT_SERVING
        for _ in range(clients):
            await trio.sleep(LINGER_S - 1)
            assert (await client.call("Unary", b"x")).status is Code.OK  # whatever health says
            assert not client.goaways
            await client.until_closed()
        await closed.wait()
        return trio.current_time() - begun


def test_clients_are_told_before_they_are_sent_away() -> None:
    async def main() -> None:
        assert LINGER_S <= await _closing(1) <= LINGER_S + 2

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_nobody_is_waited_for_where_nobody_is() -> None:
    async def main() -> None:
        assert await _closing(0) == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
