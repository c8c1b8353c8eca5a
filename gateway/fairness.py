"""Who of those who wait is next: an order of callers by the weighted tokens each was served. (P)

Invariant: whoever is pushed is popped or removed, once; what is dispatched is charged to its caller and its tenant, so
that neither can run ahead of others who wait by more than the bound of `Order`.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice, pairwise
from typing import Final, cast

import msgspec

from gateway.counters import SLOTS, Party, Ring, Share

_LEAST: Final = 1e-6
_MOST: Final = 1e9
_HEADS: Final = 8
_LOOKED_AT: Final = 64
_CHORES: Final = 4
_SPARED: Final = 16


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What a tier grants: ``weight`` is its share of the service; a higher ``band`` is served first."""

    weight: float = 1.0
    band: int = 0

    def __post_init__(self) -> None:
        if not _LEAST <= self.weight <= _MOST:
            raise ValueError(f"weight {self.weight}: expected {_LEAST} to {_MOST}")


class FlowStatistics(msgspec.Struct, frozen=True, gc=False):
    """``served``: weighted tokens within the window; ``excess``: how far its counter is above the floor, over all its
    bands; ``oldest_wait``: seconds, 0 if nobody waits.
    """

    tenant: str
    caller: str
    queued: int
    inflight: int
    served: float
    excess: float
    oldest_wait: float


class Flow(Party):
    """One caller within its tenant. ``inflight`` is kept by whoever dispatches; ``queued``: how many wait."""

    __slots__ = ("_width", "inflight", "key", "queued", "tenant")

    shares: dict[int, _Own]

    def __init__(self, key: tuple[str, str], slot: int, width: float) -> None:
        super().__init__(slot)
        self.key = key
        self.inflight = self.queued = 0
        self.tenant: _Tenant | None = None  # while it is known to the order
        self._width = width

    def served(self, now: float) -> float:
        """Weighted tokens within the window."""
        self.roll(_slot(now, self._width))
        return max(0.0, self.total)

    def restart(self, slot: int, width: float = math.inf) -> None:
        super().restart(slot)
        self._width = width


class Waiter:
    """One queued request of ``size`` bytes that is expected to take ``cost`` weighted tokens; it waits from ``since``.

    ``owner`` is the caller's business.
    """

    __slots__ = ("cost", "entered", "flow", "owner", "place", "since", "size", "terms")

    def __init__(self, flow: Flow, terms: Terms, cost: float, size: int, since: float, owner: object = None) -> None:
        self.flow = flow
        self.terms = terms
        self.cost = max(_LEAST, _finite(cost))
        self.size = size
        self.since = since
        self.owner = owner
        self.entered = since  # its band
        self.place: _Own | None = None  # while it is queued


class _Tenant(Party):
    """``flows``: how many of its callers are known. What it is served is kept divided by weight."""

    __slots__ = ("flows", "name")

    shares: dict[int, _Common]

    def __init__(self, name: str, slot: int) -> None:
        super().__init__(slot)
        self.name = name
        self.flows = 0


