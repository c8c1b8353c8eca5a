"""The state of the running gateway as one JSON object, made between requests. (T)

Invariant: no slice takes much more than a millisecond, however many pools, endpoints and callers there are; so many of
each are shown at most, and how many are not is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec
import trio

from gateway import gauges, live_verdict
from gateway import live_view as view
from gateway.config.snapshot import Snapshot
from gateway.flows import FlowStatistics
from gateway.live_attempts import Attempts, tried
from gateway.live_figures import Counted, Rates, counted, rates
from gateway.live_json import encode
from gateway.live_verdict import Around, Ended
from gateway.member import Member
from gateway.pool import Pool
from gateway.tally import Flow

SHOWN: Final = 512
"""As many endpoints, and pools, are sent."""
_DECISIONS: Final = 20
_SLICE: Final = 100
_MEMBERS: Final = 400


class Parts(gauges.Parts, Protocol):
    """What of the program is looked at."""

    @property
    def snapshot(self) -> Snapshot: ...

    draining: bool

    def ready(self) -> bool: ...


class Before(msgspec.Struct, frozen=True):
    """What was counted, a while ago: by ``ways`` some minutes, by ``attempts`` ten or twenty seconds; how many were
    ``queued`` half a minute ago, None if nobody knows. ``seconds``: what ended within the last ten, ``minute``: within
    that. ``around``: as it is, and a minute ago.
    """

    ways: view.Ways
    attempts: Attempts
    queued: float | None = None
    seconds: Ended = Ended()
    minute: Ended = Ended()
    around: tuple[Around, Around] = (Around(), Around())


class _Seen(msgspec.Struct, frozen=True):
    """What was counted at one moment, by pool, by endpoint (its pool and id), by way of a route."""

    at: float
    pools: dict[str, Counted]
    endpoints: dict[tuple[str, str], view.Meter]
    ways: view.Ways


class Picture:
    """``window``: seconds that rates are of, at most, if it is taken once a second."""

    def __init__(self, parts: Parts, window: int) -> None:
        self._parts = parts
        self._seen: deque[_Seen] = deque(maxlen=window)
        self._routes: tuple[object, list[view.RouteRow]] = (None, [])
        self._entrances: object = None
        self._full: dict[str, float] = {}

    def forget(self) -> None:
        """Nobody looks any more."""
        self._seen.clear()
        self._full.clear()

    async def take(self, head: view.Row, totals: view.Row, before: Before) -> bytes:
        """``head`` and ``totals`` are known already."""
        now = trio.current_time()
        new = await self._look(now)
        old = self._seen[0] if self._seen else None
        self._seen.append(new)
        shown: view.Row = dict(head)
        streams, pools = await self._pools(now, new, old)
        shown["totals"] = encode({**totals, "streams": streams})
        shown |= await _shown("pools", pools, SHOWN)
        out: list[view.Row] = []
        shown |= await self._endpoints(now, new, old, out)
        flows = await self._flows(now)
        await trio.lowlevel.checkpoint()
        lately = tried(self._parts.totals.attempts, before.attempts)
        await trio.lowlevel.checkpoint()
        seen = live_verdict.Seen(
            head,
            totals,
            pools,
            out,
            flows,
            before.queued,
            before.seconds,
            before.minute,
            lately,
            self._filled(now, pools),
            before.around,
        )
        shown["verdict"] = encode(live_verdict.judge(seen))
        shown |= await _shown("flows", view.foremost(flows), view.FLOWS, len(flows))
        shown |= await _shown("routes", self._rows(new, old, before.ways), view.ROUTES, len(self._routes[1]))
        shown["decisions"] = encode(self._parts.gateway.decisions.newest(_DECISIONS))
        return bytes(encode(shown))

    async def _look(self, now: float) -> _Seen:
        by_pool: dict[str, list[Flow]] = {}
        totals = self._parts.totals
        for (_, pool, _, _), flow in totals.flows.items():
            by_pool.setdefault(pool, []).append(flow)
        pools = {name: counted(flows) for name, flows in by_pool.items()}
        await trio.lowlevel.checkpoint()
        endpoints = {(member.pool, member.id): view.metered(member) for member in self._members()}
        await trio.lowlevel.checkpoint()
        return _Seen(now, pools, endpoints, view.ways(totals.routes))

    def _filled(self, now: float, pools: Sequence[view.Row]) -> dict[str, float]:
        """For how long pools have been full, as far as somebody looked."""
        full = [pool["name"] for pool in pools if (pool["saturation"] or 0.0) >= 1.0]
        self._full = {name: self._full.get(name, now) for name in full}
        return {name: now - since for name, since in self._full.items()}

    def _members(self) -> Iterator[Member]:
        """Those that are shown."""
        members = (member for pool in list(self._parts.pools.by_name().values()) for member in pool.members)
        return (member for member, _ in zip(members, range(SHOWN), strict=False))

    async def _pools(self, now: float, new: _Seen, old: _Seen | None) -> tuple[int, list[view.Row]]:
        """Requests whose answers are under way, and a row for each pool."""
        rows: list[view.Row] = []
        looked_at = streams = 0
        level = self._parts.snapshot.settings.scheduler.saturation.level
        for name, pool in list(self._parts.pools.by_name().items()):
            ready, slots, levels = 0, 0.0, []
            for member in pool.members:
                if member.usable(now):
                    ready += 1
                    slots += member.slots
                streams += member.inflight - member.pending
                if (full := level(member)) is not None:
                    levels.append(full)
                looked_at += 1
                if not looked_at % _MEMBERS:
                    await trio.lowlevel.checkpoint()
            looked_at += 10
            filled = 0.0 if pool.gate is None else pool.gate.filled(slots)
            saturation = max(sum(levels) / len(levels), filled) if levels else filled or None
            rows.append(_pool(name, pool, ready, saturation, _served(name, new, old)))
        return streams, rows

    async def _endpoints(self, now: float, new: _Seen, old: _Seen | None, out: list[view.Row]) -> dict[str, object]:
        """Those with something the matter go to ``out``, too."""
        rows: list[msgspec.Raw] = []
        seconds = 1.0 if old is None else new.at - old.at
        for member in list(self._members()):
            key = member.pool, member.id
            meter = new.endpoints.get(key)
            if meter is None:
                continue  # it came while we looked
            before = None if old is None else old.endpoints.get(key)
            row = view.endpoint(member, now, meter, before, seconds)
            rows.append(encode(row))
            if row["state"] in live_verdict.TROUBLE:
                out.append(row)
            if not len(rows) % _SLICE:
                await trio.lowlevel.checkpoint()
        there = sum(len(pool.members) for pool in self._parts.pools.by_name().values())
        return {"endpoints": rows, "endpoints_left_out": max(0, there - len(rows))}

    async def _flows(self, now: float) -> list[view.Row]:
        rows: list[view.Row] = []
        tiers = self._parts.snapshot.settings.fairness.tiers
        for name, pool in list(self._parts.pools.by_name().items()):
            if pool.gate is None:
                continue
            found: list[FlowStatistics] = []
            for count, flow in enumerate(pool.gate.order.each(now), 1):
                if flow.queued or flow.inflight or flow.served > 0.0:
                    found.append(flow)
                if not count % _SLICE:
                    await trio.lowlevel.checkpoint()
            rows += view.flows(name, found, tiers)
        return rows

    def _rows(self, new: _Seen, old: _Seen | None, before: view.Ways) -> list[view.Row]:
        snapshot = self._parts.snapshot
        routes, entrances = snapshot.routes.routes, snapshot.entrances
        if self._routes[0] is not routes or self._entrances is not entrances:
            tables = () if entrances is None else entrances.http.values()
            http = {id(route): route for table in tables for route in table.routes}  # one may stand at several ports
            self._entrances = entrances
            self._routes = routes, [*view.routes(routes), *view.http_routes(http.values())]
        shown = self._routes[1][: view.ROUTES]
        seconds = 0.0 if old is None else new.at - old.at
        return view.serving(shown, new.ways, before, new.ways if old is None else old.ways, seconds)


def _pool(name: str, pool: Pool, ready: int, saturation: float | None, served: Rates | None) -> view.Row:
    return {
        "name": name,
        "saturation": saturation,
        "fairness": pool.gate is not None,
        "ready": ready,
        "members": len(pool.members),
        "inflight": pool.inflight,
        "queued": 0 if pool.gate is None else len(pool.gate.order),
        "rps": None if served is None else served.rps,
        "tokens_out": None if served is None else served.tokens_out,
        "ttft_p50": None if served is None else served.ttft_p50,
        "ttft_p99": None if served is None else served.ttft_p99,
        "hit_ratio": None if served is None else served.hit_ratio,
    }


def _served(pool: str, new: _Seen, old: _Seen | None) -> Rates | None:
    """What became of the pool's requests between two moments; None if nobody looked at the first one."""
    if old is None or new.at <= old.at:
        return None
    return rates(new.pools.get(pool, Counted()), old.pools.get(pool, Counted()), new.at - old.at)


def around(parts: Parts) -> Around:
    store = parts.state.limits()
    gone = "" if store is None or store.connected else store.reason
    lost = {
        "access log lines": parts.access_log.lost,
        "usage events": parts.usage.lost,
        "traces": parts.tracing.dropped,
    }
    return Around(gone, 0 if store is None else store.away, lost, dict(parts.totals.restarts))


async def _shown(name: str, rows: Sequence[view.Row], most: int, there: int | None = None) -> dict[str, object]:
    await trio.lowlevel.checkpoint()
    left_out = max(0, (len(rows) if there is None else there) - most)
    return {name: encode(rows[:most]), f"{name}_left_out": left_out}
