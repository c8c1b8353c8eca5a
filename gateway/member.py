"""One endpoint in one pool: what is under way there, what it is like, whether it may be used. (P)

Invariant: the counts are those of `gateway.pools.Placement`, which alone changes them, from dispatch to true end.
``foreign`` is never less than what other replicas say (``peers``); ``outside`` is the rest of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from gateway.config.sharing import Thresholds
from gateway.health import Health
from gateway.ports import Adapter
from gateway.replicas import NOTHING, Count
from gateway.room import Room
from gateway.schedule.speed import Speed
from gateway.types import Endpoint, Load, ModelCard

_THRESHOLDS = Thresholds()


class MemberStatistics(msgspec.Struct, frozen=True):
    """What operators see of one endpoint of a pool. ``state``: ready, unknown (not asked yet), slow-start, open (set
    aside), half-open (one request tries it), hung, down or draining. ``why`` it was set aside: failing, erring, slow,
    stuck or hung; of one that is down, what asking it came to.

    ``waiting``, ``running`` and ``kv_usage`` are the engine's own words, ``load_age_s`` seconds old; None where it has
    said nothing lately. ``prefill_rate`` (prompt tokens a second) is what the gateway has seen it do, ``slots`` how
    many requests at once, None while it has not been full.
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
    why: str = ""
    slots: float | None = None


class Member:
    """One endpoint in one pool (ports.Candidate). ``up`` is None until it has answered a probe; it may be used.
    ``gone``: its pool has none of its name any more; what is under way there goes on. ``lacks``: the model of the pool
    that it last said it did not know.
    """

    __slots__ = (
        "adapter", "answered_at", "backlog", "cards", "computed_s", "drift", "endpoint", "failures", "foreign",
        "foreign_pending", "gone", "health", "id", "inflight", "lacks", "load", "outside", "outside_pending", "peers",
        "pending", "pool", "requests", "room", "speed", "unheard", "unseen", "unstreamed", "until",
    )  # fmt: skip

    def __init__(self, pool: str, endpoint: Endpoint, adapter: Adapter, health: Health | None = None) -> None:
        self.pool = pool
        self.endpoint = endpoint
        self.id = endpoint.id
        self.adapter = adapter
        self.cards: tuple[ModelCard, ...] = ()
        self.lacks = ""
        self.health = Health() if health is None else health
        self.gone = False
        self.inflight = 0
        self.unstreamed = 0
        self.requests = 0
        self.failures = 0
        self.load: Load | None = None
        self.speed = Speed()
        self.pending = 0
        self.backlog = self.unseen = 0.0
        self.until = self.answered_at = -math.inf
        self.computed_s = 0.0
        self.foreign = self.foreign_pending = self.drift = 0.0
        self.outside = self.outside_pending = self.unheard = 0.0
        self.peers = NOTHING
        self.room = Room(_THRESHOLDS)

    @property
    def present(self) -> float:
        """Requests there, whoever sent them."""
        return self.inflight + self.foreign

    @property
    def slots(self) -> float:
        """How many requests it runs at once; infinity while that is not known."""
        return self.room.shown

    def more(self, now: float) -> float:
        """How many more requests it can take; 0 or less: none. One that is to be tried takes one."""
        if self.health.full_until > now:
            return 0.0
        left = self.room.left(self, now)
        return min(left, 1.0) if self.health.why else left

    def spacious(self, now: float) -> bool:
        """Whether it can take another one, and not only because others must not keep us out."""
        return self.more(now) > 0.0 and not (self.foreign and self.room.cramped(self.load))

    def unanswered(self, load: Load) -> float:
        """Requests there without a token yet, whoever sent them: of all that are there, those that had their first
        token and have not ended are counted off. What ended without one, be it before anybody looked, is noticed when
        the sum does not fit.
        """
        present = load.running + load.waiting
        counted = load.ttft_count - load.finished - self.drift
        begun = min(max(counted, 0.0), present)
        self.drift += counted - begun
        return max(present - begun, min(load.waiting, present))

    def unloaded(self) -> None:
        """What it said of itself is not known any more."""
        self.load = None
        self.outside = self.outside_pending = self.drift = 0.0
        self.elsewhere(self.peers)

    def elsewhere(self, count: Count) -> None:
        """Other replicas have so much under way here, together. What the endpoint has more came from outside."""
        self.outside = min(self.outside, max(0.0, self.foreign - count.requests))
        self.outside_pending = min(self.outside_pending, max(0.0, self.foreign_pending - count.pending))
        self.peers = count
        self.foreign = self.outside + count.requests
        self.foreign_pending = self.outside_pending + count.pending

    def usable(self, now: float) -> bool:
        """Whether a new request may be placed here; an open circuit lets one through when its time is up."""
        return now >= self.health.blocked_until

    @property
    def up(self) -> bool | None:
        return self.health.up

    @up.setter
    def up(self, up: bool | None) -> None:
        """As if it had always been so; `Health.reached` also eases in one that comes back."""
        self.health.reached(-math.inf, up)

    def place(self) -> bool:
        """A request goes here. True if it is the one that finds out whether the endpoint is well again."""
        self.inflight += 1
        self.requests += 1
        return self.health.place()

    @property
    def owed(self) -> float:
        """Seconds of computing that the prompts still unanswered should take, other replicas' among them."""
        peers = self.peers
        return self.speed.takes(self.backlog + peers.backlog, self.pending + peers.pending)

    @property
    def owed_in_all(self) -> float:
        """The same with prompts whose answers come whole: when they were computed nobody sees."""
        peers = self.peers
        tokens = self.backlog + peers.backlog + self.unseen + peers.unseen
        return self.speed.takes(tokens, self.pending + peers.pending + self.unstreamed + peers.unstreamed)

    @property
    def streams(self) -> float:
        """Requests past their first token, whoever sent them."""
        return self.inflight - self.pending + self.foreign - self.foreign_pending

    def leave(self, probe: bool) -> None:
        """What `place` returned comes back when the request has left."""
        self.inflight -= 1
        self.health.leave(probe)

    def succeeded(self, now: float, probe: bool) -> None:
        self.health.succeeded(now, probe)

    def failed(self, now: float, probe: bool = False, spare: Callable[[], bool] | None = None) -> float:
        """One more failure that was the endpoint's own; the seconds for which that sets it aside, or 0. ``spare`` is as
        for `Health.failed`.
        """
        self.failures += 1
        return self.health.failed(now, probe, spare)

    def cool(self, now: float, retry_after: float) -> None:
        """The endpoint asked not to be called for ``retry_after`` seconds."""
        self.health.cool(now, retry_after)

    def refused(self, now: float) -> None:
        """The endpoint is full: others come first for a moment."""
        self.health.refused(now)
        self.room.full(self.inflight, now)

    def statistics(self, now: float) -> MemberStatistics:
        load = self.load
        return MemberStatistics(
            pool=self.pool,
            endpoint=self.id,
            engine=self.endpoint.engine,
            state=self.health.state(now),
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
            why=self.health.gone or self.health.why,
            slots=self.slots if self.slots < math.inf else None,
        )
