"""The live fleet: pools, their members, what each is doing and whether it can be used. (T)

A request counts at its endpoint from dispatch (`Pool.place`) to its true end (`Placement.left`), and what is learned of
the endpoint is learned there. A member that fails is set aside for a growing while and then tried by one request; one
that says Retry-After is left alone until then. When a new snapshot arrives, members that stay keep their state and
attempts in flight finish on members that left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import trio

from gateway.config.snapshot import Policy, PoolSpec
from gateway.ports import Adapter
from gateway.schedule.ask import BYTES_PER_TOKEN, Ask
from gateway.schedule.profile import Profile
from gateway.schedule.speed import Pace, Speed
from gateway.types import Endpoint, InferenceRequest, Load, ModelCard, Usage

_FAILURES_TO_OPEN: Final = 3
_OPEN_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_MAX_COOL_S: Final = 60.0
_FULL_S: Final = 0.5


MakeProfile = Callable[[PoolSpec, Profile | None], Profile]
"""What places a pool's requests; the one given, if it was made of the same configuration."""


class MemberStatistics(msgspec.Struct, frozen=True):
    """What operators see of one endpoint of a pool. ``state``: ready, unknown, down, open (set aside), draining.

    ``waiting``, ``running`` and ``kv_usage`` are the engine's own words, ``load_age_s`` seconds old; None where it has
    said nothing lately. ``prefill_rate`` (prompt tokens a second) is what the gateway has seen it do.
    """

    pool: str
    endpoint: str
    engine: str
    state: str
    inflight: int
    requests: int
    failures: int
    models: tuple[str, ...]
    pending: int = 0
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    load_age_s: float | None = None
    prefill_rate: float | None = None


