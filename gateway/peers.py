"""The live fleet as replicas speak of it: what ours has under way goes out, what others say reaches pools. (P)

Invariant: what is said of a pool or an endpoint that is not here changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from gateway.member import Member
from gateway.pool import Pool
from gateway.replicas import Count, Placed

_MEETING: Final = 1.5
"""Prompts that meet unheard cost more than ours waits: theirs wait for it, too. Found by replays: 1 to 2 is as good."""


class Fleet(Protocol):
    """`gateway.pools.Pools`."""

    def get(self, name: str, /) -> Pool | None: ...
    def by_name(self) -> Mapping[str, Pool]: ...


Charge = Callable[[str, str, str, float], None]


class Peers:
    """What `gateway.replicas.Replicas` tells what it hears (its ``Hearer``). ``charge(pool, tenant, caller, amount)``
    is told what others have served.
    """

    def __init__(self, fleet: Fleet, charge: Charge = lambda pool, tenant, caller, amount: None) -> None:
        self.fleet = fleet
        self.charge = charge
        self._named: dict[str, tuple[Sequence[Member], dict[str, Member]]] = {}

    def counts(self) -> dict[str, dict[str, Count]]:
        """What is under way here, for the others."""
        return {name: _counts(pool.members) for name, pool in self.fleet.by_name().items()}

    def elsewhere(self, pool: str, endpoint: str, count: Count, now: float) -> None:
        found = self._found(pool, endpoint)
        if found is not None:
            _elsewhere(*found, count, now)

    def heard(self, placed: Placed, now: float) -> None:
        found = self._found(placed.pool, placed.endpoint)
        if found is not None:
            _heard(*found, placed, now)

    def unheard(self, pool: str, tokens: float, rank: int, replicas: int) -> None:
        known = self.fleet.get(pool)
        if known is not None and known.members:
            _unheard(known.members, tokens, rank, replicas)

    def _found(self, name: str, endpoint: str) -> tuple[Pool, Member] | None:
        pool = self.fleet.get(name)
        if pool is None:
            self._named.pop(name, None)
            return None
        members, named = self._named.get(name, (None, {}))
        if members is not pool.members:
            named = {member.id: member for member in pool.members}
            self._named[name] = pool.members, named
        member = named.get(endpoint)
        return None if member is None else (pool, member)


def _counts(members: Sequence[Member]) -> dict[str, Count]:
    """Only where there is something. A sum of floats may end a little below zero."""
    return {
        m.id: Count(m.inflight, m.pending, max(0.0, m.backlog), m.unstreamed, max(0.0, m.unseen))
        for m in members
        if m.inflight
    }


def _elsewhere(pool: Pool, member: Member, count: Count, now: float) -> None:
    answered = count.pending < member.peers.pending
    member.elsewhere(count)
    due = now + member.owed_in_all + pool.foreign_owed(member)
    if answered or due < member.until:  # what was expected before first tokens came is known better now
        member.until = due


def _heard(pool: Pool, member: Member, placed: Placed, now: float) -> None:
    member.until = max(member.until, now) + member.speed.step + placed.uncached * member.speed.prefill
    pool.profile.heard(placed, member, now)


def _unheard(members: Sequence[Member], tokens: float, rank: int, replicas: int) -> None:
    """Endpoints are dealt out to the replicas, in turn and by name. Where another one's are, its prompts are expected.

    Who knows the same chooses the same: of requests that reach several replicas at once, the second would go where the
    first has gone. It is a matter of what is expected only; a longer prefix or a shorter queue outweighs it.
    """
    dealt, count = sorted(members, key=lambda member: member.id), len(members)
    each = _MEETING * tokens / max(1.0, count / replicas)
    owners = [0] * count
    for deal in range(max(count, replicas)):
        owners[deal % count] += deal % replicas != rank
    for member, others in zip(dealt, owners, strict=True):
        member.unheard = others * each * member.speed.prefill
