"""What a request's life is summed up in, and its cheap aggregation into counters and histograms. (P)

`Totals.finished` is on the path of every request and takes about 2 µs: labels are looked up once, buckets are lists of
ints. Rendering them for Prometheus happens elsewhere, when somebody asks. The number of label sets is bounded whatever
clients and engines send: past a cap, everything new is counted under "other"; and so is their length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeVar, cast

import msgspec

from gateway.labels import label
from gateway.outcome import CLIENT_GONE, is_error
from gateway.tally import (
    DURATION_BOUNDS,
    QUEUE_BOUNDS,
    TPOT_BOUNDS,
    TTFT_BOUNDS,
    Flow,
    Histogram,
    Placed,
    Share,
    Traffic,
)

__all__ = [
    "CLIENT_GONE", "DURATION_BOUNDS", "OTHER", "QUEUE_BOUNDS", "TPOT_BOUNDS", "TTFT_BOUNDS", "UNKNOWN", "Flow",
    "Histogram", "Record", "Share", "Totals", "Traffic",
]  # fmt: skip

UNKNOWN: Final = "unknown"
OTHER: Final = "other"

K = TypeVar("K", bound=tuple[str, ...])
V = TypeVar("V")


class Record(msgspec.Struct, frozen=True, gc=False):
    """One finished request, whatever came of it.

    ``model`` is a name the configuration or an engine knows, or "" (a name only a client knows must not become a label;
    ``asked`` is that name, any text, for logs alone). ``pool`` and ``endpoint`` are "" if none was chosen; ``endpoint``
    is the last one tried. ``operation`` is the OpenAI path, or "". ``status`` is what the client was answered;
    ``reason`` a short constant, "" when all went well, and set beside a 200 when a stream broke after it began.
    ``started`` and ``ended`` are seconds on one monotonic clock. ``ttft_s`` is counted from ``started``, NaN when no
    token was seen. ``attempts`` is 0 if no engine was asked. ``queue_s`` is how long the request waited for room, 0 if
    it was let in at once, NaN where nobody waits. ``tokens_reasoning`` is the part of ``tokens_out`` that is not the
    answer. ``tenant`` and ``tier`` are verified or "". ``user`` and ``id`` (the request's) go to logs, never into a
    label. ``protocol`` is what the request came in by.
    ``why`` says more precisely than ``reason`` what refused it: a limit's name, a constant of admission, a filter.
    ``engine`` is the kind of the last endpoint tried. ``failures``: (endpoint, reason) of each attempt that failed.
    ``trace_id`` (32 hexadecimal digits, "" without tracing) is known to whoever collects traces if it was ``sampled``.
    ``target`` is the model that the route had its engines asked for, "" where that is the client's own word.
    ``hedge``: what became of a second attempt that ran beside another (`gateway.hedge`), "" where there was none;
    ``beside``: the endpoint of the one whose answer was not taken.
    """

    model: str = ""
    pool: str = ""
    endpoint: str = ""
    operation: str = ""
    status: int = 200
    reason: str = ""
    stream: bool = False
    started: float = 0.0
    ended: float = 0.0
    ttft_s: float = math.nan
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    attempts: int = 0
    user: str = ""
    id: str = ""
    tenant: str = ""
    tier: str = ""
    route: str = ""
    queue_s: float = math.nan
    tokens_reasoning: int = 0
    protocol: str = "http"
    why: str = ""
    engine: str = ""
    failures: tuple[tuple[str, str], ...] = ()
    trace_id: str = ""
    sampled: bool = False
    target: str = ""
    asked: str = ""
    hedge: str = ""
    beside: str = ""

    @property
    def duration_s(self) -> float:
        return self.ended - self.started

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first; NaN unless streamed with at least two tokens."""
        if self.stream and self.tokens_out > 1:
            return (self.ended - self.started - self.ttft_s) / (self.tokens_out - 1)
        return math.nan


class Totals:
    """Counts since the process began (`ports.Observer`). Read by scrapes, written by requests; both run in one thread.

    ``max_flows`` bounds (model, pool, operation, protocol), ``max_outcomes`` bounds (status, reason) in each of them,
    ``max_attempts`` bounds (pool, endpoint, outcome), ``max_tenants`` bounds (tenant, tier), ``max_ways`` bounds
    (route, pool, target), ``max_names`` whatever else is counted by one name or a few. Of ``tiers``, which are to be
    those that the configuration knows, waits and refusals are told apart. ``generation`` counts configurations put in
    force, ``in_force_since`` is when the last one was, in seconds of the epoch. ``restarts`` counts restarts of
    supervised tasks by name, ``strangers`` requests whose credentials were not accepted, by reason, ``http_refusals``
    requests over HTTP that asked for no model yet: who finds out counts there.
    """

    def __init__(
        self,
        *,
        max_flows: int = 500,
        max_outcomes: int = 64,
        max_attempts: int = 5000,
        max_tenants: int = 250,
        max_names: int = 2000,
        max_ways: int = 1000,
    ) -> None:
        self._max_flows = max_flows
        self._max_outcomes = max_outcomes
        self._max_attempts = max_attempts
        self._max_tenants = max_tenants
        self._max_names = max_names
        self._max_ways = max_ways
        self._flows: dict[tuple[str, str, str, str], Flow] = {}
        self._attempts: dict[tuple[str, str, str], int] = {}
        self._tenants: dict[tuple[str, str], Share] = {}
        self._queues: dict[tuple[str, str], Histogram] = {}
        self._routes: dict[tuple[str, str, str], Traffic] = {}
        self._limits: dict[tuple[str], int] = {}
        self._rewrites: dict[tuple[str, str, str], int] = {}
        self._failovers: dict[tuple[str, str], int] = {}
        self._hedges: dict[tuple[str, str], int] = {}
        self._hedge_tokens: dict[tuple[str], int] = {}
        self._refusals: dict[tuple[str, str, str], int] = {}
        self._placed: dict[str, Placed] = {}
        self._gaps: dict[str, Histogram] = {}
        self.tiers: Collection[str] = frozenset()
        self.strangers: dict[str, int] = {}
        self.http_refusals: dict[str, int] = {}
        self.restarts: dict[str, int] = {}
        self.reloads = {"success": 0, "failure": 0}
        self.last_reload_successful = True
        self.generation = 0
        self.in_force_since = math.nan

    # -- what was counted -----------------------------------------------------------------------------------------

    @property
    def flows(self) -> Mapping[tuple[str, str, str, str], Flow]:
        """By (model, pool, operation, protocol), in order of first appearance."""
        return self._flows

    @property
    def attempts(self) -> Mapping[tuple[str, str, str], int]:
        """By (pool, endpoint, outcome)."""
        return self._attempts

    @property
    def tenants(self) -> Mapping[tuple[str, str], Share]:
        """By (tenant, tier); requests that have neither are in no share."""
        return self._tenants

    @property
    def queues(self) -> Mapping[tuple[str, str], Histogram]:
        """Seconds waited for room, by (pool, tier)."""
        return self._queues

    @property
    def limits(self) -> Mapping[tuple[str], int]:
        """Requests refused, by limit."""
        return self._limits

    @property
    def routes(self) -> Mapping[tuple[str, str, str], Traffic]:
        """By (route, pool, target): the pool that was asked last, and the model it was asked for ("": the client's own
        word). Requests that came to no pool are in none.
        """
        return self._routes

    @property
    def rewrites(self) -> Mapping[tuple[str, str, str], int]:
        """Requests answered by another model than was asked for, by (object that says so, model asked for, model)."""
        return self._rewrites

    @property
    def failovers(self) -> Mapping[tuple[str, str], int]:
        """Endpoints tried because another one had failed, by (pool, reason of the failure)."""
        return self._failovers

    @property
    def hedges(self) -> Mapping[tuple[str, str], int]:
        """Hedges that were due, by (pool, what became of it)."""
        return self._hedges

    @property
    def hedge_tokens(self) -> Mapping[tuple[str], int]:
        """Tokens that hedges have cost, by pool."""
        return self._hedge_tokens

    @property
    def refusals(self) -> Mapping[tuple[str, str, str], int]:
        """Requests that admission refused, by (pool, tier, why)."""
        return self._refusals

    @property
    def placed(self) -> Mapping[str, Placed]:
        """What was placed, by pool."""
        return self._placed

    @property
    def between(self) -> Mapping[str, Histogram]:
        """Seconds between two pieces of a stream, by pool."""
        return self._gaps

    def tier(self, name: str) -> str:
        """As whom requests of a tier are counted: those that the configuration does not know are many in one."""
        return name if not name or name in self.tiers else OTHER

    # -- counting -------------------------------------------------------------------------------------------------

    def finished(self, record: Record) -> None:
        """Count a finished request."""
        key = (record.model, record.pool, record.operation, record.protocol)
        flow = self._flows.get(key)
        if flow is None:
            flow = self._new_flow(key)
        outcome = (record.status, record.reason)
        outcomes = flow.outcomes
        if outcome in outcomes:
            outcomes[outcome] += 1
        else:
            outcome = self._new_outcome(outcomes, outcome)
        duration = record.ended - record.started
        flow.duration.observe(duration)
        tokens_in, tokens_out = record.tokens_in, record.tokens_out
        if tokens_in or tokens_out:
            flow.prompts.observe(tokens_in)
            flow.answers.observe(tokens_out)
            flow.tokens_cached += record.tokens_cached
        ttft = record.ttft_s
        if ttft == ttft:  # not NaN
            flow.ttft.observe(ttft)
            if record.stream and tokens_out > 1:
                flow.tpot.observe((duration - ttft) / (tokens_out - 1))
        if record.pool:
            self._went(record)
        if record.tenant or record.tier:
            self._owed(record)
        if record.reason:
            flow.failed.setdefault(outcome[1], Histogram(DURATION_BOUNDS)).observe(duration)
        if record.sampled:
            flow.duration.exemplify(duration, record.trace_id, record.ended)
            if ttft == ttft:
                flow.ttft.exemplify(ttft, record.trace_id, record.ended)

    def _went(self, record: Record) -> None:
        way = (record.route, record.pool, record.target)
        traffic = self._routes.get(way) or _opened(self._routes, way, Traffic, self._max_ways)
        if not record.reason:
            traffic.ok += 1
        elif is_error(record.status, record.reason):
            traffic.failed += 1
        else:
            traffic.refused += 1
        waited = record.queue_s
        if waited == waited:  # not NaN
            line = (record.pool, record.tier)
            queue = self._queues.get(line)
            if queue is None:
                line = (record.pool, self.tier(record.tier))
                queue = _opened(self._queues, line, _waits, self._max_names)
            queue.observe(waited)

    def _owed(self, record: Record) -> None:
        owner = (record.tenant, record.tier)
        share = self._tenants.get(owner) or _opened(self._tenants, owner, Share, self._max_tenants)
        share.tokens_in += record.tokens_in
        share.tokens_out += record.tokens_out

    def attempted(self, pool: str, endpoint: str, outcome: str) -> None:
        """Count one endpoint tried; ``outcome`` is "ok" or an error's reason."""
        _count(self._attempts, (pool, endpoint, outcome), self._max_attempts)

    def forget(self, pool: str, endpoint: str) -> None:
        """Drop the series of an endpoint that is gone, so that replicas that come and go don't use up the cap."""
        gone = label(pool), label(endpoint)
        for key in [key for key in self._attempts if key[:2] == gone]:
            del self._attempts[key]

    def failed_over(self, pool: str, reason: str) -> None:
        """Count an endpoint tried because another one had failed."""
        _count(self._failovers, (pool, reason), self._max_names)

    def hedged(self, pool: str, outcome: str, tokens: float) -> None:
        """Count a hedge that was due, and what it cost."""
        _count(self._hedges, (pool, outcome), self._max_names)
        if tokens:
            _count(self._hedge_tokens, (pool,), self._max_names, round(tokens))

    def turned_away(self, pool: str, tier: str, why: str) -> None:
        """Count a request that admission refused."""
        _count(self._refusals, (pool, self.tier(tier), why), self._max_names)

    def decided(self, pool: str, seconds: float, tokens: float, hits: float) -> None:
        """Count a placement."""
        placed = self._placed.get(pool)
        if placed is None:
            placed = _opened_name(self._placed, pool, Placed, self._max_names)
        placed.seconds.observe(seconds)
        placed.tokens += tokens
        placed.hits += hits

    def gaps(self, pool: str) -> Histogram:
        """Of the seconds between two pieces of a stream; for whoever streams to keep as long as it does."""
        return self._gaps.get(pool) or _opened_name(self._gaps, pool, _gaps, self._max_names)

    def limited(self, limit: str) -> None:
        """Count a request that a limit refused; ``limit`` names it and nobody's account."""
        _count(self._limits, (limit,), self._max_names)

    def rewrote(self, by: str, model: str, target: str) -> None:
        """Count a decision; ``model`` is "" where only the client knows it."""
        _count(self._rewrites, (by, model or UNKNOWN, target), self._max_names)

    def reloaded(self, successful: bool) -> None:
        """Count an attempt to load a changed configuration."""
        self.reloads["success" if successful else "failure"] += 1
        self.last_reload_successful = successful

    def in_force(self, now: float) -> None:
        """A configuration has been put in force, the first or another one; ``now`` in seconds of the epoch."""
        self.generation += 1
        self.in_force_since = now

    # -- what is seen for the first time --------------------------------------------------------------------------

    def _new_flow(self, key: tuple[str, str, str, str]) -> Flow:
        key = (key[0] or UNKNOWN, *key[1:])
        other = (OTHER, OTHER, OTHER, label(key[3]))
        return _opened(self._flows, key, Flow, self._max_flows, other)

    def _new_outcome(self, outcomes: dict[tuple[int, str], int], outcome: tuple[int, str]) -> tuple[int, str]:
        outcome = (outcome[0], label(outcome[1]))
        if outcome not in outcomes and len(outcomes) >= self._max_outcomes:
            outcome = (0, OTHER)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        return outcome


def _opened(table: dict[K, V], key: K, make: Callable[[], V], most: int, other: K | None = None) -> V:
    """What is counted under these labels, or under those of all others where there are too many."""
    key = cast(K, tuple(map(label, key)))
    if key not in table and len(table) >= most:
        key = other or cast(K, (OTHER,) * len(key))
    found = table.get(key)
    if found is None:
        found = table[key] = make()
    return found


def _opened_name(table: dict[str, V], name: str, make: Callable[[], V], most: int) -> V:
    name = label(name)
    if name not in table and len(table) >= most:
        name = OTHER
    found = table.get(name)
    if found is None:
        found = table[name] = make()
    return found


def _count(table: dict[K, int], key: K, most: int, by: int = 1) -> None:
    if key in table:
        table[key] += by
        return
    key = cast(K, tuple(map(label, key)))
    if key not in table and len(table) >= most:
        key = cast(K, (OTHER,) * len(key))
    table[key] = table.get(key, 0) + by


def _waits() -> Histogram:
    return Histogram(QUEUE_BOUNDS)


def _gaps() -> Histogram:
    return Histogram(TPOT_BOUNDS)
