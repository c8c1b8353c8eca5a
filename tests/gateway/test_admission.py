"""Requests that wait at the gate of their pool, in virtual time: let in, refused, cancelled, in every order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.decode import Duration
from gateway.config.sharing import Fairness
from gateway.config.snapshot import Policy
from gateway.errors import UpstreamError
from gateway.types import Identity, Load
from tests.gateway.scripted import A, B, FakeExchange, Step, World, run, with_watch

ANSWER: list[Step] = [1.0, b"token", 1.0, b"end!"]
"""Two seconds of an engine's slot."""


def crowded(answers: int, *, slots: int = 1, fairness: Fairness | None = None) -> World:
    """One endpoint that is known to run so many requests at once; the other one of the pool is down."""
    world = World({A: [(200, list(ANSWER)) for _ in range(answers)]}, policy=Policy(first_token=600))
    world.pools.fairness = fairness or Fairness(enabled=True)
    world.pools.apply(world.specs)
    for member in world.pools["p"].members:
        member.up = member.endpoint == A
        member.room.full(slots, math.inf)  # and is never tried
    return world


def exchange(user: str, deadline: float = math.inf) -> FakeExchange:
    made = FakeExchange()
    made.request = msgspec.structs.replace(made.request, id=user, identity=Identity(user=user), deadline=deadline)
    return made


async def serve(world: World, *exchanges: FakeExchange) -> None:
    async with trio.open_nursery() as nursery:
        for each in exchanges:
            nursery.start_soon(world.gateway.serve, each)
            await trio.testing.wait_all_tasks_blocked()


def ends(exchanges: Sequence[FakeExchange]) -> list[float]:
    return [each.said[-1][0] for each in exchanges]


def test_requests_wait_for_a_slot_and_all_are_answered() -> None:
    async def scenario() -> None:
        world = crowded(3)
        asked = [exchange("x"), exchange("x"), exchange("x")]
        await with_watch(world, lambda: serve(world, *asked))
        assert ends(asked) == [2, 4, 6]
        assert [round(record.queue_s) for record in world.records] == [0, 2, 4]
        gate = world.pools["p"].gate
        assert gate is not None
        assert (gate.inflight, gate.coming, len(gate.order)) == (0, 0, 0)

    run(scenario)


def test_the_light_caller_is_next() -> None:
    async def scenario() -> None:
        world = crowded(5)
        flood = [exchange("flood") for _ in range(4)]
        light = exchange("light")
        await with_watch(world, lambda: serve(world, *flood, light))
        assert ends([light]) == [4]
        assert ends(flood) == [2, 6, 8, 10]

    run(scenario)


def test_one_who_leaves_the_queue_holds_nothing() -> None:
    async def scenario() -> None:
        world = crowded(2)
        first, second, third = exchange("x"), exchange("y"), exchange("z")

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.gateway.serve, first)
                await trio.testing.wait_all_tasks_blocked()
                scope = trio.CancelScope(deadline=1.0)

                async def leave() -> None:
                    with scope:
                        await world.gateway.serve(second)

                nursery.start_soon(leave)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(world.gateway.serve, third)

        await with_watch(world, work)
        assert second.said == []
        assert ends([first, third]) == [2, 4]
        assert sorted(record.status for record in world.records) == [200, 200, 499]

    run(scenario)


def test_one_cancelled_in_the_moment_it_is_let_in_gives_the_place_back() -> None:
    async def scenario() -> None:
        world = crowded(3)
        gate = world.pools["p"].gate
        assert gate is not None
        first, second, third = exchange("x"), exchange("y"), exchange("z")

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.gateway.serve, first)
                await trio.testing.wait_all_tasks_blocked()
                scope = trio.CancelScope()

                async def leave() -> None:
                    with scope:
                        await world.gateway.serve(second)

                nursery.start_soon(leave)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(world.gateway.serve, third)
                await trio.testing.wait_all_tasks_blocked()
                for member in world.pools["p"].members:
                    member.room.slots = 2.0
                gate.pump(trio.current_time())
                scope.cancel()

        await with_watch(world, work)
        assert not [what for _, what in second.said if what == "END"]
        assert third.said[-1][1] == "END"
        assert (gate.inflight, gate.coming, len(gate.order)) == (0, 0, 0)

    run(scenario)


