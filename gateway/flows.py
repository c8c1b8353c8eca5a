"""Callers and their tenants: who is known, what each was served lately, and who waits for what. (P)

Invariant: a caller that has somebody waiting or something under way is known, and so is, as far as there is room, one
that was served within the window; nobody else is for long.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.counters import LEAST, MOST, SLOTS, Party, Ring, Share, finite

_CHORES: Final = 4
_SPARED: Final = 16


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What a tier grants: ``weight`` is its share of the service; a higher ``band`` is served first."""

    weight: float = 1.0
    band: int = 0

    def __post_init__(self) -> None:
        if not LEAST <= self.weight <= MOST:
            raise ValueError(f"weight {self.weight}: expected {LEAST} to {MOST}")


class FlowStatistics(msgspec.Struct, frozen=True, gc=False):
    """``served``: weighted tokens within the window; ``excess``: how far its counter is above the floor within its
    tenant, and ``tenant_excess`` its tenant's among tenants, in the band where that is most; ``oldest_wait``: seconds,
    0 if nobody waits. ``weight`` and ``priority``: its terms, the highest if there are several.
    """

    tenant: str
    caller: str
    queued: int
    inflight: int
    served: float
    excess: float
    tenant_excess: float
    oldest_wait: float
    weight: float = 1.0
    priority: int = 0


class Flow(Party):
    """One caller within its tenant. ``inflight`` is kept by whoever dispatches; ``queued``: how many wait."""

    __slots__ = ("inflight", "key", "queued", "tenant", "width")

    shares: dict[int, CallerShare]

    def __init__(self, key: tuple[str, str], slot: int, width: float) -> None:
        super().__init__(slot)
        self.key = key
        self.inflight = self.queued = 0
        self.tenant: Tenant | None = None  # while it is known to the order
        self.width = width

    def served(self, now: float) -> float:
        """Weighted tokens within the window."""
        self.roll(int(now / self.width))
        return max(0.0, self.total)


class Waiter:
    """One queued request of ``size`` bytes that is expected to take ``cost`` weighted tokens; it waits from ``since``.

    ``owner`` is the caller's business.
    """

    __slots__ = ("cost", "entered", "flow", "owner", "place", "since", "size", "terms")

    def __init__(self, flow: Flow, terms: Terms, cost: float, size: int, since: float, owner: object = None) -> None:
        self.flow = flow
        self.terms = terms
        self.cost = max(LEAST, finite(cost))
        self.size = size
        self.since = since
        self.owner = owner
        self.entered = since  # its band, or when that counts as to have been
        self.place: CallerShare | None = None  # while it is queued


class Tenant(Party):
    """``flows``: how many of its callers are known. What it is served is kept divided by weight."""

    __slots__ = ("flows", "name")

    shares: dict[int, TenantShare]

    def __init__(self, name: str, slot: int) -> None:
        super().__init__(slot)
        self.name = name
        self.flows = 0


