"""What is usual among all the others, however many they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.settings import Ejection
from gateway.outliers import Figures, Finding, Peers, median_without

values = st.sampled_from([0.0, 0.5, 1.0, 2.0]) | st.floats(0, 1e6)
RULES = Ejection()


@given(st.lists(st.none() | values, max_size=9), st.data())
def test_the_median_without_one_is_that_of_the_others(pool: list[float | None], data: st.DataObject) -> None:
    ordered = sorted(value for value in pool if value is not None)
    index = data.draw(st.integers(0, len(pool)))
    others = [value for value in pool[:index] + pool[index + 1 :] if value is not None]
    one = pool[index] if index < len(pool) else None
    assert median_without(ordered, one, -1.0) == (median(others) if others else -1.0)


# --- a pool -----------------------------------------------------------------------------------------------------------


def figures_of(outcomes: Sequence[bool], ratios: Sequence[float], waited: float) -> Figures:
    figures = Figures()
    for failed in outcomes:
        figures.outcome(0.0, failed)
    for ratio in ratios:
        figures.answered(0.0, ratio, 1.0)
    if waited:
        figures.due(waited, 1.0)
    return figures


def usual(known: Sequence[float | None], otherwise: float) -> float:
    there = [value for value in known if value is not None]
    return median(there) if there else otherwise


def naive(one: Figures, pool: Sequence[Figures]) -> list[bool]:
    """Whether it errs, is slow, is stuck: everybody compared with everybody."""
    others = [figures for figures in pool if figures is not one]
    least = RULES.min_requests
    share, ratio = one.failure_share(least), one.latency_ratio
    failing = usual([figures.failure_share(least) for figures in others], 0.0)
    slow = max(1.0, usual([figures.latency_ratio for figures in others], math.inf))
    stuck = max(1.0, ratio or 1.0, usual([figures.latency_ratio for figures in others], ratio or math.inf))
    chance = 3.0 * math.sqrt(failing * (1.0 - failing) / max(one._count, 1))
    return [
        share is not None and share >= max(RULES.failure_share, 2.0 * failing, failing + chance),
        ratio is not None and one._excess >= RULES.latency_excess and ratio >= RULES.latency_ratio * slow,
        one._waited >= 5.0 and one._overdue >= RULES.latency_ratio * stuck,
    ]


observations = st.builds(
    figures_of,
    st.sampled_from([[], [True] * 5, [True] * 12, [False] * 20, [True] * 10 + [False] * 10, [True, False, False] * 5]),
    st.sampled_from([[], [1.0] * 3, [1.0] * 5, [4.0] * 9, [40.0] * 7, [9.0] * 5]),
    st.sampled_from([0.0, 3.0, 6.0, 30.0, 300.0]),
)


@given(st.lists(observations, min_size=1, max_size=8), st.integers(0, 1))
def test_a_pool_is_judged_as_if_everybody_were_compared_with_everybody(all: list[Figures], outside: int) -> None:
    """Also one that is not among those who are there: it is down, and its requests are not over."""
    pool = all[outside:]
    peers = Peers(pool)
    for one in all:
        findings: list[Finding | None] = [
            one.erring(peers, RULES), one.slow(peers, RULES), one.stuck(peers, RULES, 5.0)
        ]  # fmt: skip
        assert [finding is not None for finding in findings] == naive(one, pool)


def test_everybody_is_looked_at_once() -> None:
    """A watch over a large pool in trouble must not look at everybody for everybody."""
    looks = 0

    class Counted(Figures):
        @property
        def latency_ratio(self) -> float | None:
            nonlocal looks
            looks += 1
            return 1.0 + looks % 7

    pool = [Counted() for _ in range(200)]
    for figures in pool:
        figures.due(60.0, 0.1)
    peers = Peers(pool)
    assert sum(figures.stuck(peers, RULES, 5.0) is not None for figures in pool)
    assert looks <= 3 * len(pool)
