"""What is learned of first tokens, and the budget: against what they should be, on any data."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.settings import Hedging
from gateway.hedges import Account, Hedges, Waits, Window

values = st.floats(0, 1e6, allow_nan=False)
DISTRIBUTIONS: list[Callable[[Random], float]] = [
    lambda random: random.random(),
    lambda random: random.lognormvariate(0, 1),
    lambda random: random.paretovariate(1.1),
    lambda random: (0.05 if random.random() < 0.97 else 2.0) + 0.01 * random.random(),
]
KIND = ("/v1/chat/completions", True)


@given(st.lists(values, max_size=700), st.floats(0.5, 0.99))
def test_a_quantile_is_that_of_the_last_values(given: list[float], part: float) -> None:
    window = Window()
    for value in given:
        window.add(value, 0.0)
    kept = sorted(given[-512:])
    found = window.quantile(part, 0.0)
    if len(kept) * (1 - part) < 3 - 1e-6:
        assert found is None
    elif len(kept) * (1 - part) > 3 + 1e-6:
        assert found is not None
        assert sum(value <= found for value in kept) >= part * len(kept) - 1e-6
        assert sum(value < found for value in kept) < part * len(kept) + 1e-6


@given(st.sampled_from(DISTRIBUTIONS), st.integers(0, 2**32), st.sampled_from([0.5, 0.9, 0.95]))
def test_a_learned_quantile_is_near_the_true_one(draw: Callable[[Random], float], seed: int, part: float) -> None:
    random, waits = Random(seed), Waits()
    for _ in range(512):
        waits.observe(0.1, draw(random), 0.0)
    delay = waits.delay(0.1, part, 0.0)
    assert delay is not None
    truth = sum(draw(random) <= delay * (1 + 1e-12) for _ in range(2000)) / 2000
    assert abs(truth - part) < 6 * math.sqrt(part * (1 - part) / 512) + 0.01


@given(st.lists(st.tuples(values, st.floats(0, 5000)), max_size=100), st.floats(0, 1e6))
def test_what_is_old_is_forgotten(given: list[tuple[float, float]], later: float) -> None:
    window, now = Window(), 0.0
    for value, gap in given:
        now += gap
        window.add(value, now)
    window.quantile(0.5, now + 1801 + later)
    assert len(window) == 0


def test_an_engine_that_becomes_slow_is_believed_before_long() -> None:
    waits = Waits()
    for now in range(600):
        waits.observe(0.1, 0.1, now)
    for now in range(600, 600 + 512):
        waits.observe(0.1, 0.9, now)
    assert waits.delay(0.1, 0.95, 1200) == pytest.approx(0.9)


@given(st.floats(0.002, 100), st.floats(0.1, 10), st.floats(0.1, 10))
def test_sizes_do_not_mix(expected: float, ratio: float, other: float) -> None:
    """What takes eight times as long is another kind of request; what nobody knows is judged by the nearest."""
    waits = Waits()
    for _ in range(100):
        waits.observe(expected, expected * ratio, 0.0)
        waits.observe(expected * 8, expected * 8 * other, 0.0)
    assert waits.delay(expected, 0.95, 0.0) == pytest.approx(expected * ratio)
    assert waits.delay(expected * 8, 0.95, 0.0) == pytest.approx(expected * 8 * other)
    assert waits.delay(expected * 64, 0.95, 0.0) == pytest.approx(expected * 64 * other)
    assert waits.delay(expected * 2.5, 0.95, 0.0) == pytest.approx(expected * 2.5 * ratio)
    shorter = waits.delay(expected / 8, 0.95, 0.0)
    assert shorter is not None
    assert expected * ratio / 2 <= shorter * (1 + 1e-9)
    assert shorter <= expected * ratio * (1 + 1e-9)


def test_those_not_waited_for_to_the_end_do_not_bring_the_quantile_down() -> None:
    """Of whoever loses against its hedge only a part of its time is known: taken for the whole, or left out, each hedge
    would make the next one earlier.
    """
    random, waits = Random(1), Waits()
    late = total = 0
    for count in range(6000):
        took = random.lognormvariate(0, 0.5) * 0.1
        delay = waits.delay(0.1, 0.95, 0.0)
        if delay is not None and count > 2000:
            late += took > delay
            total += 1
        seen = took if delay is None else min(took, delay + 0.05)
        waits.observe(0.1, seen, 0.0)
    assert late / total == pytest.approx(0.05, abs=0.012)


def test_the_delay_stays_within_its_bounds_and_nothing_learned_is_no_delay() -> None:
    hedges, terms = Hedges(), Hedging()
    assert not hedges.knows(KIND)
    assert hedges.delay(KIND, 0.1, terms, 0.0) is None
    for _ in range(59):
        hedges.observe(KIND, 0.1, 0.01, 0.0)
    assert hedges.delay(KIND, 0.1, terms, 0.0) is None
    hedges.observe(KIND, 0.1, 0.01, 0.0)
    assert hedges.delay(KIND, 0.1, terms, 0.0) == terms.min_delay
    for _ in range(60):
        hedges.observe(KIND, 0.1, 1e6, 0.0)
    assert hedges.delay(KIND, 0.1, terms, 0.0) == terms.max_delay
    assert hedges.delay(("/v1/embeddings", False), 0.1, terms, 0.0) is None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("earn"), st.floats(0, 1e5)),
        st.tuples(st.just("lend"), st.floats(0, 1e5)),
        st.tuples(st.just("settle"), st.floats(0, 1)),
        st.tuples(st.just("wait"), st.floats(0, 1000)),
    ),
    max_size=60,
)


@given(steps)
def test_no_more_is_out_and_spent_than_was_earned(steps: list[tuple[str, float]]) -> None:
    account, out = Account(), list[float]()
    now = earned = spent = 0.0
    for what, amount in steps:
        if what == "earn":
            account.earn(amount, now)
            earned += amount
        elif what == "lend" and account.lend(amount, now):
            out.append(amount)
        elif what == "settle" and out:
            lent = out.pop(0)
            account.settle(lent, lent * amount, now)
            spent += lent * amount
        elif what == "wait":
            now += amount
        assert spent + sum(out) <= earned + 1e-6 * (1 + earned)
        assert account.lent == pytest.approx(sum(out), abs=1e-6 * (1 + earned))


def test_a_debt_is_paid_before_anything_is_lent_and_time_does_not_pay_it() -> None:
    account = Account()
    account.earn(100, 0.0)
    assert account.lend(100, 0.0)
    account.settle(100, 150, 0.0)
    assert account.credit(1e6) == -50
    account.earn(60, 1e6)
    assert not account.lend(20, 1e6)
    assert account.lend(10, 1e6)


def test_credit_of_a_quiet_hour_pays_for_no_storm() -> None:
    account = Account()
    account.earn(1000, 0.0)
    assert account.credit(3600.0) < 0.1
