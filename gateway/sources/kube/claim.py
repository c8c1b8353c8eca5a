"""A Lease as client-go's leader election uses it: who leads, until when, and what is to be written. (P)

``now`` is a local clock in seconds that never goes back, nor stands still while the process does; times that others
wrote into a Lease are never compared with it.
Invariant: whoever leads stops ``DEADLINE_S`` after it asked for its last renewal, and nobody takes a Lease sooner than
``DURATION_S`` after having seen its last change; so two lead at once only if their clocks run apart by half.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from gateway.sources.kube.api import Tree

DURATION_S: Final = 15
DEADLINE_S: Final = 10.0


class Claim:
    """What one replica knows of the Lease. ``until``: it leads as long as ``now`` is before that."""

    def __init__(self, namespace: str, name: str, identity: str) -> None:
        self.identity = identity
        self.until = -math.inf
        self._lease: Tree | None = None
        self._new: Tree = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": namespace},
        }
        self._spec: Tree = {}
        self._since = -math.inf

    @property
    def exists(self) -> bool:
        return self._lease is not None

    @property
    def holder(self) -> str:
        """As last seen, "" for nobody."""
        holder = self._spec.get("holderIdentity")
        return holder if isinstance(holder, str) else ""

    def leads(self, now: float) -> bool:
        return now < self.until

    def see(self, lease: Tree | None, now: float) -> None:
        """What the server answered, None for no Lease: a deleted one still holds for whoever does not know of that."""
        self._lease = lease
        if lease is None:
            self.until = -math.inf
            return
        spec = _spec(lease)
        if spec != self._spec:
            self._spec, self._since = spec, now
        if self.holder != self.identity:
            self.until = -math.inf

    def free(self, now: float) -> bool:
        """Whether it may be taken, or renewed."""
        return self.holder in ("", self.identity) or now >= self._since + _duration(self._spec)

    def taken(self, lease: Tree, asked: float, now: float) -> None:
        """The server took what `wish` said, as ``lease``; it was ``asked`` to at that time."""
        self.see(lease, now)
        if self.holder == self.identity:
            self.until = asked + DEADLINE_S

    def wish(self, wall: float) -> Tree:
        """The Lease with us as its holder; ``wall`` is the time of day."""
        time = micro_time(wall)
        ours = self.holder == self.identity
        transitions = _count(self._spec.get("leaseTransitions"))
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": (self._spec.get("acquireTime") if ours else None) or time,
            "renewTime": time,
            "leaseTransitions": transitions if ours or self._lease is None else transitions + 1,
        }
        return self._with(spec)

    def stop(self) -> None:
        """Lead no more."""
        self.until = -math.inf

    def release(self, wall: float) -> Tree:
        """The Lease with nobody as its holder."""
        time = micro_time(wall)
        return self._with({"holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": time, "renewTime": time})

    def _with(self, spec: Tree) -> Tree:
        """Whatever else stands in it stays; its resourceVersion makes sure that nobody was there in between."""
        lease = self._new if self._lease is None else self._lease
        return {**lease, "spec": {**_spec(lease), **spec}}


def micro_time(wall: float) -> str:
    """A MicroTime: client-go reads no other number of digits."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _spec(lease: Tree) -> Tree:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _duration(spec: Tree) -> float:
    return _count(spec.get("leaseDurationSeconds")) or DURATION_S
