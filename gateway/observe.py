"""What becomes of requests, told to everybody who wants to know: counters, logs, traces. (P)"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import GatewayError
from gateway.meter import Record, Totals
from gateway.types import Identity, Operation


def refusal(
    operation: Operation, error: GatewayError, request_id: str, who: Identity, protocol: str, now: float
) -> Record:
    """Of a request that was answered before it could be served."""
    return Record(
        operation=operation,
        status=error.status,
        reason=error.reason,
        started=now,
        ended=now,
        id=request_id,
        user=who.user,
        tenant=who.tenant,
        tier=who.tier,
        protocol=protocol,
        why=error.why,
    )


class Observers:
    """The `ports.Observer` of a running gateway: ``totals`` counts, each of ``told`` gets finished requests, too."""

    def __init__(self, totals: Totals, *told: Callable[[Record], None]) -> None:
        self.attempted = totals.attempted
        self.failed_over = totals.failed_over
        self.hedged = totals.hedged
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
