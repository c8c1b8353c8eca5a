"""One pool at work: who is asked for a request, and what is learned of an endpoint while it has one. (T)

Invariant: a request counts at its endpoint from dispatch (`Pool.place`) to its true end (`Placement.left`); what is
learned of the endpoint is learned there, and `gateway.health` judges it.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from gateway.config.snapshot import Policy
from gateway.estimate import Estimator
from gateway.gate import Gate
from gateway.health import spare, watch
from gateway.hedges import Hedges
from gateway.listing import Listing
from gateway.member import Member
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Random
from gateway.schedule.profile import Profile
from gateway.schedule.speed import LATE_S, Pace, Speed
from gateway.types import InferenceRequest, Load, Usage

_ALONE: Final = 0.1
_log: Final = logging.getLogger("infer_gateway.pools")

Told = Callable[[str, str, Ask], None]
"""Who is told that a request goes to an endpoint of a pool, both by name."""


class Pool:
    """Endpoints that serve one model set, the policy of requests to them, and the profile that places them.

    Learned are ``uncached`` (prompt tokens a request has computed), ``others`` (the part of the
    time that an endpoint serves others, too) and how fast endpoints are. ``inflight``: requests at any of them.
    ``gate``: where requests wait for room, if anywhere. ``told`` is whom placements are told, for other replicas.
    ``bare`` as in `PoolSpec`. Counted since the pool began are ``scrapes``, with ``scrape_errors`` beside them, and
    what ``changes`` its members' health has gone through (`Health.changes`).
    """

    __slots__ = (
        "_listing", "_squares", "bare", "changes", "estimator", "gate", "hedges", "inflight", "members", "name",
        "others", "pace", "policy", "profile", "residual", "rng", "scrape_errors", "scrapes", "told", "uncached",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        policy: Policy,
        profile: Profile,
        rng: Random | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        self.name = name
        self.members = members
        self.policy = policy
        self.profile = profile
        self.rng = rng or random.Random()
        self.estimator = estimator or Estimator()
        self.gate: Gate | None = None
        self.hedges = Hedges()
        self.told: Told | None = None
        self.bare = False
        self.inflight = self.scrapes = self.scrape_errors = 0
        self.changes: dict[str, int] = {}
        self._listing = Listing(())
        self.others = 0.0
        self.uncached = self.residual = 1000.0
        self._squares = 2_000_000.0
        self.pace = Pace()
        for member in members:
            member.speed = Speed(self.pace)
            member.health.changes = self.changes

    def ask(self, request: InferenceRequest, model: str, now: float) -> Ask:
        return Ask(request, model, now, self.estimator.ratio(request.model))

    def rank(self, ask: Ask) -> Iterator[Member]:
        """Best first, as the profile has it; those that just said they are full come last.

        Lazy: the tail is only worked out when the first choice fails. When nothing is usable, members that are merely
        set aside are offered, one chance each, rather than failing a request that might succeed. A filter of the
        profile may leave nobody (``ask.left_out``).
        """
        now, members = ask.now, self.members
        if ask.request.only is not None:
            members = self.listing.among(ask.request.only)
        usable = [member for member in members if member.health.blocked_until <= now]
        if not usable:
            yield from _last_resort(members, now)
            return
        # all that are usable: who holds a LoRA, say, is not told by some of them
        left = self.profile.filtered(ask, usable)
        groups: tuple[Sequence[Member], ...] = (left,)
        if self.gate is not None or [member for member in left if member.health.aside_until > now]:
            groups = self._grouped(ask, left)
        for group in groups:
            for member in self.profile.order(ask, group) if group else ():
                if member.health.blocked_until <= now:
                    yield member

    def _grouped(self, ask: Ask, members: Sequence[Member]) -> tuple[Sequence[Member], ...]:
        """Whom to choose from, and whom to fall back on: what comes back or is new gets a part of its share, and who
        just said it is full comes last.

        One whose time to be tried has come is chosen outright: by its record nobody would choose it. A session that
        has its endpoint stays there all the same.
        """
        now = ask.now
        if self.gate is None:
            roomy, full = _parted(
                members, lambda each: each.health.full_until <= now and each.health.affords(now, ask.tokens)
            )
        else:
            roomy, full = _parted(members, lambda each: each.spacious(now) and each.health.affords(now, ask.tokens))
            if full and self.profile.at_home(ask, members):
                return (members,)
        if self.profile.at_home(ask, roomy):
            return roomy, full
        first, rest = _parted(roomy, lambda member: bool(member.health.why))
        if first:
            return first[:1], first[1:] + rest, full
        eased, rest = _parted(roomy, lambda member: self.rng.random() < member.health.share(now))
        return eased, rest, full

    @property
    def listing(self) -> Listing:
        """The members by what proxies call them. Made when first asked for: few proxies list any."""
        if self._listing.members is not self.members:
            self._listing = Listing(self.members)
        return self._listing

    def hits(self, ask: Ask) -> Mapping[str, float]:
        """Prompt tokens each endpoint is believed to hold, by id."""
        return self.profile.hits(ask)

    def place(self, ask: Ask, member: Member, now: float) -> Placement:
        """The request goes there, now."""
        return Placement(self, ask, member, now)

    def prompted(self, uncached: float) -> None:
        """So many tokens of a prompt are to be computed. Of one under way, the rest is longer than half the mean:
        it is the long ones that one meets (mean residual life).
        """
        self.uncached += 0.02 * (uncached - self.uncached)
        self._squares += 0.02 * (uncached * uncached - self._squares)
        self.residual = self._squares / (2.0 * self.uncached)

    def foreign_owed(self, member: Member) -> float:
        """Seconds of computing that prompts from outside should take there, by ours."""
        if not member.outside_pending:
            return 0.0
        return ((member.outside_pending - 1.0) * self.uncached + self.residual) * member.speed.prefill

    def loaded(self, member: Member, load: Load) -> None:
        """An endpoint said how it is doing. What it has more of than we sent came from others."""
        self.scrapes += 1
        former, member.load = member.load, load
        if former is not None and (former.prompt_tokens, former.generated_tokens) != (
            load.prompt_tokens,
            load.generated_tokens,
        ):
            member.health.heard = load.at  # it works, be it for others
        peers, others = member.peers, member.foreign_pending
        foreign = max(0.0, load.running + load.waiting - member.inflight)
        member.outside, member.outside_pending = max(0.0, foreign - peers.requests), 0.0
        self.others += 0.005 * ((foreign > 0.0) - self.others)
        unanswered = member.unanswered(load)
        if foreign:
            ours = member.pending + member.unstreamed
            pending = min(foreign, max(0.0, unanswered - ours))
            member.outside_pending = max(0.0, pending - peers.pending - peers.unstreamed)
            if member.outside_pending:
                # whose turn comes when is not known, nor how far the first one is: ours and theirs, as a whole
                member.until = load.at + member.owed_in_all + self.foreign_owed(member)
        member.foreign = member.outside + peers.requests
        member.foreign_pending = member.outside_pending + peers.pending
        if others and not member.outside_pending:
            member.until = min(member.until, load.at + member.owed_in_all)
        if not member.inflight:
            member.speed.fade()
        if former is not None and load.queried_tokens and self.others >= _ALONE:
            computed = load.prompt_tokens - load.hit_tokens - former.prompt_tokens + former.hit_tokens
            member.speed.computed(computed, load.at, bool(former.waiting and load.waiting))
        self.profile.loaded(member)
        member.room.loaded(member, load)
        if self.gate is not None and self.gate.order:
            self.gate.pump(load.at, member)

    def retry_after(self, now: float) -> float:
        """When a member may be usable again, in seconds; 1 where nobody knows."""
        wait = min((member.health.wait(now) for member in self.members), default=math.inf)
        return max(1.0, wait) if wait < math.inf else 1.0

    @property
    def idle(self) -> bool:
        """Nothing is under way, nor waits."""
        return not self.inflight and (self.gate is None or not self.gate.order)

    def spare(self) -> bool:
        """Whether one more member may be set aside for how it answers."""
        return spare([member.health for member in self.members])

    def watch(self, now: float) -> None:
        """What only time or comparison shows of the members' health. Four times a second, after `Placement.due`."""
        for index, what in watch([member.health for member in self.members], now):
            _log.warning("%s of %s %s", self.members[index].id, self.name, what)
        if self.gate is not None:
            self.gate.watch(now)


