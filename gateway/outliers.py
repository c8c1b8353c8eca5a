"""What recent requests say of one endpoint, and whether that is much worse than of the others of its pool. (P)

Invariant: an endpoint is only ever worse than others, never bad by itself: where all suffer alike, nobody stands out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.config.settings import Ejection

ERRING: Final = "erring"
"""Fails much more often than the others of its pool."""
SLOW: Final = "slow"
"""Gives first tokens much later than expected, compared with the others."""
STUCK: Final = "stuck"
"""Is there, but a first token is long overdue and nothing else moves either."""

_KEPT: Final = 50
_WINDOW: Final = (1 << _KEPT) - 1
_ANSWERS: Final = 5
_RECENT: Final = 0.2
_IDLE_S: Final = 60.0
_GRAIN_S: Final = 0.05  # times to the first token that differ by less are equal


def ratio_of(observed: float, expected: float) -> float:
    """How many times longer than expected something takes, in seconds both."""
    return (max(0.0, observed) + _GRAIN_S) / (max(0.0, expected) + _GRAIN_S)


class Finding(msgspec.Struct, frozen=True):
    """Why an endpoint stands out and by how many times the tolerable; ``bar``: the latency ratio that is tolerable."""

    why: str
    badness: float
    what: str
    bar: float = math.inf


class Figures:
    """The last 50 outcomes and about as many times to the first token; a minute without any forgets them."""

    __slots__ = ("_answers", "_count", "_excess", "_failed", "_last", "_log_ratio", "_overdue", "_waited")

    def __init__(self) -> None:
        self._last = -math.inf
        self._overdue = self._waited = 0.0
        self.forget()

    def forget(self) -> None:
        """What was observed before says nothing about what comes."""
        self._failed = self._count = self._answers = 0
        self._log_ratio = self._excess = 0.0

    @property
    def known(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._count or self._answers or self._overdue)

    def outcome(self, now: float, failed: bool) -> None:
        self._refresh(now)
        self._failed = (self._failed << 1 | failed) & _WINDOW
        if self._count < _KEPT:
            self._count += 1

    def answered(self, now: float, observed: float, expected: float) -> None:
        """A first token came ``observed`` seconds after dispatch, ``expected`` were predicted then."""
        self._refresh(now)
        self._answers += 1
        weight = max(1.0 / self._answers, _RECENT)
        self._log_ratio += weight * (math.log(ratio_of(observed, expected)) - self._log_ratio)
        self._excess += weight * (observed - expected - self._excess)

    def due(self, waited: float, expected: float) -> None:
        """A first token is due. The most overdue one is kept, until `settle`."""
        if (ratio := ratio_of(waited, expected)) > self._overdue:
            self._overdue, self._waited = ratio, waited

    def settle(self) -> None:
        """What is due is told anew before each comparison."""
        self._overdue = 0.0

    def _refresh(self, now: float) -> None:
        if now - self._last > _IDLE_S:
            self.forget()
        self._last = now

    def failure_share(self, least: int) -> float | None:
        """The part of recent requests that failed; None where they are fewer than ``least``."""
        return self._failed.bit_count() / self._count if self._count >= least else None

    @property
    def latency_ratio(self) -> float | None:
        """Observed over expected time to the first token, geometric mean of the recent ones; None for too few."""
        return math.exp(self._log_ratio) if self._answers >= _ANSWERS else None

    # -- comparisons with the rest of a pool, which is only looked at where there is something to compare -------------

    def erring(self, pool: Peers, rules: Ejection) -> Finding | None:
        """Twice the others' failures, and more than chance makes of the others' rate."""
        share = self.failure_share(rules.min_requests)
        if share is None or share < rules.failure_share:
            return None
        usual = pool.failure_share(self, rules.min_requests, 0.0)
        chance = 3.0 * math.sqrt(usual * (1.0 - usual) / self._count)
        if share < max(2.0 * usual, usual + chance):
            return None
        what = f"{share:.0%} of its last {self._count} requests failed, {usual:.0%} elsewhere"
        return Finding(ERRING, share / rules.failure_share, what)

    def slow(self, pool: Peers, rules: Ejection) -> Finding | None:
        ratio = self.latency_ratio
        if ratio is None or ratio < rules.latency_ratio or self._excess < rules.latency_excess:
            return None
        usual = max(1.0, pool.latency_ratio(self, math.inf))
        if ratio < (bar := rules.latency_ratio * usual):
            return None
        what = f"first tokens take {ratio:.1f} times as long as expected, {usual:.1f} times elsewhere"
        return Finding(SLOW, ratio / bar, what, bar)

    def stuck(self, pool: Peers, rules: Ejection, patience: float) -> Finding | None:
        """A first token ``patience`` seconds overdue, beyond what has been usual here and elsewhere."""
        overdue = self._overdue
        if overdue < rules.latency_ratio or self._waited < patience:
            return None
        own = self.latency_ratio
        usual = max(1.0, own or 1.0, pool.latency_ratio(self, own or math.inf))
        if overdue < (bar := rules.latency_ratio * usual):
            return None
        return Finding(STUCK, overdue / bar, f"no first token for {self._waited:.1f} s, and nothing else moves", bar)


class Peers:
    """The figures of a pool while they are compared, none of them changing: what is usual among all but one.

    Each kind is sorted when it is first asked for, so that comparing everybody takes O(n log n). ``otherwise`` is the
    answer where nobody else is known.
    """

    __slots__ = ("_figures", "_ratios", "_shares")

    def __init__(self, figures: Sequence[Figures]) -> None:
        self._figures = frozenset(figures)
        self._ratios: list[float] | None = None
        self._shares: dict[int, list[float]] = {}

    def failure_share(self, one: Figures, least: int, otherwise: float) -> float:
        """The median of the others' shares, of ``least`` requests each."""
        shares = self._shares.get(least)
        if shares is None:
            shares = self._shares[least] = _known(figures.failure_share(least) for figures in self._figures)
        return median_without(shares, one.failure_share(least) if one in self._figures else None, otherwise)

    def latency_ratio(self, one: Figures, otherwise: float) -> float:
        """The median of the others' ratios."""
        if self._ratios is None:
            self._ratios = _known(figures.latency_ratio for figures in self._figures)
        return median_without(self._ratios, one.latency_ratio if one in self._figures else None, otherwise)


def _known(values: Iterable[float | None]) -> list[float]:
    return sorted(value for value in values if value is not None)


def median_without(ordered: Sequence[float], one: float | None, otherwise: float) -> float:
    """The median of all but ``one``, which is among them unless None; ``otherwise`` where nothing is left."""
    place = len(ordered) if one is None else bisect_left(ordered, one)
    count = len(ordered) - (one is not None)
    if not count:
        return otherwise
    low, high = (count - 1) // 2, count // 2
    return (ordered[low + (low >= place)] + ordered[high + (high >= place)]) / 2.0
