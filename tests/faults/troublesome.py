"""Somebody's plugins and adapter that fail as they are told: by a request's header, or by a file in $TROUBLE. (IO)

A request's ``x-trouble: PLACE`` makes that place fail for it; a file of the place's name in the directory, for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from adapters.vllm import VLLM
from gateway.config.decode import Section
from gateway.schedule.parts import Parts
from gateway.usage import UsageLog


class Bug(Exception):
    """Nobody has thought of it."""


def wanted(headers: Iterable[tuple[bytes, bytes]]) -> str:
    return next((value.decode() for name, value in headers if name == b"x-trouble"), "")


def due(place: str) -> bool:
    return (Path(os.environ["TROUBLE"]) / place).exists()


def fail_if(place: str, told: str = "") -> None:
    if told == place or due(place):
        raise Bug(place)


def _noting(self: UsageLog, record: object) -> None:
    fail_if("noting")


if __name__ == "troublesome":  # in the gateway
    UsageLog.log = _noting  # type: ignore[method-assign,assignment]

# -- what chooses endpoints -------------------------------------------------------------------------------------------


class Choosing(Section, frozen=True):
    def filter(self, parts: Parts) -> Callable[..., Any]:
        former: list[Any] = []

        def leave_out(ask: Any, candidates: Sequence[Any], /) -> Sequence[Any]:
            told = wanted(ask.request.headers)
            fail_if("filter", told)
            former.extend(candidate for candidate in candidates if candidate not in former)
            answers = {"filter-strings": ["a"], "filter-strangers": [object()], "filter-none": None}
            return answers.get(told, candidates)

        return leave_out

    def scorer(self, parts: Parts) -> Scoring:
        return Scoring()

    def picker(self, parts: Parts) -> Callable[..., Any]:
        def pick(candidates: Sequence[Any], scores: Sequence[float], /) -> Iterable[Any]:
            fail_if("picker")
            if due("picker-strangers"):
                return [object()]
            return [] if due("picker-nobody") else candidates

        return pick


class Scoring:
    def __call__(self, ask: Any, candidates: Sequence[Any], /) -> Sequence[Any]:
        told = wanted(ask.request.headers)
        fail_if("scorer", told)
        if told == "scorer-slow":
            time.sleep(0.1)
        answers: dict[str, Sequence[Any]] = {
            "scorer-nan": [float("nan")] * len(candidates),
            "scorer-infinite": [float("inf"), float("-inf")] * len(candidates),
            "scorer-short": [1.0],
            "scorer-words": ["a"] * len(candidates),
        }
        return answers.get(told, [1.0] * len(candidates))[: len(candidates)]

    def placed(self, ask: Any, candidate: Any) -> None:
        fail_if("placed", wanted(ask.request.headers))

    def left(self, ask: Any, candidate: Any, usage: Any) -> None:
        fail_if("left", wanted(ask.request.headers))

    def loaded(self, candidate: Any) -> None:
        fail_if("loaded")

    def forget(self, id: str) -> None:
        fail_if("forget")


# -- what speaks to an engine -----------------------------------------------------------------------------------------


class Breaking(VLLM):
    name = "breaking"
    title = "Breaking"

    def encode(self, request: Any, *more: Any) -> Any:
        fail_if("encode", wanted(request.headers))
        return super().encode(request, *more)

    def decoder(self, request: Any, *more: Any) -> Any:
        told = wanted(request.headers)
        fail_if("decoder", told)
        made = super().decoder(request, *more)
        return Decoding(made, told) if told else made

    def error(self, *answer: Any) -> Any:
        fail_if("error")
        return super().error(*answer)

    def ration(self, *answer: Any) -> Any:
        fail_if("ration")
        return super().ration(*answer)

    def parse_models(self, *answer: Any) -> Any:
        fail_if("parse_models")
        return super().parse_models(*answer)

    def parse_load(self, *answer: Any) -> Any:
        fail_if("parse_load")
        return super().parse_load(*answer)


class Decoding:
    """Fails in a method, or where somebody looks how far it is."""

    def __init__(self, decoder: Any, told: str) -> None:
        self.__dict__.update(_decoder=decoder, _told=told, _fed=0)

    def __getattr__(self, name: str) -> Any:
        fail_if(name, self._told)
        return getattr(self._decoder, name)

    def feed(self, data: bytes) -> Any:
        self.__dict__["_fed"] += 1
        fail_if("feed", self._told)
        if self._fed > 3:
            fail_if("feed-later", self._told)
        return self._decoder.feed(data)

    def finish(self) -> Any:
        fail_if("finish", self._told)
        return self._decoder.finish()


def install(site: Path) -> None:
    """What an installer writes down."""
    (site / "troublesome.py").write_text(Path(__file__).read_text())
    info = site / "troublesome-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: troublesome\nVersion: 1.0\n")
    points = "[infer_gateway.adapters]\nbreaking = troublesome:Breaking\n\n[infer_gateway.plugins]\n"
    (info / "entry_points.txt").write_text(points + "choosing = troublesome:Choosing\n")
