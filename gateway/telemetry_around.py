"""Metrics of what the process has around it: a shared store, other replicas, a cluster. (IO)

A part of `gateway.telemetry`; families without samples say that there is no such thing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


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


def nothing_followed() -> Following | None:
    """For `Telemetry` where there is no cluster."""
    return None


def nobody_met() -> Meeting | None:
    """For `Telemetry` where replicas do not meet."""
    return None


def nothing_shared() -> Sharing | None:
    """For `Telemetry` where limits are kept in this process only."""
    return None


def followed(cluster: Following | None) -> Iterator[Metric]:
    """Without samples where there is no cluster. Watches are told of by their kinds: names of objects are no labels."""
    labels = ["kind"]
    leading = GaugeMetricFamily("infer_gateway_cluster_leading", "1 if this replica writes statuses and events.")
    states = GaugeMetricFamily("infer_gateway_cluster_watches", "Watches in that state.", labels=["kind", "state"])
    objects = GaugeMetricFamily("infer_gateway_cluster_objects", "Objects that are known.", labels=labels)
    events = CounterMetricFamily("infer_gateway_cluster_events", "Changes that watches told of.", labels=labels)
    restarts = CounterMetricFamily(
        "infer_gateway_cluster_watch_restarts", "Times a watch began anew after a failure.", labels=labels
    )
    statuses = CounterMetricFamily(
        "infer_gateway_cluster_statuses", "Statuses written, by what came of it.", labels=["outcome"]
    )
    waiting = GaugeMetricFamily("infer_gateway_cluster_statuses_waiting", "Objects whose status is to be looked at.")
    if cluster is not None:
        leading.add_metric([], cluster.leading)
        there = [(name.partition(" ")[0], watch) for name, watch in cluster.watches()]
        for pair, count in Counter((kind, watch.state) for kind, watch in there).items():
            states.add_metric(pair, count)
        for kind in dict.fromkeys(kind for kind, _ in there):
            of_kind = [watch for name, watch in there if name == kind]
            objects.add_metric([kind], sum(watch.objects for watch in of_kind))
            events.add_metric([kind], sum(watch.events for watch in of_kind))
            restarts.add_metric([kind], sum(watch.restarts for watch in of_kind))
        if cluster.writing is not None:
            statuses.add_metric(["ok"], cluster.writing.written)
            statuses.add_metric(["failed"], cluster.writing.failed)
            waiting.add_metric([], cluster.writing.waiting)
    yield from (leading, states, objects, events, restarts, statuses, waiting)


def met(state: Meeting | None) -> Iterator[Metric]:
    """Without samples where replicas do not meet."""
    others = GaugeMetricFamily("infer_gateway_replicas", "Other replicas that are heard.")
    messages = CounterMetricFamily("infer_gateway_replica_messages", "Messages between replicas.", labels=["direction"])
    if state is not None:
        others.add_metric([], state.replicas)
        messages.add_metric(["sent"], state.sent)
        messages.add_metric(["heard"], state.heard)
    yield from (others, messages)


def shared(state: Sharing | None) -> Iterator[Metric]:
    """Without samples where nothing is shared."""
    connected = GaugeMetricFamily("infer_gateway_store_connected", "1 if the shared store of limits answers.")
    away = CounterMetricFamily("infer_gateway_store_away", "How often the shared store was lost.")
    fallbacks = CounterMetricFamily(
        "infer_gateway_store_fallbacks", "Requests decided by this process alone, for want of the shared store."
    )
    if state is not None:
        connected.add_metric([], state.connected)
        away.add_metric([], state.away)
        fallbacks.add_metric([], state.fallbacks)
    yield from (connected, away, fallbacks)