def _last_resort(members: Iterable[Member], now: float) -> list[Member]:
    best = min(members, key=lambda member: (member.health.reluctance(now), member.inflight), default=None)
    return [] if best is None or best.health.reluctance(now) == math.inf else [best]


def _parted(members: Iterable[Member], holds: Callable[[Member], bool]) -> tuple[list[Member], list[Member]]:
    """Those of whom it holds, and the others."""
    those: list[Member] = []
    others: list[Member] = []
    for member in members:
        (those if holds(member) else others).append(member)
    return those, others


class Placement:
    """A request at an endpoint, from dispatch to its true end. Made by `Pool.place`; `left` ends it, once."""

    __slots__ = (
        "answered_at", "ask", "at", "company", "computed_s", "expected", "member", "pool", "probe", "stream",
        "uncached",
    )  # fmt: skip

    def __init__(self, pool: Pool, ask: Ask, member: Member, now: float) -> None:
        self.pool = pool
        self.ask = ask
        self.member = member
        self.at = now
        self.answered_at = math.nan
        self.company = self.computed_s = 0.0
        self.stream = ask.request.stream
        pool.profile.placed(ask, member)  # first: if a plugin of somebody's fails, nothing has been counted
        self.probe = member.place()
        pool.inflight += 1
        if member.health.requests_until > now or member.health.tokens_until > now:
            member.health.spend(now, ask.tokens)
        if pool.told is not None:
            pool.told(pool.name, member.id, ask)
        self.uncached = uncached = ask.uncached(member.id)
        pool.prompted(uncached)
        work = member.speed.takes(uncached)
        owed = max(member.until - now, 0.0)
        self.expected = owed + work
        late = now - member.until if member.pending else 0.0
        # late by some time, it is expected to stay so for as long: one more request does not make up for it
        member.until = now + max(owed, late if late > LATE_S else 0.0) + work
        if self.stream:
            member.pending += 1
            member.backlog += uncached
        else:
            member.unstreamed += 1
            member.unseen += uncached

    def due(self, now: float) -> None:
        """Told to the endpoint's health, four times a second, while no token has come."""
        member = self.member
        if self.stream and not member.unstreamed and self.answered_at != self.answered_at:  # nan
            believed = self.ask.hits.get(member.id, 0.0) * member.speed.prefill  # in its cache, perhaps wrongly
            member.health.due(now - self.at, self.expected + believed + self.pool.foreign_owed(member))

    def stranded(self, now: float) -> bool:
        """No token has come, its endpoint is hung, and others might do."""
        if self.answered_at == self.answered_at or not self.member.health.hung(now):
            return False
        return any(member.usable(now) for member in self.pool.members)

    def answered(self, now: float) -> None:
        """The first token is here: the endpoint's prompts before this one are computed too, whatever was expected."""
        self.answered_at = now
        if not self.stream:
            return  # the answer came whole: nobody saw its first token
        member, speed, uncached = self.member, self.member.speed, self.uncached
        rest = member.health.answered(now, now - self.at, self.expected, self.probe)
        if rest:
            _log.warning("%s of %s is set aside for %g s: it is still slow", member.id, self.pool.name, rest)
        member.pending -= 1
        member.backlog -= uncached
        if self.pool.others < _ALONE and not member.unstreamed:  # else: what it computed meanwhile nobody knows
            speed.served(uncached, now - max(self.at, member.answered_at))
        member.answered_at = now
        member.until = now + member.owed
        member.computed_s += speed.takes(uncached)
        self.company, self.computed_s = member.streams, member.computed_s
        gate = self.pool.gate
        if gate is not None and gate.order:
            gate.pump(now, member)

    def outrun(self, now: float) -> None:
        """Another endpoint has answered before this one: it takes longer than it has had, which is all that will be
        known of it.
        """
        member, took = self.member, now - self.at
        if not self.stream or member.unstreamed or self.answered_at == self.answered_at:
            return
        believed = self.ask.hits.get(member.id, 0.0) * member.speed.prefill
        member.health.due(took, self.expected + believed + self.pool.foreign_owed(member))
        served = now - max(self.at, member.answered_at)
        if self.pool.others < _ALONE and served > member.speed.takes(self.uncached):
            member.speed.served(self.uncached, served)

    def left(self, now: float, usage: Usage | None, tokens: int = 0) -> None:
        """It is over. ``usage`` as the engine told, ``tokens`` as counted, for answers that end without."""
        member, ask = self.member, self.ask
        member.leave(self.probe)
        self.pool.inflight -= 1
        answered = self.answered_at == self.answered_at  # not nan
        if not self.stream:
            member.unstreamed -= 1
            member.unseen -= self.uncached
        elif not answered:
            member.pending -= 1
            member.backlog -= self.uncached
        if not (self.stream and answered):
            member.until = min(member.until, now + member.owed_in_all)
        if usage is None and answered:
            usage = Usage(completion=tokens)
        if usage is not None:
            self._learn(now, usage)
        self.pool.profile.left(ask, member, usage)

    def _learn(self, now: float, usage: Usage) -> None:
        pool = self.pool
        ask = self.ask
        if usage.prompt:  # by the engine's own word
            pool.estimator.observe(ask.request, len(ask.text) if ask.read else 0, usage)
        if self.stream and usage.completion > 1 and self.answered_at == self.answered_at:  # not nan
            self._learn_gap(now - self.answered_at, usage.completion - 1)

    def _learn_gap(self, seconds: float, gaps: int) -> None:
        """A stream took ``seconds`` for so many gaps; prompts computed meanwhile stood in its way."""
        member = self.member
        member.speed.streamed(seconds / gaps)
        if self.pool.others >= _ALONE:
            return  # what others had computed meanwhile nobody knows
        between = max(0.0, seconds - (member.computed_s - self.computed_s))
        self.pool.pace.streamed(between / gaps, (self.company + member.streams + 1.0) / 2)
