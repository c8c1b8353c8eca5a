"""The driver: every request ends once, times add up, what goes wrong goes wrong as said, and runs repeat exactly."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.replay.choosers import BASELINES, Counting, RoundRobin
from conformance.replay.fleet import Fleet
from conformance.replay.outcome import Outcome
from conformance.replay.policies import NAMES, ORACLE, PROFILES, policy
from conformance.replay.production import Production, configured, production
from conformance.replay.scenario import Scenario
from conformance.replay.traces import Request, Trace
from conformance.replay.virtual import Make, Replay
from gateway.types import Load

from .tiny import BLOCK, conversations, scenario, trace


def play(played: Trace, given: Scenario, make: Make, *, shared: bool = False) -> Outcome:
    return Replay(Fleet(played, given, shared=shared), make).play()


class Watched(Counting):
    """Takes every engine in turn, and notes all it is told."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(fleet, rng)
        self.told: list[tuple[str, int, int, float]] = []
        self.loads: list[tuple[int, Load | None, float]] = []
        self.tokens: list[int | None] = []

    def choose(self, request: Request, now: float) -> Iterable[int]:
        count = len(self.inflight)
        return [(request.index + i) % count for i in range(count)]

    def placed(self, request: Request, engine: int, now: float) -> None:
        super().placed(request, engine, now)
        self.told.append(("placed", request.index, engine, now))

    def answered(self, request: Request, engine: int, now: float) -> None:
        self.told.append(("answered", request.index, engine, now))

    def ended(self, request: Request, engine: int, now: float, cached: int | None) -> None:
        super().ended(request, engine, now, cached)
        self.told.append(("failed" if cached is None else "ended", request.index, engine, now))

    def scraped(self, engine: int, load: Load | None, now: float) -> None:
        self.loads.append((engine, load, now))


def watching() -> tuple[Make, list[Watched]]:
    made: list[Watched] = []

    def make(fleet: Fleet, rng: random.Random) -> Watched:
        made.append(Watched(fleet, rng))
        return made[-1]

    return make, made


def test_one_request_takes_the_time_of_its_steps() -> None:
    given = scenario()
    made = play(trace((5.0, 1200, 4, (0, 1, 2))), given, RoundRobin)
    (fate,) = made.fates
    assert fate.ttft == pytest.approx(given.step + 1200 / given.prefill_rate)
    assert fate.itl == pytest.approx(given.step + given.step_growth)
    assert made.summary(trace((5.0, 1200, 4, (0, 1, 2))), given)["good"] == 1.0


def test_speed_brings_requests_nearer_together() -> None:
    rows = trace((0.0, 10, 1, (0,)), (8.0, 10, 1, (1,)))
    make, made = watching()
    play(rows, scenario(speed=4.0), make)
    assert [now for what, _, _, now in made[0].told if what == "placed"] == [0.0, 2.0]


def test_a_slow_engine_takes_its_time() -> None:
    rows = trace((0.0, 600, 3, (0, 1)))
    plain = play(rows, scenario(engines=1), RoundRobin).fates[0]
    slow = play(rows, scenario(engines=1, slow={0: 2.0}), RoundRobin).fates[0]
    assert (slow.ttft, slow.itl) == (pytest.approx(2 * plain.ttft), pytest.approx(2 * plain.itl))


def test_a_prefix_is_found_where_it_was_computed() -> None:
    ids = (0, 1, 2)
    rows = trace(*((float(at), 3 * BLOCK, 2, ids) for at in range(4)))
    outcome = play(rows, scenario(engines=2), watching()[0])
    assert [fate.cached for fate in outcome.fates] == [0, 0, 2 * BLOCK, 2 * BLOCK]
    assert outcome.computed == [4 * BLOCK, 4 * BLOCK]
    summary = outcome.summary(rows, scenario(engines=2))
    assert (summary["hit"], summary["spread"]) == (pytest.approx(1 / 3), 1.0)
    everywhere = play(rows, scenario(engines=2), BASELINES[ORACLE], shared=True)
    assert [fate.cached for fate in everywhere.fates] == [0, 2 * BLOCK, 2 * BLOCK, 2 * BLOCK]


def test_a_hung_engine_costs_its_requests_the_timeout_and_those_in_mid_answer_fail() -> None:
    rows = trace((0.0, 1000, 2000, (0, 1)), (0.0, 10, 5, (2,)), (3.0, 10, 5, (3,)), (50.0, 10, 5, (4,)))
    make, made = watching()
    outcome = play(rows, scenario(engines=2, hang={0: 2.0}, timeout=10.0), make)
    first, second, third, _ = outcome.fates
    assert (first.failed, math.isnan(first.ttft)) == (True, False)
    assert (second.failed, second.attempts) == (False, 1)
    assert (third.failed, third.attempts, third.engine) == (False, 2, 1)
    assert third.ttft == pytest.approx(10.0 + 0.008 + 10 / 12_000)
    failures = [(index, now) for what, index, _, now in made[0].told if what == "failed"]
    assert failures == [(0, 12.0), (2, 13.0)]
    assert made[0].inflight == [0, 0]
    summary = outcome.summary(rows, scenario(engines=2))
    assert (summary["failed"], summary["good"]) == (1, 0.5)


