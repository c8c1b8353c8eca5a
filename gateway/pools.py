"""The live fleet: pools and their members by name, kept in step with the configuration and with what scrapes tell. (T)

When a new snapshot arrives, members that stay keep their state and attempts in flight finish on members that left. Work
is in proportion to what changed: of thousands of endpoints seldom more than one does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import trio

from gateway.config.settings import HealthSettings
from gateway.config.sharing import Fairness
from gateway.config.snapshot import PoolSpec
from gateway.estimate import Estimator
from gateway.gate import Gate
from gateway.health import Health
from gateway.member import Member, MemberStatistics
from gateway.permit import Spent
from gateway.pool import Pool, Told
from gateway.ports import Adapter
from gateway.schedule.parts import Random
from gateway.schedule.profile import Profile
from gateway.schedule.saturation import Concurrency, Detector, Saturation
from gateway.schedule.speed import Speed
from gateway.types import Endpoint, Load

MakeProfile = Callable[[PoolSpec, Profile | None], Profile]
"""What places a pool's requests; the one given, if it was made of the same configuration."""

_DEFAULT: Final = Saturation()
_SLICE: Final = 150
"""Pools and members looked at between two checkpoints."""
_MANY: Final = 256
"""Endpoints. To look at 5,000 four times a second takes 5 % of a core."""
_TURNS: Final = 3
"""More, and `gateway.health` would take the gateway for one that was away."""


