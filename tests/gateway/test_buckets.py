"""Leaky buckets: what lets a request in, how long it waits, and what is given back, against exact foreknowledge."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.buckets import KEPT, MARKS, Account, wait
from gateway.types import Demand

RATE = 10.0


def demand(amount: float, burst: float = 60.0, rate: float = 1.0) -> Demand:
    return Demand("k", amount, rate, burst)


class Foreknowing:
    """Charges what a request really used at the moment it was let in, by going through all that was ever taken."""

    def __init__(self) -> None:
        self.charges: list[list[float]] = []

    def take(self, now: float, amount: float) -> int:
        self.charges.append([now, amount])
        return len(self.charges) - 1

    def level(self, now: float) -> float:
        used = at = 0.0
        for then, amount in self.charges:
            used = max(0.0, used - RATE * (then - at)) + amount
            at = then
        return max(0.0, used - RATE * (now - at))


# --- what lets a request in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "used", "expected"),
    [
        (1, 0, 0.0),
        (1, 59, 0.0),
        (1, 59.5, 0.5),
        (60, 0, 0.0),
        (60, 1, 1.0),
        (600, 0, 0.0),  # more than the whole burst: when it is empty
        (600, 3, 3.0),
        (0, 60, 0.0),
        (0, 61, 1.0),  # in debt, not even nothing
    ],
)
def test_a_request_waits_until_there_is_room_for_all_of_it(amount: float, used: float, expected: float) -> None:
    assert wait(demand(amount), used) == expected


def test_for_a_place_nobody_knows_how_long() -> None:
    assert wait(demand(1, burst=2, rate=0), 1) == 0.0
    assert wait(demand(1, burst=2, rate=0), 2) == 1.0


@given(st.floats(0, 1e9), st.floats(1e-3, 1e9), st.floats(1e-6, 1e6), st.floats(0, 1e9), st.floats(0, 2e9))
def test_who_waits_as_long_as_it_was_told_is_let_in(
    amount: float, burst: float, rate: float, used: float, start: float
) -> None:
    wanted = demand(amount, burst, rate)
    account = Account(rate, start)
    account.take(used)
    seconds = wait(wanted, used)
    # a clock in seconds since 1970 resolves a quarter of a microsecond
    assert wait(wanted, account.level(rate, start + seconds)) <= 1e-6 * max(1.0, seconds)


# --- what is given back -----------------------------------------------------------------------------------------------

Steps = st.lists(
    st.tuples(
        st.sampled_from(("take", "take", "settle")),
        st.sampled_from((0.0, 0.0, 0.1, 0.5, 1.0, 3.0, 20.0)),
        st.integers(0, 60),
        st.floats(0, 2),
    ),
    max_size=60,
)


def play(steps: list[tuple[str, float, int, float]], account: Account, exact: Foreknowing, most: float) -> bool:
    """Whether the two agreed all the time; the account is never below."""
    now, agreed = 0.0, True
    waiting: list[tuple[int, float, float]] = []
    for what, passed, number, share in steps:
        now += passed
        account.level(RATE, now)
        if what == "take":
            account.take(float(number))
            waiting.append((exact.take(now, number), now, number))
        elif waiting:
            index, then, amount = waiting.pop(number % len(waiting))
            exact.charges[index][1] = used = amount * min(share, most)
            account.settle(amount - used, then)
        assert account.lows == sorted(account.lows)
        assert account.times == sorted(account.times)
        assert len(account.lows) == len(account.times) <= MARKS
        agreed = agreed and math.isclose(account.used, exact.level(now), abs_tol=1e-6)
        assert account.used >= exact.level(now) - 1e-6
    return agreed


@given(Steps)
def test_estimates_that_were_high_come_to_what_foreknowledge_would(steps: list[tuple[str, float, int, float]]) -> None:
    assert play(steps[:MARKS], Account(RATE, 0.0), Foreknowing(), 1.0)


@given(Steps)
def test_however_wrong_estimates_were_nothing_is_let_in_beyond_foreknowledge(
    steps: list[tuple[str, float, int, float]],
) -> None:
    play(steps, Account(RATE, 0.0), Foreknowing(), 2.0)


def test_what_has_leaked_meanwhile_cannot_be_given_back() -> None:
    account = Account(RATE, 0.0)
    account.take(100)
    account.level(RATE, 9.0)  # 10 are left
    account.level(RATE, 9.0)
    account.take(50)
    account.settle(100, 0.0)
    assert account.used == 50.0  # and not 0
    account.settle(40, 9.0)
    assert account.used == 10.0


def test_debt_is_charged_in_full() -> None:
    account = Account(RATE, 0.0)
    account.take(10)
    account.level(RATE, 5.0)
    account.settle(-30, 0.0)
    assert account.used == 30.0


def test_a_place_comes_back_whenever_it_does() -> None:
    account = Account(0.0, 0.0)
    account.take(1)
    account.take(1)
    account.level(0.0, 100.0)
    account.settle(1, 0.0)
    assert account.used == 1.0
    assert not account.drained(1e9)
    account.settle(2, 0.0)
    assert account.used == 0.0
    assert account.drained(0.0)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    account = Account(RATE, 10.0)
    account.take(30)
    assert account.level(RATE, 3.0) == 30.0
    account.take(5)
    assert account.level(RATE, 11.0) == 25.0
    account.settle(5, 3.0)
    assert account.used == 25.0  # taken, as far as it knows, before the account was


@pytest.mark.parametrize(("count", "gap"), [(200, 0.001), (200, 0.02), (3000, 0.001)])
def test_many_at_a_time_get_back_nearly_all_they_did_not_use(count: int, gap: float) -> None:
    """Beyond the marks it is less than foreknowledge would give, by little."""
    account, exact = Account(RATE, 0.0), Foreknowing()
    for index in range(count):
        account.level(RATE, index * gap)
        account.take(100.0)
        exact.take(index * gap, 100.0)
    now = count * gap
    account.level(RATE, now)
    for index in range(count):
        account.settle(50.0, index * gap)
        exact.charges[index][1] = 50.0
    assert KEPT <= MARKS
    assert exact.level(now) - 1e-6 <= account.used <= 1.01 * exact.level(now)


def test_takings_of_one_moment_leave_one_mark() -> None:
    account = Account(RATE, 1.0)
    for _ in range(200):
        account.take(10.0)
    assert (account.times, account.lows) == ([1.0], [2000.0])
    for _ in range(200):
        account.settle(9.0, 1.0)
    assert account.used == 200.0


def test_marks_are_few_and_the_newest_are_kept() -> None:
    account, amounts = Account(1e-9, 0.0), [3.0**power for power in range(100)]
    for index, amount in enumerate(amounts):
        account.level(1e-9, float(index))
        account.take(amount)
        assert len(account.times) == len(account.lows) <= MARKS
    assert account.times[-KEPT:] == [float(index) for index in range(100 - KEPT, 100)]
    assert account.lows[-1] == account.used


@pytest.mark.parametrize("gap", [0.1, 0.3, 0.7])
def test_rounding_makes_nobody_wait_again(gap: float) -> None:
    account, wanted, now = Account(7 / 60, 0.0), demand(1.0, 7.0, 7 / 60), 0.0
    for _ in range(1000):
        now += gap
        now += wait(wanted, account.level(7 / 60, now))
        assert wait(wanted, account.level(7 / 60, now)) == 0.0
        account.take(1.0)
