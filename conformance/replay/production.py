"""The gateway's own scheduler as a chooser: its pool, its placements and a profile, driven by explicit time. (P)

Invariant: a pool is told what the data walk tells it, in the same order, and nothing else: a request's text when it
comes, its dispatch, its first token, its end and usage as an engine reports it, and what a scrape shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import msgspec

from conformance.replay.fleet import Fleet
from conformance.replay.traces import Request, Trace
from gateway.config.snapshot import Policy
from gateway.errors import GatewayError
from gateway.pools import Member, Placement, Pool
from gateway.ports import Adapter
from gateway.schedule.ask import Ask
from gateway.schedule.cost import Cost
from gateway.schedule.parts import Parts
from gateway.schedule.pickers import MaxScore
from gateway.schedule.profile import Named, Profile, Weighted
from gateway.schedule.queues import LeastRequest, Queue
from gateway.schedule.reuse import PrefixCache, PrefixCacheScorer
from gateway.schedule.scorers import KVCache, LeastLatency
from gateway.types import Endpoint, InferenceRequest, Load, Operation, Usage

MODEL = "replayed"


class _View(msgspec.Struct, frozen=True, gc=False):
    text: str

    def prompt_text(self) -> str:
        return self.text


class Production:
    """One gateway: a pool with a profile of its own."""

    def __init__(self, fleet: Fleet, profile: Profile) -> None:
        self._trace: Trace = fleet.trace
        members = [
            Member("replay", Endpoint("vllm", "http", f"engine-{engine.index}", 8000), _NO_ADAPTER)
            for engine in fleet.engines
        ]
        for member in members:
            member.up = True
        self.pool = Pool("replay", members, Policy(), profile)
        self._index = {member.id: index for index, member in enumerate(members)}
        self._asks: dict[int, Ask] = {}
        self._placements: dict[int, Placement] = {}

    def choose(self, request: Request, now: float) -> Iterator[int]:
        text = self._trace.text(request)
        asked = InferenceRequest(
            str(request.index), Operation.COMPLETIONS, MODEL, text.encode(), stream=True, view=_View(text)
        )
        ask = self._asks[request.index] = self.pool.ask(asked, MODEL, now)
        return self._ranked(ask)

    def _ranked(self, ask: Ask) -> Iterator[int]:
        try:
            for member in self.pool.rank(ask):
                yield self._index[member.id]
        except GatewayError:  # filters left nobody: the request is refused
            self._asks.pop(int(ask.request.id), None)

    def placed(self, request: Request, engine: int, now: float) -> None:
        self._placements[request.index] = self.pool.place(self._asks[request.index], self.pool.members[engine], now)

    def answered(self, request: Request, engine: int, now: float) -> None:
        self._placements[request.index].answered(now)

    def ended(self, request: Request, engine: int, now: float, cached: int | None) -> None:
        """Usage is told without cached tokens: engines leave them out unless started with an option."""
        placement, member = self._placements.pop(request.index), self.pool.members[engine]
        if cached is None:
            placement.left(now, None)
            member.failed(now)
            return
        placement.left(now, Usage(request.prompt, request.output), request.output)
        member.succeeded()
        del self._asks[request.index]

    def scraped(self, engine: int, load: Load | None, now: float) -> None:
        if load is None:
            return
        member = self.pool.members[engine]
        former = member.load
        self.pool.loaded(member, load if former is None else _compared(former, load))


def _compared(former: Load, load: Load) -> Load:
    """With the recent means, which a page does not hold."""
    return msgspec.structs.replace(
        load,
        ttft=_mean(former.ttft, load.ttft_sum - former.ttft_sum, load.ttft_count - former.ttft_count),
        tpot=_mean(former.tpot, load.tpot_sum - former.tpot_sum, load.tpot_count - former.tpot_count),
    )


def _mean(former: float | None, total: float, count: float) -> float | None:
    return total / count if count > 0 else former


class _NoAdapter:
    """Nothing is sent: a member's adapter is never asked."""

    name = "none"


_NO_ADAPTER: Adapter = _NoAdapter()  # type: ignore[assignment]


def _ours(parts: Parts) -> Profile:
    return Profile((), (Weighted("cost", Cost().scorer(parts)),), MaxScore().picker(parts))


def _kthena(parts: Parts) -> Profile:
    scorers = (
        Weighted("least-request", LeastRequest().scorer(parts)),
        Weighted("kv-cache", KVCache().scorer(parts)),
        Weighted("least-latency", LeastLatency().scorer(parts)),
        Weighted("prefix-cache", PrefixCache().scorer(parts)),
    )
    return Profile((Named("least-request", LeastRequest().filter(parts)),), scorers, MaxScore().picker(parts))


def _epp(parts: Parts) -> Profile:
    scorers = (
        Weighted("queue-scorer", Queue().scorer(parts), 2.0),
        Weighted("kv-cache-utilization-scorer", KVCache().scorer(parts), 2.0),
        Weighted("prefix-cache-scorer", PrefixCacheScorer().scorer(parts), 3.0),
    )
    return Profile((), scorers, MaxScore().picker(parts))


def _prefix(parts: Parts) -> Profile:
    return Profile((), (Weighted("prefix-cache", PrefixCache().scorer(parts)),), MaxScore().picker(parts))


def _least_request(parts: Parts) -> Profile:
    return Profile((), (Weighted("least-request", LeastRequest().scorer(parts)),), MaxScore().picker(parts))


PROFILES: dict[str, Callable[[Parts], Profile]] = {
    "ours": _ours,
    "kthena": _kthena,
    "epp": _epp,
    "prefix": _prefix,
    "least-request": _least_request,
}


def production(make: Callable[[Parts], Profile], fleet: Fleet, rng: random.Random) -> Production:
    return Production(fleet, make(Parts(rng)))
