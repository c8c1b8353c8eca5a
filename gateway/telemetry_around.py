"""Metrics of the process and what it has around it: a shared store, other replicas, a cluster. (P)

A part of `gateway.telemetry`; families without samples say that there is no such thing.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from gateway.families import Family
from gateway.meter import Totals
from gateway.telemetry_requests import Metrics

_KIND: Final = ("kind",)

STORE: Final = Family(
    "infer_gateway_store_connected",
    "gauge",
    "1 while the shared store of limits answers.",
    note="these three only where there is one",
)
AWAY: Final = Family("infer_gateway_store_away_total", "counter", "Times that the shared store was lost.")
FALLBACKS: Final = Family(
    "infer_gateway_store_fallbacks_total",
    "counter",
    "Requests that this process decided alone, for want of the shared store.",
)
REPLICAS: Final = Family(
    "infer_gateway_replicas", "gauge", "Other replicas that are heard.", note="only where replicas meet"
)
MESSAGES: Final = Family(
    "infer_gateway_replica_messages_total",
    "counter",
    "Messages between replicas; direction is sent or heard.",
    ("direction",),
)
LEADING: Final = Family(
    "infer_gateway_cluster_leading",
    "gauge",
    "1 if this replica writes statuses and events.",
    note="these only with `--kubernetes`",
)
WATCHES: Final = Family(
    "infer_gateway_cluster_watches",
    "gauge",
    "Watches that are syncing, live, absent, forbidden or broken.",
    ("kind", "state"),
)
OBJECTS: Final = Family("infer_gateway_cluster_objects", "gauge", "Objects that are known.", _KIND)
EVENTS: Final = Family("infer_gateway_cluster_events_total", "counter", "Changes that watches told of.", _KIND)
WATCH_RESTARTS: Final = Family(
    "infer_gateway_cluster_watch_restarts_total", "counter", "Times that a watch began anew after a failure.", _KIND
)
STATUSES: Final = Family(
    "infer_gateway_cluster_statuses_total",
    "counter",
    "Statuses written; outcome is ok or failed.",
    ("outcome",),
)
STATUSES_WAITING: Final = Family(
    "infer_gateway_cluster_statuses_waiting", "gauge", "Objects whose status is to be looked at."
)
UNDER_WAY: Final = Family(
    "infer_gateway_requests_in_flight", "gauge", "Requests under way, those that wait included.", ("protocol",)
)
STREAMS: Final = Family(
    "infer_gateway_streams", "gauge", "Those of them that are answered piece by piece.", ("protocol",)
)
CONNECTIONS: Final = Family(
    "infer_gateway_connections",
    "gauge",
    "Open client connections.",
    ("listener",),
    note="`gateways`: on [ports of Gateways](kubernetes.md#ports-of-gateways)",
)
BUFFERED: Final = Family(
    "infer_gateway_buffered_bytes",
    "gauge",
    "Bytes held for requests: bodies, and answers that clients do not take.",
    note="[bounded](capacity.md#what-can-grow)",
)
BUFFERED_MOST: Final = Family(
    "infer_gateway_buffered_bytes_limit", "gauge", "`listeners.maxBufferedBytes`; beyond it requests are refused."
)
SHED: Final = Family(
    "infer_gateway_shed_total",
    "counter",
    "Requests and connections refused because of the gateway itself: why is bytes, late, connections or descriptors.",
    ("why",),
)
SHEDDING: Final = Family(
    "infer_gateway_shedding_ratio",
    "gauge",
    "The share of new requests that is refused because the processor does not keep up.",
)
UPSTREAM: Final = Family(
    "infer_gateway_upstream_connections",
    "gauge",
    "Open connections to engines; state is busy or idle.",
    ("state",),
)
OPENED: Final = Family(
    "infer_gateway_upstream_connections_opened_total", "counter", "Connections that were made to engines."
)
GENERATION: Final = Family(
    "infer_gateway_config_generation", "gauge", "Configurations put in force so far, the first one included."
)
RELOADS: Final = Family(
    "infer_gateway_config_reloads_total",
    "counter",
    "Attempts to load a changed configuration; result is success or failure.",
    ("result",),
)
RELOADED: Final = Family(
    "infer_gateway_config_last_reload_successful",
    "gauge",
    "0 while the newest configuration is refused and an older one serves.",
)
RELOADED_AT: Final = Family(
    "infer_gateway_config_last_success_timestamp_seconds",
    "gauge",
    "When the configuration in force was put in force, in seconds of the epoch.",
)
RESTARTS: Final = Family(
    "infer_gateway_task_restarts_total", "counter", "Restarts of background tasks after an error.", ("task",)
)
LOST: Final = Family(
    "infer_gateway_usage_events_lost_total",
    "counter",
    "Usage events that could not be written.",
    note="[usage events](configuration.md#usage-events)",
)
LINES_LOST: Final = Family(
    "infer_gateway_access_log_lines_lost_total", "counter", "Lines of the access log that could not be written."
)
SPANS_LOST: Final = Family(
    "infer_gateway_traces_lost_total", "counter", "Sampled requests whose spans could not be exported."
)
BUILD: Final = Family("infer_gateway_build_info", "info", "Always 1; the labels say what runs.", ("version", "python"))


class Sharing(Protocol):
    """How a shared store of limits is doing. ``away``: how often it was lost; ``fallbacks``: requests that this
    process decided alone.
    """

    @property
    def connected(self) -> bool: ...
    @property
    def away(self) -> int: ...
    @property
    def fallbacks(self) -> int: ...


class Meeting(Protocol):
    """Of what replicas tell each other: how many others are heard, and how many messages went each way."""

    @property
    def replicas(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def heard(self) -> int: ...


class Holding(Protocol):
    """Bytes held for requests, and how many may be."""

    held: int
    most: float


class Shedding(Protocol):
    """The share of new requests that is refused."""

    share: float


class Burden(Protocol):
    """What the process has to carry (`gateway.burden`)."""

    @property
    def buffered(self) -> Holding: ...
    @property
    def pace(self) -> Shedding: ...
    @property
    def refused(self) -> Mapping[str, int]: ...


class Watch(Protocol):
    """Of the objects of one kind in a cluster: how the watch is doing, and what it has seen."""

    @property
    def state(self) -> str: ...
    @property
    def objects(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def restarts(self) -> int: ...


class Writing(Protocol):
    """Of statuses: how many were written, could not be, and are to be looked at."""

    @property
    def written(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Following(Protocol):
    """How following a cluster goes. ``leading``: whether statuses are this process's to write; ``writing``: how that
    goes. Names of watches begin with their kind.
    """

    @property
    def leading(self) -> bool: ...
    @property
    def writing(self) -> Writing | None: ...
    def watches(self) -> Iterable[tuple[str, Watch]]: ...


def store(state: Sharing | None) -> Metrics:
    """Without samples where nothing is shared."""
    there = [] if state is None else [state]
    yield STORE, (((), each.connected) for each in there)
    yield AWAY, (((), each.away) for each in there)
    yield FALLBACKS, (((), each.fallbacks) for each in there)


def replicas(state: Meeting | None) -> Metrics:
    """Without samples where replicas do not meet."""
    there = [] if state is None else [state]
    yield REPLICAS, (((), each.replicas) for each in there)
    messages = [(("sent",), each.sent) for each in there] + [(("heard",), each.heard) for each in there]
    yield MESSAGES, messages


def cluster(state: Following | None) -> Metrics:
    """Without samples where there is no cluster. Watches are told of by their kinds: names of objects are no labels."""
    watches = [] if state is None else [(name.partition(" ")[0], watch) for name, watch in state.watches()]
    kinds: dict[str, list[Watch]] = {}
    for kind, watch in watches:
        kinds.setdefault(kind, []).append(watch)
    yield LEADING, [] if state is None else [((), state.leading)]
    yield WATCHES, Counter((kind, watch.state) for kind, watch in watches).items()
    yield OBJECTS, (((kind,), sum(watch.objects for watch in each)) for kind, each in kinds.items())
    yield EVENTS, (((kind,), sum(watch.events for watch in each)) for kind, each in kinds.items())
    yield WATCH_RESTARTS, (((kind,), sum(watch.restarts for watch in each)) for kind, each in kinds.items())
    writing = None if state is None else state.writing
    yield STATUSES, [] if writing is None else [(("ok",), writing.written), (("failed",), writing.failed)]
    yield STATUSES_WAITING, [] if writing is None else [((), writing.waiting)]


def traffic(
    calls: Mapping[str, tuple[int, int]], connections: Mapping[str, int], upstream: tuple[int, int, int]
) -> Metrics:
    """``calls``: requests and, of these, streams under way by protocol; ``upstream``: connections busy, idle, made."""
    yield UNDER_WAY, (((protocol,), count) for protocol, (count, _) in calls.items())
    yield STREAMS, (((protocol,), count) for protocol, (_, count) in calls.items())
    yield CONNECTIONS, (((listener,), count) for listener, count in connections.items())
    busy, idle, made = upstream
    yield UPSTREAM, [(("busy",), busy), (("idle",), idle)]
    yield OPENED, [((), made)]


def burdens(burden: Burden | None) -> Metrics:
    """What the process is burdened with; without samples where nobody tells."""
    there = [] if burden is None else [burden]
    yield BUFFERED, [((), each.buffered.held) for each in there]
    yield BUFFERED_MOST, [((), each.buffered.most) for each in there if each.buffered.most < math.inf]
    yield SHED, [((why,), count) for each in there for why, count in each.refused.items()]
    yield SHEDDING, [((), each.pace.share) for each in there]


def configuration(totals: Totals) -> Metrics:
    yield GENERATION, [((), totals.generation)]
    yield RELOADS, [((result,), count) for result, count in totals.reloads.items()]
    yield RELOADED, [((), totals.last_reload_successful)]
    since = totals.in_force_since
    yield RELOADED_AT, [] if math.isnan(since) else [((), since)]


def process(totals: Totals, version: str, lost: tuple[int, int, int]) -> Metrics:
    """``lost``: usage events, lines of the access log, traces."""
    yield RESTARTS, [((task,), count) for task, count in totals.restarts.items()]
    for family, count in zip((LOST, LINES_LOST, SPANS_LOST), lost, strict=True):
        yield family, [((), count)]
    yield BUILD, [((version, platform.python_version()), 1)]
