"""Means of the recent past from counters, and restarts told from numbers that are missing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.recent import HALF_LIFE_S, Mean, Recent
from gateway.types import Load

seconds = st.floats(0.001, 10)
growth = st.lists(st.tuples(seconds, st.integers(0, 50)), min_size=1, max_size=20)
"""Per page: how long each of its events took, and how many there were."""


@given(growth, st.floats(0.5, 1), seconds, st.integers(0, 1000))
def test_a_mean_lies_between_the_events_it_is_of(
    grown: list[tuple[float, int]], fade: float, before: float, count: int
) -> None:
    mean = Mean()
    summed, counted = before * count, float(count)
    mean.start(summed, counted)
    seen: list[float] = []
    for each, events in grown:
        summed, counted = summed + each * events, counted + events
        seen += [each] * bool(events)
        now = mean.add(summed, counted, fade)
        if not seen:
            assert now is None
        elif now is not None:
            assert min(seen) - 1e-6 <= now <= max(seen) + 1e-6


def test_older_events_weigh_less() -> None:
    mean = Mean()
    mean.start(0, 0)
    assert mean.add(1.0, 1, 1.0) == 1.0
    assert mean.add(4.0, 2, 0.5) == pytest.approx((0.5 * 1 + 3) / 1.5)


def test_a_sum_that_is_missing_waits_for_the_next_page() -> None:
    mean = Mean()
    mean.start(0, 0)
    assert mean.add(2.0, 1, 1.0) == 2.0
    assert mean.add(0.0, 2, 1.0) == 2.0
    assert mean.add(8.0, 3, 1.0) == pytest.approx(8 / 3)


def at(now: float, **numbers: float) -> Load:
    return Load(at=now, **numbers)  # type: ignore[arg-type]


def test_the_first_page_says_nothing_of_the_recent_past() -> None:
    recent = Recent()
    assert recent.note(at(1, ttft_sum=900, ttft_count=3)) == (at(1, ttft_sum=900, ttft_count=3), False)
    load, restarted = recent.note(at(2, ttft_sum=901, ttft_count=5, tpot_sum=1, tpot_count=10))
    assert (load.ttft, load.tpot, restarted) == (0.5, 0.1, False)


def test_half_the_weight_is_gone_after_a_half_life_and_all_of_it_some_time() -> None:
    recent = Recent()
    recent.note(at(0))
    recent.note(at(0, ttft_sum=1, ttft_count=1))
    load, _ = recent.note(at(HALF_LIFE_S, ttft_sum=4, ttft_count=2))
    assert load.ttft == pytest.approx((0.5 * 1 + 3) / 1.5)
    assert recent.note(at(5 * HALF_LIFE_S, ttft_sum=4, ttft_count=2))[0].ttft == pytest.approx(load.ttft)
    assert recent.note(at(20 * HALF_LIFE_S, ttft_sum=4, ttft_count=2))[0].ttft is None


COUNTERS = ("ttft_count", "tpot_count", "prompt_tokens", "generated_tokens", "queried_tokens", "hit_tokens")
totals = st.fixed_dictionaries({name: st.integers(0, 10**6).map(float) for name in COUNTERS})


@given(totals, st.lists(totals, max_size=8), st.lists(st.sets(st.sampled_from(COUNTERS)), min_size=8, max_size=8))
def test_growing_and_missing_counters_are_no_restart(
    first: dict[str, float], grown: list[dict[str, float]], missing: list[set[str]]
) -> None:
    recent = Recent()
    recent.note(Load(**first))
    now = first
    for more, gone in zip(grown, missing, strict=False):
        now = {name: now[name] + more[name] for name in COUNTERS}
        told = {name: 0.0 if name in gone else now[name] for name in COUNTERS}
        if any(told.values()):
            assert not recent.note(Load(**told))[1]


@given(totals, totals)
def test_a_counter_that_fell_is_a_restart_and_what_it_counts_now_is_recent(
    before: dict[str, float], after: dict[str, float]
) -> None:
    before["ttft_count"] = after["ttft_count"] + 1
    after["ttft_count"] += 0.5
    recent = Recent()
    recent.note(Load(**before))
    load, restarted = recent.note(Load(**after, ttft_sum=7.0))
    assert restarted
    assert load.ttft == pytest.approx(7.0 / after["ttft_count"])
    assert not recent.note(load)[1]


def test_another_time_of_start_is_a_restart() -> None:
    recent = Recent()
    recent.note(at(1, started=100.5, prompt_tokens=5))
    again = at(2, started=200.5, prompt_tokens=50)
    assert recent.note(msgspec.structs.replace(again, started=0.0)) == (at(2, prompt_tokens=50), False)
    assert recent.note(again)[1]
    assert not recent.note(again)[1]


def test_all_counters_gone_is_a_restart() -> None:
    recent = Recent()
    recent.note(at(1, prompt_tokens=5, ttft_count=1))
    assert recent.note(at(2))[1]
    assert not recent.note(at(3))[1]