def test_attempts_are_counted_and_then_it_is_over() -> None:
    hung = {0: 0.0, 1: 0.0, 2: 0.0}
    outcome = play(trace((1.0, 10, 5, (0,))), scenario(hang=hung, timeout=5.0, attempts=2), watching()[0])
    assert (outcome.fates[0].attempts, outcome.fates[0].failed, outcome.ended) == (2, True, 11.0)
    assert math.isnan(outcome.summary(trace((1.0, 10, 5, (0,))), scenario())["ttft_s"]["mean"])


def test_gateways_see_their_own_requests_and_every_engine() -> None:
    make, made = watching()
    play(conversations(), scenario(gateways=3), make)
    seen = [{index for what, index, _, _ in each.told if what == "placed"} for each in made]
    assert len(made) == 3
    assert all(seen)
    assert sum(map(len, seen)) == len(set.union(*seen)) == 30
    assert all({engine for engine, _, _ in each.loads} == {0, 1, 2} for each in made)


def test_loads_are_as_old_as_they_say() -> None:
    make, made = watching()
    given = scenario(engines=1, interval=0.5, delay=0.125, hang={0: 6.0}, timeout=30.0)
    play(trace((0.0, 60_000, 100, tuple(range(118))), (0.5, 10, 100, (200,)), (20.0, 10, 1, (201,))), given, make)
    known = [(load, now) for _, load, now in made[0].loads if load is not None]
    assert all(now - load.at == pytest.approx(0.125) for load, now in known)
    assert all(0.45 <= b[0].at - a[0].at <= 0.55 for a, b in itertools.pairwise(known))
    assert known[-1][0].at < 6.0
    assert {load for _, load, now in made[0].loads if now > 7.0} == {None}
    queued = next(load for load, _ in known if load.at > 0.5)
    assert (queued.running, queued.waiting, queued.ttft_count) == (1, 1, 0), "no step has taken the second up"
    last = known[-1][0]
    assert (last.ttft_count, last.prompt_tokens, last.generated_tokens) == (2, 60_010, 200)


def test_who_finds_a_shared_cache_full_goes_on_when_there_is_room() -> None:
    class Fixed(Watched):
        def choose(self, request: Request, now: float) -> Iterable[int]:
            return (0, 1) if request.index < 3 else (1, 0)

    size = 300
    rows = [(0.0, size * BLOCK, 50, tuple(range(size * at, size * at + size))) for at in range(3)]
    played = trace(*rows, (14.0, size * BLOCK, 50, tuple(range(9000, 9000 + size))))
    given = scenario(engines=2, capacity=0.01, max_running=3, timeout=300.0, attempts=1)
    assert 2 * given.blocks(played) < 3 * size
    outcome = play(played, given, Fixed, shared=True)
    assert [fate.failed for fate in outcome.fates] == [False] * 4


def test_the_oracle_knows_who_hangs() -> None:
    played, given = conversations(), scenario(hang={0: 0.0}, timeout=5.0)
    outcome = play(played, given, BASELINES[ORACLE], shared=True)
    assert {fate.engine for fate in outcome.fates} == {1, 2}
    assert {fate.attempts for fate in outcome.fates[1:]} == {1}  # the first came before anything hung


def test_rejected_requests_fail() -> None:
    class Refusing(Counting):
        def choose(self, request: Request, now: float) -> Iterable[int]:
            return ()

    outcome = play(trace((0.0, 10, 5, (0,)), (1.0, 10, 5, (0,))), scenario(), Refusing)
    assert [(fate.failed, fate.attempts) for fate in outcome.fates] == [(True, 0), (True, 0)]