class Member:
    """One endpoint in one pool (ports.Candidate). ``up`` is None until it has answered a probe; it may be used."""

    __slots__ = (
        "adapter", "answered_at", "backlog", "cards", "computed_s", "consecutive", "cool_until", "draining", "endpoint", "failures",
        "foreign", "foreign_pending", "full_until", "id", "inflight", "load", "open_until", "openings", "pending",
        "pool", "probes", "requests", "speed", "until", "up",
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
        self.load: Load | None = None
        self.speed = Speed()
        self.pending = 0
        self.backlog = 0.0
        self.until = self.answered_at = -math.inf
        self.computed_s = 0.0
        self.foreign = self.foreign_pending = 0.0

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

    @property
    def owed(self) -> float:
        """Seconds of computing that the prompts still unanswered should take."""
        return self.pending * self.speed.step + self.backlog * self.speed.prefill

    @property
    def streams(self) -> float:
        """Requests past their first token, whoever sent them."""
        return self.inflight - self.pending + self.foreign

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
        load = self.load
        return MemberStatistics(
            pool=self.pool,
            endpoint=self.id,
            engine=self.endpoint.engine,
            state=state,
            inflight=self.inflight,
            requests=self.requests,
            failures=self.failures,
            models=tuple(card.id for card in self.cards),
            pending=self.pending,
            waiting=None if load is None else load.waiting,
            running=None if load is None else load.running,
            kv_usage=None if load is None else load.kv_usage,
            load_age_s=None if load is None else now - load.at,
            prefill_rate=1.0 / self.speed.prefill,
        )


class Pool:
    """Endpoints that serve one model set, the policy of requests to them, and the profile that places them.

    ``bytes_per_token`` is learned, and ``pace``: how fast its endpoints are.
    """

    __slots__ = ("bytes_per_token", "members", "name", "pace", "policy", "profile")

    def __init__(self, name: str, members: Sequence[Member], policy: Policy, profile: Profile) -> None:
        self.name = name
        self.members = members
        self.policy = policy
        self.profile = profile
        self.bytes_per_token = BYTES_PER_TOKEN
        self.pace = Pace()
        for member in members:
            member.speed = Speed(self.pace)

    def ask(self, request: InferenceRequest, model: str, now: float) -> Ask:
        return Ask(request, model, now, self.bytes_per_token)

    def rank(self, ask: Ask) -> Iterator[Member]:
        """Best first, as the profile has it; those that just said they are full come last.

        Lazy: the tail is only worked out when the first choice fails. When nothing is usable, members that are merely
        set aside are offered, one chance each, rather than failing a request that might succeed. A filter of the
        profile may leave nobody (``ask.left_out``).
        """
        now = ask.now
        usable = [member for member in self.members if member.usable(now)]
        if not usable:
            yield from self._last_resort(now)
            return
        with_room = [member for member in usable if member.full_until <= now] or usable
        for member in self.profile.rank(ask, with_room):
            if member.usable(now):
                yield member
        if with_room is not usable:
            yield from sorted((m for m in usable if m.full_until > now), key=lambda member: member.inflight)

    def _last_resort(self, now: float) -> list[Member]:
        return sorted(
            (
                member
                for member in self.members
                if member.up is not False and not member.draining and now >= member.open_until
            ),
            key=lambda member: member.cool_until,
        )[:1]

    def place(self, ask: Ask, member: Member, now: float) -> Placement:
        """The request goes there, now."""
        return Placement(self, ask, member, now)

    def loaded(self, member: Member, load: Load) -> None:
        """An endpoint said how it is doing. What it has more of than we sent came from others."""
        former, member.load = member.load, load
        member.foreign = max(0.0, load.running + load.waiting - member.inflight)
        member.foreign_pending = min(member.foreign, max(0.0, load.waiting - member.pending))
        if member.foreign and former is not None and former.waiting and load.waiting and load.queried_tokens:
            # our own answers' times say little where others queue too; but it had something to do all the while
            computed = load.prompt_tokens - load.hit_tokens - former.prompt_tokens + former.hit_tokens
            member.speed.computed(computed, load.at - former.at)
        self.profile.loaded(member)

    def forget(self, member: Member) -> None:
        """An endpoint restarted, or cannot be reached: whatever it held is gone."""
        member.load = None
        member.foreign = member.foreign_pending = 0.0
        self.profile.forget(member.id)

    def retry_after(self, now: float) -> float:
        """When a member may be usable again, in seconds; 1 where nobody knows."""
        waits = [max(member.open_until, member.cool_until) - now for member in self.members if member.up is not False]
        return max(1.0, min(waits, default=1.0))


class Placement:
    """A request at an endpoint, from dispatch to its true end. Made by `Pool.place`; `left` ends it, once."""

    __slots__ = ("answered_at", "ask", "at", "company", "computed_s", "member", "pool", "probe", "stream", "uncached")

    def __init__(self, pool: Pool, ask: Ask, member: Member, now: float) -> None:
        self.pool = pool
        self.ask = ask
        self.member = member
        self.at = now
        self.answered_at = math.nan
        self.company = self.computed_s = 0.0
        self.stream = ask.request.stream
        self.probe = member.place()
        self.uncached = uncached = ask.uncached(member.id)
        member.until = max(member.until, now) + member.speed.step + uncached * member.speed.prefill
        if self.stream:
            member.pending += 1
            member.backlog += uncached
        pool.profile.placed(ask, member)

    def answered(self, now: float) -> None:
        """The first token is here: the endpoint's prompts before this one are computed too, whatever was expected."""
        self.answered_at = now
        if not self.stream:
            return  # the answer came whole: nobody saw its first token
        member, speed, uncached = self.member, self.member.speed, self.uncached
        member.pending -= 1
        member.backlog -= uncached
        if not member.foreign:
            speed.served(uncached, now - max(self.at, member.answered_at))
        member.answered_at = now
        member.until = now + member.owed
        member.computed_s += speed.step + uncached * speed.prefill
        self.company, self.computed_s = member.streams, member.computed_s

    def left(self, now: float, usage: Usage | None, tokens: int = 0) -> None:
        """It is over. ``usage`` as the engine told, ``tokens`` as counted, for answers that end without."""
        member, ask = self.member, self.ask
        member.leave(self.probe)
        answered = self.answered_at == self.answered_at  # not nan
        if self.stream and not answered:
            member.pending -= 1
            member.backlog -= self.uncached
            member.until = min(member.until, now + member.owed)
        if usage is None and answered:
            usage = Usage(completion=tokens)
        if usage is not None:
            self._learn(now, usage)
        self.pool.profile.left(ask, member, usage)

    def _learn(self, now: float, usage: Usage) -> None:
        pool = self.pool
        if usage.prompt > 16 and self.ask.read:
            ratio = min(max(len(self.ask.text) / usage.prompt, 1.0), 16.0)
            pool.bytes_per_token += 0.02 * (ratio - pool.bytes_per_token)
        if self.stream and usage.completion > 1:
            self._learn_gap(now - self.answered_at, usage.completion - 1)

    def _learn_gap(self, seconds: float, gaps: int) -> None:
        """A stream took ``seconds`` for so many gaps; prompts computed meanwhile stood in its way."""
        member = self.member
        member.speed.streamed(seconds / gaps)
        between = max(0.0, seconds - (member.computed_s - self.computed_s))
        self.pool.pace.streamed(between / gaps, (self.company + member.streams + 1.0) / 2)


class Pools:
    """All pools by name. `apply` swaps in a new set."""

    def __init__(self, adapters: Mapping[str, Adapter], profile: MakeProfile) -> None:
        self.adapters = adapters
        self.profile = profile
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
            pools[spec.name] = self._pool(spec, members)
        self._pools = pools
        kept = {(member.pool, member.endpoint) for member in self.members()}
        gone = [member for key, member in old.items() if key not in kept]
        for member in gone:
            if member.pool in pools:
                pools[member.pool].profile.forget(member.id)
        return gone

    def _pool(self, spec: PoolSpec, members: Sequence[Member]) -> Pool:
        """The same object for as long as there is a pool of the name: it holds what was learned."""
        pool = self._pools.get(spec.name)
        profile = self.profile(spec, None if pool is None else pool.profile)
        if pool is None:
            return Pool(spec.name, members, spec.policy, profile)
        for member in members:
            if member.speed.pace is not pool.pace:
                member.speed = Speed(pool.pace)
        pool.members, pool.policy, pool.profile = members, spec.policy, profile
        return pool

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
