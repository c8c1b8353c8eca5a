"""The store of one process: all demands or none, bounded memory, and never beyond the limit whatever comes."""

from __future__ import annotations

import heapq
import math
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.local import Local
from gateway.types import Demand, Taken


def per_minute(key: str, amount: float = 1.0, limit: float = 60.0) -> Demand:
    return Demand(key, amount, limit / 60, limit)


def place(key: str, places: float) -> Demand:
    return Demand(key, 1.0, 0.0, places)


def test_all_demands_are_met_or_none() -> None:
    store = Local()
    both = (per_minute("requests", 1, 60), per_minute("tokens", 90, 100))
    assert store.take_nowait(both, 0.0) == Taken(True, 0.0, (1.0, 90.0), 0.0)
    refused = store.take_nowait(both, 0.0)
    assert (refused.granted, refused.used) == (False, (1.0, 90.0))
    assert refused.wait == pytest.approx(80 / (100 / 60))
    assert store.take_nowait(both[:1], 0.0).used == (2.0,)  # the refused one has cost nothing


def test_the_wait_is_the_longest_one() -> None:
    store = Local()
    store.take_nowait((per_minute("a", 60), per_minute("b", 55)), 0.0)
    assert store.take_nowait((per_minute("a", 10), per_minute("b", 10)), 0.0).wait == 10.0
    assert store.take_nowait((per_minute("b", 10), per_minute("a", 10)), 0.0).wait == 10.0


def test_what_is_larger_than_the_burst_is_let_in_when_there_is_nothing_else() -> None:
    store = Local()
    assert store.take_nowait([per_minute("t", 600)], 0.0).granted
    assert store.take_nowait([per_minute("t", 0)], 539.0).wait == pytest.approx(1.0)
    assert store.take_nowait([per_minute("t", 0)], 540.0).granted


def test_a_changed_limit_applies_to_what_is_there() -> None:
    store = Local()
    store.take_nowait([per_minute("r", 60, 60)], 0.0)
    assert store.take_nowait([per_minute("r", 1, 120)], 0.0).used == (61.0,)
    assert not store.take_nowait([per_minute("r", 1, 30)], 0.0).granted
    assert store.take_nowait([per_minute("r", 1, 30)], 64.0).granted  # 61 - 64/2 leaves room for one of 30


def test_places_are_held_until_they_are_given_back() -> None:
    store = Local()
    first = store.take_nowait([place("p", 2)], 0.0)
    store.take_nowait([place("p", 2)], 0.0)
    assert store.take_nowait([place("p", 2)], 1e6) == Taken(False, 1.0, (2.0,), 1e6)
    store.settle([place("p", 2)], first, [1.0], 1e6)
    assert store.take_nowait([place("p", 2)], 1e6).granted


def test_what_has_leaked_until_now_is_not_given_back() -> None:
    store = Local()
    taken = store.take_nowait([per_minute("t", 60)], 0.0)
    store.settle([per_minute("t", 60)], taken, [60.0], 50.0)
    assert store.take_nowait([per_minute("t", 20)], 50.0).used == (20.0,)
    store = Local()
    taken = store.take_nowait([per_minute("t", 60)], 0.0)
    store.settle([per_minute("t", 60)], taken, [-30.0], 70.0)
    assert store.take_nowait([per_minute("t", 0)], 70.0).used == (30.0,)


def test_debt_outlives_its_account() -> None:
    store = Local(most=1)
    taken = store.take_nowait([per_minute("a", 1)], 0.0)
    store.take_nowait([per_minute("b", 1)], 0.0)
    assert len(store) == 1  # a is forgotten
    store.settle([per_minute("a", 1)], taken, [1.0], 1.0)
    assert len(store) == 1
    store.settle([per_minute("a", 1)], taken, [-100.0], 1.0)
    assert store.take_nowait([per_minute("a", 1)], 2.0).wait == pytest.approx(40.0)


def test_an_empty_account_survives_being_taken_from_beside_new_ones() -> None:
    store = Local()
    store.take_nowait([per_minute("old")], 0.0)
    store.take_nowait([per_minute("new"), per_minute("old")], 100.0)
    assert store.take_nowait([per_minute("old", 60)], 100.0).used == (1.0,)


