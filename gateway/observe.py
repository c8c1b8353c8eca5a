"""What becomes of requests, told to everybody who wants to know: counters, logs, traces. (P)"""

from __future__ import annotations

from collections.abc import Callable

from gateway.meter import Record, Totals


class Observers:
    """The `ports.Observer` of a running gateway: ``totals`` counts, each of ``told`` gets finished requests, too."""

    def __init__(self, totals: Totals, *told: Callable[[Record], None]) -> None:
        self.attempted = totals.attempted
        self.failed_over = totals.failed_over
        self.limited = totals.limited
        self.turned_away = totals.turned_away
        self.rewrote = totals.rewrote
        self.decided = totals.decided
        self.gaps = totals.gaps
        self._totals = totals
        self._told = told

    def finished(self, record: Record) -> None:
        self._totals.finished(record)
        for told in self._told:
            told(record)
