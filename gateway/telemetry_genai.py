"""Metrics that clients see, under the names of OpenTelemetry's conventions for generative AI. (P)

A part of `gateway.telemetry`; they are made of what `Totals` has counted anyway, so that their buckets are ours, except
those of tokens. Requests for what is no model's work are left out.

Source: OpenTelemetry's conventions for generative AI, metrics, as of late 2026 (in development).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from gateway.families import Family, Row
from gateway.meter import UNKNOWN, Totals
from gateway.spans import OPERATIONS
from gateway.tally import DURATION_BOUNDS, TOKEN_BOUNDS, TPOT_BOUNDS, TTFT_BOUNDS, Flow, Histogram
from gateway.telemetry_fleet import Member
from gateway.telemetry_requests import Metrics
from gateway.types import Operation

_COUNTING: Final = (Operation.COUNT_TOKENS, Operation.TOKENIZE, Operation.DETOKENIZE)
_PROVIDERS: Final = {"gemini": "gcp.gemini"}
_NOBODY: Final = "infer_gateway"
"""Whoever is refused before there is a pool has been served by nobody else."""
_SEVERAL: Final = "_OTHER"
_OF: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_FLAVOUR: Final = "the provider is the kind of the pool's engines, `_OTHER` where they differ"

DURATION: Final = Family(
    "gen_ai_server_request_duration_seconds",
    "histogram",
    "From the arrival of the request to the end of its answer.",
    (*_OF, "error_type"),
    DURATION_BOUNDS,
    _FLAVOUR,
)
TTFT: Final = Family(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "From the arrival of the request to its first token.",
    _OF,
    TTFT_BOUNDS,
)
TPOT: Final = Family(
    "gen_ai_server_time_per_output_token_seconds",
    "histogram",
    "Of each streamed answer, the mean time between its tokens after the first.",
    _OF,
    TPOT_BOUNDS,
)
TOKENS: Final = Family(
    "gen_ai_client_token_usage",
    "histogram",
    "Tokens of each request; the type is input or output.",
    (*_OF, "gen_ai_token_type"),
    TOKEN_BOUNDS,
)

_Groups = Mapping[tuple[str, str, str], list[Flow]]


def conventional(totals: Totals, members: Iterable[Member]) -> Metrics:
    groups = _grouped(totals, providers(members))
    yield DURATION, _durations(groups)
    yield TTFT, _merged(groups, lambda flow: flow.ttft)
    yield TPOT, _merged(groups, lambda flow: flow.tpot)
    yield TOKENS, _tokens(groups)


def providers(members: Iterable[Member]) -> dict[str, str]:
    """By pool, as the conventions call who answers there."""
    found: dict[str, str] = {}
    for member in members:
        engine = member.engine.lower()
        name = _PROVIDERS.get(engine, engine)
        found[member.pool] = name if found.get(member.pool, name) == name else _SEVERAL
    return found


def _grouped(totals: Totals, provider: Mapping[str, str]) -> _Groups:
    groups: dict[tuple[str, str, str], list[Flow]] = {}
    for (model, pool, operation, _), flow in totals.flows.items():
        name = OPERATIONS.get(operation)
        if name is not None and operation not in _COUNTING:
            shown = "" if model == UNKNOWN else model
            key = name, provider.get(pool, _SEVERAL) if pool else _NOBODY, shown
            groups.setdefault(key, []).append(flow)
    return groups


def _merged(groups: _Groups, figure: Callable[[Flow], Histogram]) -> Iterator[Row]:
    """One group at a time: whoever reads gives way in between."""
    for key, flows in groups.items():
        yield key, _sum(map(figure, flows))


def _sum(histograms: Iterable[Histogram]) -> Histogram:
    first, *others = histograms
    total = Histogram(first.bounds)
    for each in (first, *others):
        total.add(each)
        total.exemplars = {**(total.exemplars or {}), **(each.exemplars or {})}
    return total


def _durations(groups: _Groups) -> Iterator[Row]:
    """Those that went well have no error type."""
    for key, flows in groups.items():
        well = _sum(flow.duration for flow in flows)
        failed: dict[str, list[Histogram]] = {}
        for flow in flows:
            for reason, histogram in list(flow.failed.items()):
                failed.setdefault(reason, []).append(histogram)
                well.add(histogram, -1)
        yield (*key, ""), _consistent(well)
        for reason, histograms in failed.items():
            yield (*key, reason), _sum(histograms)


def _consistent(histogram: Histogram) -> Histogram:
    """Exemplars of buckets that have something left, and no sum of less than nothing."""
    histogram.sum = max(0.0, histogram.sum)
    known = histogram.exemplars or {}
    histogram.exemplars = {index: each for index, each in known.items() if histogram.counts[index]}
    return histogram


def _tokens(groups: _Groups) -> Iterator[Row]:
    for key, flows in groups.items():
        yield (*key, "input"), _sum(flow.prompts for flow in flows)
        yield (*key, "output"), _sum(flow.answers for flow in flows)