def test_the_queues_time_limit() -> None:
    async def scenario() -> None:
        world = crowded(1, fairness=Fairness(enabled=True, queue_timeout=Duration(1)))
        first, second = exchange("x"), exchange("y")
        await with_watch(world, lambda: serve(world, first, second))
        assert second.said == [(1.0, "FAIL 503 overloaded")]
        assert first.said[-1] == (2.0, "END")
        assert world.records[0].reason == "overloaded"

    run(scenario)


def test_a_deadline_of_the_clients_own() -> None:
    async def scenario() -> None:
        world = crowded(1)
        first, second = exchange("x"), exchange("y", deadline=0.5)
        await with_watch(world, lambda: serve(world, first, second))
        assert second.said == [(0.5, "FAIL 503 overloaded")]

    run(scenario)


def test_a_pools_limit_on_the_whole_of_a_request_counts_the_queue_too() -> None:
    async def scenario() -> None:
        world = crowded(1)
        world.pools["p"].policy = Policy(request=0.5)
        first, second = exchange("x"), exchange("y")
        await with_watch(world, lambda: serve(world, first, second))
        assert second.said == [(0.5, "FAIL 503 overloaded")]

    run(scenario)


def test_who_waits_when_the_process_ends_is_told() -> None:
    async def scenario() -> None:
        world = crowded(1)
        waiting = exchange("y")

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, world, exchange("x"), waiting)
                await trio.sleep(0.6)
                world.gateway.give_up()

        await with_watch(world, work)
        assert waiting.said == [(0.6, "FAIL 503 overloaded")]
        assert world.transport.log == ["to a", "closed a"]

    run(scenario)


def test_a_full_queue() -> None:
    async def scenario() -> None:
        world = crowded(2, fairness=Fairness(enabled=True, max_queued=1))
        asked = [exchange("x"), exchange("x"), exchange("x")]
        await with_watch(world, lambda: serve(world, *asked))
        assert asked[2].said == [(0.0, "FAIL 503 overloaded")]

    run(scenario)


def test_a_silent_queue_is_not_commented_upon() -> None:
    """The answer may still be a 503 that tells when to come back."""

    async def scenario() -> None:
        world = crowded(1, fairness=Fairness(enabled=True, queue_timeout=Duration(40)))
        world.gateway.keep_alive_s = 5
        world.transport.scripts[A] = [(200, [None])]

        async def work() -> None:
            with trio.move_on_after(41):
                await serve(world, exchange("x"), waiting)

        waiting = exchange("y")
        await with_watch(world, work)
        assert waiting.said == [(40.0, "FAIL 503 overloaded")]

    run(scenario)


def test_engines_that_go_down_keep_nobody_waiting() -> None:
    async def scenario() -> None:
        world = crowded(1)
        waiting = exchange("y")

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, world, exchange("x"), waiting)
                await trio.sleep(0.6)
                for member in world.pools["p"].members:
                    member.up = False

        await with_watch(world, work)
        assert waiting.said[-1][1].startswith("FAIL")
        assert waiting.said[-1][0] < 1.0

    run(scenario)


def test_a_fallback_lets_in_whoever_failed_elsewhere() -> None:
    async def scenario() -> None:
        world = crowded(0)
        asked = exchange("x")
        await with_watch(world, lambda: serve(world, asked))
        gates = [world.pools[name].gate for name in ("p", "q")]
        assert [(gate.inflight, gate.coming) for gate in gates if gate] == [(0, 0), (0, 0)]
        assert "to c" in world.transport.log

    run(scenario)


def test_a_reload_without_a_queue_lets_everybody_in() -> None:
    async def scenario() -> None:
        world = crowded(2)
        asked = [exchange("x"), exchange("y")]

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, world, *asked)
                await trio.sleep(0.5)
                world.pools.fairness = Fairness()
                world.pools.apply(world.specs)

        await with_watch(world, work)
        assert ends(asked) == [2, 2.5]

    run(scenario)


def test_a_load_that_shows_room_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        world = crowded(2)
        asked = [exchange("x"), exchange("y")]

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, world, *asked)
                await trio.sleep(0.5)
                world.pools.loaded(A, Load(at=trio.current_time(), running=6.0))

        await with_watch(world, work)
        assert ends(asked) == [2, 2.5]

    run(scenario)


