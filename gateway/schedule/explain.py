"""Why an endpoint was chosen: what was weighed, written down while it was weighed. (P)

Invariant: the numbers are those of the decision itself, not of a later look; what is kept is bounded.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.ports import Candidate
from gateway.schedule.ask import Ask

SHOWN: Final = 16
"""Candidates that a decision lists, the best first; and those left out, any."""
_NAME: Final = 256
_FIELD: Final = 6000
"""Bytes of a header's value that common clients and proxies take."""


class Explanation:
    """One decision in the making. `as_json` shows it, with the outcome as far as there is one. It does not hold the
    request: the last decisions would hold their bodies.
    """

    __slots__ = (
        "_candidates",
        "_left_out",
        "_scores",
        "hedge",
        "model",
        "pool",
        "profile",
        "request",
        "tokens",
        "tried",
        "ttft",
    )

    def __init__(self, ask: Ask, pool: str, profile: str) -> None:
        self.request = ask.request.id
        self.model = ask.model[:_NAME]
        self.pool = pool
        self.profile = profile
        self.tried: list[str] = []
        self.hedge = ""
        self.tokens = 0
        self.ttft: float | None = None
        self._left_out: dict[str, str] = {}
        self._candidates: list[dict[str, Any]] = []
        self._scores: dict[str, Sequence[float]] = {}

    def filtered(self, name: str, before: Sequence[Candidate], after: Sequence[Candidate]) -> None:
        kept = {candidate.id for candidate in after}
        gone = (candidate.id for candidate in before if candidate.id not in kept)
        self._left_out.update((id, name) for id, _ in zip(gone, range(SHOWN - len(self._left_out)), strict=False))

    def scored(self, name: str, scores: Sequence[float]) -> None:
        self._scores[name] = scores

    def weighed(
        self, ask: Ask, candidates: Sequence[Candidate], totals: Sequence[float], plugins: Sequence[object]
    ) -> None:
        """All scores are there: look at the best candidates while they are as they were."""
        self._scores, parts = {}, self._scores
        if self._candidates:
            return  # of the endpoints to fall back on
        self.tokens = round(ask.tokens)
        best = sorted(range(len(candidates)), key=totals.__getitem__, reverse=True)[:SHOWN]
        self._candidates = [
            {
                **_seen(ask, candidates[at]),
                "score": _short(totals[at]),
                "scores": {name: _short(scores[at]) for name, scores in parts.items()},
                **_told(ask, candidates[at], plugins),
            }
            for at in best
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.request,
            "model": self.model,
            "pool": self.pool,
            "profile": self.profile or "default",
            "tried": list(self.tried),
            "hedge": self.hedge or None,
            "promptTokens": self.tokens,
            "ttftSeconds": None if self.ttft is None else _short(self.ttft),
            "candidates": self._candidates,
            "leftOut": self._left_out,
        }

    def as_field(self) -> bytes:
        """`as_json` as a header's value: printable ASCII, short enough, the worst candidates cut off."""
        shown = self.as_json()
        candidates = shown["candidates"] = list(self._candidates)
        while True:
            plain = msgspec.json.decode(msgspec.json.encode(shown))  # what is no number becomes null
            text = json.dumps(plain, separators=(",", ":")).encode("ascii")
            if len(text) <= _FIELD or not candidates:
                return text
            candidates.pop()


def _seen(ask: Ask, candidate: Candidate) -> dict[str, Any]:
    load = candidate.load
    return {
        "endpoint": candidate.id,
        "hitTokens": round(ask.hits.get(candidate.id, 0.0)),
        "inFlight": candidate.inflight,
        "pending": candidate.pending,
        "foreign": candidate.foreign,
        "load": None
        if load is None
        else {
            "waiting": load.waiting,
            "running": load.running,
            "kvUsage": load.kv_usage,
            "ageSeconds": _short(ask.now - load.at),
        },
    }


def _told(ask: Ask, candidate: Candidate, plugins: Sequence[object]) -> dict[str, Any]:
    """What the plugins themselves have to say of it."""
    told: dict[str, Any] = {}
    for plugin in plugins:
        explain = getattr(plugin, "explain", None)
        if explain is not None:
            told.update(explain(ask, candidate))
    return told


class Decisions:
    """The last decisions worth keeping: those that were asked for, and one in ``every`` seconds besides."""

    def __init__(self, size: int = 256, every: float = 0.1) -> None:
        self._kept: deque[Explanation] = deque(maxlen=size)
        self._every = every
        self._next = 0.0

    def due(self, now: float) -> bool:
        """Whether a decision made now should be kept though nobody asked."""
        if now < self._next:
            return False
        self._next = now + self._every
        return True

    def keep(self, explanation: Explanation) -> None:
        self._kept.append(explanation)

    def newest(self, limit: int = 50, request: str = "") -> list[dict[str, Any]]:
        """The last ones first; with ``request``, those of the request with that id."""
        found = (kept for kept in reversed(self._kept) if not request or kept.request == request)
        return [kept.as_json() for kept, _ in zip(found, range(limit), strict=False)]


def _short(value: float) -> float:
    return round(value, 6)
