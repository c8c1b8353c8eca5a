"""Ollama's profile: every case passes on a simulated Ollama that is well, and notices one that is broken."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.cases.engines.ollama import PROFILE
from conformance.engines import Mutation, Settings
from tests.conformance.cases import playing
from tests.conformance.cases.breaking import CHAT, CLOSING
from tests.conformance.cases.playing import MODEL, Stage, answers, at, chunks, document, request

SETTINGS = Settings(models=(MODEL,), ttft=0.005, itl=0.002, max_model_len=2000)
STAGE = Stage(PROFILE, "ollama", SETTINGS)


def _twice(answer: Any) -> None:
    answer["choices"] *= 2


def _called(answer: Any) -> None:
    answer["choices"][0]["message"]["tool_calls"] = [{"id": "call_1"}]


def _untold(answer: Any) -> None:
    answer["usage"]["prompt_tokens"] = 5000


def _coded(answer: Any) -> None:
    answer["error"]["code"] = 400


def _nameless(answer: Any) -> None:
    answer["error"]["message"] = "no"


def _twofold(chunk: Any) -> None:
    for choice in chunk["choices"]:
        choice["delta"]["tool_calls"] = [{"function": {"arguments": "{}"}}]


BROKEN = {
    "ollama.version": at("/api/version", document(lambda answer: {"version": "main"})),
    "ollama.tags": at("/api/tags", document(lambda answer: {"models": []})),
    "ollama.loaded": at("/api/ps", document(lambda answer: {"models": []})),
    "ollama.tag": at(CHAT, document(lambda answer: answer | {"model": "another"})),
    "ollama.no-metrics": at("/metrics", answers(200)),
    "ollama.native.lines": at("/api/chat", request(lambda body: body | {"stream": False})),
    "ollama.idle": CLOSING,
    "ollama.limit": at(CHAT, request(lambda body: body | {"max_tokens": 12})),
    "ollama.stream.usage": at(CHAT, chunks(lambda chunk: chunk | {"usage": None})),
    "ollama.stream.completion-usage": at("/v1/completions", chunks(lambda chunk: chunk | {"usage": {"zero": 0}})),
    "ollama.stream.tools": at(CHAT, chunks(_twofold)),
    "ollama.drops.n": at(CHAT, document(_twice)),
    "ollama.drops.max_completion_tokens": at(CHAT, request(lambda body: body | {"max_tokens": 1})),
    "ollama.drops.tool_choice": at(CHAT, document(_called)),
    "ollama.drops.prompt": at(CHAT, document(_untold)),
    "ollama.error.unknown-model": at(CHAT, document(_nameless)),
    "ollama.error.no-route": at("/v1/no-such-route", answers(404, b'{"detail":"The model does not exist"}')),
    "ollama.error.shape": at(CHAT, document(_coded)),
    "ollama.error.native": at("/api/chat", Mutation(status=400)),
}


def test_a_well_engine_conforms() -> None:
    playing.well(STAGE.play())


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_engine_is_noticed(case: str) -> None:
    playing.noticed(STAGE, case, BROKEN[case])


def test_every_case_can_fail() -> None:
    playing.covers(PROFILE, BROKEN)
