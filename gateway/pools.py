"""The live fleet: pools, their members, what each is doing and whether it can be used. (T)

A member's in-flight count goes up when an attempt starts and down when the attempt truly ends. A member that fails is
set aside for a growing while and then tried by one request; one that says Retry-After is left alone until then. When
a new snapshot arrives, members that stay keep their state and attempts in flight finish on members that left.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import trio

from gateway.config.snapshot import Policy, PoolSpec
from gateway.ports import Adapter
from gateway.types import Endpoint, ModelCard

_FAILURES_TO_OPEN: Final = 3
_OPEN_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_MAX_COOL_S: Final = 60.0
_FULL_S: Final = 0.5


class MemberStatistics(msgspec.Struct, frozen=True):
    """What operators see of one endpoint of a pool. ``state``: ready, unknown, down, open (set aside), draining."""

    pool: str
    endpoint: str
    engine: str
    state: str
    inflight: int
    requests: int
    failures: int
    models: tuple[str, ...]


class Member:
    """One endpoint in one pool. ``up`` is None until it has answered a probe (it may be used all the same)."""

    __slots__ = (
        "adapter", "cards", "consecutive", "cool_until", "draining", "endpoint", "failures", "full_until",
        "id", "inflight", "open_until", "openings", "pool", "probes", "requests", "up",
    )  # fmt: skip

    def __init__(self, pool: str, endpoint: Endpoint, adapter: Adapter) -> None:
        self.pool = pool
        self.endpoint = endpoint
        self.id = endpoint.id
        self.adapter = adapter
        self.cards: tuple[ModelCard, ...] = ()
        self.up: bool | None = None
        self.draining = False
        self.inflight = 0
        self.probes = 0
        self.requests = 0
        self.failures = 0
        self.consecutive = 0
        self.openings = 0
        self.open_until = -math.inf
        self.cool_until = -math.inf
        self.full_until = -math.inf

    def usable(self, now: float) -> bool:
        """Whether a new request may be placed here; an open circuit lets one through when its time is up."""
        if self.up is False or self.draining or now < self.open_until or now < self.cool_until:
            return False
        return not (self.consecutive >= _FAILURES_TO_OPEN and self.probes)

    def place(self) -> bool:
        """A request goes here. True if it is the one that finds out whether the endpoint is well again."""
        self.inflight += 1
        self.requests += 1
        probe = self.consecutive >= _FAILURES_TO_OPEN
        self.probes += probe
        return probe

    def leave(self, probe: bool) -> None:
        """What `place` returned comes back when the request has left."""
        self.inflight -= 1
        self.probes -= probe

    def succeeded(self) -> None:
        self.consecutive = self.openings = 0

    def failed(self, now: float) -> float:
        """One more failure that was the endpoint's own; enough of them in a row set it aside, for so many seconds."""
        self.failures += 1
        self.consecutive += 1
        if self.consecutive < _FAILURES_TO_OPEN or now < self.open_until:
            return 0.0  # what was under way when it was set aside fails too, and says nothing new
        rest = _OPEN_S[min(self.openings, len(_OPEN_S) - 1)]
        self.open_until = now + rest
        self.openings += 1
        return rest

    def cool(self, now: float, retry_after: float) -> None:
        """The endpoint asked not to be called for ``retry_after`` seconds."""
        self.cool_until = now + min(retry_after, _MAX_COOL_S)

    def refused(self, now: float) -> None:
        """The endpoint is full: others come first for a moment."""
        self.full_until = now + _FULL_S

    def statistics(self, now: float) -> MemberStatistics:
        state = {None: "unknown", True: "ready", False: "down"}[self.up]
        if now < self.open_until or now < self.cool_until:
            state = "open"
        if self.draining:
            state = "draining"
        names = tuple(card.id for card in self.cards)
        return MemberStatistics(
            self.pool, self.id, self.endpoint.engine, state, self.inflight, self.requests, self.failures, names
        )


