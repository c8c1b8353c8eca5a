"""From counters that only grow to rates and percentiles of the last seconds. (P)

Invariant: rates are of what was counted between two moments; a counter that went back (a label set that is gone, an
engine that restarted) counts as one that stood still.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.outcome import is_error, is_refusal
from gateway.tally import TPOT_BOUNDS, TTFT_BOUNDS, Flow

_NO_TTFT: Final = (0,) * (len(TTFT_BOUNDS) + 1)
_NO_TPOT: Final = (0,) * (len(TPOT_BOUNDS) + 1)


class Counted(msgspec.Struct, frozen=True, gc=False):
    """What some label sets had counted at one moment, together. ``errors``: requests that failed by a server's fault,
    before or after the answer began; ``refused``: by limits, by admission or for want of credentials. ``ttft`` and
    ``tpot``: how many in each bucket.
    """

    requests: int = 0
    errors: int = 0
    refused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    ttft: Sequence[int] = _NO_TTFT
    tpot: Sequence[int] = _NO_TPOT


class Rates(msgspec.Struct, frozen=True, gc=False):
    """Of the time between two moments: per second, and percentiles in seconds, None where nothing was seen.
    ``hit_ratio``: the share of prompt tokens that engines had in their caches.
    """

    rps: float
    errors: float
    refused: float
    tokens_in: float
    tokens_out: float
    ttft_p50: float | None
    ttft_p90: float | None
    ttft_p99: float | None
    tpot_p50: float | None
    hit_ratio: float | None


def counted(flows: Iterable[Flow]) -> Counted:
    """What these have counted, together."""
    outcomes: dict[tuple[int, str], int] = {}
    tokens_in = tokens_out = 0.0
    tokens_cached = 0
    ttft: list[Sequence[int]] = [_NO_TTFT]
    tpot: list[Sequence[int]] = [_NO_TPOT]
    for flow in flows:
        for outcome, count in flow.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        ttft.append(flow.ttft.counts)
        tpot.append(flow.tpot.counts)
        tokens_in += flow.prompts.sum
        tokens_out += flow.answers.sum
        tokens_cached += flow.tokens_cached
    return Counted(
        requests=sum(outcomes.values()),
        errors=sum(count for outcome, count in outcomes.items() if is_error(*outcome)),
        refused=sum(count for outcome, count in outcomes.items() if is_refusal(*outcome)),
        tokens_in=int(tokens_in),
        tokens_out=int(tokens_out),
        tokens_cached=tokens_cached,
        ttft=_sums(ttft),
        tpot=_sums(tpot),
    )


def rates(new: Counted, old: Counted, seconds: float) -> Rates:
    """What happened from ``old`` to ``new``, so many ``seconds`` (above 0) later."""
    ttft, tpot = grown(new.ttft, old.ttft), grown(new.tpot, old.tpot)
    tokens_in = max(0, new.tokens_in - old.tokens_in)
    return Rates(
        rps=rate(new.requests, old.requests, seconds),
        errors=rate(new.errors, old.errors, seconds),
        refused=rate(new.refused, old.refused, seconds),
        tokens_in=tokens_in / seconds,
        tokens_out=rate(new.tokens_out, old.tokens_out, seconds),
        ttft_p50=percentile(TTFT_BOUNDS, ttft, 0.5),
        ttft_p90=percentile(TTFT_BOUNDS, ttft, 0.9),
        ttft_p99=percentile(TTFT_BOUNDS, ttft, 0.99),
        tpot_p50=percentile(TPOT_BOUNDS, tpot, 0.5),
        hit_ratio=share(new.tokens_cached - old.tokens_cached, tokens_in),
    )


def rate(new: float, old: float, seconds: float) -> float:
    return max(0.0, new - old) / seconds


def share(part: float, whole: float) -> float | None:
    """Between 0 and 1; None of nothing."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else None


def grown(new: Sequence[int], old: Sequence[int]) -> list[int]:
    """By how much each bucket."""
    return [max(0, now - before) for now, before in zip(new, old, strict=True)]


def percentile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """The value below which the share ``q`` of what was observed lies, as if all in a bucket were spread evenly over
    it; what is above every bound counts as the last one. None if nothing was observed.
    """
    rank, below = q * sum(counts), 0
    if not rank:
        return None
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            if index == len(bounds):
                break
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * (rank - below) / count
        below += count
    return bounds[-1]


def _sums(columns: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*columns, strict=True)))
