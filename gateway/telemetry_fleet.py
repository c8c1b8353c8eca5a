"""Metrics of the fleet: endpoints and their health, pools, what waits for them, what they are known to hold. (P)

A part of `gateway.telemetry`. Of what engines say of themselves there is no sample where they have said nothing lately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from gateway.families import Family, Row
from gateway.health import DOWN, RECOVERED, UP
from gateway.telemetry_requests import Metrics

_CHANGES: Final = (RECOVERED, UP, DOWN)
USABLE: Final = ("ready", "unknown", "slow-start", "half-open")
"""States of an endpoint that is given requests; one that has not answered a probe yet is unknown."""


class Member(Protocol):
    """An endpoint of a pool as it is now."""

    @property
    def pool(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def inflight(self) -> int: ...
    @property
    def waiting(self) -> float | None: ...
    @property
    def running(self) -> float | None: ...
    @property
    def kv_usage(self) -> float | None: ...
    @property
    def load_age_s(self) -> float | None: ...


class Queue(Protocol):
    """What waits for room in front of a pool. ``tiers``: how many of each."""

    @property
    def queued_bytes(self) -> int: ...
    @property
    def tiers(self) -> Mapping[str, int]: ...


class Holdings(Protocol):
    """What a pool's prefix indexes have, as `gateway.prefix.Holdings`."""

    @property
    def endpoints(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class Pool(Protocol):
    """What a pool has counted, as `gateway.pool.Pool`."""

    @property
    def scrapes(self) -> int: ...
    @property
    def scrape_errors(self) -> int: ...
    @property
    def changes(self) -> Mapping[str, int]: ...


_AT: Final = ("pool", "endpoint")

UP_NOW: Final = Family("infer_gateway_endpoint_up", "gauge", "1 if the endpoint may be given requests now.", _AT)
STATE: Final = Family(
    "infer_gateway_endpoint_state",
    "gauge",
    "Always 1; the label says what state the endpoint is in.",
    (*_AT, "state"),
    note="one sample an endpoint; the states are those of `GET /api/endpoints`",
)
IN_FLIGHT: Final = Family(
    "infer_gateway_inflight_requests", "gauge", "Requests that the gateway has open at the endpoint.", _AT
)
WAITING: Final = Family("infer_gateway_endpoint_waiting", "gauge", "Requests waiting at the engine, as it says.", _AT)
RUNNING: Final = Family("infer_gateway_endpoint_running", "gauge", "Requests running on the engine, as it says.", _AT)
KV_USAGE: Final = Family(
    "infer_gateway_endpoint_kv_usage", "gauge", "Fraction of its KV blocks in use, as the engine says.", _AT
)
AGE: Final = Family(
    "infer_gateway_endpoint_load_age_seconds",
    "gauge",
    "How old the engine's own figures are.",
    _AT,
    note="an engine that has said nothing lately has none of the four",
)
EJECTIONS: Final = Family(
    "infer_gateway_ejections_total",
    "counter",
    "Times that an endpoint was set aside.",
    ("pool", "reason"),
    note="`reason` is `failing`, `erring`, `slow`, `stuck` or `hung`",
)
CHANGES: Final = Family(
    "infer_gateway_endpoint_changes_total",
    "counter",
    "Other changes of endpoints' health.",
    ("pool", "change"),
    note="`change` is `recovered` (from being set aside), `up` or `down` (it answers, or does not any more)",
)
SCRAPES: Final = Family(
    "infer_gateway_scrapes_total",
    "counter",
    "Engines asked for their load; outcome is ok or failed.",
    ("pool", "outcome"),
)
SATURATION: Final = Family(
    "infer_gateway_pool_saturation",
    "gauge",
    "How full the pool is; 1 and more is saturated.",
    ("pool",),
    note="[`scheduler.saturation`](configuration.md); with fairness also who is let in or waits, by the slots",
)
QUEUED: Final = Family("infer_gateway_queue_requests", "gauge", "Requests waiting for room.", ("pool", "tier"))
QUEUED_BYTES: Final = Family("infer_gateway_queue_bytes", "gauge", "Bytes of the bodies of those that wait.", ("pool",))
BLOCKS: Final = Family(
    "infer_gateway_prefix_index_blocks",
    "gauge",
    "Blocks of prompts that endpoints are believed to hold, one for each endpoint that holds it.",
    ("pool",),
)
HELD: Final = Family(
    "infer_gateway_prefix_index_bytes", "gauge", "Bytes of prompts that endpoints are believed to hold.", ("pool",)
)
HOLDERS: Final = Family(
    "infer_gateway_prefix_index_endpoints", "gauge", "Endpoints that are believed to hold something.", ("pool",)
)

_SAID: Final[tuple[tuple[Family, Callable[[Member], float | None]], ...]] = (
    (WAITING, lambda member: member.waiting),
    (RUNNING, lambda member: member.running),
    (KV_USAGE, lambda member: member.kv_usage),
    (AGE, lambda member: member.load_age_s),
)


def endpoints(members: Sequence[Member]) -> Metrics:
    yield UP_NOW, ((_at(member), member.state in USABLE) for member in members)
    yield STATE, (((*_at(member), member.state), 1) for member in members)
    yield IN_FLIGHT, ((_at(member), member.inflight) for member in members)
    for family, figure in _SAID:
        yield family, _known((_at(member), figure(member)) for member in members)


def _at(member: Member) -> tuple[str, str]:
    return member.pool, member.endpoint


def _known(rows: Iterable[tuple[tuple[str, str], float | None]]) -> Iterable[Row]:
    return ((labels, value) for labels, value in rows if value is not None)


def pools(saturation: Mapping[str, float], counted: Iterable[tuple[str, Pool]]) -> Metrics:
    yield SATURATION, (((pool,), full) for pool, full in saturation.items())
    there = list(counted)
    changes = [(pool, *change) for pool, each in there for change in each.changes.items()]
    yield EJECTIONS, (((pool, what), count) for pool, what, count in changes if what not in _CHANGES)
    yield CHANGES, (((pool, what), count) for pool, what, count in changes if what in _CHANGES)
    yield (
        SCRAPES,
        (
            ((pool, outcome), count)
            for pool, each in there
            for outcome, count in (("ok", each.scrapes), ("failed", each.scrape_errors))
        ),
    )


def queues(waiting: Mapping[str, Queue], tier: Callable[[str], str]) -> Metrics:
    """``tier``: as whom those of a tier are counted. Those of none are told of even where nobody waits."""
    depths: dict[tuple[str, str], int] = {}
    for pool, queue in waiting.items():
        depths[pool, ""] = 0
        for name, count in queue.tiers.items():
            key = pool, tier(name)
            depths[key] = depths.get(key, 0) + count
    yield QUEUED, depths.items()
    yield QUEUED_BYTES, (((pool,), queue.queued_bytes) for pool, queue in waiting.items())


def indexes(held: Iterable[tuple[str, Holdings]]) -> Metrics:
    there = [(pool, holdings) for pool, holdings in held if holdings.endpoints]
    yield BLOCKS, (((pool,), holdings.blocks) for pool, holdings in there)
    yield HELD, (((pool,), holdings.bytes) for pool, holdings in there)
    yield HOLDERS, (((pool,), holdings.endpoints) for pool, holdings in there)
