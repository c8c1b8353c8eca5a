"""Arrival processes: their mean rate, their burstiness, and that a seed fixes them."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from conformance.load.arrivals import Arrival, arrival_times


def gaps(arrival: Arrival, burstiness: float = 0.5, count: int = 20_000) -> list[float]:
    times = itertools.islice(arrival_times(arrival, 50.0, random.Random(7), burstiness), count)
    return [b - a for a, b in itertools.pairwise(itertools.chain([0.0], times))]


@pytest.mark.parametrize("arrival", ["constant", "poisson", "gamma"])
def test_the_mean_gap_is_one_over_the_rate(arrival: Arrival) -> None:
    assert statistics.fmean(gaps(arrival)) == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize(
    ("arrival", "burstiness", "variation"), [("poisson", 1, 1), ("gamma", 0.25, 2), ("gamma", 4, 0.5)]
)
def test_the_spread_of_the_gaps(arrival: Arrival, burstiness: float, variation: float) -> None:
    found = gaps(arrival, burstiness)
    assert statistics.pstdev(found) / statistics.fmean(found) == pytest.approx(variation, rel=0.08)


def test_constant_gaps_are_all_alike() -> None:
    assert max(gaps("constant", count=100)) == pytest.approx(1 / 50)


def test_the_same_seed_gives_the_same_times() -> None:
    assert gaps("gamma", count=50) == gaps("gamma", count=50)
