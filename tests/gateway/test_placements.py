"""What is counted of requests at endpoints comes back to nothing, however a request ends."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec
import pytest
import trio

from gateway.config.scheduler import Scheduler
from gateway.config.snapshot import Policy, PoolSpec
from gateway.errors import UpstreamError
from gateway.member import Member
from gateway.schedule.build import for_pool
from gateway.schedule.profile import Profile
from gateway.types import Endpoint
from tests.gateway.scripted import A, B, C, FakeExchange, Step, World, run, with_watch

Script = tuple[int, Sequence[Step]]
CUT = UpstreamError("the connection broke", retryable=True)
BUSY: Script = (503, [b"full"])
POLICY = Policy(first_token=10, between_tokens=2, retry_interval=0.5)


def built_in(spec: PoolSpec, old: Profile | None = None) -> Profile:
    return for_pool(Scheduler(), spec, random.Random(1), old)


def world_of(scripts: dict[Endpoint, list[Script]]) -> World:
    """With the built-in profile, and the pools p (A and B) and q (C)."""
    world = World(
        {endpoint: [(status, list(steps)) for status, steps in played] for endpoint, played in scripts.items()}
    )
    world.pools.profile = built_in
    apply(world, p=(A, B), q=(C,))
    return world


def apply(world: World, **pools: tuple[Endpoint, ...]) -> None:
    """Pools that have nothing to do with those before."""
    world.pools.apply([])
    world.pools.apply([PoolSpec(name, "fake", endpoints, policy=POLICY) for name, endpoints in pools.items()])
    for member in world.pools.members():
        member.up = True


def counted(member: Member) -> tuple[float, ...]:
    return member.inflight, member.pending, member.unstreamed, round(member.backlog, 6), member.health.probes


NOTHING = (0, 0, 0, 0.0, 0)


async def leave_after(world: World, exchange: FakeExchange, seconds: float) -> None:
    """The client goes away then, if the answer has not ended before."""

    async def ask() -> None:
        with trio.move_on_after(seconds):
            await world.ask(exchange)

    await with_watch(world, ask)


ENDINGS: dict[str, list[Script]] = {
    "whole": [(200, [b"role", 0.3, b"a", b"b", b"c!"])],
    "at once": [(200, [b"c!"])],
    "unframed": [(200, [b"a", b"c$", None])],
    "no answer": [(200, [None])],
    "silence": [(200, [b"a", None])],
    "cut before": [(200, [b"role", 0.1, CUT])],
    "cut after": [(200, [b"a", 0.1, CUT])],
    "not whole": [(200, [b"a", b"b"])],
    "error in it": [(200, [b"err"])],
    "error after a token": [(200, [b"a", b"err"])],
    "half an event": [(200, [b"half", 30.0, b"c!"])],
    "busy": [BUSY],
    "refused for good": [(400, [b"no"])],
    "nobody there": [],
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("patience", [0.0, 0.2, 0.7, 1e4], ids=str)
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_stays_counted(ending: str, patience: float, stream: bool) -> None:
    """Everywhere the same happens, so that attempts follow each other, with pauses in which the client may leave."""

    async def scenario() -> None:
        world = world_of(dict.fromkeys((A, B, C), ENDINGS[ending] * 2))
        await leave_after(world, FakeExchange(stream=stream), patience)
        members = world.pools.members()
        assert {counted(member) for member in members} == {NOTHING}
        assert not world.gateway.calls
        assert not world.gateway.ids
        assert len(world.records) == 1
        assert all(math.isfinite(member.speed.prefill) and math.isfinite(member.speed.decode) for member in members)
        assert sum(member.requests for member in members) == sum(
            entry.startswith("to") for entry in world.transport.log
        )

    run(scenario)


@pytest.mark.parametrize("seconds", [0.1, 1.5, 30.0], ids=str)
def test_a_reload_in_mid_answer_leaves_nothing_counted(seconds: float) -> None:
    """Another profile, members that go and come back, a pool that goes: at any time."""

    async def scenario() -> None:
        answer: Script = (200, [1.0, b"a", 1.0, b"b", 28.0, b"c!"])
        world = world_of({A: [answer] * 2, B: [answer] * 2})
        first = world.pools.members()
        exchanges = [FakeExchange(stream=stream) for stream in (True, True, False)]
        other = Scheduler(picker="random")

        async def reload() -> None:
            await trio.sleep(seconds)
            world.pools.profile = lambda spec, old: for_pool(other, spec, random.Random(1), old)
            world.pools.apply([PoolSpec("p", "fake", (B, C)), PoolSpec("q", "fake", (C,))])
            world.pools.apply([PoolSpec("p", "fake", (A, B))])
            world.pools.apply([])

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reload)
                for number, exchange in enumerate(exchanges):
                    exchange.request = msgspec.structs.replace(exchange.request, id=f"r{number}")
                    nursery.start_soon(world.ask, exchange)

        await with_watch(world, work)
        assert {counted(member) for member in first} == {NOTHING}
        assert sum(member.requests for member in first) == 3

    run(scenario)


def test_an_endpoint_in_two_pools_is_counted_in_each() -> None:
    async def scenario() -> None:
        world = world_of({A: [(200, [0.5, b"x!"])]})
        apply(world, p=(A,), q=(A,))
        members = world.pools.members()
        assert await world.ask(FakeExchange()) == ["x!", "END"]
        assert [member.requests for member in members] == [1, 0]
        assert {counted(member) for member in members} == {NOTHING}

    run(scenario)


def test_a_probe_whose_client_leaves_makes_way_for_the_next() -> None:
    async def scenario() -> None:
        world = world_of({A: [(200, [None]), (200, [b"x!"])], B: []})
        first, second = world.pools["p"].members
        second.health.drain()
        for _ in range(3):
            first.failed(0.0)
        await trio.sleep(1.5)
        await leave_after(world, FakeExchange(), 0.5)
        assert (first.health.probes, first.health.state(2.0)) == (0, "half-open")
        assert first.usable(2.0)
        assert await world.ask(FakeExchange()) == ["x!", "END"]
        assert first.health.why == ""

    run(scenario)