class Pools:
    """All pools by name. `apply` makes them what is configured, judged by ``health``; ``fairness`` says whether they
    have gates, which ``saturation`` shuts, too, and whose clock is ``timer``. When any of these, ``adapters`` or
    ``profile`` was set, `judge` puts it in force (`apply` does).
    """

    def __init__(
        self,
        adapters: Mapping[str, Adapter],
        profile: MakeProfile,
        rng: Random | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        self.adapters = adapters
        self.estimator = estimator or Estimator()
        self.profile = profile
        self.rng = rng or random.Random()
        self.health = HealthSettings()
        self.fairness = Fairness()
        self.saturation: Saturation | Concurrency | None = None
        self.timer: Callable[[Gate, float], None] | None = None
        self.told: Told | None = None
        self.spent: Spent | None = None
        self._pools: dict[str, Pool] = {}
        self._specs: dict[str, PoolSpec] = {}
        self._judged_by = self._rules()
        self._detectors: dict[str, tuple[Saturation | Concurrency, Detector | Concurrency]] = {}
        self._placed: dict[Endpoint, list[tuple[Pool, Member]]] = {}
        self._patrols = 0

    def __getitem__(self, name: str) -> Pool:
        return self._pools[name]

    def get(self, name: str) -> Pool | None:
        return self._pools.get(name)

    def spec(self, name: str) -> PoolSpec:
        """What the pool was made of."""
        return self._specs[name]

    def usable(self, name: str, now: float) -> bool:
        """Whether the pool has an endpoint that may be given requests now."""
        pool = self._pools.get(name)
        return pool is not None and any(member.usable(now) for member in pool.members)

    def saturated(self, pool: Pool, now: float) -> bool:
        """Whether one more request would only wait there, by the scheduler's own detector; where nobody is usable there
        is nothing to wait for.
        """
        usable = [member for member in pool.members if member.usable(now)]
        rules, known = self.saturation or _DEFAULT, self._detectors.get(pool.name)
        if known is None or known[0] != rules:
            known = self._detectors[pool.name] = rules, rules.detector()
        return bool(usable) and known[1](usable) >= 1.0

    def members(self) -> list[Member]:
        return [member for pool in self._pools.values() for member in pool.members]

    def at(self, endpoint: Endpoint) -> Iterator[Member]:
        """The endpoint's members, in all pools."""
        return (member for _, member in self._placed.get(endpoint, ()))

    def apply(self, specs: Iterable[PoolSpec]) -> list[Member]:
        """Make the fleet what ``specs`` say; the members that left. An endpoint not recognised yet joins when it is."""
        self.judge()
        wanted = {spec.name: spec for spec in specs}
        gone = [member for name in self._specs.keys() - wanted.keys() for member in self.remove(name)]
        for spec in wanted.values():
            gone += self.put(spec)
        self.sort(wanted)
        return gone

    def judge(self) -> None:
        """Go by what was set since. Nothing to do if that is the same objects as before."""
        rules = self._rules()
        if all(new is old for new, old in zip(rules, self._judged_by, strict=True)):
            return
        self._judged_by = rules
        for name, pool in self._pools.items():
            pool.profile = self.profile(self._specs[name], pool.profile)
            self._keep_gate(pool)
            for member in pool.members:
                member.adapter = self.adapters.get(member.endpoint.engine, member.adapter)
                member.health.settings = self.health
                member.room.thresholds = self.fairness.saturation

    def _rules(self) -> tuple[object, ...]:
        return self.adapters, self.profile, self.health, self.fairness, self.saturation

    def put(self, spec: PoolSpec) -> list[Member]:
        """Make one pool what ``spec`` says; the members that left. Nothing to do if it is the same object as before."""
        name = spec.name
        if self._specs.get(name) is spec:
            return []
        former = self._pools.get(name)
        old = {} if former is None else {member.endpoint: member for member in former.members}
        known = dict.fromkeys(endpoint for endpoint in spec.endpoints if endpoint.engine in self.adapters)
        members = [old.get(endpoint) or self._member(spec, endpoint) for endpoint in known]
        self._specs[name] = spec
        pool = self._pools[name] = self._pool(spec, members)
        self._keep_gate(pool)
        for member in members:
            if member.endpoint not in old:
                self._placed.setdefault(member.endpoint, []).append((pool, member))
        gone = [member for endpoint, member in old.items() if endpoint not in known]
        there = {member.id for member in members} if gone else set()
        for member in gone:
            self._displace(member)
            if member.id not in there:  # one that only got other headers or labels still holds what it held
                member.gone = True
                pool.profile.forget(member.id)
        return gone

    def remove(self, name: str) -> list[Member]:
        """There is no such pool any more; the members that left. Who waits there goes on."""
        pool = self._pools.pop(name)
        del self._specs[name]
        self._detectors.pop(name, None)
        self._keep_gate(pool)
        for member in pool.members:
            self._displace(member)
            member.gone = True
        return list(pool.members)

    def sort(self, names: Iterable[str]) -> None:
        """Show pools in this order, which names each of them."""
        self._pools = {name: self._pools[name] for name in names}

    def _displace(self, member: Member) -> None:
        places = [place for place in self._placed[member.endpoint] if place[1] is not member]
        if places:
            self._placed[member.endpoint] = places
        else:
            del self._placed[member.endpoint]

    def listened(self, told: Told | None, spent: Spent | None = None) -> None:
        """``told`` is told of placements from now on, ``spent`` of what gates charge."""
        self.told, self.spent = told, spent
        for pool in self._pools.values():
            pool.told = told
            if pool.gate is not None:
                pool.gate.spent = spent

    def elsewhere(self, pool: str, tenant: str, caller: str, amount: float) -> None:
        """Another gateway has charged so much for its part of that pool."""
        found = self._pools.get(pool)
        if found is not None and found.gate is not None:
            found.gate.elsewhere((tenant, caller), amount, trio.current_time())

    def alarmed(self, timer: Callable[[Gate, float], None]) -> None:
        """Gates tell ``timer`` from now on when only the clock keeps them shut."""
        self.timer = timer
        for pool in self._pools.values():
            if pool.gate is not None:
                pool.gate.timer = timer

    def _keep_gate(self, pool: Pool) -> None:
        """Who waits where there is no gate any more, or no pool, goes on."""
        if self.fairness.enabled and pool.name in self._pools:
            if pool.gate is None:
                pool.gate = Gate(pool, self.fairness, self.saturation)
                pool.gate.timer, pool.gate.spent = self.timer, self.spent
            else:
                pool.gate.apply(self.fairness, self.saturation)
        elif pool.gate is not None:
            gate, pool.gate = pool.gate, None
            gate.dissolve(trio.current_time())

    def _pool(self, spec: PoolSpec, members: Sequence[Member]) -> Pool:
        """The same object for as long as there is a pool of the name: it holds what was learned."""
        pool = self._pools.get(spec.name)
        profile = self.profile(spec, None if pool is None else pool.profile)
        if pool is None:
            pool = Pool(spec.name, members, spec.policy, profile, self.rng, self.estimator)
            pool.told, pool.bare = self.told, spec.bare
            return pool
        for member in members:
            if member.speed.pace is not pool.pace:
                member.speed = Speed(pool.pace)
            member.health.changes = pool.changes
        pool.members, pool.policy, pool.profile = members, spec.policy, profile
        pool.bare = spec.bare
        return pool

    def _member(self, spec: PoolSpec, endpoint: Endpoint) -> Member:
        former = self._pools.get(spec.name)
        joins = former is not None and any(member.requests for member in former.members)
        adapter = self.adapters[endpoint.engine]
        member = Member(spec.name, endpoint, adapter, Health(self.health, joins=joins))
        member.room.thresholds = self.fairness.saturation
        elsewhere = [member.room.awaited for _, member in self._placed.get(endpoint, ())]
        member.room.awaited = elsewhere[0] if elsewhere else bool(adapter.metrics_path()) and not spec.external
        return member

    # -- what scrapes tell ------------------------------------------------------------------------------------------

    def loaded(self, endpoint: Endpoint, load: Load) -> None:
        for pool, member in self._placed.get(endpoint, ()):
            pool.loaded(member, load)

    def unheard(self, endpoint: Endpoint) -> None:
        """A question for its load came to nothing."""
        for pool, _ in self._placed.get(endpoint, ()):
            pool.scrape_errors += 1

    def unloaded(self, endpoint: Endpoint) -> None:
        """Its last load is too old to be believed."""
        for _, member in self._placed.get(endpoint, ()):
            member.unloaded()

    def restarted(self, endpoint: Endpoint) -> None:
        """Its process is another, or cannot be reached: whatever it held is gone."""
        for pool, member in self._placed.get(endpoint, ()):
            member.unloaded()
            member.room.forget()
            pool.profile.forget(member.id)

    def polled(self, endpoint: Endpoint, period: float | None) -> None:
        """It answered a poll, and is asked again in so many seconds; None: it is not polled any more."""
        now = trio.current_time()
        for _, member in self._placed.get(endpoint, ()):
            if period is not None:
                member.health.polled(now, period)
                member.room.awaited = True
            else:
                member.health.unpolled()
                member.room.awaited = member.up is False  # not asked now, but will be

    def busy(self, most: int) -> list[Endpoint]:
        """Endpoints that have requests, and others of their pools, whom the next ones may go to, up to so many."""
        found: list[Endpoint] = []
        others: list[Endpoint] = []
        for pool in self._pools.values():
            if pool.inflight:
                found += [member.endpoint for member in pool.members if member.inflight]
                if len(others) < most:
                    others += [member.endpoint for member in pool.members if not member.inflight]
        return found + others[: max(0, most - len(found))]

    def watch(self, now: float) -> None:
        for pool in self._pools.values():
            pool.watch(now)

    async def patrol(self, now: float) -> None:
        """The same, giving way to requests every millisecond or so. Of many endpoints those of idle pools, which may
        only fall silent, are looked at every third time.
        """
        looked_at = 0
        self._patrols += 1
        everyone = len(self._placed) <= _MANY
        for pool in list(self._pools.values()):
            if not everyone and (hash(pool.name) + self._patrols) % _TURNS and pool.idle:
                continue
            pool.watch(now)
            looked_at += 1 + len(pool.members)
            if looked_at > _SLICE:
                looked_at = 0
                await trio.lowlevel.checkpoint()

    def ready(self) -> bool:
        """Whether some endpoint can be used and is known to answer, or need not be asked (a public provider)."""
        now = trio.current_time()
        return any(member.up and member.usable(now) for pool in self._pools.values() for member in pool.members)

    def drain(self, endpoint_id: str, draining: bool = True) -> bool:
        """Place nothing new on an endpoint, or something again; what runs there finishes. False if nobody knows it."""
        found = [member for member in self.members() if member.id == endpoint_id]
        for member in found:
            member.health.drain(draining)
        return bool(found)

    def by_name(self) -> Mapping[str, Pool]:
        return self._pools

    def statistics(self) -> Iterator[MemberStatistics]:
        """Of every member; whoever reads may give way in between."""
        now = trio.current_time()
        return (member.statistics(now) for pool in list(self._pools.values()) for member in pool.members)
