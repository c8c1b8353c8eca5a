"""What became of a replay's requests, and the few numbers that sum it up. (P)

Invariant: summing up does not depend on the order in which requests ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from conformance.load.histogram import Histogram
from conformance.replay.scenario import Scenario
from conformance.replay.traces import Trace

PATIENCE_S = 2.0
PREFILLS = 1.5
GAP_S = 0.1


class Fate:
    """Of one request: seconds to its first token (nan: never came), mean seconds between tokens (0 for one token);
    ``lost``: the longest that it waited for an engine that it then left without a token."""

    __slots__ = ("attempts", "cached", "engine", "failed", "itl", "lost", "ttft")

    def __init__(self) -> None:
        self.ttft = math.nan
        self.itl = self.lost = 0.0
        self.cached = self.attempts = 0
        self.engine = -1
        self.failed = False


class Outcome:
    """``gaps`` between any two tokens; ``computed`` prompt tokens by engine, as far as known; ``ended``: when the last
    request did."""

    def __init__(self, fates: Sequence[Fate], gaps: Histogram, computed: Sequence[int], ended: float) -> None:
        self.fates, self.gaps, self.computed, self.ended = fates, gaps, computed, ended

    def summary(self, trace: Trace, scenario: Scenario) -> dict[str, Any]:
        """As JSON-able values, times in seconds.

        ``good``: the fraction of requests whose first token came within 2 s and 1.5 times their own prompt's prefill,
        and whose tokens then came at most 0.1 s apart on average. ``spread``: prompt tokens computed by the engine that
        computed most, over the mean. ``hit``: the fraction of prompt tokens that were cached. ``lost_s``: the longest
        that a request waited for an engine in vain.
        """
        answered = [fate for fate in self.fates if fate.ttft == fate.ttft]
        pairs = zip(trace.requests, self.fates, strict=True)
        good = sum(_good(fate, request.prompt / scenario.prefill_rate) for request, fate in pairs)
        prompt = sum(request.prompt for request in trace.requests)
        return {
            "requests": len(self.fates),
            "failed": sum(fate.failed for fate in self.fates),
            "ttft_s": spread_of([fate.ttft for fate in answered]),
            "itl_s": spread_of([fate.itl for fate in answered if not fate.failed]),
            "gap_s": {"mean": self.gaps.mean, "p99": self.gaps.quantile(0.99)},
            "good": good / len(self.fates),
            "hit": sum(fate.cached for fate in answered) / prompt,
            "spread": max(self.computed) * len(self.computed) / max(1, sum(self.computed))
            if self.computed
            else math.nan,
            "lost_s": max(fate.lost for fate in self.fates),
            "ended_s": self.ended,
        }

    def curve(self, points: int = 200) -> list[float]:
        """TTFTs at evenly spaced ranks, rising: what a cumulative plot needs."""
        values = sorted(fate.ttft for fate in self.fates if fate.ttft == fate.ttft)
        return [values[index * (len(values) - 1) // points] for index in range(points + 1)] if values else []


def _good(fate: Fate, prefill: float) -> bool:
    return not fate.failed and fate.ttft <= PATIENCE_S + PREFILLS * prefill and fate.itl <= GAP_S


def spread_of(values: list[float]) -> dict[str, float]:
    """Mean and percentiles; all nan where there are no values."""
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p99", "max"), math.nan)
    values.sort()
    last = len(values) - 1
    ranked = {name: values[int(q * last)] for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))}
    return {"mean": math.fsum(values) / len(values), **ranked}
