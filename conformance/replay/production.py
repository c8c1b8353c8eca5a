"""The gateway's own scheduler as a chooser: its pool, its placements and a profile, driven by explicit time. (P)

Invariant: a pool is told what the data walk tells it, in the same order, and nothing else: a request's text when it
comes, its dispatch, its first token, its end and usage as an engine reports it, and what a scrape shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from copy import copy

import msgspec

from conformance.replay.fleet import Fleet
from conformance.replay.traces import Request, Trace
from gateway.config.document import parse
from gateway.config.load import load
from gateway.config.scheduler import Scheduler
from gateway.config.snapshot import PoolSpec
from gateway.errors import GatewayError
from gateway.member import Member
from gateway.peers import Peers
from gateway.pool import Placement, Pool
from gateway.ports import Adapter
from gateway.recent import Recent
from gateway.replicas import Replicas
from gateway.schedule.ask import Ask
from gateway.schedule.build import for_pool
from gateway.schedule.profile import Profile
from gateway.types import ANONYMOUS, Endpoint, Identity, InferenceRequest, Load, Operation, Usage

STALE_S = 2.0
"""A load older than this is not known any more, as where engines are scraped."""
MODEL = "replayed"


class _View(msgspec.Struct, frozen=True, gc=False):
    text: str

    def prompt_text(self) -> str:
        return self.text


class Production:
    """One gateway: a pool with a profile of its own."""

    def __init__(self, fleet: Fleet, profile: Profile, name: str = "alone") -> None:
        self._trace: Trace = fleet.trace
        members = [
            Member("replay", Endpoint("vllm", "http", f"engine-{engine.index}", 8000), _NO_ADAPTER)
            for engine in fleet.engines
        ]
        for member in members:
            member.up = True
        self.pool = Pool("replay", members, PoolSpec("replay", "vllm").policy, profile)
        self._recent = [Recent() for _ in members]
        self._index = {member.id: index for index, member in enumerate(members)}
        self._asks: dict[int, Ask] = {}
        self._placements: dict[int, Placement] = {}
        self._waiting: dict[int, Placement] = {}
        self._stranded: set[int] = set()
        self._peers = Peers(self)
        self._replicas = Replicas(name, self._peers)
        self.pool.told = self._replicas.note_placed

    def get(self, name: str) -> Pool:
        return self.pool

    def by_name(self) -> dict[str, Pool]:
        return {self.pool.name: self.pool}

    def choose(self, request: Request, now: float) -> Iterator[int]:
        return self.ranked(self.asked(request, now))

    def asked(self, request: Request, now: float) -> Ask:
        """The request as the pool looks at it; it may wait before it is placed."""
        text, client = self._trace.text(request), request.client
        asked = InferenceRequest(
            str(request.index), Operation.COMPLETIONS, MODEL, text.encode(), stream=True, view=_View(text),
            identity=Identity(user=client) if client else ANONYMOUS,
        )  # fmt: skip
        ask = self._asks[request.index] = self.pool.ask(asked, MODEL, now)
        return ask

    def ranked(self, ask: Ask) -> Iterator[int]:
        try:
            for member in self.pool.rank(ask):
                yield self._index[member.id]
        except GatewayError:  # filters left nobody: the request is refused
            self._asks.pop(int(ask.request.id), None)

    def placed(self, request: Request, engine: int, now: float) -> None:
        placement = self.pool.place(self._asks[request.index], self.pool.members[engine], now)
        self._placements[request.index] = self._waiting[request.index] = placement

    def answered(self, request: Request, engine: int, now: float) -> None:
        self._waiting.pop(request.index).answered(now)

    def ended(self, request: Request, engine: int, now: float, cached: int | None) -> None:
        """Usage is told without cached tokens: engines leave them out unless started with an option."""
        placement, member = self._placements.pop(request.index), self.pool.members[engine]
        self._waiting.pop(request.index, None)
        if cached is not None:
            placement.left(now, Usage(request.prompt, request.output), request.output)
            member.succeeded(now, placement.probe)
            del self._asks[request.index]
            return
        placement.left(now, None)
        if request.index in self._stranded:  # as if it had been refused
            self._stranded.remove(request.index)
            member.refused(now)
        else:
            member.failed(now, placement.probe)

    def scraped(self, engine: int, load: Load | None, now: float) -> None:
        member = self.pool.members[engine]
        if load is not None:
            member.health.polled(now)
            self.pool.loaded(member, self._recent[engine].note(load)[0])
        elif member.load is not None and now - member.load.at > STALE_S:
            member.load = None

    def share(self, now: float) -> bytes:
        return self._replicas.digest(self._peers.counts())

    def shared(self, message: bytes, now: float) -> None:
        self._replicas.hear(message, now)

    def tick(self, now: float, stepped: Sequence[float]) -> Sequence[int]:
        for member, at in zip(self.pool.members, stepped, strict=True):
            if member.inflight > member.pending and at > member.health.heard:
                member.health.heard = at
        stranded = []
        hung = any(member.health.hung(now) for member in self.pool.members)
        for index, placement in self._waiting.items():
            placement.due(now)
            if hung and placement.stranded(now):
                stranded.append(index)
        self._stranded.update(stranded)
        self.pool.watch(now)
        return stranded


class _NoAdapter:
    """Nothing is sent: a member's adapter is never asked."""

    name = "none"


_NO_ADAPTER: Adapter = _NoAdapter()  # type: ignore[assignment]


def configured(text: bytes, name: str = "scheduler") -> Scheduler:
    """The scheduler section of a configuration in any of its published shapes. Raises ConfigError."""
    return load(parse(name, text)).settings.scheduler


def production(scheduler: Scheduler, fleet: Fleet, rng: random.Random) -> Production:
    name = f"{copy(rng).getrandbits(64):016x}"  # of the copy: what is drawn does not depend on it
    return Production(fleet, for_pool(scheduler, PoolSpec("replay", "vllm"), rng), name)
