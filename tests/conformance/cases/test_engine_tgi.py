"""TGI's profile: every case passes on a simulated TGI that is well, and notices one that is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from conformance.cases.engines.tgi import PROFILE, SIGNALS
from conformance.engines import Mutation, Settings
from tests.conformance.cases import playing
from tests.conformance.cases.breaking import CHAT, CLOSING, metrics, says
from tests.conformance.cases.playing import KEY, MODEL, Stage, answers, at, document, request

SETTINGS = Settings(
    models=(MODEL,), loras=("played-lora",), api_key=KEY, ttft=0.005, itl=0.005, kv_blocks=2048, max_running=8,
    max_queued=4,
)  # fmt: skip
STAGE = Stage(PROFILE, "tgi", SETTINGS, {"extra": {"full_at": "12"}})
ACCEPTED = at(CHAT, Mutation(status=200))


def _chunks(change: Callable[[Any], Any]) -> Mutation:
    """TGI leaves out the space behind the colon."""

    def event(raw: bytes) -> bytes:
        return raw if b"[DONE]" in raw else b"data:" + json.dumps(change(json.loads(raw[5:]))).encode() + b"\n\n"

    return Mutation(events=lambda events: [event(raw) for raw in events])


def _twice(answer: Any) -> None:
    answer["choices"] *= 2


def _unfinished(answer: Any) -> None:
    answer["details"]["finish_reason"] = "length"


BROKEN = {
    **metrics("tgi", SIGNALS),
    "tgi.health": at("/health", Mutation(status=503)),
    "tgi.info": at("/info", document(lambda answer: {"model_id": MODEL, "version": "3.3.7"})),
    "tgi.model-tgi": at(CHAT, request(lambda body: body | {"model": "another"})),
    "tgi.tokenize": at("/chat_tokenize", document(lambda answer: {"tokenize_response": []})),
    "tgi.idle": CLOSING,
    "tgi.generate": at("/generate", document(lambda answer: {"generated_text": answer["generated_text"]})),
    "tgi.generate.stream": at("/generate_stream", _chunks(lambda chunk: chunk | {"details": None})),
    "tgi.generate.done": at("/generate_stream", Mutation(events=lambda events: [*events, b"data: [DONE]\n\n"])),
    "tgi.generate.stop": at("/generate", document(_unfinished)),
    "tgi.chat.chunks": at(CHAT, _chunks(lambda chunk: chunk | {"id": "chatcmpl-1"})),
    "tgi.chat.usage": at(CHAT, _chunks(lambda chunk: chunk | {"usage": None})),
    "tgi.refuses.stop": ACCEPTED,
    "tgi.refuses.top-p": ACCEPTED,
    "tgi.refuses.limits": ACCEPTED,
    "tgi.refuses.json-schema": ACCEPTED,
    "tgi.drops.n": at(CHAT, document(_twice)),
    "tgi.chat.schema": at(CHAT, document(says("Berlin"))),
    "tgi.error.no-route": at("/v1/no-such-route", answers(404, b'{"detail":"The model does not exist"}')),
    "tgi.error.shape": at("/generate", document(lambda answer: {"error": {"message": answer["error"]}})),
    "tgi.error.context": at(CHAT, document(lambda answer: answer | {"error": "no"})),
    "tgi.error.context-stream": at(CHAT, document(lambda answer: answer | {"error": "no"})),
    "tgi.error.unknown-model": at(CHAT, request(lambda body: body | {"model": "tgi"})),
    "tgi.error.key": at("/generate", answers(200)),
    "tgi.error.queue-full": at("/generate_stream", _chunks(lambda chunk: {})),
    "tgi.lora.asked": at(CHAT, request(lambda body: body | {"model": "another"})),
}


def test_a_well_engine_conforms() -> None:
    playing.well(STAGE.play())


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_engine_is_noticed(case: str) -> None:
    playing.noticed(STAGE, case, BROKEN[case])


def test_every_case_can_fail() -> None:
    playing.covers(PROFILE, BROKEN)
