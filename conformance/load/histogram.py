"""A histogram of durations in log-linear buckets, after HdrHistogram. (P)

Invariant: a quantile is within 1/128 of the exact nearest-rank value (or within one microsecond, below 256 µs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

_SUB_BITS = 7
_SUB = 1 << _SUB_BITS
_MAX_TICKS = (1 << 37) - 1  # 38 hours, in microseconds
_TICKS_PER_S = 1_000_000


def _bucket_of(ticks: int) -> int:
    """Index of the bucket of ``ticks``: one per tick below 256, then 128 to each doubling."""
    exponent = ticks.bit_length() - (_SUB_BITS + 1)
    if exponent <= 0:
        return ticks
    return (exponent << _SUB_BITS) + (ticks >> exponent)


def _midpoint(bucket: int) -> float:
    """The middle of a bucket, in seconds."""
    if bucket < 2 * _SUB:
        return bucket / _TICKS_PER_S
    exponent = (bucket >> _SUB_BITS) - 1
    low = (bucket - (exponent << _SUB_BITS)) << exponent
    return (low + ((1 << exponent) - 1) / 2) / _TICKS_PER_S


_BUCKETS = _bucket_of(_MAX_TICKS) + 1


class Histogram:
    """Counts durations in seconds; 30 KiB whatever the number of samples; minimum, maximum and mean are exact."""

    __slots__ = ("_counts", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = 0.0

    def record(self, seconds: float, count: int = 1) -> None:
        """Add ``count`` samples of ``seconds``; a negative duration counts as zero, one past 38 hours as 38 hours."""
        ticks = int(seconds * _TICKS_PER_S + 0.5)
        if ticks < 0:
            ticks, seconds = 0, 0.0
        elif ticks > _MAX_TICKS:
            ticks = _MAX_TICKS
        # Inlined from _bucket_of: this runs once for every token received.
        exponent = ticks.bit_length() - 8
        self._counts[ticks if exponent <= 0 else (exponent << 7) + (ticks >> exponent)] += count
        self.count += count
        self.total += seconds * count
        if seconds < self.minimum:
            self.minimum = seconds
        if seconds > self.maximum:
            self.maximum = seconds

    def merge(self, other: Histogram) -> None:
        """Add all samples of ``other``."""
        for bucket, count in enumerate(other._counts):
            if count:
                self._counts[bucket] += count
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    @property
    def mean(self) -> float:
        """Arithmetic mean in seconds; 0 when empty."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """Nearest-rank quantile in seconds, ``q`` in [0, 1]; 0 when empty."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(q * self.count))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(max(_midpoint(bucket), self.minimum), self.maximum)
        return self.maximum

    def buckets(self) -> Iterator[tuple[float, int]]:
        """(middle in seconds, count) of each bucket that holds something, ascending."""
        for bucket, count in enumerate(self._counts):
            if count:
                yield _midpoint(bucket), count

    def summary(self) -> dict[str, float]:
        """Count, mean, extremes and the usual percentiles; seconds. Empty histograms give only ``count``."""
        if not self.count:
            return {"count": 0}
        quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
        return {
            "count": self.count,
            "mean": self.mean,
            "min": self.minimum,
            **{name: self.quantile(q) for name, q in quantiles.items()},
            "max": self.maximum,
        }
