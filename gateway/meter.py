"""What a request's life is summed up in, and its cheap aggregation into counters and histograms. (P)

`Totals.finished` is on the path of every request and takes about 1 µs (1.4 for a tenant's that came through a queue):
labels are looked up once, buckets are lists of ints. Rendering them for Prometheus happens elsewhere, when somebody
asks. The number of label sets is bounded whatever clients and engines send: past a cap, everything new is counted under
"other".
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

import msgspec

UNKNOWN = "unknown"
OTHER = "other"

DURATION_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TTFT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
QUEUE_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
TPOT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Upper bounds in seconds, inclusive. They span a cached embedding to half an hour, densest around usual objectives."""

CLIENT_GONE = 499
"""The status of a request whose client left before an answer began (nginx's convention)."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One finished request, whatever came of it.

    ``model`` is a name the configuration or an engine knows, or "" (a name only a client knows must not become a
    label). ``pool`` and ``endpoint`` are "" if none was chosen; ``endpoint`` is the last one tried. ``operation`` is
    the OpenAI path, or "". ``status`` is what the client was answered; ``reason`` a short constant, "" when all went
    well, and set beside a 200 when a stream broke after it began. ``started`` and ``ended`` are seconds on one
    monotonic clock. ``ttft_s`` is counted from ``started``, NaN when no token was seen. ``attempts`` is 0 if no engine
    was asked. ``queue_s`` is how long the request waited for room, 0 if it was let in at once, NaN where nobody waits.
    ``tokens_reasoning`` is the part of ``tokens_out`` that is not the answer. ``tenant`` and ``tier`` are verified or
    "". ``user`` and ``id`` (the request's) go to logs, never into a label. ``protocol`` is what the request came in by.
    ``why`` says more precisely than ``reason`` what refused it: a limit's name, a constant of admission, a filter.
    ``engine`` is the kind of the last endpoint tried. ``failures``: (endpoint, reason) of each attempt that failed.
    ``trace_id`` (32 hexadecimal digits, "" without tracing) is known to whoever collects traces if it was ``sampled``.
    ``target`` is the model that the route had its engines asked for, "" where that is the client's own word.
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

    @property
    def duration_s(self) -> float:
        return self.ended - self.started

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first; NaN unless streamed with at least two tokens."""
        if self.stream and self.tokens_out > 1:
            return (self.ended - self.started - self.ttft_s) / (self.tokens_out - 1)
        return math.nan


