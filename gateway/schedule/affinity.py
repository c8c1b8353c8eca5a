"""Sessions stay with the endpoint that served them, as long as it is there. (P)

Invariant: who asks twice within a session's time goes where it went before, if that endpoint is a candidate; a session
nobody remembers has an endpoint all the same, the same in every gateway and after every restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Final, Literal
from urllib.parse import parse_qsl

import xxhash
from msgspec import Meta

from gateway.config.decode import Section
from gateway.config.resources import SessionSticky, StickySource
from gateway.ports import Candidate, Filter, Scorer
from gateway.route import Sticky
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Parts
from gateway.types import InferenceRequest

_SESSIONS: Final = 65_536
"""Remembered at most in a pool; the least recently used are forgotten, and found again by their hash."""
_MASK: Final = (1 << 64) - 1
_ODD: Final = 0x9E3779B97F4A7C15
SESSION_ID: Final = StickySource(type="Header", name="x-session-id")

Sources = Annotated[tuple[StickySource, ...], Meta(min_length=1, max_length=16)]


def session_key(request: InferenceRequest, sources: Sequence[StickySource]) -> str:
    """The value of the first source that has one, "" if none has."""
    for source in sources:
        value = _value(request, source)
        if value:
            return value
    return ""


def _value(request: InferenceRequest, source: StickySource) -> str:
    if source.type == "Header":
        return Sticky(header=source.name.lower().encode("latin-1", "replace")).key(request.headers, "")
    if source.type == "Cookie":
        return Sticky(cookie=source.name).key(request.headers, "")
    if source.type == "Query":
        return next((value for name, value in parse_qsl(request.query) if name == source.name), "")
    return next((value for name, value in request.identity.claims if name == source.name), "")


class Sessions:
    """Where sessions are at home in one pool. Keys are kept as hashes: a client chooses their length."""

    def __init__(self, sources: Sequence[StickySource], seconds: float, limit: int = _SESSIONS) -> None:
        self.sources = tuple(sources)
        self.seconds = seconds
        self.limit = limit
        self._homes: OrderedDict[int, tuple[str, float]] = OrderedDict()
        self._hashes: dict[str, int] = {}

    def home(self, ask: Ask, candidates: Sequence[Candidate]) -> int | None:
        """The index of the session's candidate; None for a request without a session."""
        key = self._key(ask)
        if key is None:
            return None
        last = self._homes.get(key)
        if last is not None and ask.now < last[1]:
            for index, candidate in enumerate(candidates):
                if candidate.id == last[0]:
                    return index
        return self._hashed(key, candidates)

    def _key(self, ask: Ask) -> int | None:
        key = session_key(ask.request, self.sources)
        return xxhash.xxh64_intdigest(key.encode("utf-8", "surrogatepass")) if key else None

    def _hashed(self, key: int, candidates: Sequence[Candidate]) -> int:
        """Rendezvous hashing: an endpoint that leaves moves only its own sessions, one that comes takes its share."""
        hashes = self._hashes
        draws = [
            ((known if (known := hashes.get(c.id)) is not None else self._hash(c.id)) ^ key) * _ODD & _MASK
            for c in candidates
        ]
        return draws.index(max(draws))

    def _hash(self, id: str) -> int:
        made = self._hashes[id] = xxhash.xxh64_intdigest(id.encode())
        return made

    def placed(self, ask: Ask, candidate: Candidate) -> None:
        key = self._key(ask)
        if key is None:
            return
        self._homes[key] = candidate.id, ask.now + self.seconds
        self._homes.move_to_end(key)
        if len(self._homes) > self.limit:
            self._homes.popitem(last=False)

    def forget(self, endpoint: str) -> None:
        """Its sessions are kept: an engine that restarted is where they were, one that is gone is no candidate."""
        self._hashes.pop(endpoint, None)


def sessions_of(sticky: SessionSticky) -> Sessions:
    return Sessions(sticky.sources, float(sticky.session_affinity_seconds))


class SessionAffinity(Section, frozen=True):
    """1 for the endpoint that a request's session is at home with, 0 for the others; 0.5 for all without a session.

    As a filter: only that endpoint. ``session_affinity_seconds`` run from a session's last request.
    """

    sources: Sources = (SESSION_ID,)
    session_affinity_seconds: Annotated[int, Meta(ge=1)] = 10_800

    def scorer(self, parts: Parts) -> Scorer:
        return _Scored(self.sources, float(self.session_affinity_seconds))

    def filter(self, parts: Parts) -> Filter:
        return _Kept(self.sources, float(self.session_affinity_seconds))


class SessionAffinityScorer(Section, frozen=True):
    """EPP's session-affinity-scorer and -filter: by a session's id in a header.

    The strategy encoded_endpoint_header is refused: it wants its header written back into answers. The sweep and the
    profile's name are read only.
    """

    strategy: Literal["session_id"] = "session_id"
    header_name: str = SESSION_ID.name
    eviction_ttl_seconds: Annotated[int, Meta(ge=1)] = 300
    eviction_sweep_seconds: Annotated[int, Meta(ge=1)] = 10
    profile_name: str = ""

    def _sources(self) -> tuple[StickySource, ...]:
        return (StickySource(type="Header", name=self.header_name),)

    def scorer(self, parts: Parts) -> Scorer:
        return _Scored(self._sources(), float(self.eviction_ttl_seconds))

    def filter(self, parts: Parts) -> Filter:
        return _Kept(self._sources(), float(self.eviction_ttl_seconds))


class _Scored(Sessions):
    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        home = self.home(ask, candidates)
        if home is None:
            return [0.5] * len(candidates)
        scores = [0.0] * len(candidates)
        scores[home] = 1.0
        return scores


class _Kept(Sessions):
    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        home = self.home(ask, candidates)
        return candidates if home is None else [candidates[home]]