def test_what_has_drained_is_forgotten() -> None:
    store = Local()
    for index in range(10_000):
        store.take_nowait([per_minute(f"user {index}")], index * 0.01)
    assert len(store) < 210  # each holds something for a second: a hundred at a time
    for index in range(1000):
        store.take_nowait([per_minute(f"user {index}", 60)], 101.0)
    assert len(store) >= 1000  # none of these


def test_there_is_a_most() -> None:
    store = Local(most=100)
    for index in range(1000):
        store.take_nowait([per_minute(f"user {index}"), place(f"places of user {index}", 5)], 0.0)
    assert len(store) == 100


def test_nobody_has_to_wait_for_an_answer() -> None:
    with pytest.raises(RuntimeError):
        trio.run(Local().take, ())


Act = st.tuples(
    st.sampled_from(("take", "take", "settle")),
    st.sampled_from((0.0, 0.0, 0.1, 0.7, 5.0, 40.0, -3.0)),  # clocks are set back, too
    st.integers(1, 30),
    st.floats(0, 1),
)


@given(st.lists(Act, max_size=80))
def test_no_window_sees_more_than_a_burst_and_what_leaks(acts: list[tuple[str, float, int, float]]) -> None:
    """What is let in from any moment on fits: what was really used, counted when it was let in."""
    limit, store, now, latest = 20.0, Local(), 0.0, -math.inf
    used: list[tuple[float, float]] = []
    held: list[tuple[int, Taken]] = []
    for what, passed, number, share in acts:
        now += passed
        if what == "take":
            demand = per_minute("k", min(number, limit), limit)
            taken = store.take_nowait([demand], now)
            latest = max(latest, now)
            if taken.granted:
                held.append((len(used), taken))
                used.append((latest, demand.amount))
        elif held:
            index, taken = held.pop(number % len(held))
            then, amount = used[index]
            used[index] = then, amount * share
            store.settle([per_minute("k", amount, limit)], taken, [amount * (1 - share)], now)
            latest = max(latest, now)
    for first, (start, _) in enumerate(used):
        total = 0.0
        for then, amount in used[first:]:
            total += amount
            assert total <= limit + limit / 60 * (then - start) + 1e-6


def flow(burst: float, rate: float, per_second: float, lasting: float, until: float) -> float:
    """What Poisson arrivals of about 100 tokens use by half of what they reserve."""
    chance, store, now, used = random.Random(7), Local(), 0.0, 0.0
    ends: list[tuple[float, float, Taken, float]] = []
    arrival = chance.expovariate(per_second)
    while now < until:
        if ends and ends[0][0] < arrival:
            now, amount, taken, actual = heapq.heappop(ends)
            store.settle([Demand("k", amount, rate, burst)], taken, [amount - actual], now)
            continue
        now, arrival = arrival, arrival + chance.expovariate(per_second)
        amount = chance.uniform(50, 150)
        taken = store.take_nowait([Demand("k", amount, rate, burst)], now)
        if taken.granted:
            actual = amount * chance.uniform(0.1, 0.9)
            used += actual
            heapq.heappush(ends, (now + lasting * chance.expovariate(1), amount, taken, actual))
    return used


@pytest.mark.parametrize(
    ("burst", "rate", "per_second", "lasting"),
    [(1000.0, 1000.0, 40.0, 2.0), (5000.0, 5000 / 60, 4.0, 10.0), (10_000.0, 10_000 / 3600, 3.0, 30.0)],
)
def test_few_marks_give_back_as_much_as_a_whole_history(
    burst: float, rate: float, per_second: float, lasting: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = flow(burst, rate, per_second, lasting, 100.0)
    monkeypatch.setattr("gateway.buckets.MARKS", math.inf)
    assert used >= 0.99 * flow(burst, rate, per_second, lasting, 100.0)


def test_a_limit_that_is_asked_for_more_is_used_up() -> None:
    """Answers are over long before what they took has leaked away: none of it is lost."""
    assert flow(6000.0, 100.0, 20.0, 5.0, 600.0) >= 0.99 * (6000 + 600 * 100)
