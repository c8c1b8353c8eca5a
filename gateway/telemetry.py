"""The gateway's numbers as Prometheus metrics; the only importer of prometheus_client. (IO)

Nothing is counted here: everything is read when somebody asks, from `Totals` and from callables. prometheus_client is
heavy (20 ms, 3 MiB): import this module when the first scrape comes, never on the path of a request. Families are read
and rendered in parts, and other tasks run between two, so that a scrape of thousands of endpoints delays no stream.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import accumulate
from typing import Protocol, TypeVar

import trio
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gateway.meter import UNKNOWN, Flow, Histogram, Share, Totals
from gateway.telemetry_around import (
    Following,
    Meeting,
    Sharing,
    followed,
    met,
    nobody_met,
    nothing_followed,
    nothing_shared,
    shared,
)

_SLICE = 200
"""Samples rendered, or endpoints looked at, between two checkpoints: about 2 ms."""

M = TypeVar("M", bound=Metric)
R = TypeVar("R")

_USABLE = ("ready", "unknown", "slow-start", "half-open")
"""States of an endpoint that is given requests; one that has not answered a probe yet is unknown."""


class Member(Protocol):
    """An endpoint of a pool as it is now."""

    @property
    def pool(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
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


class Pools(Protocol):
    def statistics(self) -> Iterable[Member]:
        """Every endpoint of every pool; does no I/O, and bears to be read in parts."""


class Queue(Protocol):
    """What waits for room in front of a pool."""

    @property
    def queued(self) -> int: ...
    @property
    def queued_bytes(self) -> int: ...


def nothing_lost() -> int:
    return 0


class Telemetry(Collector):
    """Renders the process's metrics. Also a prometheus_client collector, for whoever embeds the gateway.

    ``connections`` gives the open client connections by listener, ``saturation`` how full each pool is, readable in
    parts, ``queues`` what waits by pool, ``store`` the state of a shared store if there is one, ``replicas`` what they
    tell each other, ``usage_lost`` usage events not written, ``cluster`` how following one goes.
    """

    def __init__(
        self,
        totals: Totals,
        pools: Pools,
        connections: Callable[[], Mapping[str, int]],
        version: str,
        saturation: Callable[[], Iterable[tuple[str, float]]] = tuple,
        *,
        queues: Callable[[], Mapping[str, Queue]] = dict,
        store: Callable[[], Sharing | None] = nothing_shared,
        replicas: Callable[[], Meeting | None] = nobody_met,
        usage_lost: Callable[[], int] = nothing_lost,
        cluster: Callable[[], Following | None] = nothing_followed,
    ) -> None:
        self._totals = totals
        self._pools = pools
        self._connections = connections
        self._version = version
        self._saturation = saturation
        self._queues = queues
        self._store = store
        self._replicas = replicas
        self._usage_lost = usage_lost
        self._cluster = cluster
        self._process = ProcessCollector(registry=None)

    async def render(self) -> tuple[bytes, str]:
        """(exposition, content type) in the text format 0.0.4."""
        parts = []
        last = ""
        for source in (self._parts(), self._process.collect()):
            for family in source:
                if family is not None:
                    text = generate_latest(_One(family))
                    parts.append(text.split(b"\n", 2)[2] if family.name == last else text)
                    last = family.name
                await trio.lowlevel.checkpoint()
        return b"".join(parts), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """One family at a time."""
        whole: Metric | None = None
        for family in self._parts():
            if family is None:
                continue
            if whole is not None and whole.name == family.name:
                whole.samples += family.samples
                continue
            if whole is not None:
                yield whole
            whole = copy(family)
        if whole is not None:
            yield whole

    def _parts(self) -> Iterator[Metric | None]:
        """Families one after the other, large ones in parts of about `_SLICE` samples; None: nothing yet."""
        yield from _requests(self._totals)
        yield from _attempts(self._totals)
        members: list[Member] = []
        yield from _read(self._pools.statistics(), members)
        yield from _endpoints(members)
        yield from _loads(members)
        saturation: list[tuple[str, float]] = []
        yield from _read(self._saturation(), saturation)
        full = dict(saturation)
        yield from _pool_saturation(full)
        yield from _queues(self._totals, self._queues())
        yield from _tenants(self._totals)
        yield from _refusals(self._totals)
        yield from shared(self._store())
        yield from met(self._replicas())
        yield _lost(self._usage_lost())
        yield from followed(self._cluster())
        yield from _rewrites(self._totals)
        yield from _pool_compatibility(members, self._totals, full)
        yield from _model_compatibility(self._totals)
        yield from _process_state(self._totals, self._connections(), self._version)


def _read(source: Iterable[R], into: list[R]) -> Iterator[None]:
    """Whatever takes long to read, in parts."""
    for row in source:
        into.append(row)
        if not len(into) % _SLICE:
            yield


def _filled(family: M, rows: Iterable[R], add: Callable[[M, R], object]) -> Iterator[M]:
    """The family in parts, the same object each time; rows may come and go meanwhile."""
    for row in list(rows):
        add(family, row)
        if len(family.samples) >= _SLICE:
            yield family
            family.samples = []
    yield family


class _One(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


_OF = ["model", "pool", "operation", "protocol"]


def _requests(totals: Totals) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "infer_gateway_requests",
        "Finished requests by the status answered; reason is empty when all went well.",
        labels=[*_OF, "code", "reason"],
    )
    tokens = CounterMetricFamily(
        "infer_gateway_tokens", "Tokens of prompts and of answers.", labels=[*_OF, "direction"]
    )
    cached = CounterMetricFamily(
        "infer_gateway_prompt_cached_tokens",
        "Prompt tokens the engines reported as served from their prefix caches.",
        labels=_OF,
    )

    def outcomes(family: CounterMetricFamily, row: tuple[tuple[str, ...], Flow]) -> None:
        for (status, reason), count in row[1].outcomes.items():
            family.add_metric([*row[0], str(status) if status else "other", reason], count)

    def both(family: CounterMetricFamily, row: tuple[tuple[str, ...], Flow]) -> None:
        family.add_metric([*row[0], "input"], row[1].tokens_in)
        family.add_metric([*row[0], "output"], row[1].tokens_out)

    flows = totals.flows.items()
    yield from _filled(requests, flows, outcomes)
    yield from _filled(tokens, flows, both)
    yield from _filled(cached, flows, lambda family, row: family.add_metric(row[0], row[1].tokens_cached))
    for name, text, member in _TIMES:
        times = HistogramMetricFamily(name, text, labels=_OF)
        seen = ((key, member(flow)) for key, flow in list(flows))
        yield from _filled(times, seen, lambda family, row: _add(family, *row))


def _duration(flow: Flow) -> Histogram:
    return flow.duration


def _ttft(flow: Flow) -> Histogram:
    return flow.ttft


def _tpot(flow: Flow) -> Histogram:
    return flow.tpot


_TIMES: tuple[tuple[str, str, Callable[[Flow], Histogram]], ...] = (
    ("infer_gateway_request_duration_seconds", "From the request's arrival to the end of its answer.", _duration),
    ("infer_gateway_time_to_first_token_seconds", "From the request's arrival to its first token.", _ttft),
    ("infer_gateway_time_per_output_token_seconds", "Mean time between the tokens of a streamed answer.", _tpot),
)


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    """Add the histogram, unless it has seen nothing: an empty one costs 20 samples and says nothing."""
    cumulative = list(accumulate(histogram.counts))
    if cumulative[-1]:
        bounds = [*map(str, histogram.bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, cumulative, strict=True)), histogram.sum)


def _attempts(totals: Totals) -> Iterator[Metric]:
    attempts = CounterMetricFamily(
        "infer_gateway_attempts",
        'Endpoints tried, by what came of it: "ok" or the reason of the failure.',
        labels=["pool", "endpoint", "outcome"],
    )
    yield from _filled(attempts, totals.attempts.items(), lambda family, row: family.add_metric(*row))


def _endpoints(members: Sequence[Member]) -> Iterator[Metric]:
    labels = ["pool", "endpoint"]
    up = _gauge("infer_gateway_endpoint_up", "1 if the endpoint may be given requests now.", labels)
    in_flight = _gauge("infer_gateway_inflight_requests", "Requests the gateway has open at the endpoint.", labels)
    yield from _filled(up, members, lambda family, m: family.add_metric([m.pool, m.endpoint], m.state in _USABLE))
    yield from _filled(in_flight, members, lambda family, m: family.add_metric([m.pool, m.endpoint], m.inflight))


def _loads(members: Sequence[Member]) -> Iterator[Metric]:
    """What engines say of themselves; an endpoint that has said nothing lately has no sample."""
    for name, text, value in _LOADS:
        family = _gauge(name, text, ["pool", "endpoint"])
        said = ((member, figure) for member in members if (figure := value(member)) is not None)
        yield from _filled(family, said, lambda family, row: family.add_metric([row[0].pool, row[0].endpoint], row[1]))


_LOADS: tuple[tuple[str, str, Callable[[Member], float | None]], ...] = (
    ("infer_gateway_endpoint_waiting", "Requests waiting at the engine, as it says.", lambda m: m.waiting),
    ("infer_gateway_endpoint_running", "Requests running on the engine, as it says.", lambda m: m.running),
    ("infer_gateway_endpoint_kv_usage", "Fraction of its KV blocks in use, as the engine says.", lambda m: m.kv_usage),
    ("infer_gateway_endpoint_load_age_seconds", "How old these figures are.", lambda m: m.load_age_s),
)


def _pool_saturation(saturation: Mapping[str, float]) -> Iterator[Metric]:
    family = _gauge("infer_gateway_pool_saturation", "How full the pool is; 1 and more is saturated.", ["pool"])
    yield from _filled(family, saturation.items(), lambda family, row: family.add_metric([row[0]], row[1]))


def _queues(totals: Totals, queues: Mapping[str, Queue]) -> Iterator[Metric]:
    waits = HistogramMetricFamily(
        "infer_gateway_queue_wait_seconds",
        "What requests waited for room, those included that gave up.",
        labels=["pool"],
    )
    yield from _filled(waits, totals.queues.items(), lambda family, row: _add(family, [row[0]], row[1]))
    requests = _gauge("infer_gateway_queue_requests", "Requests waiting for room.", ["pool"])
    size = _gauge("infer_gateway_queue_bytes", "Bytes of their bodies.", ["pool"])
    yield from _filled(requests, queues.items(), lambda family, row: family.add_metric([row[0]], row[1].queued))
    yield from _filled(size, queues.items(), lambda family, row: family.add_metric([row[0]], row[1].queued_bytes))


def _tenants(totals: Totals) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "infer_gateway_tenant_tokens",
        "Tokens of prompts and of answers of callers that have a tenant or a tier.",
        labels=["tenant", "tier", "direction"],
    )

    def both(family: CounterMetricFamily, row: tuple[tuple[str, str], Share]) -> None:
        family.add_metric([*row[0], "input"], row[1].tokens_in)
        family.add_metric([*row[0], "output"], row[1].tokens_out)

    yield from _filled(tokens, totals.tenants.items(), both)


def _refusals(totals: Totals) -> Iterator[Metric]:
    for name, text, label, counts in (
        (
            "infer_gateway_limit_refusals",
            "Requests refused, by the limit that stood in the way.",
            "limit",
            totals.limits,
        ),
        ("infer_gateway_auth_refusals", "Requests whose credentials were not accepted.", "reason", totals.strangers),
    ):
        family = CounterMetricFamily(name, text, labels=[label])
        for value, count in counts.items():
            family.add_metric([value], count)
        yield family


def _lost(events: int) -> Metric:
    lost = CounterMetricFamily("infer_gateway_usage_events_lost", "Usage events that could not be written.")
    lost.add_metric([], events)
    return lost


def _rewrites(totals: Totals) -> Iterator[Metric]:
    """By our name, and by the one of the inference extension."""
    ours = CounterMetricFamily(
        "infer_gateway_model_rewrites",
        "Requests for which an InferenceModelRewrite chose the model.",
        labels=["rewrite", "model", "target"],
    )
    theirs = CounterMetricFamily(
        "inference_extension_model_rewrite_decisions",
        "The same, by the inference extension's name.",
        labels=["model_rewrite_name", "model_name", "target_model"],
    )
    for key, count in totals.rewrites.items():
        ours.add_metric(key, count)
        theirs.add_metric((key[0].rpartition("/")[2], *key[1:]), count)
    yield from (ours, theirs)


def _pool_compatibility(members: Sequence[Member], totals: Totals, pools: Iterable[str]) -> Iterator[Metric]:
    """Names that existing dashboards of the Kubernetes inference extension ask for. A pool without endpoints has none
    that is ready.
    """
    ready = _gauge("inference_pool_ready_pods", "Usable endpoints of the pool.", ["name"])
    kv_usage = _gauge(
        "inference_pool_average_kv_cache_utilization",
        "Mean fraction of KV blocks in use over the endpoints that report it.",
        ["name"],
    )
    hit_ratio = _gauge(
        "inference_pool_prefix_cache_hit_ratio",
        "Share of prompt tokens that the engines reported as served from their prefix caches, since the start.",
        ["name"],
    )
    groups = _by_pool(members, pools)
    yield from _filled(
        ready, groups.items(), lambda family, row: family.add_metric([row[0]], sum(m.state in _USABLE for m in row[1]))
    )
    means = ((pool, mean) for pool, group in groups.items() if (mean := _mean_usage(group)) is not None)
    yield from _filled(kv_usage, means, lambda family, row: family.add_metric([row[0]], row[1]))
    tokens: dict[str, tuple[int, int]] = {}
    for (_, pool, *_), flow in list(totals.flows.items()):
        prompt, cached = tokens.get(pool, (0, 0))
        tokens[pool] = prompt + flow.tokens_in, cached + flow.tokens_cached
    ratios = ((pool, cached / prompt) for pool, (prompt, cached) in tokens.items() if prompt and pool in groups)
    yield from _filled(hit_ratio, ratios, lambda family, row: family.add_metric([row[0]], row[1]))


def _mean_usage(group: Sequence[Member]) -> float | None:
    usages = [member.kv_usage for member in group if member.kv_usage is not None]
    return sum(usages) / len(usages) if usages else None


def _by_pool(members: Sequence[Member], known: Iterable[str]) -> dict[str, list[Member]]:
    pools: dict[str, list[Member]] = {pool: [] for pool in known}
    for member in members:
        pools.setdefault(member.pool, []).append(member)
    return pools


def _model_compatibility(totals: Totals) -> Iterator[Metric]:
    """The same, by model; requests that named no known model are left out, as they are there."""
    requests = CounterMetricFamily("inference_model_request", "Finished requests by model.", labels=["model_name"])
    duration = HistogramMetricFamily(
        "inference_model_request_duration_seconds", "Duration of requests by model.", labels=["model_name"]
    )
    merged: dict[str, Histogram] = {}
    for (model, *_), flow in list(totals.flows.items()):
        if model == UNKNOWN:
            continue
        into = merged.setdefault(model, Histogram(flow.duration.bounds))
        into.counts = [a + b for a, b in zip(into.counts, flow.duration.counts, strict=True)]
        into.sum += flow.duration.sum
    rows = merged.items()
    yield from _filled(requests, rows, lambda family, row: family.add_metric([row[0]], sum(row[1].counts)))
    yield from _filled(duration, rows, lambda family, row: _add(family, [row[0]], row[1]))


def _process_state(totals: Totals, connections: Mapping[str, int], version: str) -> Iterator[Metric]:
    open_connections = _gauge("infer_gateway_connections", "Open client connections.", ["listener"])
    for listener, count in connections.items():
        open_connections.add_metric([listener], count)
    reloads = CounterMetricFamily(
        "infer_gateway_config_reloads", "Attempts to load a changed configuration.", labels=["result"]
    )
    for result, count in totals.reloads.items():
        reloads.add_metric([result], count)
    last = _gauge("infer_gateway_config_last_reload_successful", "0 while the newest configuration is refused.")
    last.add_metric([], totals.last_reload_successful)
    restarts = CounterMetricFamily(
        "infer_gateway_task_restarts", "Restarts of background tasks after an error.", labels=["task"]
    )
    for task, count in totals.restarts.items():
        restarts.add_metric([task], count)
    build = _gauge("infer_gateway_build_info", "Always 1; the labels say what runs.", ["version", "python"])
    build.add_metric([version, platform.python_version()], 1)
    yield from (open_connections, reloads, last, restarts, build)


def _gauge(name: str, text: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
