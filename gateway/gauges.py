"""What a running gateway's metrics are read from, part by part. (T)

Everything here is read when somebody asks; nothing is imported or counted for it before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import trio

import gateway
from gateway.burden import burden
from gateway.core import Gateway
from gateway.gate import GateStatistics
from gateway.meter import Totals
from gateway.pools import Pools
from gateway.prefix import Holdings
from gateway.state import State

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.telemetry import Sources
    from gateway.telemetry_around import Following


class Lossy(Protocol):
    @property
    def lost(self) -> int: ...


class Dropping(Protocol):
    @property
    def dropped(self) -> int: ...


class Connections(Protocol):
    """Of the transport: with a request now, without one, ever made."""

    @property
    def busy(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def opened(self) -> int: ...


class Parts(Protocol):
    """What of the program is looked at."""

    pools: Pools
    gateway: Gateway
    totals: Totals
    state: State

    @property
    def usage(self) -> Lossy: ...
    @property
    def access_log(self) -> Lossy: ...
    @property
    def tracing(self) -> Dropping: ...
    @property
    def transport(self) -> Connections: ...
    @property
    def cluster(self) -> Following | None: ...
    def connections(self) -> dict[str, int]: ...


def sources(parts: Parts, saturation: Callable[[], Iterable[tuple[str, float]]]) -> Sources:
    """What a scrape reads."""
    from gateway.telemetry import Sources

    return Sources(
        parts.totals,
        gateway.__version__,
        members=parts.pools.statistics,
        saturation=saturation,
        pools=lambda: list(parts.pools.by_name().items()),
        indexes=lambda: _indexes(parts.pools),
        queues=lambda: _queues(parts.pools),
        connections=parts.connections,
        calls=lambda: _calls(parts.gateway),
        upstream=lambda: (parts.transport.busy, parts.transport.idle, parts.transport.opened),
        lost=lambda: (parts.usage.lost, parts.access_log.lost, parts.tracing.dropped),
        store=parts.state.limits,
        replicas=parts.state.replicas,
        cluster=lambda: parts.cluster,
        burden=burden,
    )


def tiers(settings: Settings) -> frozenset[str]:
    """Those that the configuration names: what else callers say of themselves is no label."""
    named = {*settings.fairness.tiers, *(key.tier for key in settings.auth.api_keys)}
    named |= {limit.match.tier for limit in settings.limits if limit.match.tier}
    return frozenset(named)


def _indexes(pools: Pools) -> Iterator[tuple[str, Holdings]]:
    return ((name, pool.profile.holdings()) for name, pool in list(pools.by_name().items()))


def _queues(pools: Pools) -> dict[str, GateStatistics]:
    now = trio.current_time()
    return {name: pool.gate.statistics(now) for name, pool in pools.by_name().items() if pool.gate is not None}


def _calls(core: Gateway) -> dict[str, tuple[int, int]]:
    """Requests and streams under way, by protocol."""
    counts = {"http": (0, 0)}
    for call in core.calls:
        requests, streams = counts.get(call.request.protocol, (0, 0))
        counts[call.request.protocol] = requests + 1, streams + call.request.stream
    return counts
