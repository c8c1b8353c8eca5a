"""Metrics of requests: what was answered, how fast, who was refused, where routes and failovers sent them. (P)

A part of `gateway.telemetry`; everything comes from `Totals`. Times of requests carry exemplars.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.families import Family, Row
from gateway.meter import Totals
from gateway.tally import DECISION_BOUNDS, DURATION_BOUNDS, QUEUE_BOUNDS, TPOT_BOUNDS, TTFT_BOUNDS

Metrics = Iterator[tuple[Family, Iterable[Row]]]

_OF: Final = ("model", "pool", "operation", "protocol")

REQUESTS: Final = Family(
    "infer_gateway_requests_total",
    "counter",
    "Finished requests by the status answered; reason is empty when all went well.",
    (*_OF, "code", "reason"),
)
DURATION: Final = Family(
    "infer_gateway_request_duration_seconds",
    "histogram",
    "From the arrival of the request to the end of its answer.",
    _OF,
    DURATION_BOUNDS,
)
TTFT: Final = Family(
    "infer_gateway_time_to_first_token_seconds",
    "histogram",
    "From the arrival of the request to its first token.",
    _OF,
    TTFT_BOUNDS,
)
TPOT: Final = Family(
    "infer_gateway_time_per_output_token_seconds",
    "histogram",
    "Of each streamed answer, the mean time between its tokens after the first.",
    _OF,
    TPOT_BOUNDS,
)
GAPS: Final = Family(
    "infer_gateway_inter_token_latency_seconds",
    "histogram",
    "Between each two pieces of streamed answers; engines send a token at a time, or a few.",
    ("pool",),
    TPOT_BOUNDS,
)
TOKENS: Final = Family(
    "infer_gateway_tokens_total",
    "counter",
    "Tokens of prompts and of answers; direction is input or output.",
    (*_OF, "direction"),
)
CACHED: Final = Family(
    "infer_gateway_prompt_cached_tokens_total",
    "counter",
    "Prompt tokens that engines reported as served from their prefix caches.",
    _OF,
)
ATTEMPTS: Final = Family(
    "infer_gateway_attempts_total",
    "counter",
    "Endpoints tried; outcome is ok or the reason of the failure.",
    ("pool", "endpoint", "outcome"),
)
FAILOVERS: Final = Family(
    "infer_gateway_failovers_total",
    "counter",
    "Endpoints tried in the place of one that had failed, by the pool they are of and the reason of that failure.",
    ("pool", "reason"),
)
HEDGES: Final = Family(
    "infer_gateway_hedges_total",
    "counter",
    "Times that a second endpoint was due because the first kept silent, by what became of it.",
    ("pool", "outcome"),
    note="`outcome` is `won` or `lost` (against the first), `failed`, `left` (the client), or why it was not made: "
    "`no_budget`, `no_room`",
)
HEDGE_TOKENS: Final = Family(
    "infer_gateway_hedge_tokens_total",
    "counter",
    "Tokens that engines computed for hedges and nobody was shown, as estimated.",
    ("pool",),
)
ROUTES: Final = Family(
    "infer_gateway_route_requests_total",
    "counter",
    "Finished requests by where their route sent them; target is empty where it keeps the client's model.",
    ("route", "pool", "target", "outcome"),
    note="`outcome` is `ok`, `failed` (5xx, broken streams) or `refused` (4xx; 499: the client left); a canary's split",
)
DECISIONS: Final = Family(
    "infer_gateway_scheduler_decisions_total", "counter", "Times that an endpoint was chosen.", ("pool",)
)
DECISION_TIME: Final = Family(
    "infer_gateway_scheduler_decision_seconds",
    "histogram",
    "What it took to choose an endpoint.",
    ("pool",),
    DECISION_BOUNDS,
)
SCHEDULED: Final = Family(
    "infer_gateway_scheduled_prompt_tokens_total",
    "counter",
    "Prompt tokens of the requests that endpoints were chosen for, as estimated then.",
    ("pool",),
)
HITS: Final = Family(
    "infer_gateway_scheduled_prefix_hit_tokens_total",
    "counter",
    "Those of them that the chosen endpoint was believed to hold.",
    ("pool",),
)
WAITS: Final = Family(
    "infer_gateway_queue_wait_seconds",
    "histogram",
    "What requests waited for room, those included that gave up.",
    ("pool", "tier"),
    QUEUE_BOUNDS,
)
ADMISSION: Final = Family(
    "infer_gateway_admission_refusals_total",
    "counter",
    "Requests that were not let in.",
    ("pool", "tier", "why"),
    note="`why` is `queue_full`, `queue_long`, `queue_timeout`, `too_large`, `sheddable`, `stopping`, or the "
    "scheduler's filter that left nobody",
)
LIMITS: Final = Family(
    "infer_gateway_limit_refusals_total", "counter", "Requests refused, by the limit that stood in the way.", ("limit",)
)
STRANGERS: Final = Family(
    "infer_gateway_auth_refusals_total", "counter", "Requests whose credentials were not accepted.", ("reason",)
)
HTTP_REFUSALS: Final = Family(
    "infer_gateway_http_refusals_total",
    "counter",
    "Requests over HTTP that came to nothing before they asked for a model; they are in no other count of requests.",
    ("reason",),
    note="`reason` is `malformed`, `tls` (no handshake), `unsupported`, `request_timeout`, `request_too_large`, "
    "`header_too_large`, `overloaded`, `not_found`, `method_not_allowed`, or what a listing of models was refused for",
)
TENANTS: Final = Family(
    "infer_gateway_tenant_tokens_total",
    "counter",
    "Tokens of prompts and of answers of callers that have a tenant or a tier.",
    ("tenant", "tier", "direction"),
)
REWRITES: Final = Family(
    "infer_gateway_model_rewrites_total",
    "counter",
    "Requests for which an InferenceModelRewrite chose the model; model is unknown where the rule does not name it.",
    ("rewrite", "model", "target"),
)


def requests(totals: Totals) -> Metrics:
    """What was answered, and how fast."""
    flows = list(totals.flows.items())
    yield (
        REQUESTS,
        (
            ((*key, str(status or "other"), reason), count)
            for key, flow in flows
            for (status, reason), count in list(flow.outcomes.items())
        ),
    )
    yield DURATION, ((key, flow.duration) for key, flow in flows)
    yield TTFT, ((key, flow.ttft) for key, flow in flows)
    yield TPOT, ((key, flow.tpot) for key, flow in flows)
    yield GAPS, (((pool,), gaps) for pool, gaps in list(totals.between.items()))
    yield (
        TOKENS,
        (
            ((*key, direction), tokens)
            for key, flow in flows
            for direction, tokens in (("input", flow.prompts.sum), ("output", flow.answers.sum))
        ),
    )
    yield CACHED, ((key, flow.tokens_cached) for key, flow in flows)


def placing(totals: Totals) -> Metrics:
    """Where requests were sent, and what it took to say so."""
    yield ATTEMPTS, list(totals.attempts.items())
    yield FAILOVERS, list(totals.failovers.items())
    yield HEDGES, list(totals.hedges.items())
    yield HEDGE_TOKENS, list(totals.hedge_tokens.items())
    yield (
        ROUTES,
        (
            ((*way, outcome), count)
            for way, traffic in list(totals.routes.items())
            for outcome, count in (("ok", traffic.ok), ("refused", traffic.refused), ("failed", traffic.failed))
        ),
    )
    placed = list(totals.placed.items())
    yield DECISIONS, (((pool,), each.seconds.count) for pool, each in placed)
    yield DECISION_TIME, (((pool,), each.seconds) for pool, each in placed)
    yield SCHEDULED, (((pool,), each.tokens) for pool, each in placed)
    yield HITS, (((pool,), each.hits) for pool, each in placed)


def callers(totals: Totals) -> Metrics:
    """Who waited, was refused, and had what."""
    yield WAITS, list(totals.queues.items())
    yield ADMISSION, list(totals.refusals.items())
    yield LIMITS, list(totals.limits.items())
    yield STRANGERS, (((reason,), count) for reason, count in list(totals.strangers.items()))
    yield HTTP_REFUSALS, (((reason,), count) for reason, count in list(totals.http_refusals.items()))
    yield (
        TENANTS,
        (
            ((*owner, direction), tokens)
            for owner, share in list(totals.tenants.items())
            for direction, tokens in (("input", share.tokens_in), ("output", share.tokens_out))
        ),
    )
    yield REWRITES, list(totals.rewrites.items())
