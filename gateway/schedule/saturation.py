"""How full a pool is, as one number: 1 and more means that another request would only wait. (P)

Invariant: an endpoint whose numbers are too old counts as it last did. Counting it as full, as other pickers do, closes
a pool whose scraping is slow though its engines are idle; counting it as free opens one that is drowning. One that
never said anything is left out: providers that have no numbers would close for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, field

from gateway.config.decode import Section
from gateway.ports import Candidate, Filter
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Parts
from gateway.schedule.queues import queued

Share = Annotated[float, Meta(gt=0, le=1)]


class Saturation(Section, frozen=True):
    """EPP's utilization-detector: an endpoint's max(waiting / ``queue_depth_threshold``, KV usage /
    ``kv_cache_util_threshold``), the mean over the pool; 1 for a pool without endpoints.

    As a filter: endpoints below both thresholds, raised by the share ``headroom``; everybody where that leaves nobody.
    ``queue_depth_threshold``: requests that wait at an endpoint. ``kv_cache_util_threshold``: share of its KV blocks
    that is in use. ``headroom``: by how much both are raised, as a share. ``metrics_staleness_threshold``: read without
    effect.
    """

    queue_depth_threshold: Annotated[float, Meta(gt=0)] = 5
    kv_cache_util_threshold: Share = 0.8
    headroom: Annotated[float, Meta(ge=0)] = 0.0
    metrics_staleness_threshold: str = ""

    def detector(self) -> Detector:
        return Detector(self)

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        waiting = self.queue_depth_threshold * (1.0 + self.headroom)
        used = min(1.0, self.kv_cache_util_threshold * (1.0 + self.headroom))
        return [
            c
            for c in candidates
            if (load := c.load) is None or (queued(c) <= waiting and (load.kv_usage or 0.0) <= used)
        ] or candidates

    def level(self, candidate: Candidate) -> float | None:
        """Of one endpoint; None if unknown."""
        load = candidate.load
        if load is None:
            return None
        return max(
            queued(candidate) / self.queue_depth_threshold, (load.kv_usage or 0.0) / self.kv_cache_util_threshold
        )


class Detector:
    """The saturation of one pool, over time."""

    def __init__(self, of: Saturation) -> None:
        self._of = of
        self._last: dict[str, float] = {}

    def __call__(self, candidates: Sequence[Candidate], /) -> float:
        """The mean over ``candidates``: all of the pool that could be used."""
        if not candidates:
            return 1.0
        levels = {}
        for candidate in candidates:
            level = self._of.level(candidate)
            if level is None:
                level = self._last.get(candidate.id)
            if level is not None:
                levels[candidate.id] = level
        self._last = levels
        return sum(levels.values()) / len(levels) if levels else 0.0


class Concurrency(Section, frozen=True):
    """EPP's concurrency-detector, by our own counts: requests, prompt tokens, or for each endpoint the larger of both.

    As a filter: endpoints below their capacity, raised by the share ``headroom``; everybody where that leaves nobody.
    ``concurrency_mode``: what is counted. ``max_concurrency``: requests an endpoint takes. ``max_token_concurrency``:
    tokens of prompts an endpoint takes. ``headroom``: by how much these are raised, as a share.
    """

    concurrency_mode: Literal["requests", "tokens", "hybrid"] = "requests"
    max_concurrency: Annotated[int, Meta(ge=1)] = 100
    max_token_concurrency: Annotated[int, Meta(ge=1)] = field(default=1_000_000)
    headroom: Annotated[float, Meta(ge=0)] = 0.0

    def detector(self) -> Concurrency:
        return self

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        return [c for c in candidates if self.level(c) < 1.0 + self.headroom] or candidates

    def level(self, candidate: Candidate) -> float:
        requests = (candidate.inflight + candidate.foreign) / self.max_concurrency
        tokens = candidate.backlog / self.max_token_concurrency
        return {"requests": requests, "tokens": tokens}.get(self.concurrency_mode, max(requests, tokens))

    def __call__(self, candidates: Sequence[Candidate], /) -> float:
        """The mean over ``candidates``; their capacities are the same."""
        return sum(map(self.level, candidates)) / len(candidates) if candidates else 1.0
