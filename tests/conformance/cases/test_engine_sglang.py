"""SGLang's profile: every case passes on a simulated SGLang that is well, and notices one that is broken."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.cases.engines.sglang import PROFILE, SIGNALS
from conformance.engines import Mutation, Settings
from tests.conformance.cases import playing
from tests.conformance.cases.breaking import CHAT, CLOSING, HEEDED, metrics, rewritten, without
from tests.conformance.cases.playing import KEY, MODEL, Stage, answers, at, chunks, document, request

SETTINGS = Settings(
    models=(MODEL,), loras=("played-lora",), api_key=KEY, ttft=0.005, itl=0.005, kv_blocks=2048, max_running=8,
    max_queued=4,
)  # fmt: skip
STAGE = Stage(PROFILE, "sglang", SETTINGS, {"lora_path": "/adapters/played", "extra": {"full_at": "12"}})


def _no_reasoning(chunk: Any) -> None:
    for choice in chunk["choices"]:
        choice["delta"].pop("reasoning_content", None)


def _talking(chunk: Any) -> None:
    for choice in chunk["choices"]:
        choice["delta"]["content"] = "and more"


def _orphaned(answer: Any) -> None:
    for card in answer["data"]:
        card["parent"] = None


def _nobodys(answer: Any) -> None:
    answer["data"][0]["owned_by"] = "nobody"


BROKEN = {
    **metrics("sglang", SIGNALS),
    "sglang.metrics.pages": rewritten(SIGNALS, r"^sglang:page_size(.*) .*", r"sglang:page_size\1 0"),
    "sglang.health": at("/health", Mutation(status=503)),
    "sglang.models": at("/v1/models", document(_nobodys)),
    "sglang.model-info": at("/get_model_info", document(lambda answer: {"path": "/models/played"})),
    "sglang.version": at("/server_info", document(lambda answer: {"version": "main"})),
    "sglang.tokenize": at("/tokenize", document(lambda answer: answer | {"count": 1})),
    "sglang.rerank": at("/v1/rerank", document(lambda answer: {"results": answer})),
    "sglang.messages": at("/v1/messages", Mutation(events=without("message_stop"))),
    "sglang.idle": CLOSING,
    "sglang.unknown-model": at(CHAT, document(lambda answer: answer | {"model": MODEL})),
    "sglang.stream.reasoning": at(CHAT, chunks(_no_reasoning)),
    "sglang.stream.finish": at(CHAT, chunks(_talking)),
    "sglang.stream.continuous-usage": at(CHAT, chunks(lambda chunk: chunk | {"usage": None})),
    "sglang.error.context": at(CHAT, document(lambda answer: answer | {"message": "no"})),
    "sglang.error.no-route": at("/v1/no-such-route", answers(404, b'{"detail":"The model does not exist"}')),
    "sglang.error.shape": at(CHAT, document(lambda answer: {"error": answer})),
    "sglang.error.not-object": at(CHAT, Mutation(status=400)),
    "sglang.error.key": at(CHAT, answers(200)),
    "sglang.error.queue-full": at(CHAT, chunks(lambda chunk: {}), when=lambda seen: b"ignore_eos" not in seen.body),
    "sglang.drops.guided_regex": at(CHAT, document(HEEDED)),
    "sglang.drops.structured_outputs": at(CHAT, answers(400, b'{"message":"structured_outputs is not known"}')),
    "sglang.lora.listed": at("/v1/models", document(_orphaned)),
    "sglang.lora.asked": at(CHAT, request(lambda body: body | {"model": MODEL})),
    "sglang.lora.loading": at("/unload_lora_adapter", request(lambda body: {"lora_name": "played-lora"})),
}


def test_a_well_engine_conforms() -> None:
    playing.well(STAGE.play())


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_engine_is_noticed(case: str) -> None:
    playing.noticed(STAGE, case, BROKEN[case])


def test_every_case_can_fail() -> None:
    playing.covers(PROFILE, BROKEN)