class _Band:
    """Those of one priority: tenants compete, and within each its callers. ``inverse``: the sum of 1/weight."""

    __slots__ = ("cost", "inverse", "number", "tenants", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.tenants: Ring[_Common] = Ring()
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.cost = self.inverse = 0.0  # of all who wait, cost divided by weight


class _Common(Share):
    """A tenant's share of a band."""

    __slots__ = ("band", "callers")

    def __init__(self, tenant: _Tenant, band: _Band) -> None:
        super().__init__(tenant, band.tenants)
        self.band = band
        self.callers: Ring[_Own] = Ring()


class _Own(Share):
    """A caller's share of what its tenant has of a band. ``overtaken``: by how much, since it was its turn."""

    __slots__ = ("common", "overtaken", "waiting")

    party: Flow

    def __init__(self, flow: Flow, common: _Common) -> None:
        super().__init__(flow, common.callers)
        self.common = common
        self.overtaken = 0.0
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()

    @property
    def head(self) -> Waiter:
        return next(iter(self.waiting))


class Order:
    """Times are seconds of one clock; one that steps back stands still. Costs are weighted tokens.

    Every dispatch charges its estimated cost, divided by weight, to the counters of caller and tenant; `charge`
    corrects it when more is known. The tenant with the least counter is next, and of its callers the one with the
    least; each caller's requests keep their order.

    - Who wants something again is lifted to the floor, the least counter at the last dispatch: being idle earns no
      credit. It is never above it by more than it was served within ``window``: what was before is forgotten.
    - ``quantum``: of those whose counters, its tenant's and its own, are at most that far above the least, the one with
      the greatest hit goes first (deficit longest prefix match), until whoever's turn it is was overtaken by so much.
    - Bands are strict, with counters of their own. ``ageing``: the one that came first of a band moves up to the next
      in use when it has waited so long; where it is served from there, it is charged in both.

    Bound. Say that f and g wait all the time from t₁ to t₂ in one band, two tenants or two callers of one tenant, may
    both be popped, and nobody of theirs is moved up. U is the greatest cost ÷ weight charged at a dispatch, B the most
    by which corrections of what is under way at one time can raise one of the counters plus that by which they can
    lower another. When f was last dispatched, c_f ≤ c_g + quantum before and c_f ≤ c_g + quantum + U after. Since then
    corrections have raised c_f and lowered c_g by B together at most, since whatever g was dispatched in the meantime
    costs it at least nothing. So always c_f − c_g ≤ D = quantum + U + B, or what it was at t₁ if that is more and f was
    not dispatched since, and likewise with f and g exchanged. Counters of those who wait move by service alone, hence

        |W_f/w_f − W_g/w_g| ≤ 2·D      for what f and g were charged between t₁ and t₂,

    and ≤ D if the counters were equal at t₁. What the window forgets was served before t₁ if t₂ − t₁ is at most 15/16
    of it, and only takes from an excess that f or g had then: the bound stays. With exact estimates B is 0 and without
    a quantum this is the 2·U of the virtual token counter (Sheng et al., OSDI 2024). Whoever's turn it is, is overtaken
    by less than quantum + U.
    """

    def __init__(
        self, *, window: float = 600.0, quantum: float = 0.0, ageing: float = math.inf, max_flows: int = 10_000
    ) -> None:
        self.quantum = quantum
        self.ageing = ageing
        self.max_flows = max_flows
        self.size = 0
        self._width = window / SLOTS
        self._slot = 0
        self._count = 0
        self._flows: OrderedDict[tuple[str, str], Flow] = OrderedDict()  # the longest idle first
        self._tenants: dict[str, _Tenant] = {}
        self._bands: dict[int, _Band] = {}
        self._standing: list[_Band] = []  # those with waiters, the highest first
        self._due: deque[tuple[int, Party]] = deque()  # who was served in which part of the window
        self._crowds: dict[int, dict[Flow, None]] = {}  # by how many of a flow wait
        self._most = 0

    def __len__(self) -> int:
        return self._count

    def retune(self, *, window: float, quantum: float, ageing: float) -> None:
        """Another configuration, under those who wait and are known. A walk over all flows if the window changes."""
        self.quantum = quantum
        self.ageing = ageing
        if window / SLOTS == self._width:
            return
        self._slot = int(self._slot * self._width * SLOTS / window)
        self._width = window / SLOTS
        self._due.clear()
        for tenant in self._tenants.values():
            tenant.restart(self._slot)
            self._due.append((self._slot, tenant))
        for flow in self._flows.values():
            flow.restart(self._slot, self._width)
            self._due.append((self._slot, flow))

    # -- who there is ---------------------------------------------------------------------------------------------

    def flow(self, key: tuple[str, str], now: float) -> Flow:
        """(tenant, caller): known or new."""
        flow = self._flows.get(key)
        if flow is None:
            flow = Flow(key, self._advance(now), self._width)
            self._adopt(flow)
        return flow

    def _adopt(self, flow: Flow) -> _Tenant:
        name = flow.key[0]
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(name, self._slot)
            self._due.append((self._slot, tenant))
        tenant.flows += 1
        flow.tenant = tenant
        flow.touched = self._slot
        self._due.append((self._slot, flow))
        self._flows.setdefault(flow.key, flow)
        if len(self._flows) > self.max_flows:
            self._crowd_out(flow)
        return tenant

    def _crowd_out(self, newest: Flow) -> None:
        """Too many are known: the longest idle go."""
        for _ in range(_SPARED):
            key, flow = next(iter(self._flows.items()))
            if flow.queued or flow.inflight or flow is newest:
                self._flows.move_to_end(key)
            else:
                self._forget(flow)
            if len(self._flows) <= self.max_flows:
                return

    def _forget(self, flow: Flow) -> None:
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]
        tenant, flow.tenant = flow.tenant, None
        flow.shares.clear()
        if tenant is not None:
            tenant.flows -= 1
            if not tenant.flows and self._tenants.get(tenant.name) is tenant:
                del self._tenants[tenant.name]

    def _own(self, flow: Flow, number: int) -> _Own:
        """The flow's share of a band."""
        own = flow.shares.get(number)
        return self._open(flow, number) if own is None else own

    def _open(self, flow: Flow, number: int) -> _Own:
        tenant = flow.tenant or self._adopt(flow)
        common = tenant.shares.get(number)
        if common is None:
            band = self._bands.get(number)
            if band is None:
                band = self._bands[number] = _Band(number)
            common = tenant.shares[number] = _Common(tenant, band)
        own = flow.shares[number] = _Own(flow, common)
        return own

    # -- time -----------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> int:
        """The part of the window that it is now."""
        slot = int(now / self._width)
        if slot > self._slot:
            self._slot = slot
        due = self._due
        if due and due[0][0] + SLOTS <= self._slot:
            self._expire()
        return self._slot

    def _expire(self) -> None:
        """Of some, forget what is older than the window; of those who had nothing since, all."""
        due, slot = self._due, self._slot
        for _ in range(_CHORES):
            if not due or due[0][0] + SLOTS > slot:
                return
            _, party = due.popleft()
            party.roll(slot)
            for share in party.shares.values():
                if share.queued:
                    share.fade()
            if party.touched + SLOTS > slot:
                continue  # it stands again further back
            if isinstance(party, Flow) and party.tenant is not None:
                if party.queued or party.inflight:
                    due.append((slot, party))
                else:
                    self._forget(party)

    def _touch(self, party: Party) -> None:
        slot = self._slot
        party.roll(slot)
        if party.touched != slot:
            party.touched = slot
            self._due.append((slot, party))
            if isinstance(party, Flow) and self._flows.get(party.key) is party:
                self._flows.move_to_end(party.key)

    # -- waiting --------------------------------------------------------------------------------------------------

    def push(self, waiter: Waiter, now: float) -> None:
        """It waits."""
        self._advance(now)
        self._enter(waiter, waiter.terms.band, min(waiter.since, now))

    def _enter(self, waiter: Waiter, number: int, entered: float) -> None:
        flow, weight = waiter.flow, waiter.terms.weight
        own = self._own(flow, number)
        common = own.common
        band = common.band
        own.weight = weight
        if not own.queued:
            flow.roll(self._slot)
            own.overtaken = 0.0
            own.queued = 1
            own.ring.enter(own)
        else:
            own.queued += 1
        common.queued += 1
        if common.queued == 1:
            common.party.roll(self._slot)
            common.ring.enter(common)
        if not band.waiting:
            insort(self._standing, band, key=_downwards)
        own.waiting[waiter] = None
        band.waiting[waiter] = None
        band.cost += waiter.cost / weight
        band.inverse += 1.0 / weight
        waiter.entered, waiter.place = entered, own
        self.size += waiter.size
        self._count += 1
        self._recount(flow, 1)

    def remove(self, waiter: Waiter) -> None:
        """It gave up. Nothing happens if it does not wait."""
        if waiter.place is not None:
            self._leave(waiter, waiter.place)

    def _leave(self, waiter: Waiter, own: _Own) -> None:
        common = own.common
        band, weight = common.band, waiter.terms.weight
        del own.waiting[waiter]
        del band.waiting[waiter]
        own.queued -= 1
        if not own.queued:
            own.ring.leave()
        common.queued -= 1
        if not common.queued:
            common.ring.leave()
        band.cost -= waiter.cost / weight
        band.inverse -= 1.0 / weight
        if not band.waiting:
            band.cost = band.inverse = 0.0
            self._standing.remove(band)
        waiter.place = None
        self.size -= waiter.size
        self._count -= 1
        self._recount(waiter.flow, -1)

    def _recount(self, flow: Flow, change: int) -> None:
        crowds, former = self._crowds, flow.queued
        count = flow.queued = former + change
        if former:
            del crowds[former][flow]
            if not crowds[former]:
                del crowds[former]
        if count:
            crowds.setdefault(count, {})[flow] = None
        if count > self._most or (former == self._most and former not in crowds):
            self._most = count

    def longest(self) -> Waiter | None:
        """The last one of the flow of which most wait, in the lowest of its bands."""
        if not self._most:
            return None
        flow = next(iter(self._crowds[self._most]))
        lowest = min(number for number, own in flow.shares.items() if own.queued)
        return next(reversed(flow.shares[lowest].waiting))

    # -- going ----------------------------------------------------------------------------------------------------

    def pop(
        self,
        now: float,
        eligible: Callable[[Flow], bool] | None = None,
        hit: Callable[[Waiter], float] | None = None,
    ) -> Waiter | None:
        """Who is dispatched now, and charged for it; None if nobody waits who may go.

        ``eligible``: who may; others keep their places. In each band 64 callers are looked at, those whose turn comes
        first. ``hit``: how much of a request is cached where it could run; asked of eight.
        """
        self._advance(now)
        if len(self._standing) > 1 and self.ageing < math.inf:
            self._rise(now)
        for band in self._standing:
            own = self._next(band, eligible, hit)
            if own is not None:
                return self._dispatch(own, band)
        return None

    def _next(
        self, band: _Band, eligible: Callable[[Flow], bool] | None, hit: Callable[[Waiter], float] | None
    ) -> _Own | None:
        if hit is None or self.quantum <= 0.0 or len(band.waiting) == 1:
            if eligible is None:
                common = band.tenants.least()
                return None if common is None else common.callers.least()
            with closing(self._turns(band, eligible, 0.0)) as turns:
                return next(turns, None)
        with closing(self._turns(band, eligible, self.quantum)) as turns:
            heads = list(islice(turns, _HEADS))
        if len(heads) < 2 or heads[0].overtaken >= self.quantum:
            return heads[0] if heads else None
        own = max(heads, key=lambda own: hit(own.head))  # the first of the greatest
        if own is not heads[0]:
            heads[0].overtaken += own.head.cost / own.head.terms.weight
        return own

    def _turns(self, band: _Band, eligible: Callable[[Flow], bool] | None, reach: float) -> Generator[_Own, None, None]:
        """Who may go, in the order of turns, as far as ``reach`` above the first of them."""
        looked_at, limit = 0, math.inf
        with closing(band.tenants.ascending()) as tenants:
            for common in tenants:
                if common.counter > limit:
                    return
                bar = math.inf
                with closing(common.callers.ascending()) as callers:
                    for own in callers:
                        looked_at += 1
                        if looked_at > _LOOKED_AT:
                            return
                        if own.counter > bar:
                            break
                        if eligible is None or eligible(own.party):
                            bar = min(bar, own.counter + reach)
                            limit = min(limit, common.counter + reach)
                            yield own

    def _dispatch(self, own: _Own, band: _Band) -> Waiter:
        waiter = own.head
        flow, terms = waiter.flow, waiter.terms
        own.common.ring.advance()
        own.ring.advance()
        self._leave(waiter, own)
        own.overtaken = 0.0
        self._touch(flow)
        self._touch(own.common.party)
        self._charge(own, waiter.cost, terms.weight)
        if terms.band != band.number:
            self._count_at_home(self._own(flow, terms.band), waiter.cost / terms.weight)
        return waiter

    def _count_at_home(self, own: _Own, amount: float) -> None:
        """Served in a higher band: that counts in its own, too."""
        own.charge(amount)
        own.common.charge(amount)

    def _charge(self, own: _Own, amount: float, weight: float) -> None:
        common = own.common
        own.weight = weight
        own.party.add(amount)
        amount /= weight
        common.party.add(amount)
        own.charge(amount)
        common.charge(amount)

    def _rise(self, now: float) -> None:
        """Who has waited long enough moves up: one of each band at a time."""
        standing = self._standing
        for upper, lower in list(pairwise(standing))[::-1]:
            oldest = next(iter(lower.waiting))
            if now - oldest.entered >= self.ageing:
                self._leave(oldest, cast(_Own, oldest.place))
                self._enter(oldest, upper.number, now)

    def pass_by(self, flow: Flow, terms: Terms, cost: float, now: float) -> None:
        """Dispatched without having waited, because nobody does or nobody who does may go."""
        self._advance(now)
        own = self._own(flow, terms.band)
        common = own.common
        self._touch(flow)
        self._touch(common.party)
        own.weight = terms.weight
        own.ring.pass_by(own)
        common.ring.pass_by(common)
        self._charge(own, max(_LEAST, _finite(cost)), terms.weight)

    def charge(self, flow: Flow, terms: Terms, amount: float, now: float) -> None:
        """What was dispatched turns out to be ``amount`` more or less, or the flow was served elsewhere.

        A flow that has nothing under way here (``inflight``) is lifted before it is charged: settle what was dispatched
        before it is counted out.
        """
        self._advance(now)
        own = self._own(flow, terms.band)
        common = own.common
        self._touch(flow)
        self._touch(common.party)
        if amount > 0.0 and not flow.inflight:
            if not own.queued:
                own.lift()
            if not common.queued:
                common.lift()
        self._charge(own, _finite(amount), terms.weight)

    # -- asking ---------------------------------------------------------------------------------------------------

    def ahead(self, flow: Flow, terms: Terms) -> int:
        """About how many would be served before one more of this flow: as if all cost the same, and with the counters
        as they are.
        """
        higher = 0
        for band in self._standing:
            if band.number <= terms.band:
                break
            higher += len(band.waiting)
        here = self._bands.get(terms.band)
        if here is None or not here.waiting:
            return higher
        count = len(here.waiting)
        mean = here.cost / count
        turn = mean * count / (terms.weight * here.inverse)  # what one of this flow costs, divided by weight
        own = flow.shares.get(terms.band)
        common = own.common if own is not None else self._common(flow, here)
        if common is None:
            return higher + min(count, int(here.tenants.active * _turns(0.0, 0.0, mean, turn)))
        mine = 0 if own is None else own.queued
        before = mine
        others = common.callers.active - (mine > 0)
        if others:
            lead = 0.0 if own is None else own.counter - common.callers.floor
            before += min(common.queued - mine, int(others * _turns(mine, lead, mean, turn)))
        others = here.tenants.active - (common.queued > 0)
        lead = common.counter - here.tenants.floor
        return higher + before + min(count - common.queued, int(others * _turns(before, lead, mean, turn)))

    def _common(self, flow: Flow, band: _Band) -> _Common | None:
        tenant = flow.tenant
        return None if tenant is None else tenant.shares.get(band.number)

    def flows(self, now: float) -> list[FlowStatistics]:
        """All that are known, for operators: a walk over them."""
        self._advance(now)
        return [_statistics(flow, now) for flow in self._flows.values()]

    def waiters(self) -> Iterator[Waiter]:
        """Those who wait, by band and, but for those moved up, in the order in which they came."""
        for band in self._standing:
            yield from band.waiting


def _statistics(flow: Flow, now: float) -> FlowStatistics:
    served = flow.served(now)
    shares = flow.shares.values()
    return FlowStatistics(
        tenant=flow.key[0],
        caller=flow.key[1],
        queued=flow.queued,
        inflight=flow.inflight,
        served=served,
        excess=max((min(own.counter, own.ceiling()) - own.ring.floor for own in shares), default=0.0),
        oldest_wait=max((now - own.head.since for own in shares if own.queued), default=0.0),
    )


def _turns(before: float, lead: float, mean: float, turn: float) -> float:
    """How many of each other party are served before the next one here, with ``before`` in front of it and its counter
    ``lead`` above the floor.
    """
    return ((before + 1) * turn + max(0.0, lead)) / mean


def _finite(amount: float) -> float:
    """Nothing that a counter cannot bear: NaN is nothing, and more than a billion tokens are a billion."""
    if -_MOST <= amount <= _MOST:
        return amount
    return 0.0 if amount != amount else math.copysign(_MOST, amount)


def _slot(now: float, width: float) -> int:
    return int(now / width)


def _downwards(band: _Band) -> int:
    return -band.number
