"""The soak: thousands of streams while engines die, stand still and come back, each answer compared with what it has to
be; afterwards the gateway holds nothing and is no larger than it was. (IO)
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocols.grpc.client import Channel, connect
from tests.faults.stage import at_rest, held, strays
from tests.process import InferGateway, eventually, serve
from tests.soak.asking import GOOD, End, Question, ask, body, posted
from tests.soak.chaos import Fleet
from tests.whole import raw

_PROMPTS = 40
_LENGTHS = (1, 5, 20, 60)
_SAMPLES = 10
FLAT = 1.05
"""What resident memory at the end may be of that in the middle, when all that is kept has been seen often enough."""
_TELLING = 5_000
"""Of fewer requests memory tells nothing."""


class Plan(msgspec.Struct, frozen=True):
    """``streams`` in all, of which so many are under way ``at_once``; ``pause``: seconds between troubles, about."""

    streams: int = 10_000
    at_once: int = 150
    engines: int = 5
    pause: float = 1.0
    seed: int = 1


class Report(msgspec.Struct):
    """``ends``: how requests ended, by kind; ``wrong``: the first that ended as none may. Bytes and numbers of the
    gateway after each tenth of all requests, and at rest afterwards.
    """

    plan: Plan
    ends: Counter[tuple[str, str]]
    wrong: list[str]
    happened: Counter[str]
    seconds: float = 0.0
    samples: list[dict[str, Any]] = []
    last: dict[str, Any] = {}

    @property
    def warm(self) -> dict[str, Any]:
        """After a fifth of all requests."""
        return self.samples[_SAMPLES // 5]

    @property
    def resident(self) -> list[int]:
        """Bytes, after each tenth and at the end."""
        return [found["resident_bytes"] for found in (*self.samples, self.last)]

    @property
    def growth(self) -> float:
        """The most resident bytes in the second half over those in the middle."""
        middle, *later = self.resident[_SAMPLES // 2 :]
        return max(later) / middle

    def lines(self) -> Iterator[str]:
        count = sum(self.ends.values())
        yield f"seed {self.plan.seed}: {count} requests in {self.seconds:.0f} s; {dict(self.happened)}"
        for (kind, how), count in sorted(self.ends.items()):
            yield f"  {kind:7} {how:8} {count}"
        yield f"  resident MiB {' '.join(str(size >> 20) for size in self.resident)}: {self.growth:.3f}"
        for name in ("tasks", "descriptors", "sockets", "idle"):
            yield f"  {name} {self.warm[name]}, then {self.last[name]}"
        yield from self.wrong


def questions(plan: Plan) -> list[Question]:
    """What is asked: streams mostly, some whole answers, some over gRPC; one in ten of the clients leaves."""
    chance = random.Random(plan.seed)
    return [
        Question(
            number,
            chance.choices(("stream", "whole", "grpc"), (8, 1, 1))[0],
            f"question {chance.randrange(_PROMPTS)}",
            chance.choice(_LENGTHS),
            chance.randrange(1, 4000) if chance.random() < 0.1 else 0,
        )
        for number in range(plan.streams)
    ]


def answers(engine: InferGateway) -> dict[tuple[str, int], str]:
    """What each question has to be answered with, as one engine says it that nothing happens to meanwhile."""
    asked = [(f"question {prompt}", tokens) for prompt in range(_PROMPTS) for tokens in _LENGTHS]
    with ThreadPoolExecutor(len(asked)) as threads:
        return dict(zip(asked, threads.map(lambda each: _answered(engine, *each), asked), strict=True))


def _answered(engine: InferGateway, prompt: str, tokens: int) -> str:
    answer = raw.exchange(engine.address, posted(body(Question(0, "whole", prompt, tokens), "m", stream=False)))
    assert answer is not None
    text = msgspec.json.decode(answer.body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def soak(plan: Plan, directory: Path) -> Report:
    """All of it. Raises AssertionError where the gateway holds something afterwards, or has grown."""
    fleet = Fleet(plan.engines, directory)
    try:
        fleet.start()
        texts = answers(fleet.engines[0])
        with serve("-c", fleet.file) as gateway:
            report = Report(plan, Counter(), [], fleet.happened)
            began = time.monotonic()
            trio.run(_stormed, report, fleet, gateway, texts)
            report.seconds = time.monotonic() - began
            report.last = at_rest(gateway, 30.0)
            assert eventually(lambda: _level(gateway, report), 30.0), (report.warm, report.last)
    finally:
        fleet.stop()
    assert plan.streams < _TELLING or report.growth <= FLAT, "\n".join(report.lines())
    return report


def _level(gateway: InferGateway, report: Report) -> bool:
    """Whether there are no more tasks and descriptors than after a fifth of all requests, those of requests apart."""
    report.last = held(gateway)
    level = all(_beside(report.last, name) <= _beside(report.warm, name) + 8 for name in ("tasks", "descriptors"))
    return level and strays(report.last) <= 0


def _beside(found: dict[str, Any], name: str) -> int:
    """What is not there for a connection: a client's has a task, an engine's or a client's a descriptor."""
    return int(found[name] - (found["sockets"] if name == "descriptors" else sum(found["connections"].values())))


async def _stormed(report: Report, fleet: Fleet, gateway: InferGateway, texts: dict[tuple[str, int], str]) -> None:
    plan = report.plan
    asked = iter(questions(plan))
    async with trio.open_nursery() as troubles, connect(gateway.ready["grpc"]) as channel:
        troubles.start_soon(fleet.trouble, plan.seed, plan.pause)
        async with trio.open_nursery() as clients:
            for _ in range(plan.at_once):
                clients.start_soon(_ask_all, report, asked, gateway, channel, texts)
        troubles.cancel_scope.cancel()


async def _ask_all(
    report: Report,
    asked: Iterator[Question],
    gateway: InferGateway,
    channel: Channel,
    texts: dict[tuple[str, int], str],
) -> None:
    for question in asked:
        end = await ask(gateway.address, channel, question, texts)
        _note(report, question, end)
        if question.number % (report.plan.streams // _SAMPLES) == 0:
            report.samples.append(await trio.to_thread.run_sync(held, gateway))


def _note(report: Report, question: Question, end: End) -> None:
    report.ends[question.kind, end.how] += 1
    if end.how not in GOOD and len(report.wrong) < 20:
        report.wrong.append(f"WRONG {question}: {end.how}, {end.why}")
