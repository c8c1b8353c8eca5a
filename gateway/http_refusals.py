"""Requests over HTTP that came to nothing before anybody could say which model they ask for: they broke HTTP, asked for
no path there is, took too long or were too large. (P)

Invariant: each is counted once, under a reason of ours: nothing that a client chooses becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.meter import Record
from gateway.wire.h1 import ProtocolError

MALFORMED: Final = "malformed"
UNSUPPORTED: Final = "unsupported"
TLS: Final = "tls"
"""No request came, since client and gateway did not agree on how to encrypt it."""
_BY_STATUS: Final = {
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    417: UNSUPPORTED,
    431: "header_too_large",
    501: UNSUPPORTED,
    503: "overloaded",
    505: UNSUPPORTED,
}
"""Reasons of what `protocols.http` refuses; 400 and whatever else is malformed."""
REASONS: Final = frozenset((MALFORMED, TLS, "not_found", *_BY_STATUS.values()))
"""Those that are counted from the start; there are as many more as errors for a request that asks for no inference."""


class HttpRefusals:
    """Counts them in ``counts``, by reason; ``told`` gets a record of each that was answered. Neither waits."""

    def __init__(self, counts: dict[str, int], told: Callable[[Record], None]) -> None:
        self._counts = counts
        self._told = told
        for reason in REASONS:
            counts.setdefault(reason, 0)

    def broke(self, error: ProtocolError, request_id: str, started: float, now: float) -> None:
        """A request that began at ``started`` broke HTTP, or a limit of it."""
        reason = _BY_STATUS.get(error.status, MALFORMED)
        self.note(
            Record(status=error.status, reason=reason, id=request_id, started=started, ended=now, why=error.message)
        )

    def failed_handshake(self) -> None:
        """A client could not be spoken to by TLS."""
        self._counts[TLS] += 1

    def note(self, record: Record) -> None:
        """A request of which there is this to be said."""
        self._counts[record.reason] = self._counts.get(record.reason, 0) + 1
        self._told(record)
