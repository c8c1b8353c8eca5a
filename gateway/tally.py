"""What is counted in: histograms, and counts that belong together. (P)

Invariant: what these hold is bounded by how many of them there are, whatever is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec

DURATION_BOUNDS: Final = (
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0
)  # fmt: skip
TTFT_BOUNDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0
)  # fmt: skip
QUEUE_BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
TPOT_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Upper bounds in seconds, inclusive. They span a cached embedding to half an hour, densest around usual objectives."""
DECISION_BOUNDS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1
)  # fmt: skip
"""Seconds; choosing one of a few endpoints takes tens of microseconds."""
TOKEN_BOUNDS: Final = tuple(float(4**power) for power in range(14))
"""Tokens; those of OpenTelemetry's conventions."""


class Exemplar(msgspec.Struct, frozen=True, gc=False):
    """One value that was seen, the trace of its request, and when it was, on Trio's clock."""

    value: float
    trace_id: str
    at: float


class Histogram:
    """Counts per bucket (the last one is above every bound) and the sum of the values. ``exemplars``: the last one of
    each bucket, by its number, that somebody can look up.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def exemplify(self, value: float, trace_id: str, at: float) -> None:
        """``value``, which has been observed, can be looked up."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(value, trace_id, at)

    def add(self, other: Histogram, times: int = 1) -> None:
        """Count in what another one of the same bounds has counted; -1: take it out again."""
        self.counts = [mine + times * theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += times * other.sum


class Flow:
    """Everything counted under one (model, pool, operation, protocol). ``failed``: durations of those that did not end
    well, by reason; ``duration`` has them, too. ``prompts`` and ``answers`` are tokens of requests that had any.
    """

    __slots__ = ("answers", "duration", "failed", "outcomes", "prompts", "tokens_cached", "tpot", "ttft")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[int, str], int] = {}
        self.duration = Histogram(DURATION_BOUNDS)
        self.failed: dict[str, Histogram] = {}
        self.ttft = Histogram(TTFT_BOUNDS)
        self.tpot = Histogram(TPOT_BOUNDS)
        self.prompts = Histogram(TOKEN_BOUNDS)
        self.answers = Histogram(TOKEN_BOUNDS)
        self.tokens_cached = 0

    @property
    def tokens_in(self) -> int:
        return int(self.prompts.sum)

    @property
    def tokens_out(self) -> int:
        return int(self.answers.sum)


class Share:
    """What a tenant's requests of one tier came to, in tokens."""

    __slots__ = ("tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.tokens_in = 0
        self.tokens_out = 0


class Traffic:
    """What became of the requests that a route sent one way: ``failed`` are 5xx and streams that broke, ``refused`` all
    others that were not answered to their end, their clients' doing included.
    """

    __slots__ = ("failed", "ok", "refused")

    def __init__(self) -> None:
        self.ok = self.refused = self.failed = 0

    @property
    def requests(self) -> int:
        return self.ok + self.refused + self.failed


class Placed:
    """Of a pool's placements: the seconds that each took to decide, their prompts' tokens, and those of them that the
    endpoint chosen was believed to hold.
    """

    __slots__ = ("hits", "seconds", "tokens")

    def __init__(self) -> None:
        self.seconds = Histogram(DECISION_BOUNDS)
        self.tokens = self.hits = 0.0
