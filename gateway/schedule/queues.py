"""Scorers and filters that count: requests in flight, waiting, running, and prompt tokens under way. (P)

Invariant: what this gateway sent since an engine was last scraped counts as well, so that a stale number draws no herd:
an engine that is scraped as having nothing to do has something to do as soon as one request was sent there.
Where an engine's load is unknown its own numbers count as nothing, or the score is 0.5, as each class says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from gateway.config.decode import Section
from gateway.ports import Candidate, Filter, Scorer
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Parts

_WAITING_LIMIT: Final = 10
UNKNOWN: Final = 0.5
"""What an endpoint scores of which nothing is known: neither good nor bad."""


def waiting(candidates: Sequence[Candidate]) -> list[float | None]:
    """Requests waiting at each, None if unknown: as scraped, or more by what was sent since."""
    return [
        None
        if (load := c.load) is None
        else scraped
        if (scraped := load.waiting) > (since := c.inflight + c.foreign - load.running)
        else since
        for c in candidates
    ]


def queued(candidate: Candidate) -> float:
    """As `waiting`, but requests sent since the scrape only count behind others: an engine without a queue runs them.

    0 where nothing is known.
    """
    load = candidate.load
    if load is None or load.waiting <= 0.0:
        return 0.0
    return max(load.waiting, candidate.inflight + candidate.foreign - load.running)


class LeastRequest(Section, frozen=True):
    """Kthena's. As a filter: fewer than ``max_waiting_requests`` wait (0: the default); unknown ones stay.

    As a scorer: by requests in flight, each that the engine does not run yet counting a hundred more; where its load is
    unknown none does. 1 for all where nothing is in flight.
    """

    max_waiting_requests: Annotated[int, Meta(ge=0)] = _WAITING_LIMIT

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        limit = self.max_waiting_requests or _WAITING_LIMIT
        return [
            c
            for c in candidates
            if (load := c.load) is None
            or load.waiting <= 0.0
            # as `queued`, which a call for each would make three times as slow
            or (load.waiting < limit and c.inflight + c.foreign - load.running < limit)
        ]

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        inflight = [c.inflight for c in candidates]
        counts = [
            n if load is None or (idle := n - load.running) <= 0.0 else n + 100.0 * idle
            for n, load in zip(inflight, [c.load for c in candidates], strict=True)
        ]
        most = max(counts)
        return [(most - count) / most for count in counts] if most > 0.0 else [1.0] * len(counts)


class Queue(Section, frozen=True):
    """EPP's queue-scorer: (max − waiting) / (max − min), 1 for all where equal, 0.5 for an unknown one."""

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        return _spread(waiting(candidates))


class Running(Section, frozen=True):
    """EPP's running-requests-size-scorer: (max − running) / (max − min), 1 where equal, 0.5 for an unknown one."""

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        return _spread(
            [
                None
                if (load := c.load) is None
                else scraped
                if (scraped := load.running) > (since := c.inflight + c.foreign - load.waiting)
                else since
                for c in candidates
            ]
        )


def _spread(values: Sequence[float | None]) -> Sequence[float]:
    known = [value for value in values if value is not None]
    least, most = min(known, default=0.0), max(known, default=0.0)
    span = most - least
    if span <= 0.0:
        alike = UNKNOWN if most > 0.0 and len(known) < len(values) else 1.0  # busy, and somebody may not be
        return [UNKNOWN if value is None else alike for value in values]
    return [UNKNOWN if value is None else (most - value) / span for value in values]


class LoadAware(Section, frozen=True):
    """EPP's load-aware-scorer: 0.5 with nothing waiting, falling to 0 at ``threshold``; 0.5 for an unknown one."""

    threshold: Annotated[int, Meta(ge=1)] = 128

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        limit = self.threshold
        return [
            0.5 if count is None or count <= 0.0 else 0.0 if count >= limit else 0.5 - 0.5 * count / limit
            for count in waiting(candidates)
        ]


class ActiveRequests(Section, frozen=True):
    """EPP's active-request-scorer, by our own count: 1 up to ``idle_threshold`` requests in flight, above it from
    ``max_busy_score`` down to 0 for the busiest.
    """

    idle_threshold: Annotated[int, Meta(ge=0)] = 0
    max_busy_score: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        counts = [c.inflight for c in candidates]
        idle, most = self.idle_threshold, max(counts)
        return [1.0 if n <= idle else self.max_busy_score * (most - n) / most for n in counts]


class TokenLoad(Section, frozen=True):
    """EPP's token-load-scorer: 1 with no prompt token under way there, 0 from ``queue_threshold_tokens`` on."""

    queue_threshold_tokens: Annotated[int, Meta(ge=1)] = 4_194_304

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        limit = self.queue_threshold_tokens
        return [0.0 if (n := c.backlog) >= limit else 1.0 - n / limit if n > 0.0 else 1.0 for c in candidates]
