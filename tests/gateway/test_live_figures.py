"""Rates and percentiles of the last seconds, against what was really observed."""

from __future__ import annotations

import math
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from gateway.live_figures import Counted, counted, percentile, rates
from gateway.meter import TTFT_BOUNDS, Record, Totals
from gateway.outcome import is_error, is_refusal

SECONDS = st.floats(0.0, 200.0, allow_subnormal=False)
OUTCOMES = st.sampled_from(
    [(200, ""), (200, "upstream_error"), (502, "upstream_error"), (503, "overloaded"), (503, "no_endpoints"),
     (429, "rate_limited"), (400, "invalid_request"), (401, "unauthorized"), (499, "client_gone")]
)  # fmt: skip
RECORDS = st.lists(
    st.builds(
        lambda model, outcome, ttft, prompt, cached, answer: Record(
            model=model, pool="p", status=outcome[0], reason=outcome[1], stream=True, ttft_s=ttft, ended=ttft + 10.0,
            tokens_in=prompt, tokens_cached=min(prompt, cached), tokens_out=answer,
        ),
        st.sampled_from(["a", "b", "c", "d"]), OUTCOMES, SECONDS | st.just(math.nan), st.integers(0, 50),
        st.integers(0, 50), st.integers(0, 50),
    ),
    max_size=40,
)  # fmt: skip


def totals_of(records: list[Record], totals: Totals | None = None) -> Totals:
    totals = totals or Totals()
    for record in records:
        totals.finished(record)
    return totals


@given(RECORDS, RECORDS)
def test_rates_are_of_what_came_between_whatever_label_sets_are_new(before: list[Record], after: list[Record]) -> None:
    totals = totals_of(before)
    old = counted(totals.flows.values())
    new = counted(totals_of(after, totals).flows.values())
    found = rates(new, old, 10.0)
    assert found.rps == len(after) / 10.0
    assert found.errors == sum(is_error(each.status, each.reason) for each in after) / 10.0
    assert found.refused == sum(is_refusal(each.status, each.reason) for each in after) / 10.0
    assert found.tokens_in == sum(each.tokens_in for each in after) / 10.0
    assert found.tokens_out == sum(each.tokens_out for each in after) / 10.0
    prompt, cached = sum(each.tokens_in for each in after), sum(each.tokens_cached for each in after)
    assert found.hit_ratio == (cached / prompt if prompt else None)
    seen = sorted(each.ttft_s for each in after if each.ttft_s == each.ttft_s)
    for q, shown in ((0.5, found.ttft_p50), (0.9, found.ttft_p90), (0.99, found.ttft_p99)):
        assert_close(seen, q, shown)


def assert_close(seen: list[float], q: float, shown: float | None) -> None:
    """Within the bucket that holds the value of that rank."""
    if not seen:
        assert shown is None
        return
    rank = seen[max(0, math.ceil(q * len(seen) - 1e-9) - 1)]
    bucket = bisect_left(TTFT_BOUNDS, rank)
    assert shown is not None
    if bucket == len(TTFT_BOUNDS):
        assert shown == TTFT_BOUNDS[-1]
    else:
        lower = TTFT_BOUNDS[bucket - 1] if bucket else 0.0
        assert lower - 1e-9 <= shown <= TTFT_BOUNDS[bucket] + 1e-9


@given(RECORDS)
def test_all_label_sets_together_are_the_sum_of_each(records: list[Record]) -> None:
    flows = list(totals_of(records).flows.values())
    whole, parts = counted(flows), [counted([flow]) for flow in flows]
    for name in ("requests", "errors", "refused", "tokens_in", "tokens_out", "tokens_cached"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts)
    for name in ("ttft", "tpot"):
        columns = [getattr(part, name) for part in parts]
        assert list(getattr(whole, name)) == [sum(column) for column in zip(*columns, strict=True)] or not columns


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_percentiles_grow_with_their_share(counts: list[int], one: float, other: float) -> None:
    low, high = (percentile((1.0, 2.0), counts, q) for q in sorted((one, other)))
    assert (low is None) == (high is None) == (not any(counts))
    assert low is None or high is None or 0.0 <= low <= high <= 2.0


def test_a_bucket_is_taken_for_evenly_filled() -> None:
    assert percentile((1.0, 3.0), [0, 4, 0], 0.5) == 2.0
    assert percentile((1.0, 3.0), [2, 2, 0], 0.25) == 0.5
    assert percentile((1.0, 3.0), [0, 0, 7], 0.5) == 3.0


def test_counters_that_went_back_stood_still() -> None:
    found = rates(Counted(requests=1, tokens_in=5), Counted(requests=9, errors=4, tokens_in=9, tokens_cached=3), 2.0)
    assert (found.rps, found.errors, found.tokens_in, found.hit_ratio) == (0.0, 0.0, 0.0, None)