class Histogram:
    """Counts per bucket (the last one is above every bound) and the sum of the values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Flow:
    """Everything counted under one (model, pool, operation, protocol)."""

    __slots__ = ("duration", "outcomes", "tokens_cached", "tokens_in", "tokens_out", "tpot", "ttft")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[int, str], int] = {}
        self.duration = Histogram(DURATION_BOUNDS)
        self.ttft = Histogram(TTFT_BOUNDS)
        self.tpot = Histogram(TPOT_BOUNDS)
        self.tokens_in = 0
        self.tokens_out = 0
        self.tokens_cached = 0


class Share:
    """What a tenant's requests of one tier came to, in tokens."""

    __slots__ = ("tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.tokens_in = 0
        self.tokens_out = 0


class Traffic:
    """What became of the requests that a route sent one way: ``failed`` are 5xx and streams that broke, ``refused`` all
    others that got no answer of an engine's.
    """

    __slots__ = ("failed", "ok", "refused")

    def __init__(self) -> None:
        self.ok = self.refused = self.failed = 0

    @property
    def requests(self) -> int:
        return self.ok + self.refused + self.failed


class Totals:
    """Counts since the process began. Read by scrapes, written by requests; both run in one thread.

    ``max_flows`` bounds (model, pool, operation, protocol), ``max_outcomes`` bounds (status, reason) in each of them,
    ``max_attempts`` bounds (pool, endpoint, outcome), ``max_tenants`` bounds (tenant, tier), ``max_ways`` bounds
    (route, pool, target), ``max_names`` whatever else is counted by one name. ``generation`` counts configurations put
    in force, ``in_force_since`` is when the last one was, on Trio's clock. ``restarts`` counts restarts of supervised
    tasks by name, ``strangers`` requests whose credentials were not accepted, by reason: whoever finds out counts there.
    """

    def __init__(
        self,
        *,
        max_flows: int = 500,
        max_outcomes: int = 64,
        max_attempts: int = 5000,
        max_tenants: int = 250,
        max_names: int = 200,
        max_ways: int = 1000,
    ) -> None:
        self._max_flows = max_flows
        self._max_outcomes = max_outcomes
        self._max_attempts = max_attempts
        self._flows: dict[tuple[str, str, str, str], Flow] = {}
        self._attempts: dict[tuple[str, str, str], int] = {}
        self._max_tenants = max_tenants
        self._max_names = max_names
        self._max_ways = max_ways
        self._tenants: dict[tuple[str, str], Share] = {}
        self._queues: dict[str, Histogram] = {}
        self._routes: dict[tuple[str, str, str], Traffic] = {}
        self._limits: dict[str, int] = {}
        self._rewrites: dict[tuple[str, str, str], int] = {}
        self._gaps = Histogram(TPOT_BOUNDS)
        self.strangers: dict[str, int] = {}
        self.restarts: dict[str, int] = {}
        self.reloads = {"success": 0, "failure": 0}
        self.last_reload_successful = True
        self.generation = 0
        self.in_force_since = math.nan

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
    def queues(self) -> Mapping[str, Histogram]:
        """Seconds waited for room, by pool."""
        return self._queues

    @property
    def limits(self) -> Mapping[str, int]:
        """Requests refused, by limit."""
        return self._limits

    @property
    def routes(self) -> Mapping[tuple[str, str, str], Traffic]:
        """By (route, pool, target): the pool that was asked last, and the model it was asked for ("": the client's own
        word). Requests that came to no pool are in none.
        """
        return self._routes

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
            self._new_outcome(outcomes, outcome)
        duration = record.ended - record.started
        flow.duration.observe(duration)
        flow.tokens_in += record.tokens_in
        flow.tokens_cached += record.tokens_cached
        tokens_out = record.tokens_out
        flow.tokens_out += tokens_out
        ttft = record.ttft_s
        if ttft == ttft:  # not NaN
            flow.ttft.observe(ttft)
            if record.stream and tokens_out > 1:
                flow.tpot.observe((duration - ttft) / (tokens_out - 1))
        if record.tenant or record.tier:
            owner = (record.tenant, record.tier)
            share = self._tenants.get(owner)
            if share is None:
                share = self._new_share(owner)
            share.tokens_in += record.tokens_in
            share.tokens_out += tokens_out
        if record.pool:
            way = (record.route, record.pool, record.target)
            traffic = self._routes.get(way)
            if traffic is None:
                traffic = self._new_traffic(way)
            if not record.reason:
                traffic.ok += 1
            elif record.status >= 500 or record.status == 200:
                traffic.failed += 1
            else:
                traffic.refused += 1
        waited = record.queue_s
        if waited == waited:  # not NaN
            queue = self._queues.get(record.pool)
            if queue is None:
                queue = self._new_queue(record.pool)
            queue.observe(waited)

    def attempted(self, pool: str, endpoint: str, outcome: str) -> None:
        """Count one endpoint tried; ``outcome`` is "ok" or an error's reason."""
        key = (pool, endpoint, outcome)
        if key not in self._attempts and len(self._attempts) >= self._max_attempts:
            key = (OTHER, OTHER, OTHER)
        self._attempts[key] = self._attempts.get(key, 0) + 1

    def forget(self, pool: str, endpoint: str) -> None:
        """Drop the series of an endpoint that is gone, so that replicas that come and go don't use up the cap."""
        for key in [key for key in self._attempts if key[0] == pool and key[1] == endpoint]:
            del self._attempts[key]

    def failed_over(self, pool: str, reason: str) -> None:
        """Count an endpoint tried because another one had failed."""

    def turned_away(self, pool: str, tier: str, why: str) -> None:
        """Count a request that admission refused."""

    def decided(self, pool: str, seconds: float, tokens: float, hits: float) -> None:
        """Count a placement."""

    def gaps(self, pool: str) -> Histogram:
        """Of the seconds between two pieces of a stream; for whoever streams to keep as long as it does."""
        return self._gaps

    def limited(self, limit: str) -> None:
        """Count a request that a limit refused; ``limit`` names it and nobody's account."""
        self._count(self._limits, limit)

    @property
    def rewrites(self) -> Mapping[tuple[str, str, str], int]:
        """Requests answered by another model than was asked for, by (object that says so, model asked for, model)."""
        return self._rewrites

    def rewrote(self, by: str, model: str, target: str) -> None:
        """Count a decision; ``model`` is "" where only the client knows it."""
        key = (by, model or UNKNOWN, target)
        if key not in self._rewrites and len(self._rewrites) >= self._max_names:
            key = (OTHER, OTHER, OTHER)
        self._rewrites[key] = self._rewrites.get(key, 0) + 1

    def _count(self, counts: dict[str, int], name: str) -> None:
        if name not in counts and len(counts) >= self._max_names:
            name = OTHER
        counts[name] = counts.get(name, 0) + 1

    def in_force(self, now: float) -> None:
        """A configuration has been put in force, the first or another one; ``now`` is on Trio's clock."""
        self.generation += 1
        self.in_force_since = now

    def reloaded(self, successful: bool) -> None:
        """Count an attempt to load a changed configuration."""
        self.reloads["success" if successful else "failure"] += 1
        self.last_reload_successful = successful

    def _new_flow(self, key: tuple[str, str, str, str]) -> Flow:
        key = (key[0] or UNKNOWN, *key[1:])
        if key not in self._flows and len(self._flows) >= self._max_flows:
            key = (OTHER, OTHER, OTHER, key[3])
        return self._flows.setdefault(key, Flow())

    def _new_share(self, owner: tuple[str, str]) -> Share:
        if len(self._tenants) >= self._max_tenants:
            owner = (OTHER, OTHER)
        return self._tenants.setdefault(owner, Share())

    def _new_traffic(self, way: tuple[str, str, str]) -> Traffic:
        if len(self._routes) >= self._max_ways:
            way = (OTHER, OTHER, OTHER)
        return self._routes.setdefault(way, Traffic())

    def _new_queue(self, pool: str) -> Histogram:
        if len(self._queues) >= self._max_names:
            pool = OTHER
        return self._queues.setdefault(pool, Histogram(QUEUE_BOUNDS))

    def _new_outcome(self, outcomes: dict[tuple[int, str], int], outcome: tuple[int, str]) -> None:
        if len(outcomes) >= self._max_outcomes:
            outcome = (0, OTHER)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
