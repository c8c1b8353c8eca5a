"""What is counted of requests at endpoints comes back to nothing, however a request ends."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.scheduler import Scheduler
from gateway.config.snapshot import Policy, PoolSpec
from gateway.errors import UpstreamError
from gateway.member import Member
from gateway.pool import Pool
from gateway.ports import Candidate
from gateway.schedule.affinity import SESSION_ID, Sessions
from gateway.schedule.ask import Ask
from gateway.schedule.build import for_pool
from gateway.schedule.profile import Profile, Weighted
from gateway.schedule.speed import DEFAULT_CROWDING
from gateway.types import Endpoint, Load, ModelCard, Usage
from tests.gateway.schedule.fleet import request
from tests.gateway.scripted import A, B, C, FakeAdapter, FakeExchange, Step, World, run, with_watch

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


# --- one pool, played by hand ----------------------------------------------------------------------------------------


def pool_of(count: int, scheduler: Scheduler = Scheduler()) -> tuple[Pool, list[Member]]:  # noqa: B008 — frozen
    spec = PoolSpec("p", "fake", tuple(Endpoint("fake", "http", host, 1) for host in "abcd"[:count]))
    members = [Member("p", endpoint, FakeAdapter()) for endpoint in spec.endpoints]
    for member in members:
        member.up = True
    return Pool("p", members, Policy(), for_pool(scheduler, spec, random.Random(1)), random.Random(2)), members


def asked(pool: Pool, now: float, *, stream: bool = True, text: str = "x" * 400, model: str = "m") -> Ask:
    return pool.ask(msgspec.structs.replace(request(text, model=model), stream=stream), model, now)


def test_filters_see_everybody_who_is_usable() -> None:
    """Though only some are chosen from: one that is full, comes back, or is to be tried changes nothing."""
    pool, (holder, other) = pool_of(2)
    holder.cards, other.cards = (ModelCard("m"), ModelCard("lora", parent="m")), (ModelCard("m"),)

    def ranked(now: float) -> list[str]:
        return [member.id for member in pool.rank(asked(pool, now, model="lora"))]

    assert ranked(0.0) == ["a:1"]
    holder.refused(1.0)
    assert ranked(1.0) == ["a:1"]
    for _ in range(3):
        other.failed(2.0)
    assert ranked(5.0) == ["a:1"]
    holder.health.reached(6.0, False)
    holder.health.reached(6.0, True)
    assert {tuple(ranked(6.0)) for _ in range(50)} == {("a:1",)}


def test_sessions_stay_while_their_endpoint_is_eased_in_or_another_is_tried() -> None:
    pool, (first, second) = pool_of(2)
    pool.profile.sessions = Sessions((SESSION_ID,), 3600.0)

    def place(now: float) -> str:
        ask = pool.ask(msgspec.structs.replace(request("hi"), headers=((b"x-session-id", b"s"),)), "m", now)
        member = next(iter(pool.rank(ask)))
        pool.place(ask, member, now).left(now, None)
        return member.id

    home = place(0.0)
    own, other = (first, second) if home == first.id else (second, first)
    for _ in range(3):
        other.failed(1.0)
    assert {place(5.0) for _ in range(20)} == {home}
    own.health.reached(6.0, False)
    own.health.reached(6.0, True)
    assert {place(6.5) for _ in range(50)} == {home}


def test_where_all_are_being_tried_the_rest_is_spread() -> None:
    pool, members = pool_of(4)
    for member in members:
        for _ in range(3):
            member.failed(0.0)
    for _ in range(40):
        ask = asked(pool, 5.0)
        pool.place(ask, next(iter(pool.rank(ask))), 5.0)
    assert [member.inflight for member in members] == [10] * 4


def test_a_whole_answer_does_not_leave_its_endpoint_looking_busy() -> None:
    pool, members = pool_of(3)
    late, here = members[2], members[:2]
    pool.members = here
    now = 0.0
    for turn in range(2000):
        if turn == 1000:
            assert max(member.until for member in here) < now + 1.0
            pool.members = members
        now += 0.02
        ask = asked(pool, now, stream=False, text=f"{turn} " * 1000)
        placement = pool.place(ask, next(iter(pool.rank(ask))), now)
        placement.answered(now + 0.01)
        placement.left(now + 0.01, Usage(prompt=1000))
    assert late.requests < 500
    assert all(abs(member.unseen) < 1e-6 for member in members)


def test_usage_without_a_token_teaches_no_speed() -> None:
    """Engines that tell usage with every event tell it with the role too, or with thoughts that are not shown."""
    pool, (member, _) = pool_of(2)
    pool.place(asked(pool, 0.0), member, 0.0).left(1.0, Usage(prompt=100, completion=5))
    pool.place(asked(pool, 2.0), member, 2.0).left(3.0, Usage(prompt=100, completion=5))
    assert (member.speed.decode, pool.pace.crowding) == (0.0, DEFAULT_CROWDING)


def test_a_plugin_that_fails_when_told_leaves_nothing_counted() -> None:
    class Odd:
        def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> list[float]:
            return [1.0] * len(candidates)

        def placed(self, ask: Ask, candidate: Candidate) -> None:
            raise RuntimeError("odd")

    pool, (member, _) = pool_of(2)
    pool.profile = Profile((), (Weighted("odd", Odd()),), pool.profile.picker)
    with pytest.raises(RuntimeError):
        pool.place(asked(pool, 0.0), member, 0.0)
    assert counted(member) == NOTHING


def test_what_a_former_profile_placed_the_new_one_does_not_take_back() -> None:
    pool, (member, _) = pool_of(2)
    text = "y" * 4000
    former = pool.place(asked(pool, 0.0, text=text), member, 0.0)
    pool.profile = for_pool(Scheduler(), PoolSpec("p", "fake"), random.Random(1))
    later = asked(pool, 1.0, text=text)
    list(pool.rank(later))
    pool.place(later, member, 1.0)
    former.left(2.0, None)
    ask = asked(pool, 3.0, text=text)
    list(pool.rank(ask))
    assert ask.hits[member.id] > 900


def test_a_request_tried_again_much_later_upsets_nothing() -> None:
    pool, (first, second) = pool_of(2)
    early = asked(pool, 0.0)
    pool.place(early, first, 0.0)
    pool.place(asked(pool, 1e5), second, 1e5)
    pool.place(early, second, 1e5)
    late = asked(pool, 1e5)
    assert len(list(pool.rank(late))) == 2


# --- what others send ------------------------------------------------------------------------------------------------


class Engine:
    """What an engine counts, exactly; ``left`` of them ended without a token before anybody looked."""

    def __init__(self, left: int = 0) -> None:
        self.waiting = self.begun = 0
        self.answered, self.finished = 0, left

    def does(self, what: str) -> None:
        if what == "come":
            self.waiting += 1
        elif what == "begin" and self.waiting:
            self.waiting, self.begun, self.answered = self.waiting - 1, self.begun + 1, self.answered + 1
        elif what == "end" and self.begun:
            self.begun, self.finished = self.begun - 1, self.finished + 1
        elif what == "give up" and self.waiting:
            self.waiting, self.finished = self.waiting - 1, self.finished + 1

    def load(self, *, hidden: bool = True) -> Load:
        """``hidden``: those that wait for their first token run already, as far as the engine says."""
        waiting = 0 if hidden else self.waiting
        running = self.begun + self.waiting - waiting
        return Load(waiting=waiting, running=running, ttft_count=self.answered, finished=self.finished)


@given(st.lists(st.sampled_from(["come", "come", "begin", "end"]), max_size=80))
def test_with_exact_counters_those_without_a_token_are_known_exactly(happens: list[str]) -> None:
    engine, member = Engine(), Member("p", A, FakeAdapter())
    for what in happens:
        engine.does(what)
        assert member.unanswered(engine.load()) == engine.waiting


@given(st.lists(st.sampled_from(["come", "come", "begin", "end", "give up"]), max_size=80), st.integers(0, 99))
def test_what_ended_without_a_token_is_noticed(happens: list[str], left: int) -> None:
    """Never too few, and exactly as soon as all that were there have gone."""
    engine, member = Engine(left), Member("p", A, FakeAdapter())
    for what in happens:
        engine.does(what)
        load = engine.load(hidden=what == "end")
        assert engine.waiting <= member.unanswered(load) <= load.running + load.waiting
    for what in ["begin", "end"] * 100:
        engine.does(what)
        member.unanswered(engine.load())
    for what in ["come"] * 3 + ["begin"]:
        engine.does(what)
    assert member.unanswered(engine.load()) == 2


def test_an_engine_that_is_never_idle_is_seen_through_after_a_while() -> None:
    """Of thousands it has answered since it began, many had left its queue without a token."""
    engine, member = Engine(left=500), Member("p", A, FakeAdapter())
    for what in ["come", "begin"] * 10:
        engine.does(what)
    assert member.unanswered(engine.load()) == 10
    for what in ["end"] * 9 + ["come", "begin", "end"] * 5 + ["come"] * 3:
        engine.does(what)
        found = member.unanswered(engine.load())
    assert (engine.begun, found) == (1, 4), "of the ten that were there the last one still counts"
    engine.does("end")
    assert member.unanswered(engine.load()) == 3


numbers = st.sampled_from([0.0, 1.0, 7.0]) | st.integers(0, 10**6).map(float)


@given(st.lists(st.builds(Load, waiting=numbers, running=numbers, ttft_count=numbers, finished=numbers), max_size=30))
def test_whatever_engines_count_it_is_no_more_than_are_there_and_no_less_than_wait(loads: list[Load]) -> None:
    member = Member("p", A, FakeAdapter())
    for load in loads:
        assert 0.0 <= load.waiting <= member.unanswered(load) <= load.waiting + load.running


def test_what_an_endpoint_has_more_of_than_we_sent_is_others() -> None:
    pool, (member, _) = pool_of(2)
    placement = pool.place(asked(pool, 0.0), member, 0.0)
    pool.loaded(member, Load(at=0.1, waiting=1))
    assert (member.foreign, member.foreign_pending, pool.others) == (0.0, 0.0, 0.0)
    own = member.until
    pool.loaded(member, Load(at=0.2, waiting=3, running=2, ttft_count=2))
    assert (member.foreign, member.foreign_pending) == (4.0, 2.0)
    assert pool.others > 0.0
    assert member.streams == 2.0
    assert member.until == pytest.approx(0.2 + member.owed + pool.foreign_owed(member))
    assert member.until > own
    pool.loaded(member, Load(at=0.3, running=3, ttft_count=4, finished=2))
    assert (member.foreign, member.foreign_pending) == (2.0, 0.0)
    assert member.until == pytest.approx(0.3 + member.owed)
    placement.left(0.4, None)
    member.unloaded()
    assert (member.foreign, member.foreign_pending, member.load, member.drift) == (0.0, 0.0, None, 0.0)


def test_where_others_send_too_answers_say_nothing_of_speed_but_counters_do() -> None:
    pool, (member, _) = pool_of(2)
    rate, now, placement = 20_000.0, 0.0, None
    for turn in range(2000):
        now += 0.2
        if turn == 500:  # ours, stuck behind others
            placement = pool.place(asked(pool, now), member, now)
        if turn == 600 and placement is not None:
            placement.answered(now)
            placement.left(now, Usage(prompt=100, completion=5))
        counted = turn * 0.2 * rate
        pool.loaded(
            member,
            Load(now, 5, 5, prompt_tokens=2 * counted, queried_tokens=2 * counted, hit_tokens=counted, ttft_count=turn),
        )
    assert pool.others >= 0.1
    assert member.speed.prefill == pytest.approx(1 / rate, rel=0.05)


def test_an_idle_endpoint_is_not_expected_to_be_busy() -> None:
    pool, (member, _) = pool_of(2)
    pool.loaded(member, Load(at=1.0))
    assert (member.foreign, member.until, pool.foreign_owed(member)) == (0.0, -math.inf, 0.0)
