"""The histogram against exact nearest-rank quantiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.load.histogram import Histogram

durations = st.lists(st.floats(0, 100_000, allow_nan=False), min_size=1, max_size=200)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(durations, st.floats(0, 1))
@settings(max_examples=100)
def test_a_quantile_is_within_a_128th_of_the_exact_one(values: list[float], q: float) -> None:
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert filled(values).quantile(q) == pytest.approx(exact, rel=1 / 128, abs=1e-6)


@given(durations)
@settings(max_examples=50)
def test_extremes_and_mean_are_exact(values: list[float]) -> None:
    histogram = filled(values)
    assert (histogram.minimum, histogram.maximum, histogram.count) == (min(values), max(values), len(values))
    assert histogram.mean == pytest.approx(sum(values) / len(values))
    assert histogram.quantile(1.0) == pytest.approx(max(values), rel=1 / 128, abs=1e-6)


@given(durations, durations)
@settings(max_examples=50)
def test_merging_is_recording_both(left: list[float], right: list[float]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    both = filled(left + right)
    assert list(merged.buckets()) == list(both.buckets())
    assert (merged.count, merged.maximum) == (both.count, both.maximum)


@given(durations)
@settings(max_examples=50)
def test_buckets_ascend_and_hold_every_sample(values: list[float]) -> None:
    buckets = list(filled(values).buckets())
    assert sum(count for _, count in buckets) == len(values)
    assert [middle for middle, _ in buckets] == sorted({middle for middle, _ in buckets})


def test_a_count_is_as_many_samples() -> None:
    one, many = Histogram(), Histogram()
    one.record(0.25, 3)
    for _ in range(3):
        many.record(0.25)
    assert one.summary() == many.summary()


def test_odd_durations_are_counted_at_the_ends() -> None:
    histogram = Histogram()
    histogram.record(-1.0)
    histogram.record(1e9)
    assert histogram.count == 2
    assert histogram.minimum == 0.0
    assert histogram.quantile(0.0) == 0.0


def test_empty() -> None:
    assert Histogram().summary() == {"count": 0}
    assert Histogram().quantile(0.5) == 0.0
    assert Histogram().mean == 0.0
