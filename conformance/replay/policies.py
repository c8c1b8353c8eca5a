"""Policies by name: the baselines, the published defaults, the gateway's own. (P)

Invariant: whatever is named here makes a new mind for every gateway of every replay; nothing is learned across runs.
"""

from __future__ import annotations

from functools import partial

from conformance.replay.choosers import BASELINES
from conformance.replay.production import PROFILES, production
from conformance.replay.virtual import Make

ORACLE = "oracle"
NAMES: tuple[str, ...] = (
    "random", "round-robin", "least-inflight", "least-request", "prefix", "kthena", "epp", "ours", ORACLE,
)  # fmt: skip


def policy(name: str) -> Make:
    """Raises ValueError for a name that is not known."""
    if name in BASELINES:
        return BASELINES[name]
    if name in PROFILES:
        return partial(production, PROFILES[name])
    raise ValueError(f"no policy {name!r}; there are {', '.join(NAMES)}")
