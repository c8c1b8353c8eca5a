"""How fast a queue moves: known early, sure where requests are alike, and corrected by those who wait in vain."""

from __future__ import annotations

import pytest

from gateway.turnover import Turnover


def rounds(count: int, slots: int, *seconds: float) -> Turnover:
    """All slots taken at once and left at once, again and again."""
    turnover = Turnover()
    now = 0.0
    for index in range(count):
        held = seconds[index % len(seconds)]
        turnover.passed(now, 0)
        now += held
        for left in range(slots, 0, -1):
            turnover.passed(now, left)
            turnover.ended(left, held)
    return turnover


def test_nothing_is_said_before_a_few_have_ended() -> None:
    assert rounds(1, 4, 1.0).rate(4) == 0.0
    assert rounds(1, 5, 1.0).rate(5) == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_bursts_are_no_faster_than_the_round_they_end(count: int) -> None:
    turnover = rounds(count, 16, 0.4)
    assert turnover.rate(16) == pytest.approx(40.0, rel=0.15)
    assert turnover.rate(8) == pytest.approx(turnover.rate(16) / 2)


def test_time_without_anything_under_way_does_not_count() -> None:
    turnover = rounds(5, 8, 1.0)
    before = turnover.rate(8)
    turnover.passed(1e6, 0)
    assert turnover.rate(8) == before


def test_the_wait_is_surer_where_requests_are_alike_and_many() -> None:
    alike, unlike = rounds(20, 8, 1.0), rounds(20, 8, 0.1, 3.0)
    assert 1.0 < alike.wait(80, 8.0) / (81 / 8.0) < unlike.wait(80, 8.0) / (81 / 8.0)
    assert alike.wait(5, 8.0) / (6 / 8.0) > alike.wait(80, 8.0) / (81 / 8.0)


def test_the_margin_holds_still_where_four_in_a_thousand_are_late() -> None:
    turnover = Turnover()
    for _ in range(20):
        turnover.late(100)
    grown = turnover.margin
    assert grown > 1.5
    for _ in range(10):
        for _ in range(250):
            turnover.timely(100)
        turnover.late(100)
    assert turnover.margin < grown
    for _ in range(100_000):
        turnover.timely(100)
    assert turnover.margin == 1.0
    for _ in range(10_000):
        turnover.late(0)
    assert turnover.margin == 8.0