rows = st.lists(
    st.tuples(
        st.floats(0, 30), st.integers(1, 3000), st.integers(1, 60), st.lists(st.integers(0, 3), min_size=6, max_size=6)
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(
    rows=rows,
    capacity=st.sampled_from([0.01, 1.0]),
    running=st.integers(1, 4),
    gateways=st.integers(1, 2),
    hang=st.dictionaries(st.integers(0, 2), st.floats(0, 20), max_size=2),
    slow=st.dictionaries(st.integers(0, 2), st.floats(0.5, 4), max_size=2),
    seed=st.integers(0, 3),
)
def test_every_request_ends_once_and_no_sooner_than_it_can(
    rows: list[tuple[float, int, int, list[int]]],
    capacity: float,
    running: int,
    gateways: int,
    hang: dict[int, float],
    slow: dict[int, float],
    seed: int,
) -> None:
    ordered = [(at, prompt, out, tuple(ids[: -(-prompt // BLOCK)])) for at, prompt, out, ids in sorted(rows)]
    played = trace(*ordered)
    given = scenario(
        capacity=capacity, max_running=running, gateways=gateways, hang=hang, slow=slow, timeout=40.0, seed=seed
    )
    make, made = watching()
    outcome = play(played, given, make)
    for request, fate in zip(played.requests, outcome.fates, strict=True):
        ends = [what for gateway in made for what, index, _, _ in gateway.told if index == request.index]
        assert ends.count("placed") == fate.attempts == ends.count("failed") + ends.count("ended")
        assert ends.count("ended") == (not fate.failed)
        assert ends.count("answered") <= 1
        if not fate.failed:
            least = 0.5 * (given.step + (request.prompt - fate.cached) / given.prefill_rate)
            assert fate.ttft >= least - 1e-9
    assert all(gateway.inflight == [0, 0, 0] for gateway in made)


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_repeats_to_the_last_bit(name: str) -> None:
    given = scenario(gateways=2, hang={1: 6.0}, timeout=4.0, capacity=0.5)
    encoded = [
        msgspec.json.encode(
            play(conversations(), given, policy(name), shared=name == ORACLE).summary(conversations(), given)
        )
        for _ in range(2)
    ]
    assert encoded[0] == encoded[1]


def test_the_production_scheduler_follows_prefixes_and_keeps_its_books() -> None:
    made: list[Production] = []

    def make(fleet: Fleet, rng: random.Random) -> Production:
        made.append(production(configured(b""), fleet, rng))
        return made[-1]

    played, given = conversations(), scenario()
    outcome = play(played, given, make)
    play(played, scenario(hang={1: 7.0}, timeout=4.0), make)
    ideal = play(played, given, BASELINES[ORACLE], shared=True)
    by_chance = play(played, given, BASELINES["random"])
    hit, best, chance = (each.summary(played, given)["hit"] for each in (outcome, ideal, by_chance))
    assert best >= hit > (best + chance) / 2
    for member in (*made[0].pool.members, *made[1].pool.members):
        assert (member.inflight, member.pending, member.backlog) == (0, 0, 0.0)


def test_requests_leave_an_engine_that_gives_no_sign_of_life() -> None:
    played = trace(*((1.0 * at, 2000, 10, (4 * at, 4 * at + 1, 4 * at + 2, 4 * at + 3)) for at in range(60)))
    given = scenario(hang={1: 20.0}, timeout=500.0)
    outcome = play(played, given, partial(production, configured(b"")))
    moved = [fate for fate in outcome.fates if fate.attempts > 1]
    assert moved
    assert all(fate.ttft < 10.0 and fate.engine != 1 for fate in moved)
    assert not any(fate.failed for fate in outcome.fates)
    later = [fate for fate, request in zip(outcome.fates, played.requests, strict=True) if request.at > 27.0]
    assert {fate.attempts for fate in later} == {1}, "nobody is sent there any more"


def test_the_published_defaults_are_what_was_published() -> None:
    named = {name: configured(text) for name, text in PROFILES.items()}
    weights = {name: [(each.name, each.weight) for each in made.scores()] for name, made in named.items()}
    assert weights["kthena"] == [(n, 1) for n in ("least-request", "kv-cache", "least-latency", "prefix-cache")]
    assert [each.name for each in named["kthena"].filters()][-1] == "least-request"
    assert weights["epp"] == [("queue-scorer", 2), ("kv-cache-utilization-scorer", 2), ("prefix-cache-scorer", 3)]
    assert weights["ours"] == [("cost", 1)]
    with pytest.raises(ValueError, match="no policy 'nobody'; there are random, "):
        policy("nobody")
    assert isinstance(policy("epp"), partial)


def test_gateways_that_tell_each_other_know_what_all_have_placed() -> None:
    played, given = conversations(), scenario(gateways=3, capacity=2.0)
    alone, told = (
        play(played, msgspec.structs.replace(given, sharing=sharing), policy("ours")).summary(played, given)["hit"]
        for sharing in (0.0, 0.2)
    )
    one = play(played, msgspec.structs.replace(given, gateways=1), policy("ours")).summary(played, given)["hit"]
    assert alone < told
    assert told > 0.9 * one


@pytest.mark.parametrize("name", ["ours", "prefix", "round-robin"])
def test_with_sharing_too_the_same_options_give_the_same_outcome(name: str) -> None:
    given = scenario(gateways=2, sharing=0.3)
    once, again = (play(conversations(), given, policy(name)).summary(conversations(), given) for _ in range(2))
    assert once == again
