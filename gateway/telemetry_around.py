"""Metrics of what the process has around it: a shared store, other replicas, a cluster. (IO)

A part of `gateway.telemetry`; families without samples say that there is no such thing.
"""

from __future__ import annotations

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


class Following(Protocol):
    """How following a cluster goes. ``leading``: whether statuses are this process's to write."""

    @property
    def leading(self) -> bool: ...
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
    """Without samples where there is no cluster."""
    labels = ["watch", "state"]
    leading = GaugeMetricFamily("infer_gateway_cluster_leading", "1 if this replica writes statuses and events.")
    state = GaugeMetricFamily("infer_gateway_cluster_watch", "1 for the state that the watch is in.", labels=labels)
    objects = GaugeMetricFamily("infer_gateway_cluster_objects", "Objects that are known.", labels=labels[:1])
    events = CounterMetricFamily("infer_gateway_cluster_events", "Changes that watches told of.", labels=labels[:1])
    restarts = CounterMetricFamily(
        "infer_gateway_cluster_watch_restarts", "Times a watch began anew after a failure.", labels=labels[:1]
    )
    if cluster is not None:
        leading.add_metric([], cluster.leading)
        for name, watch in cluster.watches():
            state.add_metric([name, watch.state], 1)
            objects.add_metric([name], watch.objects)
            events.add_metric([name], watch.events)
            restarts.add_metric([name], watch.restarts)
    yield from (leading, state, objects, events, restarts)


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