class Pool:
    """Endpoints that serve one model set, and the policy of requests to them."""

    __slots__ = ("members", "name", "policy")

    def __init__(self, name: str, members: Sequence[Member], policy: Policy) -> None:
        self.name = name
        self.members = members
        self.policy = policy

    def rank(self, now: float, rng: random.Random) -> Iterator[Member]:
        """Best first: of two usable members drawn at random, the one with less in flight; then the rest by in-flight.

        Lazy: the tail is only worked out when the first choice fails. When nothing is usable, members that are merely
        set aside are offered, one chance each, rather than failing a request that might succeed.
        """
        usable = [member for member in self.members if member.usable(now)]
        if not usable:
            yield from self._last_resort(now)
            return
        first = _better_of_two(_with_room(usable, now), rng)
        yield first
        rest = [member for member in self.members if member is not first and member.usable(now)]
        yield from sorted(rest, key=lambda member: (member.full_until > now, member.inflight))

    def _last_resort(self, now: float) -> list[Member]:
        return sorted(
            (
                member
                for member in self.members
                if member.up is not False and not member.draining and now >= member.open_until
            ),
            key=lambda member: member.cool_until,
        )[:1]

    def retry_after(self, now: float) -> float:
        """When a member may be usable again, in seconds; 1 where nobody knows."""
        waits = [max(member.open_until, member.cool_until) - now for member in self.members if member.up is not False]
        return max(1.0, min(waits, default=1.0))


def _with_room(members: Sequence[Member], now: float) -> Sequence[Member]:
    """Those that have not just said that they are full; all, if all have."""
    return [member for member in members if member.full_until <= now] or members


def _better_of_two(members: Sequence[Member], rng: random.Random) -> Member:
    """Power of two choices: nearly as even as knowing every queue, and no herd on one stale minimum."""
    count = len(members)
    if count == 1:
        return members[0]
    i = int(rng.random() * count)
    j = int(rng.random() * (count - 1))
    if j >= i:
        j += 1
    a, b = members[i], members[j]
    return b if b.inflight < a.inflight else a


class Pools:
    """All pools by name. `apply` swaps in a new set."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self.adapters = adapters
        self._pools: dict[str, Pool] = {}

    def __getitem__(self, name: str) -> Pool:
        return self._pools[name]

    def get(self, name: str) -> Pool | None:
        return self._pools.get(name)

    def members(self) -> list[Member]:
        return [member for pool in self._pools.values() for member in pool.members]

    def apply(self, specs: Iterable[PoolSpec]) -> list[Member]:
        """Make the fleet what ``specs`` say; the members that left. An endpoint not recognised yet joins when it is."""
        old = {(member.pool, member.endpoint): member for member in self.members()}
        for member in old.values():
            member.adapter = self.adapters[member.endpoint.engine]
        pools = {}
        for spec in specs:
            known = [endpoint for endpoint in spec.endpoints if endpoint.engine in self.adapters]
            members = [old.get((spec.name, endpoint)) or self._member(spec.name, endpoint) for endpoint in known]
            pools[spec.name] = Pool(spec.name, members, spec.policy)
        self._pools = pools
        kept = {(member.pool, member.endpoint) for member in self.members()}
        return [member for key, member in old.items() if key not in kept]

    def _member(self, pool: str, endpoint: Endpoint) -> Member:
        return Member(pool, endpoint, self.adapters[endpoint.engine])

    def ready(self) -> bool:
        """Whether some endpoint can be used and is known to answer, or need not be asked (a public provider)."""
        now = trio.current_time()
        return any(member.up and member.usable(now) for member in self.members())

    def drain(self, endpoint_id: str) -> bool:
        """Place nothing new on an endpoint; what runs there finishes. False if nobody knows it."""
        found = [member for member in self.members() if member.id == endpoint_id]
        for member in found:
            member.draining = True
        return bool(found)

    def statistics(self) -> list[MemberStatistics]:
        now = trio.current_time()
        return [member.statistics(now) for member in self.members()]
