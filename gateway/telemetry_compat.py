"""Metrics under the names that dashboards of the Kubernetes inference extension ask for. (P)

A part of `gateway.telemetry`; nothing is counted for it. Requests that named no known model are left out, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.families import Family, Row
from gateway.meter import UNKNOWN, Totals
from gateway.tally import DURATION_BOUNDS, Flow, Histogram
from gateway.telemetry_fleet import USABLE, Member
from gateway.telemetry_requests import Metrics

READY: Final = Family("inference_pool_ready_pods", "gauge", "Usable endpoints of the pool.", ("name",))
KV_USAGE: Final = Family(
    "inference_pool_average_kv_cache_utilization",
    "gauge",
    "Mean fraction of KV blocks in use over the endpoints that report it.",
    ("name",),
)
HIT_RATIO: Final = Family(
    "inference_pool_prefix_cache_hit_ratio",
    "gauge",
    "Share of prompt tokens that engines reported as served from their prefix caches, since the start.",
    ("name",),
)
REWRITES: Final = Family(
    "inference_extension_model_rewrite_decisions_total",
    "counter",
    "Requests for which an InferenceModelRewrite chose the model.",
    ("model_rewrite_name", "model_name", "target_model"),
)
REQUESTS: Final = Family(
    "inference_model_request_total", "counter", "Finished requests that named a known model.", ("model_name",)
)
DURATION: Final = Family(
    "inference_model_request_duration_seconds",
    "histogram",
    "Their duration.",
    ("model_name",),
    DURATION_BOUNDS,
)


def of_pools(members: Sequence[Member], totals: Totals, known: Iterable[str]) -> Metrics:
    """A pool without endpoints has none that is ready."""
    groups: dict[str, list[Member]] = {pool: [] for pool in known}
    for member in members:
        groups.setdefault(member.pool, []).append(member)
    yield READY, (((pool,), sum(member.state in USABLE for member in group)) for pool, group in groups.items())
    yield KV_USAGE, (((pool,), mean) for pool, group in groups.items() if (mean := _mean_usage(group)) is not None)
    tokens: dict[str, tuple[float, int]] = {}
    for (_, pool, *_), flow in totals.flows.items():
        prompt, cached = tokens.get(pool, (0.0, 0))
        tokens[pool] = prompt + flow.prompts.sum, cached + flow.tokens_cached
    yield (
        HIT_RATIO,
        (((pool,), cached / prompt) for pool, (prompt, cached) in tokens.items() if prompt and pool in groups),
    )


def _mean_usage(group: Sequence[Member]) -> float | None:
    usages = [member.kv_usage for member in group if member.kv_usage is not None]
    return sum(usages) / len(usages) if usages else None


def of_models(totals: Totals) -> Metrics:
    flows: dict[str, list[Flow]] = {}
    for (model, *_), flow in totals.flows.items():
        if model != UNKNOWN:
            flows.setdefault(model, []).append(flow)
    yield REQUESTS, (((model,), sum(flow.duration.count for flow in each)) for model, each in flows.items())
    yield DURATION, _together(flows)
    decisions: dict[tuple[str, str, str], int] = {}
    for (name, model, target), count in totals.rewrites.items():
        key = name.rpartition("/")[2], model, target
        decisions[key] = decisions.get(key, 0) + count
    yield REWRITES, decisions.items()


def _together(flows: dict[str, list[Flow]]) -> Iterator[Row]:
    for model, each in flows.items():
        merged = Histogram(DURATION_BOUNDS)
        for flow in each:
            merged.add(flow.duration)
        yield (model,), merged
