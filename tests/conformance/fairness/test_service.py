"""What a run is judged by: sums over time, who was owed what, how far two were apart, how even the shares were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.fairness.orders import Placed, bound
from conformance.fairness.service import Curve, Service, jain


def test_a_curve_is_asked_of_any_moment() -> None:
    curve = Curve()
    for at, amount in ((1.0, 5.0), (1.0, 2.0), (3.0, 1.0)):
        curve.add(at, amount)
    assert [curve.until(at) for at in (0.9, 1.0, 2.9, 3.0)] == [0.0, 7.0, 7.0, 8.0]
    assert curve.between(1.0, 3.0) == 1.0
    assert list(curve.times(1.0, 3.0)) == [1.0, 3.0]


def two(**weights: float) -> Service:
    return Service({"a": 1.0, "b": 1.0, **weights})


def test_nobody_is_owed_more_than_it_asked_for() -> None:
    service = two()
    service.arrived("a", 0.0, 1000.0)
    service.arrived("b", 0.0, 30.0)
    service.got("a", 10.0, 900.0)
    assert service.windowed(60.0) == [30.0]  # not 900: b asked for no more
    service.got("b", 20.0, 30.0)
    assert service.windowed(60.0) == [0.0]


def test_what_was_owed_before_a_window_is_owed_within_it() -> None:
    service = two()
    service.arrived("a", 0.0, 1000.0)
    service.arrived("b", 0.0, 1000.0)
    service.got("a", 70.0, 500.0)
    assert service.windowed(120.0)[-1] == 500.0


def test_service_counts_over_weight() -> None:
    service = two(a=4.0)
    for client, amount in (("a", 400.0), ("b", 100.0)):
        service.arrived(client, 0.0, 1e6)
        service.waits(client, 0.0)
        service.got(client, 30.0, amount)
        service.released(client, 60.0)
    assert service.windowed(60.0) == [0.0]
    assert service.jain(60.0) == [1.0]
    assert service.apart("a", "b") == 0.0


def test_only_those_who_wait_for_a_whole_window_are_compared() -> None:
    service = two()
    service.waits("a", 0.0)
    service.released("a", 60.0)
    service.waits("b", 0.0)
    service.released("b", 59.0)
    service.got("a", 10.0, 5.0)
    assert service.jain(60.0) == []


def test_two_are_apart_by_the_worst_interval_in_which_both_wait() -> None:
    service = two()
    for client in ("a", "b"):
        service.waits(client, 10.0)
    service.got("a", 5.0, 1000.0)  # nobody waits yet
    for at, client, amount in ((11.0, "a", 10.0), (12.0, "b", 25.0), (13.0, "a", 40.0)):
        service.got(client, at, amount)
    service.released("a", 20.0)
    service.got("b", 21.0, 1000.0)  # a does not wait any more
    service.released("b", 30.0)
    assert service.apart("a", "b") == 40.0  # of the differences 0, 10, -15, 25


def test_a_queue_that_empties_ends_a_backlog() -> None:
    service = two()
    service.waits("a", 0.0)
    service.waits("a", 1.0)
    service.released("a", 2.0)
    assert service.backlogs("a") == []
    service.released("a", 3.0)
    service.waits("a", 5.0)
    service.released("a", 6.0)
    assert service.backlogs("a") == [(0.0, 3.0), (5.0, 6.0)]


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=30))
def test_jain_is_between_one_nth_and_one(values: list[float]) -> None:
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9


def test_jain_of_who_has_all() -> None:
    assert jain([7.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([3.0, 3.0]) == 1.0


def test_corrections_count_while_they_may_come() -> None:
    a, b = ("a", "a"), ("b", "b")
    one_by_one = [Placed(a, 0.0, 1.0, 10.0, 15.0), Placed(b, 1.0, 2.0, 20.0, 13.0)]
    assert bound(0.0, one_by_one).corrections == 7.0
    together = [Placed(a, 0.0, 1.5, 10.0, 15.0), Placed(b, 1.0, 2.0, 20.0, 13.0)]
    stated = bound(100.0, together)
    assert (stated.dispatch, stated.corrections) == (20.0, 12.0)
    assert stated.apart == pytest.approx(2 * (100.0 + 20.0 + 12.0))
