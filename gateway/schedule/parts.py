"""What a plugin may be given when a profile is built for a pool. (P)

A plugin is a frozen `Section` whose fields are its parameters; what it offers shows by its methods:
``filter(parts) -> Filter``, ``scorer(parts) -> Scorer``, ``picker(parts) -> Picker``.
Invariant: what these return belongs to one pool, so that it may learn that pool's endpoints.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.config.resources import SessionSticky


class Random(Protocol):
    """Chance, seeded in tests; `random.Random` is one."""

    def random(self) -> float: ...


class Settled:
    """No chance at all: for a profile that is built to see whether it can be."""

    def random(self) -> float:
        return 0.5


class Parts(msgspec.Struct, frozen=True):
    """``sticky``: the pool's own wish to keep sessions together, None where it has none."""

    rng: Random
    sticky: SessionSticky | None = None
