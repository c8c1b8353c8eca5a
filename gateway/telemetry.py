"""The gateway's numbers as Prometheus metrics. (IO)

Nothing is counted here: everything is read when somebody asks, from `Totals` and from callables. Families are read and
rendered in parts, and other tasks run between two, so that a scrape of thousands of endpoints delays no stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec
import trio

from gateway import telemetry_around as around
from gateway import telemetry_compat as compatible
from gateway import telemetry_fleet as fleet
from gateway import telemetry_requests as of_requests
from gateway.families import END, Family, Page, Row, wanted
from gateway.meter import Totals
from gateway.telemetry_genai import conventional
from gateway.telemetry_process import process as of_process

_SLICE: Final = 200
"""Endpoints and pools looked at between two checkpoints: about a millisecond."""

R = TypeVar("R")


class Sources(msgspec.Struct, frozen=True):
    """What is read beside ``totals``. ``members``: every endpoint of every pool, readable in parts, as are
    ``saturation`` (how full each pool is) and ``indexes`` (what its prefix indexes have). ``connections``: open client
    connections by listener; ``calls``: requests and streams under way by protocol; ``upstream``: connections to engines
    that are busy, idle and were ever made; ``lost``: usage events, lines of the access log, traces that could not be
    written. ``store``, ``replicas``, ``cluster`` and ``burden`` are None where there is no such thing.
    """

    totals: Totals
    version: str
    members: Callable[[], Iterable[fleet.Member]] = tuple
    saturation: Callable[[], Iterable[tuple[str, float]]] = tuple
    pools: Callable[[], Iterable[tuple[str, fleet.Pool]]] = tuple
    indexes: Callable[[], Iterable[tuple[str, fleet.Holdings]]] = tuple
    queues: Callable[[], Mapping[str, fleet.Queue]] = dict
    connections: Callable[[], Mapping[str, int]] = dict
    calls: Callable[[], Mapping[str, tuple[int, int]]] = dict
    upstream: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
    lost: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
    store: Callable[[], around.Sharing | None] = lambda: None
    replicas: Callable[[], around.Meeting | None] = lambda: None
    cluster: Callable[[], around.Following | None] = lambda: None
    burden: Callable[[], around.Burden | None] = lambda: None


class Telemetry:
    """Renders the process's metrics."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """(exposition, content type): OpenMetrics for those who ask for it, else the text format 0.0.4."""
        wall = time.time() - trio.current_time()
        page = Page(wanted(accept), wall)
        parts: list[bytes] = []
        for found in self._families():
            if found is not None:
                for part in page.write(*found):
                    parts.append(part)
                    await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.checkpoint()
        return b"".join((*parts, END) if page.openmetrics else parts), page.content_type

    def _families(self) -> Iterator[tuple[Family, Iterable[Row]] | None]:
        """None: nothing yet, but it has taken a while."""
        sources, totals = self._sources, self._sources.totals
        yield from of_requests.requests(totals)
        yield from of_requests.placing(totals)
        yield from of_requests.callers(totals)
        members: list[fleet.Member] = []
        yield from _read(sources.members(), members)
        saturation: list[tuple[str, float]] = []
        yield from _read(sources.saturation(), saturation)
        held: list[tuple[str, fleet.Holdings]] = []
        yield from _read(sources.indexes(), held, 1)
        full = dict(saturation)
        yield from fleet.endpoints(members)
        yield from fleet.pools(full, sources.pools())
        yield from fleet.queues(sources.queues(), totals.tier)
        yield from fleet.indexes(held)
        yield from around.traffic(sources.calls(), sources.connections(), sources.upstream())
        yield from around.burdens(sources.burden())
        yield from around.configuration(totals)
        yield from around.store(sources.store())
        yield from around.replicas(sources.replicas())
        yield from around.cluster(sources.cluster())
        yield from around.process(totals, sources.version, sources.lost())
        yield from of_process()
        yield from compatible.of_pools(members, totals, full)
        yield from compatible.of_models(totals)
        yield from conventional(totals, members)


def _read(source: Iterable[R], into: list[R], most: int = _SLICE) -> Iterator[None]:
    """Whatever takes long to read, in parts."""
    for row in source:
        into.append(row)
        if not len(into) % most:
            yield
