"""Health as grpcio's health client sees it, and as a watcher under Trio's virtual clock does."""

from __future__ import annotations

import grpc
import pytest
import trio
import trio.testing
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.wire.grpc import Code
from protocols.grpc.client import RpcError, connect
from protocols.grpc.health import LOOK_S, Health
from tests.protocols.grpc.served import served

Status = health_pb2.HealthCheckResponse
NAME = "inference.v1.InferenceService"
WATCH = "/grpc.health.v1.Health/Watch"


class Fleet:
    """Something that is ready, or not."""

    def __init__(self) -> None:
        self.ready = True


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def check(target: str, *names: str) -> list[int | grpc.StatusCode]:
    """What grpcio is told about each name: a status, or the code of the failure."""
    found: list[int | grpc.StatusCode] = []
    with grpc.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in names:
            try:
                found.append(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status)
            except grpc.RpcError as error:
                found.append(error.code())
    return found


@pytest.mark.parametrize(
    ("unknown_serving", "other"), [(False, (grpc.StatusCode.NOT_FOUND,) * 3), (True, (Status.SERVING, 2, 2))]
)
def test_what_checks_say(fleet: Fleet, unknown_serving: bool, other: tuple[object, ...]) -> None:
    health = Health([NAME], lambda: fleet.ready, unknown_serving=unknown_serving)
    names = ("", NAME, "liveness", "other")

    async def main() -> None:
        async with served([health]) as (_, target):
            assert await trio.to_thread.run_sync(check, target, *names) == [1, 1, 1, other[0]]
            fleet.ready = False
            assert await trio.to_thread.run_sync(check, target, *names) == [2, 2, 1, other[1]]
            fleet.ready = True
            health.drain()
            assert await trio.to_thread.run_sync(check, target, *names) == [2, 2, 1, other[2]]

    trio.run(main)


def test_all_at_once(fleet: Fleet) -> None:
    def ask(target: str) -> dict[str, int]:
        with grpc.insecure_channel(target) as channel:
            answer = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest(), timeout=10)
            return {name: one.status for name, one in answer.statuses.items()}

    async def main() -> None:
        fleet.ready = False
        async with served([Health([NAME], lambda: fleet.ready)]) as (_, target):
            assert await trio.to_thread.run_sync(ask, target) == {"": 2, NAME: 2, "liveness": 1}

    trio.run(main)


def test_a_watcher_is_told_of_changes_at_once_and_of_nothing_else(fleet: Fleet) -> None:
    health = Health([NAME], lambda: fleet.ready)

    async def main() -> None:
        async with served([health]) as (_, target), connect(target) as channel:
            asked = health_pb2.HealthCheckRequest(service=NAME)
            async with channel.unary_stream(WATCH, asked, Status) as call:
                seen = [(await call.receive()).status]
                for ready in (True, False, False, True):
                    fleet.ready = ready
                    health.changed()
                    await trio.testing.wait_all_tasks_blocked(0.02)
                seen += [(await call.receive()).status for _ in range(2)]
                health.drain()
                seen.append((await call.receive()).status)
                with pytest.raises(RpcError, match="UNAVAILABLE: the server is draining"):
                    await call.receive()
        assert seen == [Status.SERVING, Status.NOT_SERVING, Status.SERVING, Status.NOT_SERVING]

    trio.run(main)


def test_grpcio_watches_a_name_that_is_not_there() -> None:
    def watch(target: str) -> int:
        with grpc.insecure_channel(target) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="other"), timeout=10)
            first = next(call).status
            call.cancel()
            return first

    async def main() -> None:
        async with served([Health([NAME])]) as (_, target):
            assert await trio.to_thread.run_sync(watch, target) == Status.SERVICE_UNKNOWN

    trio.run(main)


def test_watchers_hold_up_no_drain() -> None:
    health = Health()

    async def main() -> None:
        async with served([health]) as (server, target), connect(target) as channel:
            async with channel.unary_stream(WATCH, health_pb2.HealthCheckRequest(), Status) as call:
                await call.receive()
                health.drain()
                server.drain()
                assert (await call.receive()).status == Status.NOT_SERVING
                with pytest.raises(RpcError) as caught:
                    await call.receive()
                assert caught.value.code is Code.UNAVAILABLE
            while server.statistics().connections:
                await trio.testing.wait_all_tasks_blocked(0.01)

    trio.run(main)


class Watcher:
    """A stream of the server's, as far as Watch goes."""

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []

    def forget_headers(self) -> None: ...

    async def recv_message(self) -> health_pb2.HealthCheckRequest:
        return health_pb2.HealthCheckRequest()

    async def send_message(self, message: Status) -> None:
        self.told.append((trio.current_time(), message.status))


def test_what_nobody_announces_is_seen_within_a_second(autojump_clock: trio.testing.MockClock, fleet: Fleet) -> None:
    async def main() -> None:
        start, watcher = trio.current_time(), Watcher()
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Health((), lambda: fleet.ready).__mapping__()[WATCH].func, watcher)
                await trio.sleep(3.5)
                fleet.ready = False
        assert [(round(at - start, 3), status) for at, status in watcher.told] == [(0, 1), (3 + LOOK_S, 2)]

    trio.run(main, clock=autojump_clock)


def test_one_watcher_looks_for_all_and_another_when_it_leaves(
    autojump_clock: trio.testing.MockClock, fleet: Fleet
) -> None:
    looks = []

    def ready() -> bool:
        looks.append(trio.current_time())
        return fleet.ready

    async def main() -> None:
        watch, watchers = Health((), ready).__mapping__()[WATCH].func, [Watcher() for _ in range(100)]
        leaving = [trio.CancelScope() for _ in watchers]

        async def watched(watcher: Watcher, scope: trio.CancelScope) -> None:
            with scope:
                await watch(watcher)

        async with trio.open_nursery() as nursery:
            for each in zip(watchers, leaving, strict=True):
                nursery.start_soon(watched, *each)
            await trio.sleep(10.5)
            assert len(looks) < 500
            for scope in leaving[:98]:
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
            fleet.ready = False
            await trio.sleep(1.5)
            nursery.cancel_scope.cancel()
        assert [[status for _, status in watcher.told] for watcher in watchers] == [[1]] * 98 + [[1, 2]] * 2

    trio.run(main, clock=autojump_clock)


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_a_name_is_no_load(method: str) -> None:
    """Whoever asks is not asked who it is, and may watch for ever."""

    async def main() -> None:
        async with served([Health()]) as (_, target), connect(target) as channel:
            asked = health_pb2.HealthCheckRequest(service="x" * 5000)
            with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED: a message has 5003 bytes, at most 4096"):
                async with channel.unary_stream(f"/grpc.health.v1.Health/{method}", asked, Status) as call:
                    await call.receive()

    trio.run(main)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)
