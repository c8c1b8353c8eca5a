"""Who of those who wait is next: an order of callers by the weighted tokens each was served. (P)

Invariant: whoever is pushed is popped or removed, once; what is dispatched is charged to its caller and its tenant, so
that neither can run ahead of others who wait by more than the bound of `Order`.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import chain, islice, pairwise
from typing import Final, cast

from gateway.counters import LEAST, SLOTS, Share, finite
from gateway.flows import Band, CallerShare, Flow, Flows, FlowStatistics, Terms, Waiter

__all__ = ["Flow", "FlowStatistics", "Order", "Terms", "Waiter"]

_CALLERS: Final = 8
_ASKED: Final = 32
_LOOKED_AT: Final = 64
_QUANTUM: Final = 8.0
_LAST: Final = 16
_MUCH: Final = 2.0
_MOSTLY: Final = 0.75


class Order:
    """Times are seconds of one clock; one that steps back stands still. Costs are weighted tokens.

    Every dispatch charges its estimated cost, divided by weight, to the counters of caller and tenant; `charge`
    corrects it when more is known. The tenant with the least counter is next, and of its callers the one with the
    least; each caller's requests keep their order, but for what ``quantum`` allows.

    - Who wants something again is lifted to the floor, the least counter at the last dispatch: being idle earns no
      credit. It is never above it by more than it was served within ``window``: what was before is forgotten.
    - ``quantum``: of the requests of callers whose counters, its tenant's and its own, are at most that far above the
      least, the one with the greatest hit goes first (as in deficit longest prefix match), until whoever's turn it is
      was overtaken by so much. None: eight times what those who wait usually cost.
    - Bands are strict, with counters of their own. ``ageing``: the one that came first of a band moves up to the next
      in use when it has waited so long; where it is served from there, it is charged in both.

    Bound. Say that f and g wait all the time from t₁ to t₂ in one band, two tenants or two callers of one tenant, may
    both be popped, and nobody of theirs is moved up. U is the greatest cost ÷ weight charged at a dispatch; B the most
    by which corrections of what is under way at one time can still raise one counter, plus that by which they can lower
    another (what was served elsewhere counts as a correction, too). When f was last dispatched, c_f ≤ c_g + quantum
    before, and c_f ≤ c_g + quantum + U after. Since then corrections have raised c_f and lowered c_g by B together at
    most, and whatever g was dispatched since costs it nothing less than nothing. So c_f − c_g ≤ quantum + U + B, unless
    it was more at t₁ already, and likewise with f and g exchanged. Let D be the greater of that sum and of what the
    counters differed by at t₁. As those who wait are not lifted, counters move by what is charged, and

        |W_f/w_f − W_g/w_g| ≤ 2·D      for the weighted tokens charged to them between t₁ and t₂,

    or quantum + U + B if the counters were equal at t₁. If t₂ − t₁ is at most 15/16 of the window, what is forgotten
    meanwhile was served before t₁ and is no more than what one of them was above the floor then, which leaves the bound
    as it is. With exact estimates B is 0, and without a quantum this is the 2·U of the virtual token counter (Sheng et
    al., OSDI 2024). Whoever's turn it is, is overtaken by less than quantum + U. A quantum that varies counts as the
    greatest it was.
    """

    def __init__(
        self, *, window: float = 600.0, quantum: float | None = 0.0, ageing: float = math.inf, max_flows: int = 10_000
    ) -> None:
        self.quantum = quantum
        self.ageing = ageing
        self.size = 0
        self._known = Flows(window, max_flows)
        self._count = 0
        self._standing: list[Band] = []  # those with waiters, the highest first
        self._crowds: dict[int, dict[Flow, None]] = {}  # by how many of a flow wait
        self._most = 0

    def __len__(self) -> int:
        return self._count

    def retune(self, *, window: float, quantum: float | None, ageing: float) -> None:
        """Another configuration, under those who wait and are known."""
        self.quantum = quantum
        self.ageing = ageing
        if window / SLOTS != self._known.width:
            self._known.retune(window)

    def flow(self, key: tuple[str, str], now: float) -> Flow:
        """(tenant, caller): known or new."""
        return self._known.flow(key, now)

    def flows(self, now: float) -> list[FlowStatistics]:
        """All that are known, for operators: a walk over them."""
        return self._known.statistics(now)

    def each(self, now: float) -> Iterator[FlowStatistics]:
        """The same; whoever reads may give way in between."""
        return self._known.each(now)

    # -- waiting --------------------------------------------------------------------------------------------------

    def push(self, waiter: Waiter, now: float) -> None:
        """It waits."""
        self._known.advance(now)
        self._enter(waiter, waiter.terms.band, min(waiter.since, now))

    def _enter(self, waiter: Waiter, number: int, entered: float) -> None:
        flow, weight = waiter.flow, waiter.terms.weight
        own = self._known.own(flow, number)
        common = own.common
        band = common.band
        own.weight = weight
        if not own.queued:
            flow.roll(self._known.slot)
            own.overtaken = 0.0
            own.queued = 1
            own.ring.enter(own)
        else:
            own.queued += 1
        common.queued += 1
        if common.queued == 1:
            common.party.roll(self._known.slot)
            common.ring.enter(common)
        if not band.waiting:
            insort(self._standing, band, key=_downwards)
        own.waiting[waiter] = None
        band.waiting[waiter] = None
        band.cost += (cost := waiter.cost / weight)
        band.logs += math.log(cost)
        band.inverse += 1.0 / weight
        waiter.entered, waiter.place = entered, own
        self.size += waiter.size
        self._count += 1
        self._recount(flow, 1)

    def remove(self, waiter: Waiter) -> None:
        """It gave up. Nothing happens if it does not wait."""
        if waiter.place is not None:
            self._leave(waiter, waiter.place)

    def _leave(self, waiter: Waiter, own: CallerShare) -> None:
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
        band.cost -= (cost := waiter.cost / weight)
        band.logs -= math.log(cost)
        band.inverse -= 1.0 / weight
        if not band.waiting:
            band.cost = band.inverse = band.logs = 0.0
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
        first. ``hit``: what is to be said for a request now, the more the better; asked of 32, the first ones of up to
        eight callers.
        """
        self._known.advance(now)
        if len(self._standing) > 1 and self.ageing < math.inf:
            self._rise(now)
        for band in self._standing:
            waiter = self._next(band, eligible, hit)
            if waiter is not None:
                return self._dispatch(waiter, band)
        return None

    def _next(
        self, band: Band, eligible: Callable[[Flow], bool] | None, hit: Callable[[Waiter], float] | None
    ) -> Waiter | None:
        quantum = self.quantum if self.quantum is not None else _QUANTUM * band.usual
        if hit is None or quantum <= 0.0 or len(band.waiting) == 1:
            own = self._least(band, eligible)
            return None if own is None else own.head
        with closing(self._turns(band, eligible, quantum)) as turns:
            owns = list(islice(turns, _CALLERS))
        if not owns:
            return None
        first = owns[0]
        chosen = first.head
        if first.overtaken < quantum:
            depth = _ASKED // len(owns)
            chosen = max(chain.from_iterable(islice(own.waiting, depth) for own in owns), key=hit)  # the first of them
            if chosen is not first.head:
                first.overtaken += chosen.cost / chosen.terms.weight
        return chosen

    def _least(self, band: Band, eligible: Callable[[Flow], bool] | None) -> CallerShare | None:
        if eligible is None:
            common = band.tenants.least()
            return None if common is None else common.callers.least()
        with closing(self._turns(band, eligible, 0.0)) as turns:
            return next(turns, None)

    def _turns(
        self, band: Band, eligible: Callable[[Flow], bool] | None, reach: float
    ) -> Generator[CallerShare, None, None]:
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

    def _dispatch(self, waiter: Waiter, band: Band) -> Waiter:
        own, flow, terms = cast(CallerShare, waiter.place), waiter.flow, waiter.terms
        if own.head is waiter:
            own.overtaken = 0.0
        own.common.ring.advance()
        own.ring.advance()
        self._leave(waiter, own)
        self._known.touch(own)
        self._known.spend(own, waiter.cost, terms.weight)
        if terms.band != band.number:
            home, amount = self._known.own(flow, terms.band), waiter.cost / terms.weight
            home.charge(amount)
            home.common.charge(amount)
        return waiter

    def _rise(self, now: float) -> None:
        """Who has waited long enough moves up: one of each band at a time."""
        for upper, lower in list(pairwise(self._standing)):
            oldest = next(iter(lower.waiting))
            if now - oldest.entered >= self.ageing:
                self._leave(oldest, cast(CallerShare, oldest.place))
                self._enter(oldest, upper.number, now)

    def pass_by(self, flow: Flow, terms: Terms, cost: float, now: float) -> None:
        """Dispatched without having waited, because nobody does or nobody who does may go."""
        self._known.advance(now)
        own = self._known.own(flow, terms.band)
        self._known.touch(own)
        own.weight = terms.weight
        own.ring.pass_by(own)
        own.common.ring.pass_by(own.common)
        self._known.spend(own, max(LEAST, finite(cost)), terms.weight)

    def charge(self, flow: Flow, terms: Terms, amount: float, now: float) -> None:
        """What was dispatched turns out to be ``amount`` more or less, or the flow was served elsewhere.

        A flow that has nothing under way here (``inflight``) is lifted before it is charged: settle what was dispatched
        before it is counted out.
        """
        self._known.advance(now)
        own = self._known.own(flow, terms.band)
        self._known.touch(own)
        if amount > 0.0 and not flow.inflight:
            if not own.queued:
                own.lift()
            if not own.common.queued:
                own.common.lift()
        self._known.spend(own, finite(amount), terms.weight)

    # -- asking ---------------------------------------------------------------------------------------------------

    def ahead(self, flow: Flow, terms: Terms) -> int:
        """About how many would be served before one more of this flow: as if all cost the same, and with the counters
        as they are.
        """
        number, known = terms.band, self._known
        higher = sum(len(band.waiting) for band in self._standing if band.number > number)
        band = known.bands.get(number)
        if band is None or not band.waiting:
            return higher
        count = len(band.waiting)
        mean = max(band.cost, LEAST) / count
        turn = count / max(terms.weight * band.inverse, LEAST)  # what one of this flow costs, in means
        own = flow.shares.get(number)
        common = None if flow.tenant is None else flow.tenant.shares.get(number)
        mine = 0 if own is None else own.queued
        before, theirs = mine, 0
        if common is not None:
            theirs = common.queued
            turns = (mine + 0.5) * turn + _excess(own) / mean
            before += int(min(theirs - mine, (common.callers.active - (mine > 0)) * turns))
        turns = (before + 0.5) * turn + _excess(common) / mean
        return higher + before + int(min(count - theirs, (band.tenants.active - (theirs > 0)) * turns))

    def behind(self, flow: Flow, terms: Terms) -> Waiter | None:
        """Whoever has to stand back for one more of this flow if all of them cannot be served: one of a lower band, or,
        if most of those who came last had within the window and wait for together more than twice as much as this one,
        who has most of these. None: nobody has to.
        """
        lowest = self._standing[-1] if self._standing else None
        if lowest is not None and lowest.number < terms.band:
            return next(reversed(lowest.waiting))
        number = terms.band
        band = self._known.bands.get(number)
        if band is None or not band.waiting:
            return None
        turn = band.cost / len(band.waiting)
        flow.roll(self._known.slot)
        common = None if flow.tenant is None else flow.tenant.shares.get(number)
        mine = _amount(flow.shares.get(number), turn) + turn
        ours = _amount(common, turn) + turn
        found, most, more = None, 0.0, 0
        last = list(islice(reversed(band.waiting), _LAST))
        for waiter in last:
            own = cast(CallerShare, waiter.place)
            theirs = _amount(own, turn) / mine if own.common is common else _amount(own.common, turn) / ours
            more += theirs > _MUCH
            if theirs > most:
                found, most = waiter, theirs
        return found if more >= _MOSTLY * len(last) else None

    def waiters(self) -> Iterator[Waiter]:
        """Those who wait, by band and, but for those moved up, in the order in which they came."""
        for band in self._standing:
            yield from band.waiting


def _excess(share: Share | None) -> float:
    return 0.0 if share is None else share.excess


def _amount(share: Share | None, turn: float) -> float:
    """What a party had within the window, and what is to come for those of it who wait, divided by its weight."""
    return 0.0 if share is None else max(share.party.total, 0.0) / share.weight + share.queued * turn


def _downwards(band: Band) -> int:
    return -band.number
