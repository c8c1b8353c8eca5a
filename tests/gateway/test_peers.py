"""What other replicas say of endpoints counts as if it were seen, and goes away with those who said it."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.scheduler import Scheduler
from gateway.config.snapshot import PoolSpec
from gateway.peers import Peers
from gateway.pools import Pools
from gateway.replicas import NOTHING, Count, Placed, Replicas, _cut, _packed
from gateway.schedule.build import for_pool
from gateway.schedule.profile import Profile, Weighted
from gateway.schedule.reuse import PrefixCache
from gateway.types import Endpoint, Load
from tests.gateway.schedule.fleet import ask, parts, request
from tests.gateway.scripted import FakeAdapter

PROMPT = "once upon a time " * 400


def endpoints(count: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint("fake", "http", f"e{number}", 80) for number in range(count))


class Gateway:
    """One replica with a pool ``p``. ``hears`` what another one says."""

    def __init__(self, name: str, count: int = 2) -> None:
        self.charged: list[tuple[str, str, str, float]] = []
        self.pools = Pools(
            {"fake": FakeAdapter()}, lambda spec, old: for_pool(Scheduler(), spec, random.Random(1), old)
        )
        self.apply(count)
        self.peers = Peers(self.pools, lambda *charged: self.charged.append(charged))
        self.replicas = Replicas(name, self.peers)
        self.pools.listened(self.replicas.note_placed)

    def apply(self, count: int) -> None:
        self.pools.apply([PoolSpec("p", "fake", endpoints(count))])
        self.members = list(self.pools["p"].members)

    def place(self, prompt: str, member: int, now: float = 0.0, *, stream: bool = True) -> None:
        pool = self.pools["p"]
        asked = pool.ask(msgspec.structs.replace(request(prompt), stream=stream), "m", now)
        list(pool.rank(asked))
        self.placement = pool.place(asked, self.members[member], now)

    def chosen(self, prompt: str, now: float) -> str:
        pool = self.pools["p"]
        return next(pool.rank(pool.ask(request(prompt), "m", now))).id

    def hear(self, other: Gateway, now: float) -> None:
        self.replicas.hear(other.replicas.digest(other.peers.counts()), now)


def test_a_prefix_that_another_replica_placed_is_found() -> None:
    for member in (0, 1):
        one, two = Gateway("one"), Gateway("two")
        for gateway in (one, two):  # before a choice was made nothing is learned
            gateway.place("x", 0)
            gateway.placement.left(0.0, None)
        one.place(PROMPT, member)
        one.placement.answered(0.5)
        one.placement.left(0.6, None)
        two.hear(one, 0.7)
        pool = two.pools["p"]
        asked = pool.ask(request(PROMPT + "and so on"), "m", 10.0)
        assert next(pool.rank(asked)).id == f"e{member}:80"
        assert asked.hits[f"e{member}:80"] > 0.0


def test_a_busy_endpoint_is_avoided_for_as_long_as_others_keep_it_busy() -> None:
    one, two = Gateway("one"), Gateway("two")
    one.place(PROMPT, 0)
    two.hear(one, 0.01)
    busy = two.members[0]
    work = busy.speed.step + one.placement.uncached * busy.speed.prefill
    assert (busy.foreign, busy.foreign_pending, busy.until) == (1.0, 1.0, pytest.approx(0.01 + work))
    assert two.chosen("something else", 0.02) == "e1:80"
    one.placement.answered(0.03)
    two.hear(one, 0.04)
    assert (busy.foreign, busy.foreign_pending, busy.until) == (1.0, 0.0, 0.04)
    two.replicas.expire(3.0)
    assert (busy.foreign, busy.peers) == (0.0, NOTHING)


def test_of_answers_that_come_whole_the_prompts_are_expected_to_be_computed_in_their_time() -> None:
    one, two = Gateway("one"), Gateway("two")
    one.place(PROMPT, 0, stream=False)
    two.hear(one, 0.0)
    busy = two.members[0]
    assert (busy.foreign, busy.foreign_pending, busy.owed) == (1.0, 0.0, 0.0)
    assert busy.until == pytest.approx(busy.owed_in_all) != 0.0
    one.placement.left(0.1, None)
    two.hear(one, 0.1)
    assert (busy.foreign, busy.until, busy.owed_in_all) == (0.0, 0.1, 0.0)


def test_who_is_here_and_who_came_from_outside_is_told_apart() -> None:
    gateway = Gateway("one")
    pool, member = gateway.pools["p"], gateway.members[0]
    gateway.peers.elsewhere("p", member.id, Count(3, 1, 800.0), 0.0)
    pool.loaded(member, Load(at=0.1, running=4, waiting=1, ttft_count=3))
    assert (member.foreign, member.foreign_pending) == (5.0, 2.0)
    assert (member.outside, member.outside_pending) == (2.0, 1.0)
    assert member.owed == pytest.approx(member.speed.step + 800.0 * member.speed.prefill)
    gateway.peers.elsewhere("p", member.id, Count(5, 2, 900.0), 0.2)  # it was theirs, not heard of yet
    assert (member.foreign, member.outside, member.outside_pending) == (5.0, 0.0, 0.0)
    gateway.peers.elsewhere("p", member.id, Count(1), 0.3)
    assert (member.foreign, member.foreign_pending) == (1.0, 0.0)
    pool.loaded(member, Load(at=0.4))
    assert member.foreign == 1.0, "no less than what they say"
    member.unloaded()
    assert (member.load, member.foreign) == (None, 1.0)


def test_what_is_not_here_is_passed_over() -> None:
    gateway = Gateway("one")
    gateway.peers.elsewhere("p", "nowhere:80", Count(1), 0.0)
    gateway.peers.elsewhere("q", "e0:80", Count(1), 0.0)
    gateway.peers.heard(Placed("q", "e0:80", 10, 10.0, 10.0), 0.0)
    gateway.peers.heard(Placed("p", "nowhere:80", 10, 10.0, 10.0), 0.0)
    gateway.peers.unheard("q", 10.0, 0, 2)
    assert all(member.foreign == 0.0 and member.until == -math.inf for member in gateway.members)


def test_endpoints_that_join_are_spoken_of_too() -> None:
    one, two = Gateway("one", 3), Gateway("two", 2)
    one.place(PROMPT, 2)
    two.hear(one, 0.0)
    two.apply(3)
    two.hear(one, 0.2)
    assert two.members[2].peers.requests == 1
    one.apply(3)
    one.place(PROMPT, 1)
    two.hear(one, 0.3)
    assert two.members[1].peers.requests == 1


def test_service_goes_on_to_fairness() -> None:
    one, two = Gateway("one"), Gateway("two")
    one.replicas.note_service("p", "t", "u", 12.5)
    two.hear(one, 0.0)
    assert two.charged == [("p", "t", "u", 12.5)]


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.0, 1e5))
def test_what_others_may_be_sending_is_expected_where_they_prefer_to_send_it(
    count: int, replicas: int, tokens: float
) -> None:
    gateway = Gateway("one", count)
    prefill = gateway.members[0].speed.prefill
    for rank in range(replicas):
        gateway.peers.unheard("p", tokens, rank, replicas)
        expected = sum(member.unheard for member in gateway.members)
        assert expected >= 0.0
        each = 1.5 * tokens * prefill / max(1.0, count / replicas)
        assert expected == pytest.approx(_dealt(count, replicas, rank) * each)
    gateway.peers.unheard("p", tokens, 0, 1)
    assert {member.unheard for member in gateway.members} == {0.0}


def _dealt(count: int, replicas: int, rank: int) -> int:
    """Endpoints that replicas other than this one hold, each holder counted."""
    return sum(deal % replicas != rank for deal in range(max(count, replicas)))


def test_replicas_that_know_the_same_do_not_all_choose_the_same() -> None:
    gateways = [Gateway(name, 8) for name in "abc"]
    for gateway in gateways:
        gateway.place("x", 0)
        gateway.placement.left(0.0, None)
    for now in range(100):
        for gateway in gateways:
            gateway.place(PROMPT + str(now), 0, float(now))
            gateway.placement.left(now + 0.5, None)
        for gateway in gateways:
            said = gateway.replicas.digest(gateway.peers.counts())
            for other in gateways:
                other.replicas.hear(said, now + 0.9)
    assert len({gateway.chosen("somebody new " * 500, 200.0) for gateway in gateways}) == 3


def test_published_prefix_scorers_hear_of_placements_too() -> None:
    memory = PrefixCache().scorer(parts())
    heard = PrefixCache().scorer(parts())
    member, other = Gateway("one").members
    asked = ask(PROMPT)
    memory(asked, [member, other])
    told = Placed(
        "p", member.id, len(asked.text), asked.tokens, 1.0, {_cut(b): _packed(h) for b, h in asked.chains.items()}
    )
    profile = Profile([], [Weighted("prefix-cache", heard)], lambda candidates, scores: candidates)
    profile.heard(told, member, 0.0)
    assert heard(ask(PROMPT), [other, member])[1] == 1.0
    assert heard(ask(PROMPT), [other, member])[0] == 0.0


def test_hashes_cut_as_the_scorer_cuts_are_told() -> None:
    one = Gateway("one")
    one.place(PROMPT, 0)
    two = Gateway("two")
    two.place("x", 1)
    two.hear(one, 0.0)
    found = two.pools["p"].ask(request(PROMPT), "m", 1.0)
    assert two.pools["p"].hits(found)["e0:80"] > 0.9 * found.tokens
