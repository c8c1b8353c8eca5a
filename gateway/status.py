"""The running gateway as operators see it: plain values, read when somebody asks. (T)

Nothing here changes anything but `drain`, and nothing shows a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from gateway import gauges
from gateway.config.settings import AdminListener
from gateway.config.snapshot import Snapshot
from gateway.core import Gateway
from gateway.holdings import holdings
from gateway.live import Live
from gateway.member import Member
from gateway.meter import Totals
from gateway.pools import Pools
from gateway.state import State
from gateway.supervise import supervise
from gateway.usage import UsageLog

if TYPE_CHECKING:
    from gateway.origin import Source
    from gateway.telemetry import Telemetry
    from gateway.telemetry_around import Following, Watch


class Parts(gauges.Parts, Protocol):
    """What of the program is looked at."""

    @property
    def snapshot(self) -> Snapshot: ...

    pools: Pools
    gateway: Gateway
    totals: Totals
    usage: UsageLog
    state: State
    draining: bool

    @property
    def cluster(self) -> Following | None: ...
    @property
    def sources(self) -> Sequence[Source]: ...

    def ready(self) -> bool: ...
    def connections(self) -> dict[str, int]: ...


class Status:
    """What the admin plane stands on (protocols.admin.app.Admin). ``reload_problems``: why the last reload failed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._telemetry: Telemetry | None = None
        self._rules: object = None
        self._detectors: dict[str, Callable[[Sequence[Member]], float]] = {}
        self.reload_problems: tuple[str, ...] = ()
        self.live = Live(parts, lambda: self.reload_problems)

    @property
    def draining(self) -> bool:
        return self._parts.draining

    def ready(self) -> bool:
        return self._parts.ready()

    @property
    def listener(self) -> AdminListener:
        return self._parts.snapshot.settings.listeners.admin

    async def watch(self) -> None:
        """Keep the live feed going, until cancelled."""
        await supervise(self.live.run, name="live feed", counts=self._parts.totals.restarts)

    def config(self) -> object:
        parts = self._parts
        shown = {
            "generation": parts.totals.generation,
            "sources": msgspec.to_builtins(parts.sources),
            **parts.snapshot.public(),
            "reloadProblems": list(self.reload_problems),
        }
        cluster = parts.cluster
        if cluster is not None:
            watches = {name: _watch(watch, trio.current_time()) for name, watch in cluster.watches()}
            shown["cluster"] = {"leading": cluster.leading, "watches": watches}
        return shown

    def routes(self) -> object:
        return self._parts.snapshot.public()["routes"]

    def pools(self) -> object:
        """As configured, and how full each is: 1 and more is saturated."""
        full = dict(self.saturation())
        return [{**pool, "saturation": full.get(pool["name"])} for pool in self._parts.snapshot.public()["pools"]]

    def saturation(self) -> Iterator[tuple[str, float]]:
        """By pool, as the scheduler section's detector has it, or by its slots where requests wait for one: what waits
        at the gate waits in no engine's queue. Whoever reads may give way in between.
        """
        rules = self._parts.snapshot.settings.scheduler.saturation
        if rules != self._rules:
            self._rules, self._detectors = rules, {}
        pools, now = dict(self._parts.pools.by_name()), trio.current_time()
        # a detector remembers what its pool's endpoints said last
        detectors = self._detectors = {name: self._detectors.get(name) or rules.detector() for name in pools}
        return (
            (name, max(detectors[name](pool.members), 0.0 if pool.gate is None else pool.gate.fullness(now)))
            for name, pool in pools.items()
        )

    def flows(self) -> object:
        """Pools where requests may have to wait, and who wants what there."""
        now = trio.current_time()
        return [
            {
                "pool": name,
                **msgspec.to_builtins(pool.gate.statistics(now)),
                "flows": [msgspec.to_builtins(flow) for flow in pool.gate.flows(now)],
            }
            for name, pool in self._parts.pools.by_name().items()
            if pool.gate is not None
        ]

    def endpoints(self) -> object:
        return [msgspec.to_builtins(member) for member in self._parts.pools.statistics()]

    def statistics(self) -> object:
        return msgspec.to_builtins(holdings(self._parts))

    def decisions(self, limit: int, request: str) -> object:
        return self._parts.gateway.decisions.newest(limit, request)

    async def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """(exposition, content type), as ``accept`` asks. What writes it is imported by the first scrape."""
        from gateway.telemetry import Telemetry

        if self._telemetry is None:
            self._telemetry = Telemetry(gauges.sources(self._parts, self.saturation))
        return await self._telemetry.render(accept)

    def drain(self, endpoint_id: str, draining: bool) -> bool:
        return self._parts.pools.drain(endpoint_id, draining)


def _watch(watch: Watch, now: float) -> dict[str, object]:
    """``seconds``: how long it has been in that state, in place of a time on a clock that nobody reads."""
    shown = msgspec.to_builtins(watch)
    since = shown.pop("since")
    return {**shown, "seconds": round(now - since, 1) if since >= 0 else None}
