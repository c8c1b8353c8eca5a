"""The live feed: the running gateway as a stream of events for whoever watches. (T)

Invariant: one sample a second is taken always, in microseconds; everything else is done while somebody watches, once
for all of them, in slices of a millisecond; who does not read is dropped, and nobody waits for anybody.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec
import trio

import gateway
from gateway import live_view as view
from gateway.config.snapshot import Snapshot
from gateway.core import Gateway
from gateway.flows import FlowStatistics
from gateway.live_figures import Counted, Rates, counted, rates
from gateway.member import Member
from gateway.meter import Flow, Totals
from gateway.pool import Pool
from gateway.pools import Pools

WATCHERS: Final = 32
SHOWN: Final = 512
"""As many endpoints, and pools, are sent."""
_INTERVAL_S: Final = 1.0
_WINDOW: Final = 10
_HISTORY: Final = 300
_BEHIND: Final = 4
"""Events that may be on their way to a watcher that does not take them."""
_DECISIONS: Final = 20
_SLICE: Final = 100
_LAST_S: Final = 0.2

Event = tuple[str, bytes]
"""Its name, and its data as JSON."""


class Parts(Protocol):
    """What of the program is looked at."""

    @property
    def snapshot(self) -> Snapshot: ...

    pools: Pools
    gateway: Gateway
    totals: Totals
    draining: bool

    def ready(self) -> bool: ...
    def connections(self) -> dict[str, int]: ...


class Crowded(Exception):
    """There are as many watchers as may be."""


class _Watcher:
    """One who watches; ``cut`` ends what stands between."""

    def __init__(self, cut: Callable[[], object]) -> None:
        self.cut = cut
        self.greeted = False
        self.send, self.receive = trio.open_memory_channel[Event](_BEHIND)


class _Detail(msgspec.Struct, frozen=True):
    """What was counted by pool and by endpoint at one moment."""

    at: float
    pools: dict[str, Counted]
    endpoints: dict[tuple[str, str], view.Meter]


class Live:
    """``problems``: why the last reload failed. Times in events are seconds of ``clock``, since the epoch."""

    def __init__(
        self, parts: Parts, problems: Callable[[], Sequence[str]] = tuple, clock: Callable[[], float] = time.time
    ) -> None:
        self._parts = parts
        self._problems = problems
        self._clock = clock
        self._started = clock()
        self._history: deque[list[float | None]] = deque(maxlen=_HISTORY)
        self._counted: deque[tuple[float, Counted]] = deque(maxlen=_WINDOW + 1)
        self._detail: deque[_Detail] = deque(maxlen=_WINDOW + 1)
        self._watchers: dict[_Watcher, None] = {}
        self._joined = trio.Event()
        self._left = trio.Event()
        self._routes: tuple[object, list[view.Row]] = (None, [])
        self._rates: Rates = rates(Counted(), Counted(), 1.0)
        self._ended = False

    async def run(self) -> None:
        """Until cancelled."""
        due = trio.current_time()
        state = b""
        while True:
            if trio.current_time() >= due:
                due = max(due + _INTERVAL_S, trio.current_time())
                self._sample()
                state = b""
            self._joined = trio.Event()
            if self._watchers:
                fresh = not state
                state = state or await self._state()
                self._send(state, fresh)
            else:
                self._detail.clear()
            with trio.move_on_at(due):
                await self._joined.wait()

    # -- watching ---------------------------------------------------------------------------------------------------

    @contextmanager
    def watch(self, cut: Callable[[], object]) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """Events from now on, "hello" first; the channel ends when the gateway does, or for one who falls behind, after
        ``cut`` was called. Raises Crowded.
        """
        if len(self._watchers) >= WATCHERS or self._ended:
            raise Crowded
        watcher = _Watcher(cut)
        self._watchers[watcher] = None
        self._joined.set()
        try:
            yield watcher.receive
        finally:
            self._drop(watcher)
            watcher.receive.close()

    def _drop(self, watcher: _Watcher) -> None:
        self._watchers.pop(watcher, None)
        watcher.send.close()
        if not self._watchers:
            self._left.set()

    async def end(self) -> None:
        """No more events; returns when the last ones are out, or soon anyway."""
        self._ended = True
        self._left = trio.Event()
        for watcher in self._watchers:
            watcher.send.close()
        if self._watchers:
            with trio.move_on_after(_LAST_S):
                await self._left.wait()

    def _send(self, state: bytes, fresh: bool) -> None:
        hello = b""
        for watcher in list(self._watchers):
            if not watcher.greeted:
                hello = hello or self._hello(state)
                watcher.greeted = True
                event = "hello", hello
            elif fresh:
                event = "state", state
            else:
                continue
            try:
                watcher.send.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                self._drop(watcher)
                watcher.cut()

    def _hello(self, state: bytes) -> bytes:
        head = {
            "version": gateway.__version__,
            "started": self._started,
            "interval": _INTERVAL_S,
            "history": list(self._history),
            "state": msgspec.Raw(state),
        }
        return msgspec.json.encode(head)

    # -- always -----------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        now = trio.current_time()
        new = counted(self._parts.totals.flows.values())
        at, old = self._counted[0] if self._counted else (now - _INTERVAL_S, new)
        self._counted.append((now, new))
        found = self._rates = rates(new, old, max(now - at, 1e-3))
        inflight, queued = self._under_way()
        self._history.append(
            [
                round(self._clock(), 3), found.rps, found.errors, found.tokens_in, found.tokens_out,
                found.ttft_p50, found.ttft_p99, inflight, queued,
            ]
        )  # fmt: skip

    def _under_way(self) -> tuple[int, int]:
        """Requests at endpoints, and those that wait for one."""
        inflight = queued = 0
        for pool in self._parts.pools.by_name().values():
            inflight += pool.inflight
            if pool.gate is not None:
                queued += len(pool.gate.order)
        return inflight, queued

    # -- while somebody watches -------------------------------------------------------------------------------------

    async def _state(self) -> bytes:
        now = trio.current_time()
        detail = await self._look(now)
        old = self._detail[0] if self._detail else None
        self._detail.append(detail)
        parts: dict[str, object] = dict(self._head())
        streams, rows = await self._pools(now, detail, old)
        parts["totals"] = self._totals(streams)
        parts |= _shown("pools", rows, SHOWN)
        parts |= await self._endpoints(now, detail, old)
        flows = await self._flows(now)
        parts |= {"flows": encode(view.foremost(flows)), "flows_left_out": max(0, len(flows) - view.FLOWS)}
        parts |= _shown("routes", self._route_rows(), view.ROUTES)
        await trio.lowlevel.checkpoint()
        parts["decisions"] = encode(self._parts.gateway.decisions.newest(_DECISIONS))
        return encode(parts)

    def _head(self) -> dict[str, object]:
        parts, now = self._parts, self._clock()
        return {
            "at": round(now, 3),
            "uptime": round(now - self._started, 3),
            "ready": parts.ready(),
            "draining": parts.draining,
            "generation": parts.totals.reloads["success"] + 1,
            "problems": list(self._problems()),
        }

    def _totals(self, streams: int) -> dict[str, object]:
        inflight, queued = self._under_way()
        figures = msgspec.to_builtins(self._rates)
        connections = self._parts.connections()
        return {"inflight": inflight, "queued": queued, "streams": streams, **figures, "connections": connections}

    async def _look(self, now: float) -> _Detail:
        by_pool: dict[str, list[Flow]] = {}
        for (_, pool, _, _), flow in self._parts.totals.flows.items():
            by_pool.setdefault(pool, []).append(flow)
        pools = {name: counted(flows) for name, flows in by_pool.items()}
        await trio.lowlevel.checkpoint()
        endpoints = {(member.pool, member.id): view.metered(member) for member in self._members()}
        await trio.lowlevel.checkpoint()
        return _Detail(now, pools, endpoints)

    def _members(self) -> Iterator[Member]:
        """Those that are shown."""
        members = (member for pool in list(self._parts.pools.by_name().values()) for member in pool.members)
        return (member for member, _ in zip(members, range(SHOWN), strict=False))

    async def _pools(self, now: float, new: _Detail, old: _Detail | None) -> tuple[int, list[view.Row]]:
        """Requests whose answers are under way, and a row for each pool."""
        rows: list[view.Row] = []
        looked_at = streams = 0
        level = self._parts.snapshot.settings.scheduler.saturation.level
        for name, pool in list(self._parts.pools.by_name().items()):
            ready, levels = 0, []
            for member in pool.members:
                ready += member.usable(now)
                streams += member.inflight - member.pending
                if (full := level(member)) is not None:
                    levels.append(full)
                looked_at += 1
                if not looked_at % _SLICE:
                    await trio.lowlevel.checkpoint()
            saturation = sum(levels) / len(levels) if levels else None
            rows.append(self._pool(name, pool, ready, saturation, _served(name, new, old)))
        return streams, rows

    def _pool(self, name: str, pool: Pool, ready: int, saturation: float | None, served: Rates | None) -> view.Row:
        return {
            "name": name,
            "saturation": saturation,
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

    async def _endpoints(self, now: float, new: _Detail, old: _Detail | None) -> dict[str, object]:
        rows: list[msgspec.Raw] = []
        seconds = 1.0 if old is None else new.at - old.at
        for member in list(self._members()):
            key = member.pool, member.id
            meter = new.endpoints.get(key)
            if meter is None:
                continue  # it came while we looked
            before = None if old is None else old.endpoints.get(key)
            rows.append(encode(view.endpoint(member, now, meter, before, seconds)))
            if not len(rows) % _SLICE:
                await trio.lowlevel.checkpoint()
        there = sum(len(pool.members) for pool in self._parts.pools.by_name().values())
        return {"endpoints": rows, "endpoints_left_out": max(0, there - len(rows))}

    async def _flows(self, now: float) -> list[view.Row]:
        rows: list[view.Row] = []
        tiers = self._parts.snapshot.settings.fairness.tiers
        for name, pool in list(self._parts.pools.by_name().items()):
            if pool.gate is not None:
                found: list[FlowStatistics] = []
                for count, flow in enumerate(pool.gate.order.each(now), 1):
                    if flow.queued or flow.inflight or flow.served > 0.0:
                        found.append(flow)
                    if not count % _SLICE:
                        await trio.lowlevel.checkpoint()
                rows += view.flows(name, found, tiers)
        return rows

    def _route_rows(self) -> list[view.Row]:
        routes = self._parts.snapshot.routes.routes
        if self._routes[0] is not routes:
            self._routes = routes, view.routes(routes)
        return self._routes[1]


def _served(pool: str, new: _Detail, old: _Detail | None) -> Rates | None:
    """What became of the pool's requests between two moments; None if nobody looked at the first one."""
    if old is None or new.at <= old.at:
        return None
    return rates(new.pools.get(pool, Counted()), old.pools.get(pool, Counted()), new.at - old.at)


def _shown(name: str, rows: Sequence[view.Row], most: int) -> dict[str, object]:
    return {name: encode(rows[:most]), f"{name}_left_out": max(0, len(rows) - most)}


def encode(value: Any) -> msgspec.Raw:
    """As JSON, halves of surrogate pairs included, which UTF-8 cannot say and hostile names may hold."""
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except UnicodeEncodeError:
        return msgspec.Raw(json.dumps(msgspec.to_builtins(value)).encode())
