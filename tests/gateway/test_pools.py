"""What members learn from failures, and that their state outlives a configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest

from gateway.config.settings import HealthSettings
from gateway.config.snapshot import PoolSpec
from gateway.member import Member
from gateway.pool import Pool
from gateway.pools import Pools
from gateway.ports import Candidate
from gateway.schedule.ask import Ask
from gateway.schedule.profile import Profile, Weighted
from gateway.types import Endpoint, Load
from tests.gateway.scripted import A, B, C, FakeAdapter, FakeExchange, least_in_flight, run


def failed_member(now: float = 0.0) -> Member:
    """One that has just been set aside."""
    member = Member("p", A, FakeAdapter())
    member.up = True
    for _ in range(3):
        member.failed(now)
    return member


def test_a_stream_that_runs_on_does_not_keep_a_member_set_aside() -> None:
    member = Member("p", A, FakeAdapter())
    member.up = True
    stream = member.place()
    for _ in range(3):
        member.failed(0.0)
    assert not member.usable(0.5)
    assert member.usable(100.0)
    member.leave(stream)
    assert (member.inflight, member.health.probes) == (0, 0)


def test_one_request_at_a_time_finds_out_whether_a_member_is_well_again() -> None:
    member = failed_member()
    assert member.usable(1.0)
    probe = member.place()
    assert not member.usable(1.0)
    member.leave(probe)
    assert member.usable(1.0)
    probe = member.place()
    member.succeeded(1.0, probe)
    member.leave(probe)
    assert member.usable(1.0)
    assert (member.inflight, member.health.probes) == (0, 0)


def test_a_member_that_keeps_failing_is_set_aside_for_longer_and_longer() -> None:
    member = failed_member()
    now, rests = 0.0, []
    for _ in range(7):
        rests.append(member.health.open_until - now)
        now = member.health.open_until
        member.failed(now)
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_members_that_stay_keep_their_state_and_those_that_left_are_told() -> None:
    pools = Pools({"fake": FakeAdapter()}, least_in_flight)
    pools.apply([PoolSpec("p", "fake", (A, B))])
    first, second = pools["p"].members
    first.place()
    assert pools.apply([PoolSpec("p", "fake", (A,))]) == [second]
    assert pools["p"].members == [first]


def test_one_that_gets_other_headers_or_labels_still_holds_what_it_held() -> None:
    """Until no member of that pool has its id: what it is in another pool says nothing."""
    forgotten: list[str] = []

    class Noting:
        def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> list[float]:
            return [1.0] * len(candidates)

        def forget(self, endpoint: str) -> None:
            forgotten.append(endpoint)

    def made(spec: PoolSpec, old: Profile | None) -> Profile:
        noting = (Weighted("noting", Noting()),) if spec.name == "p" else ()
        return old or Profile((), noting, lambda candidates, scores: candidates)

    pools = Pools({"fake": FakeAdapter()}, made)
    pools.apply([PoolSpec("p", "fake", (A, B)), PoolSpec("q", "fake", (A,))])
    (first, _) = pools["p"].members
    relabelled = msgspec.structs.replace(A, headers=((b"authorization", b"x"),), labels=(("zone", "b"),))
    assert pools.apply([PoolSpec("p", "fake", (relabelled, B)), PoolSpec("q", "fake", (A,))]) == [first]
    assert forgotten == []
    pools.apply([PoolSpec("p", "fake", (B,)), PoolSpec("q", "fake", (A,))])
    assert forgotten == [A.id]


def test_one_that_joins_a_pool_at_work_is_eased_in_and_one_that_joins_an_idle_pool_is_not() -> None:
    pools = Pools({"fake": FakeAdapter()}, least_in_flight)
    pools.apply([PoolSpec("p", "fake", (A,))])
    pools.apply([PoolSpec("p", "fake", (A, B))])
    assert [member.health.share(0.0) for member in pools["p"].members] == [1.0, 1.0]
    pools["p"].members[0].place()
    pools.apply([PoolSpec("p", "fake", (A, B, C))])
    assert [round(member.health.share(0.0), 3) for member in pools["p"].members] == [1.0, 1.0, 0.1]


def test_all_members_are_judged_by_the_settings_in_force() -> None:
    pools = Pools({"fake": FakeAdapter()}, least_in_flight)
    pools.apply([PoolSpec("p", "fake", (A,))])
    pools.health = HealthSettings(consecutive_failures=1)
    pools.apply([PoolSpec("p", "fake", (A, B))])
    assert [member.failed(0.0) for member in pools["p"].members] == [1.0, 1.0]
    told = [member.statistics(0.5) for member in pools["p"].members]
    assert [(each.state, each.why) for each in told] == [("open", "failing")] * 2


def overdue(waited: float, *, hits: float = 0.0, unstreamed: bool = False, works: bool = False) -> str:
    """What is made of a streamed request that waits for its first token, after ten quick ones elsewhere and here."""
    pools = Pools({"fake": FakeAdapter()}, least_in_flight)
    pools.apply([PoolSpec("p", "fake", (A, B))])
    pool = pools["p"]
    for member in pool.members:
        for _ in range(5):
            member.health.answered(0.0, 0.1, 0.1)
    ask = pool.ask(FakeExchange().request, "m", 0.0)
    ask.hits[pool.members[0].id] = hits
    placement = pool.place(ask, pool.members[0], 0.0)
    if unstreamed:
        pool.place(pool.ask(FakeExchange(stream=False).request, "m", 0.0), pool.members[0], 0.0)
    pool.loaded(pool.members[0], Load(at=1.0, prompt_tokens=5.0))
    pool.loaded(pool.members[0], Load(at=waited - 1.0, prompt_tokens=6.0 if works else 5.0))
    for tick in range(int(2 * waited)):
        pools.watch(tick / 2)
    placement.due(waited)
    pools.watch(waited)
    return pool.members[0].health.why


def test_an_overdue_token_means_stuck_only_where_nothing_else_can_have_kept_the_endpoint_busy() -> None:
    assert (overdue(4.9), overdue(6.0)) == ("", "stuck")
    assert overdue(6.0, hits=80_000.0) == ""
    assert overdue(6.0, unstreamed=True) == ""
    assert overdue(6.0, works=True) == ""


def test_when_a_member_may_be_usable_again_is_told_as_far_as_anybody_knows() -> None:
    pools = Pools({"fake": FakeAdapter()}, least_in_flight)
    pools.apply([PoolSpec("p", "fake", (A, B))])
    first, second = pools["p"].members
    first.up = False
    assert pools["p"].retry_after(0.0) == 1.0
    second.cool(0.0, 7.0)
    assert pools["p"].retry_after(0.0) == 7.0
    second.up = False
    assert pools["p"].retry_after(0.0) == 1.0


def test_one_that_is_to_be_tried_has_room_for_one() -> None:
    member = failed_member()
    member.room.full(8.0, math.inf)
    assert member.more(1.0) == 1.0
    member.succeeded(1.0, member.place())
    assert member.more(1.0) > 1.0


def test_one_whose_cache_others_fill_takes_one_where_nobody_has_room() -> None:
    member = Member("p", A, FakeAdapter())
    assert member.spacious(0.0)
    member.load, member.foreign = Load(at=0.0, running=3, kv_usage=1.0), 3.0
    assert member.more(0.0) > 0.0
    assert not member.spacious(0.0)
    member.foreign = 0.0
    assert member.spacious(0.0)


class Talking(FakeAdapter):
    """Its engines have a metrics page."""

    def metrics_path(self) -> bytes:
        return b"/metrics"


def test_what_will_say_how_much_it_has_to_do_is_waited_for_and_what_never_will_is_not() -> None:
    async def scenario() -> None:
        pools = Pools({"fake": Talking()}, least_in_flight)
        here, outside = PoolSpec("p", "fake", (A,)), PoolSpec("q", "fake", (B,), external=True)
        pools.apply([here, outside])
        (first,), (public,) = pools["p"].members, pools["q"].members
        assert (first.room.awaited, public.room.awaited) == (True, False)
        first.up = True
        pools.polled(A, None)
        assert not first.room.awaited
        pools.apply([here, PoolSpec("too", "fake", (A,))])
        assert not pools["too"].members[0].room.awaited  # as is known of it where it is already
        pools.polled(A, 0.2)
        assert first.room.awaited
        first.up = False
        pools.polled(A, None)  # not asked while it is down, but will be
        assert first.room.awaited

    run(scenario)


def test_of_many_endpoints_idle_ones_are_looked_at_in_turns_and_those_at_work_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def noted(pool: Pool, now: float) -> None:
        seen.append(pool.name)

    monkeypatch.setattr(Pool, "watch", noted)

    async def scenario() -> None:
        pools = Pools({"fake": FakeAdapter()}, least_in_flight)
        specs = [PoolSpec(f"p{n}", "fake", (Endpoint("fake", "http", f"host{n}", 1),)) for n in range(300)]
        pools.apply(specs)
        busy = pools["p7"]
        placement = busy.place(busy.ask(FakeExchange().request, "m", 0.0), busy.members[0], 0.0)
        assert pools.busy(10) == [busy.members[0].endpoint]
        for turn in range(3):
            await pools.patrol(0.25 * turn)
        assert seen.count("p7") == 3
        assert sorted(seen) == sorted([spec.name for spec in specs] + ["p7"] * 2)
        placement.left(1.0, None)
        assert busy.idle
        assert pools.busy(10) == []
        pools.apply(specs[:200])
        seen.clear()
        await pools.patrol(1.0)
        assert len(seen) == 200

    run(scenario)
