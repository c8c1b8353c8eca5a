"""One pool's door: who is let in when its engines can take another request, and in which order. (P)

Invariant: every permit that was given is open until it is closed, once; a request that waits is released, refused or
withdrawn, once. Nothing here waits or looks at a clock: whoever waits is told by `Waiting.granted` or `.refused`.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import msgspec

from gateway.config.sharing import Fairness
from gateway.errors import Overloaded, QueueTimeout
from gateway.fairness import Flow, FlowStatistics, Order, Terms, Waiter
from gateway.permit import Estimate, Permit, Place, Places, Spent, Ticket, Waiting
from gateway.ports import Candidate
from gateway.schedule.ask import Ask
from gateway.schedule.saturation import Concurrency, Detector, Saturation
from gateway.turnover import Turnover

_PLAIN: Final = Terms()
_RATE_OF: Final = 64
_RATE_FROM_S: Final = 1.0
_RESERVED: Final = 0.2
_LONGER: Final = 2
_BURST_S: Final = 0.05
_FAR: Final = 3600.0
_HELD_S: Final = 2.0
_TIE: Final = 0.001
SHED: Final = "system saturated, sheddable request dropped"
"""The words of the inference extension, for requests whose objective has a priority below 0."""


class Leave(enum.IntEnum):
    """Who may be let in: FEW are the flows below their fair share."""

    NOBODY = 0
    FEW = 1
    ALL = 2


class GateStatistics(msgspec.Struct, frozen=True):
    """``slots``: what usable endpoints are known to run at once, None while that is not known of all of them.
    ``tiers``: how many wait of each.
    """

    queued: int
    queued_bytes: int
    inflight: int
    released: int
    refused: int
    wait_s: float
    slots: float | None
    tiers: dict[str, int] = {}


class Gate:
    """``timer``, if set, is told when to `pump` because only the clock stands in the way. ``spent`` is told what is
    charged to whom: pool, tenant, caller, and weighted tokens divided by weight.
    """

    def __init__(self, pool: Places, settings: Fairness, saturation: Saturation | Concurrency | None = None) -> None:
        self.pool = pool
        self.order = Order()
        self._rules: Saturation | Concurrency | None = None
        self._saturation: Detector | Concurrency | None = None
        self.apply(settings, saturation)
        self.coming = self.inflight = self.released = self.refused = 0
        self.timer: Callable[[Gate, float], None] | None = None
        self.spent: Spent | None = None
        self._active: dict[Flow, float] = {}
        self._weight = 0.0
        self._credit, self._credit_at = 1.0, 0.0
        self.turnover = Turnover()
        self._releases: deque[float] = deque(maxlen=_RATE_OF)
        self._elastic = False
        self._blind = -math.inf
        self._soonest = self._slots = math.inf
        self._shut = False
        self._named: dict[str, Place] = {}
        self._listed: Sequence[Place] = ()
        self._tiers: dict[str, int] = {}

    def apply(self, settings: Fairness, saturation: Saturation | Concurrency | None = None) -> None:
        """A new configuration. Who waits goes on waiting. While ``saturation`` is 1 or more nobody is let in."""
        self.settings = settings
        if saturation != self._rules:
            self._rules = saturation
            self._saturation = None if saturation is None else saturation.detector()
        self.order.retune(
            window=float(settings.window_size), quantum=settings.locality_quantum, ageing=float(settings.ageing)
        )

    def terms(self, tier: str, priority: int = 0) -> Terms:
        """Of a request whose objective has this priority: it counts from that of the tier on."""
        found = self.settings.tiers.get(tier)
        if found is None:
            return _PLAIN if not priority else Terms(1.0, priority)
        return Terms(found.weight, found.priority + priority)

    # -- coming in ------------------------------------------------------------------------------------------------

    def enter(
        self, key: tuple[str, str], tier: str, estimate: Estimate, ask: Ask, size: int, deadline: float,
        waiting: Callable[[], Waiting],
    ) -> Permit | Ticket:  # fmt: skip
        """A request of ``size`` bytes comes to the door: it is let in, or waits. Raises Overloaded if it may not even
        wait, because too many do, because its turn would come after ``deadline``, or because its objective has a
        priority below 0.
        """
        now, order = ask.now, self.order
        flow, terms = order.flow(key, now), self.terms(tier, ask.priority)
        if not order:
            leave = self._leave(now)
            self._shut = leave is Leave.NOBODY
            if leave is Leave.ALL or (leave is Leave.FEW and self._below(flow)):
                return self._pass(flow, terms, estimate, now)
        if ask.priority < 0:
            self.refused += 1
            raise Overloaded(SHED, retry_after=1.0, why="sheddable")
        limit = min(now + self.settings.queue_timeout, deadline)
        self._check(flow, terms, size, limit, now)
        if not order:
            self._releases.clear()  # how a queue of long ago moved says nothing of this one
            self._look(now)
        ticket = Ticket(waiting(), ask, estimate, limit, tier)
        ticket.waiter = Waiter(flow, terms, self._cost(estimate), size, now, ticket)
        order.push(ticket.waiter, now)
        self._tiers[tier] = self._tiers.get(tier, 0) + 1
        self._soonest = min(self._soonest, limit)
        if not self._shut:
            self.pump(now)
        return ticket

    def force(self, key: tuple[str, str], tier: str, estimate: Estimate, now: float, priority: int = 0) -> Permit:
        """Let in at once, whoever waits: a request that another pool had let in before it failed there."""
        return self._pass(self.order.flow(key, now), self.terms(tier, priority), estimate, now)

    def _pass(self, flow: Flow, terms: Terms, estimate: Estimate, now: float) -> Permit:
        self.order.pass_by(flow, terms, self._cost(estimate), now)
        return self._permit(flow, terms, estimate, now, 0.0)

    def _permit(self, flow: Flow, terms: Terms, estimate: Estimate, now: float, waited: float) -> Permit:
        self.turnover.passed(now, self.inflight)
        if not flow.inflight:
            self._active[flow] = terms.weight
            self._weight += terms.weight
        flow.inflight += 1
        self.inflight += 1
        self.coming += 1
        self.released += 1
        if self.settings.queue_qps:
            self._credit -= 1.0
        if self.spent is not None:
            self.spent(self.pool.name, *flow.key, self._cost(estimate) / terms.weight)
        return Permit(self, flow, terms, estimate, now, waited)

    def charge(self, flow: Flow, terms: Terms, amount: float, now: float) -> None:
        """What was let in takes ``amount`` more or less than charged so far."""
        self.order.charge(flow, terms, amount, now)
        if self.spent is not None:
            self.spent(self.pool.name, *flow.key, amount / terms.weight)

    def elsewhere(self, key: tuple[str, str], amount: float, now: float) -> None:
        """Another gateway has charged so much, divided by weight, to the flow of this name."""
        flow = self.order.flow(key, now)
        for band in tuple(flow.shares) or (0,):
            self.order.charge(flow, Terms(1.0, band), amount, now)

    def _cost(self, estimate: Estimate) -> float:
        return self.settings.input_token_weight * estimate.input + self.settings.output_token_weight * estimate.output

    def _check(self, flow: Flow, terms: Terms, size: int, limit: float, now: float) -> None:
        wait = self._check_turn(flow, terms, limit, now)
        settings, order = self.settings, self.order
        if size > settings.max_queued_bytes:
            self.refused += 1
            large = "there is no room, and what is so large may not wait; try again later"
            raise Overloaded(large, retry_after=1.0, why="too_large")
        while len(order) >= settings.max_queued or order.size + size > settings.max_queued_bytes:
            longest = order.longest()
            if longest is None or longest.flow is flow or longest.flow.queued <= flow.queued + 1:
                self.refused += 1
                later = min(max(wait, 1.0), _FAR)
                raise Overloaded("the queue is full; try again later", retry_after=later, why="queue_full")
            # room for whoever has fewer there: one caller's flood fills the queue for nobody else
            full = "the queue is full, and you have more in it than others; try again later"
            self._displace(longest, Overloaded(full, retry_after=self._later(longest, now), why="queue_full"))

    def _check_turn(self, flow: Flow, terms: Terms, limit: float, now: float) -> float:
        """Who waits shall be served: nobody may wait whose turn might come too late, or who would make that so for
        others that are there. A part of the queue is only for those who have had, or wait for, much less than these;
        when that is full, too, one of them has to go. Returns the wait that is most likely, in seconds.
        """
        order, turnover, rate = self.order, self.turnover, self.rate(now)
        if not rate:
            self._blind = now
        if not rate or not order:
            return 0.0
        ahead = order.ahead(flow, terms)
        turn = turnover.wait(ahead, rate)
        if turn > limit - now:
            raise self._long(turn, limit - now)
        most = float(self.settings.queue_timeout)
        last = turnover.wait(len(order), rate) * turnover.margin
        if last <= most * (1.0 - _RESERVED):
            return (ahead + 1) / rate
        victim = self._longer(flow) or order.behind(flow, terms)
        if victim is None:
            raise self._long(max(last, most), most)
        if last > most:
            long = "the queue is long, and you have had more than others; try again later"
            self._displace(victim, Overloaded(long, retry_after=self._later(victim, now), why="queue_long"))
        return (ahead + 1) / rate

    def _long(self, wait: float, most: float) -> Overloaded:
        self.refused += 1
        return Overloaded(
            f"the queue is long: it might be your turn after {wait:.0f} s only, and {most:.0f} s is the most a request "
            "waits; try again later",
            retry_after=min(wait, _FAR),
            why="queue_long",
        )

    def _longer(self, flow: Flow) -> Waiter | None:
        """The last one of the flow of which most wait, if that is many times as many as of this one."""
        longest = self.order.longest()
        if longest is None or longest.flow.queued <= _LONGER * (flow.queued + 1):
            return None
        return longest

    def _displace(self, waiter: Waiter, error: Overloaded) -> None:
        self.order.remove(waiter)
        self._refuse(waiter, error)

    def wait(self, flow: Flow, terms: Terms, now: float) -> float:
        """Seconds until one more request of the flow would be released, 0 where that is not known."""
        rate = self.rate(now)
        return (self.order.ahead(flow, terms) + 1) / rate if rate and self.order else 0.0

    def rate(self, now: float) -> float:
        """How many are let in in a second while others wait; 0 where that is not known."""
        rate, releases = self.turnover.rate(self.inflight), self._releases
        if self._elastic and releases and now - releases[0] > _RATE_FROM_S:
            rate = max(rate, (len(releases) - 1) / (now - releases[0]))
        return min(rate, self.settings.queue_qps or math.inf)

    # -- going on -------------------------------------------------------------------------------------------------

    def pump(self, now: float, place: Place | None = None) -> None:
        """Let in as many as there is room for. After whatever may have made some; at ``place`` alone, if given."""
        alone = not self.settings.max_concurrent and self._saturation is None
        if place is not None and self._shut and alone and not self.coming:
            usable = self._named_places().get(place.id) is place and place.usable(now)  # it may have left the pool
            while usable and self.coming < place.more(now) and self._due(now) and self._next(now, self._few(now)):
                pass
            return
        self._shut = False
        while self.order:
            leave = self._leave(now)
            if leave is Leave.NOBODY:
                self._shut = True
                return
            if not self._next(now, leave is Leave.FEW):
                return

    def _next(self, now: float, few: bool) -> bool:
        """Let one in; False if there is none who may."""
        gain = None if self.settings.locality_quantum == 0.0 else self._gain(now)
        waiter = self.order.pop(now, self._below if few else None, gain)
        if waiter is not None:
            self._release(waiter, now)
        return waiter is not None

    def _release(self, waiter: Waiter, now: float) -> None:
        self._releases.append(now)
        self.turnover.timely(len(self.order))
        ticket = self._ended(waiter)
        ticket.ask.now = now
        ticket.waiting.granted(self._permit(waiter.flow, waiter.terms, ticket.estimate, now, now - waiter.since))

    def withdraw(self, ticket: Ticket) -> None:
        """Whoever waited does not any more."""
        if ticket.waiter is not None:
            self.order.remove(ticket.waiter)
            self._ended(ticket.waiter)

    def closed(self, permit: Permit, correction: float, now: float) -> None:
        """A permit has come back."""
        flow = permit.flow
        self.charge(flow, permit.terms, correction, now)
        self.turnover.passed(now, self.inflight)
        self.turnover.ended(self.inflight, now - permit.since)
        self.inflight -= 1
        flow.inflight -= 1
        if not flow.inflight:
            self._weight -= self._active.pop(flow, 0.0)
        if self.order:
            self.pump(now, permit.place)

    def watch(self, now: float) -> None:
        """A few times a second: who has waited too long goes, who can be released is."""
        if now >= self._soonest:
            self._expire(now)
        if self.order:
            self._look(now)
            self.pump(now)

    def _look(self, now: float) -> None:
        """Whether more may come to be under way than are: nobody has seen yet what the engines can run."""
        ceiling = self.settings.max_concurrent
        self._elastic = not (ceiling and self.inflight >= ceiling) and self._room_there(now) == math.inf

    def _expire(self, now: float) -> None:
        self._soonest = math.inf
        for waiter in list(self.order.waiters()):
            expires = _ticket(waiter).expires
            if expires > now:
                self._soonest = min(self._soonest, expires)
                continue
            if waiter.since > self._blind and expires - waiter.since >= self.settings.queue_timeout:
                self.turnover.late(len(self.order))
            waited = f"waited {now - waiter.since:.0f} s for an engine to have room; try again later"
            self._displace(waiter, QueueTimeout(waited, retry_after=self._later(waiter, now)))

    def _refuse(self, waiter: Waiter, error: Overloaded) -> None:
        self.refused += 1
        self._ended(waiter).waiting.refused(error)

    def _ended(self, waiter: Waiter) -> Ticket:
        """The ticket of one that does not wait any more."""
        ticket, tiers = _ticket(waiter), self._tiers
        ticket.waiter = None
        tiers[ticket.tier] -= 1
        if not tiers[ticket.tier]:
            del tiers[ticket.tier]
        return ticket

    def _later(self, waiter: Waiter, now: float) -> float:
        """When to come again, in seconds."""
        return min(max(self.wait(waiter.flow, waiter.terms, now), 1.0), _FAR)

    def close(self, error: Callable[[], Overloaded]) -> None:
        """Nobody waits any more: all are refused."""
        for waiter in list(self.order.waiters()):
            self.order.remove(waiter)
            self._refuse(waiter, error())

    def dissolve(self, now: float) -> None:
        """There is no door any more: everybody is let in."""
        while self.order and (waiter := self.order.pop(now)) is not None:
            self._release(waiter, now)

    # -- whether there is room ------------------------------------------------------------------------------------

    def _leave(self, now: float) -> Leave:
        """Who may be let in now. Where no endpoint can be used, waiting helps nobody."""
        settings = self.settings
        if settings.max_concurrent and self.inflight >= settings.max_concurrent:
            return Leave.NOBODY
        usable, coming = False, float(self.coming)
        for place in self.pool.members:
            if place.usable(now):
                usable = True
                coming -= max(0.0, place.more(now))
                if coming < 0.0:
                    break
        if (usable and (coming >= 0.0 or self._saturated())) or not self._due(now):
            return Leave.NOBODY
        return Leave.FEW if usable and self._few(now) else Leave.ALL

    def _saturated(self) -> bool:
        return self._saturation is not None and self._saturation(cast(Sequence[Candidate], self.pool.members)) >= 1.0

    def _due(self, now: float) -> bool:
        """Whether the ceiling on dispatch lets one more pass; a moment's worth of it may come at once."""
        qps = self.settings.queue_qps
        if not qps:
            return True
        if now > self._credit_at:
            self._credit = min(max(1.0, qps * _BURST_S), self._credit + (now - self._credit_at) * qps)
            self._credit_at = now
        if self._credit >= 1.0 - 1e-9:
            return True
        if self.timer is not None:
            self.timer(self, now + (1.0 - self._credit) / qps)
        return False

    def _few(self, now: float) -> bool:
        """Whether there is no more room than what is kept for flows below their fair share."""
        headroom = self.settings.headroom
        if not headroom:
            return False
        slots, taken = 0.0, self.coming + 1.0
        for place in self.pool.members:
            if place.usable(now):
                slots += place.slots
                taken += place.present
        self._slots = slots
        return slots < math.inf and taken > slots - max(1.0, math.floor(slots * headroom + 0.5))

    def _below(self, flow: Flow) -> bool:
        """Whether one more request leaves the flow within its fair share of the slots, were there at least two flows
        to share them; the first one always does.
        """
        if not flow.inflight:
            return True
        weight = self._active[flow]
        return flow.inflight + 1 <= self._slots * weight / max(self._weight, weight + 1.0)

    def _gain(self, now: float) -> Callable[[Waiter], float]:
        """What to let a request in now is worth, in prompt tokens: 0 where it loses nothing, as an endpoint with room
        holds as much of its prompt as any; below that, what would be computed again. Of those that lose as much, the
        one with the most cached is better.
        """
        pool = self.pool
        roomy: dict[str, bool] = {}

        def gain(waiter: Waiter) -> float:
            ticket = _ticket(waiter)
            if now >= ticket.held_until:
                ticket.held, ticket.held_until = pool.hits(ticket.ask), now + _HELD_S
            most = here = 0.0
            for id, tokens in ticket.held.items():
                most = max(most, tokens)
                if tokens > here:
                    if id not in roomy:
                        roomy[id] = self._has_room(id, now)
                    if roomy[id]:
                        here = tokens
            return here - most + _TIE * here

        return gain

    def _named_places(self) -> Mapping[str, Place]:
        if self._listed is not self.pool.members:
            self._listed = self.pool.members
            self._named = {place.id: place for place in self._listed}
        return self._named

    def _has_room(self, id: str, now: float) -> bool:
        place = self._named_places().get(id)
        return place is not None and place.usable(now) and place.more(now) > 0.0

    # -- for operators --------------------------------------------------------------------------------------------

    def flows(self, now: float) -> list[FlowStatistics]:
        return self.order.flows(now)

    def fullness(self, now: float) -> float:
        """Requests that are let in or wait, by the slots of usable endpoints: 1 is full. 0 while nobody knows."""
        return self.filled(self._room_there(now))

    def filled(self, slots: float) -> float:
        """The same, of so many slots."""
        return (self.inflight + len(self.order)) / slots if slots else 0.0

    def statistics(self, now: float) -> GateStatistics:
        slots, rate = self._room_there(now), self.rate(now)
        return GateStatistics(
            queued=len(self.order),
            queued_bytes=self.order.size,
            inflight=self.inflight,
            released=self.released,
            refused=self.refused,
            wait_s=len(self.order) / rate if rate else 0.0,
            slots=slots if slots < math.inf else None,
            tiers=dict(self._tiers),
        )

    def _room_there(self, now: float) -> float:
        """Slots of usable endpoints: what others are not known to run is in nobody's way."""
        return sum(place.slots for place in self.pool.members if place.usable(now))


def _ticket(waiter: Waiter) -> Ticket:
    assert isinstance(waiter.owner, Ticket)
    return waiter.owner