def test_a_ceiling_on_dispatch_lets_the_next_one_in_on_time() -> None:
    async def scenario() -> None:
        world = crowded(3, slots=10, fairness=Fairness(enabled=True, queue_qps=20.0))
        asked = [exchange("x"), exchange("y"), exchange("z")]
        await with_watch(world, lambda: serve(world, *asked))
        assert ends(asked) == [2, 2.05, 2.1]

    run(scenario)


class Visit(NamedTuple):
    """A request: when it comes, when its client leaves, and how long it may take of its own will."""

    user: str
    at: float
    leaves: float
    patience: float


visits = st.lists(
    st.builds(
        Visit,
        st.sampled_from("abc"),
        st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]),
        st.sampled_from([0.0, 0.25, 1.0, 2.0, 5.0, math.inf]),
        st.sampled_from([0.5, 3.0, math.inf]),
    ),
    min_size=1,
    max_size=14,
)
answers: list[list[Step]] = [ANSWER, [0.5, b"a!"], [b"role", 1.0, b"err"], [UpstreamError("x", retryable=True)], [3.0]]


@given(visits=visits, order=st.lists(st.sampled_from(range(len(answers))), min_size=40, max_size=40), ups=st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_happens_every_permit_and_place_comes_back(visits: list[Visit], order: list[int], ups: bool) -> None:
    async def scenario() -> None:
        world = crowded(0, slots=2, fairness=Fairness(enabled=True, queue_timeout=Duration(4), headroom=0.3))
        world.transport.scripts[A] = [(200, list(answers[index])) for index in order]
        ended: list[Visit] = []

        async def visit(each: Visit) -> None:
            await trio.sleep(each.at)
            with trio.move_on_after(each.leaves):
                await world.gateway.serve(exchange(each.user, trio.current_time() + each.patience))
            ended.append(each)

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                for each in visits:
                    nursery.start_soon(visit, each)
                await trio.sleep(1.6)
                for member in world.pools["p"].members:
                    member.up = ups and member.endpoint == A

        await with_watch(world, work)
        assert len(ended) == len(visits) == len(world.records)
        for name in ("p", "q"):
            gate = world.pools[name].gate
            assert gate is not None
            assert (gate.inflight, gate.coming, len(gate.order), gate.order.size) == (0, 0, 0, 0)
        assert not world.gateway.calls
        assert not any(member.inflight for member in world.pools.members())

    run(scenario)


def test_full_endpoints_are_not_chosen_where_another_has_room() -> None:
    async def scenario() -> None:
        world = crowded(1)
        world.transport.scripts[B] = [(200, list(ANSWER)), (200, list(ANSWER))]
        members = {member.endpoint: member for member in world.pools["p"].members}
        members[B].up = True
        members[B].room.slots = 5.0
        members[B].inflight = 2  # a profile that goes by that alone would take the other one
        await with_watch(world, lambda: serve(world, *(exchange("x") for _ in range(3))))
        assert world.transport.log.count("to b") == 2

    run(scenario)


def test_what_a_caller_did_not_wait_for_is_charged_and_what_engines_failed_at_is_not() -> None:
    async def scenario() -> None:
        world = crowded(0, slots=5)
        world.transport.scripts[A] = [
            (200, [None]),
            (200, [b"token", b"token", None]),
            (200, [1.0, b"token", b"err"]),
            (500, [b"broken"]),
        ]
        gate = world.pools["p"].gate
        assert gate is not None

        async def impatient(user: str) -> None:
            with trio.move_on_after(1):
                await world.gateway.serve(exchange(user))

        async def work() -> None:
            for user in ("no token", "cut short"):
                await impatient(user)
            await world.gateway.serve(exchange("broke off"))
            await world.gateway.serve(exchange("failed"))

        await with_watch(world, work)
        served = {flow.caller: flow.served for flow in gate.flows(trio.current_time())}
        # the prompt is one token, and a token of an answer counts twice
        assert served == {"no token": 1.0, "cut short": 5.0, "broke off": 3.0, "failed": 0.0}

    run(scenario)