class Band:
    """Those of one priority: tenants compete, and within each its callers. ``inverse``: the sum of 1/weight."""

    __slots__ = ("cost", "inverse", "logs", "number", "tenants", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.tenants: Ring[TenantShare] = Ring()
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.cost = self.inverse = self.logs = 0.0  # of all who wait, cost divided by weight, and its logarithms

    @property
    def usual(self) -> float:
        """What those who wait cost, divided by weight: the geometric mean, which a few that cost thousands of times as
        much as others hardly move. There has to be one.
        """
        return math.exp(self.logs / len(self.waiting))


class TenantShare(Share):
    """A tenant's share of a band."""

    __slots__ = ("band", "callers")

    def __init__(self, tenant: Tenant, band: Band) -> None:
        super().__init__(tenant, band.tenants)
        self.band = band
        self.callers: Ring[CallerShare] = Ring()


class CallerShare(Share):
    """A caller's share of what its tenant has of a band. ``overtaken``: by how much, since it was its turn."""

    __slots__ = ("common", "overtaken", "waiting")

    party: Flow

    def __init__(self, flow: Flow, common: TenantShare) -> None:
        super().__init__(flow, common.callers)
        self.common = common
        self.overtaken = 0.0
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()

    @property
    def head(self) -> Waiter:
        """Who came first."""
        return next(iter(self.waiting))


class Flows:
    """All that are known, and the time. ``window``: seconds that are remembered; ``most``: how many callers are kept,
    unless more of them wait or have something under way.
    """

    __slots__ = ("_due", "_flows", "_tenants", "bands", "most", "slot", "width")

    def __init__(self, window: float, most: int) -> None:
        self.most = most
        self.width = window / SLOTS
        self.slot = 0
        self.bands: dict[int, Band] = {}
        self._flows: OrderedDict[tuple[str, str], Flow] = OrderedDict()  # the longest idle first
        self._tenants: dict[str, Tenant] = {}
        self._due: deque[tuple[int, Party]] = deque()  # who was served in which part of the window

    def retune(self, window: float) -> None:
        """A window of another length: what is remembered counts as of now. A walk over all."""
        slot = self.slot = int(self.slot * self.width * SLOTS / window)
        self.width = window / SLOTS
        for flow in self._flows.values():
            flow.width = self.width
        parties: list[Party] = [*self._tenants.values(), *self._flows.values()]
        for party in parties:
            party.restart(slot)
        self._due = deque((slot, party) for party in parties)

    def advance(self, now: float) -> None:
        """It is ``now``."""
        slot = int(now / self.width)
        if slot > self.slot:
            self.slot = slot
        due = self._due
        if due and due[0][0] + SLOTS <= self.slot:
            self._expire()

    def _expire(self) -> None:
        """Of some, forget what is older than the window; of those who had nothing since, all."""
        due, slot = self._due, self.slot
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

    def flow(self, key: tuple[str, str], now: float) -> Flow:
        """(tenant, caller): known or new."""
        flow = self._flows.get(key)
        if flow is None:
            self.advance(now)
            flow = Flow(key, self.slot, self.width)
            self._adopt(flow)
        return flow

    def _adopt(self, flow: Flow) -> Tenant:
        name = flow.key[0]
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Tenant(name, self.slot)
            self._due.append((self.slot, tenant))
        tenant.flows += 1
        flow.tenant = tenant
        flow.roll(self.slot)
        flow.touched = self.slot
        self._due.append((self.slot, flow))
        self._flows.setdefault(flow.key, flow)
        if len(self._flows) > self.most:
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
            if len(self._flows) <= self.most:
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

    def own(self, flow: Flow, number: int) -> CallerShare:
        """The flow's share of a band."""
        own = flow.shares.get(number)
        return self._open(flow, number) if own is None else own

    def _open(self, flow: Flow, number: int) -> CallerShare:
        tenant = flow.tenant or self._adopt(flow)
        common = tenant.shares.get(number)
        if common is None:
            band = self.bands.get(number)
            if band is None:
                band = self.bands[number] = Band(number)
            common = tenant.shares[number] = TenantShare(tenant, band)
        own = flow.shares[number] = CallerShare(flow, common)
        return own

    def spend(self, own: CallerShare, amount: float, weight: float) -> None:
        """Weighted tokens, of either sign, for the caller and its tenant, whose `touch` comes before."""
        own.weight = weight
        own.party.add(amount)
        amount /= weight
        common = own.common
        common.party.add(amount)
        own.charge(amount)
        common.charge(amount)

    def touch(self, own: CallerShare) -> None:
        """Something of its is charged now."""
        slot = self.slot
        flow = own.party
        if flow.touched != slot:
            self._mark(flow)
            if self._flows.get(flow.key) is flow:
                self._flows.move_to_end(flow.key)
        tenant = own.common.party
        if tenant.touched != slot:
            self._mark(tenant)

    def _mark(self, party: Party) -> None:
        party.roll(self.slot)
        party.touched = self.slot
        self._due.append((self.slot, party))

    def statistics(self, now: float) -> list[FlowStatistics]:
        """All that are known: a walk over them."""
        return list(self.each(now))

    def each(self, now: float) -> Iterator[FlowStatistics]:
        """The same; whoever reads may give way in between."""
        self.advance(now)
        for tenant in self._tenants.values():
            tenant.roll(self.slot)
        return (_statistics(flow, now) for flow in list(self._flows.values()))


def _statistics(flow: Flow, now: float) -> FlowStatistics:
    served = flow.served(now)
    shares = flow.shares.values()
    return FlowStatistics(
        tenant=flow.key[0],
        caller=flow.key[1],
        queued=flow.queued,
        inflight=flow.inflight,
        served=served,
        excess=max((own.excess for own in shares), default=0.0),
        tenant_excess=max((own.common.excess for own in shares), default=0.0),
        oldest_wait=max((now - own.head.since for own in shares if own.queued), default=0.0),
        weight=max((own.weight for own in shares), default=1.0),
        priority=max(flow.shares, default=0),
    )
