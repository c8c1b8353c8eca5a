"""Candidates and asks as schedulers see them, without a fleet."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

from gateway.config.resources import SessionSticky
from gateway.ports import Candidate
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Parts
from gateway.schedule.speed import Speed
from gateway.types import Endpoint, Headers, InferenceRequest, Load, ModelCard, Operation


class Fake(msgspec.Struct, frozen=True, eq=False):
    """A candidate that is what it is told to be. Compares by identity, as members of pools do."""

    id: str
    load: Load | None = None
    inflight: int = 0
    pending: int = 0
    backlog: float = 0.0
    until: float = 0.0
    foreign: float = 0.0
    foreign_pending: float = 0.0
    unheard: float = 0.0
    cards: tuple[ModelCard, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    speed: Speed = msgspec.field(default_factory=Speed)
    host: str = ""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("vllm", "http", self.host or self.id, 8000, labels=self.labels)


class View(msgspec.Struct, frozen=True):
    """The little of a front end's view that a schedule asks for."""

    text: str = ""

    def prompt_text(self) -> str:
        return self.text


def request(text: str = "", headers: Headers = (), query: str = "", model: str = "m") -> InferenceRequest:
    body = text.encode()
    return InferenceRequest(
        "req", Operation.CHAT, model, body, headers, "/v1/chat/completions", view=View(text), query=query
    )


def ask(text: str = "", *, headers: Headers = (), query: str = "", model: str = "m", now: float = 0.0) -> Ask:
    return Ask(request(text, headers, query, model), model, now)


def parts(seed: int = 1, sticky: SessionSticky | None = None) -> Parts:
    return Parts(random.Random(seed), sticky)


def speed(prefill: float = 1e-4, decode: float = 0.0) -> Speed:
    made = Speed()
    made.factor, made.decode = prefill / made.pace.prefill, decode
    return made


def ids(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.id for candidate in candidates]


# --- anything at all --------------------------------------------------------------------------------------------------

numbers = st.sampled_from([0.0, 0.5, 1.0, 5.0, -1.0, 1e9]) | st.floats(-10, 1e12, allow_nan=False)
names = st.sampled_from(["m", "lora-a", "lora-b"])
loads = st.builds(
    Load,
    waiting=numbers,
    running=numbers,
    kv_usage=st.none() | numbers,
    block_size=st.sampled_from([0, 16]),
    blocks=st.sampled_from([0, 1, 10_000]),
    asleep=st.booleans(),
    loras=st.none() | st.frozensets(names),
    waiting_loras=st.frozensets(names),
    max_loras=st.integers(0, 4),
    ttft=st.none() | numbers,
    tpot=st.none() | numbers,
)
cards = st.builds(ModelCard, names, st.none() | names, st.none() | st.integers(1, 100_000))
ranges = st.sampled_from(["0-100", "100-5000", "x", "5-1", "-"])
fakes = st.builds(
    Fake,
    id=st.text("abcdef", min_size=1, max_size=3),
    load=st.none() | loads,
    inflight=st.integers(0, 500),
    pending=st.integers(0, 500),
    backlog=st.floats(0, 1e9),
    foreign=st.floats(0, 1e6),
    foreign_pending=st.floats(0, 1e6),
    unheard=st.floats(0, 1e6),
    cards=st.lists(cards, max_size=3).map(tuple),
    labels=st.lists(st.tuples(st.sampled_from(["llm-d.ai/context-length-range", "llm-d.ai/role", "a"]), ranges)).map(
        tuple
    ),
    speed=st.builds(speed, st.floats(1e-7, 0.05), st.just(0.0) | st.floats(1e-4, 10)),
)
fleets = st.lists(fakes, min_size=1, max_size=9, unique_by=lambda fake: fake.id)
asks = st.builds(ask, st.text(max_size=40).map(lambda text: text * 40), model=names, now=st.floats(0, 1e6))
