"""Saturation: the published numbers, and what is not known."""

from __future__ import annotations

import pytest
from hypothesis import given

from gateway.schedule.saturation import Concurrency, Saturation
from gateway.types import Load
from tests.gateway.schedule.fleet import Fake, ask, fleets, ids, parts


def test_the_worse_of_both_the_mean_of_all() -> None:
    level = Saturation().detector()
    assert level([Fake("a", Load(waiting=5, kv_usage=0.4)), Fake("b", Load(kv_usage=0.4))]) == pytest.approx(0.75)
    assert level([Fake("a", Load(waiting=20))]) == 4.0
    assert level([Fake("a", Load(kv_usage=1.0))]) == 1.25
    assert level([]) == 1.0


def test_old_numbers_hold_and_missing_ones_do_not_count() -> None:
    level = Saturation().detector()
    known, silent = Fake("a", Load(waiting=10)), Fake("b")
    assert level([silent]) == 0.0
    assert level([known, silent]) == 2.0
    assert level([Fake("a"), silent]) == 2.0
    assert level([silent]) == 0.0
    assert level([Fake("a"), silent]) == 0.0  # it left, and what it said with it


@given(fleets)
def test_it_is_a_number(fleet: list[Fake]) -> None:
    for detector in (Saturation().detector(), Concurrency(concurrency_mode="hybrid").detector()):
        assert detector(fleet) >= 0.0


def test_as_a_filter() -> None:
    fleet = [
        Fake("a", Load(waiting=5, kv_usage=0.8)),
        Fake("b", Load(waiting=6)),
        Fake("c", Load(kv_usage=0.9)),
        Fake("d"),
    ]
    assert ids(Saturation().filter(parts())(ask(), fleet)) == ["a", "d"]
    assert ids(Saturation(headroom=0.2).filter(parts())(ask(), fleet)) == ["a", "b", "c", "d"]
    assert ids(Saturation().filter(parts())(ask(), fleet[1:3])) == ["b", "c"]


@pytest.mark.parametrize(("mode", "expected"), [("requests", 0.6), ("tokens", 0.5), ("hybrid", 1.0)])
def test_concurrency(mode: str, expected: float) -> None:
    plugin = Concurrency(concurrency_mode=mode, max_concurrency=10, max_token_concurrency=1000)  # type: ignore[arg-type]
    level = plugin.detector()
    assert level([Fake("a", inflight=8, foreign=2.0), Fake("b", inflight=2, backlog=1000)]) == expected
    assert level([]) == 1.0
    assert ids(plugin.filter(parts())(ask(), [Fake("a", inflight=10, backlog=1000), Fake("b")])) == ["b"]
    assert ids(plugin.filter(parts())(ask(), [Fake("a", inflight=10, backlog=1000)])) == ["a"]
