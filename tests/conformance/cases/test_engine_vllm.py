"""vLLM's profile: every case passes on a simulated vLLM that is well, and notices one that is broken."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.cases.engines.vllm import PROFILE, SIGNALS
from conformance.engines import Mutation, Settings
from tests.conformance.cases import playing
from tests.conformance.cases.breaking import CHAT, CLOSING, HEEDED, at_once, metrics, rewritten, without
from tests.conformance.cases.playing import KEY, MODEL, Broken, Stage, answers, at, chunks, document, request

SETTINGS = Settings(
    models=(MODEL,), loras=("played-lora",), api_key=KEY, ttft=0.005, itl=0.005, kv_blocks=2048, max_running=8,
    max_queued=4,
)  # fmt: skip
STAGE = Stage(PROFILE, "vllm", SETTINGS, {"lora_path": "/adapters/played", "extra": {"full_at": "12"}})


def _other_error(answer: Any) -> None:
    answer["error"] |= {"message": "no", "code": "400"}


def _nameless_call(chunk: Any) -> None:
    for choice in chunk["choices"]:
        for call in choice["delta"].get("tool_calls", ()):
            call.pop("id", None)


def _rename_reasoning(answer: Any) -> None:
    message = answer["choices"][0]["message"]
    message["reasoning_content"] = message.pop("reasoning")


def _orphaned(answer: Any) -> None:
    for card in answer["data"]:
        card["parent"] = None


def _nobodys(answer: Any) -> None:
    answer["data"][0]["owned_by"] = "nobody"


BROKEN = {
    **metrics("vllm", SIGNALS),
    "vllm.metrics.release": Broken(setup={"version": "0.9.0"}),
    "vllm.metrics.block-size": rewritten(SIGNALS, ',block_size="16"|block_size="16"', 'block_size="None"'),
    "vllm.metrics.labels": rewritten(SIGNALS, ',model_name="[^"]*"', ""),
    "vllm.lora.told": rewritten(SIGNALS, 'running_lora_adapters="[^"]*"', 'running_lora_adapters=""'),
    "vllm.health": at("/health", Mutation(status=503)),
    "vllm.version": at("/version", document(lambda answer: {"version": "dev"})),
    "vllm.models": at("/v1/models", document(_nobodys)),
    "vllm.tokenize": at("/detokenize", document(lambda answer: {"prompt": "something else"})),
    "vllm.rerank": at("/v1/rerank", document(lambda answer: answer["results"])),
    "vllm.messages": at("/v1/messages", Mutation(events=without("message_stop"))),
    "vllm.request-id": at(CHAT, document(lambda answer: answer | {"id": "chatcmpl-1"})),
    "vllm.idle": CLOSING,
    "vllm.stream.head": at_once(b"data: {}\n\ndata: [DONE]\n\n"),
    "vllm.stream.role": at(CHAT, Mutation(events=lambda events: events[1:])),
    "vllm.stream.continuous-usage": at(CHAT, chunks(lambda chunk: chunk | {"usage": None})),
    "vllm.stream.options": at(CHAT, request(lambda body: {"model": MODEL, "messages": body["messages"]})),
    "vllm.stream.tools": at(CHAT, chunks(_nameless_call)),
    "vllm.reasoning": at(CHAT, document(_rename_reasoning)),
    "vllm.error.context": at(CHAT, document(_other_error)),
    "vllm.error.unknown-model": at(CHAT, Mutation(status=400)),
    "vllm.error.no-route": at("/v1/no-such-route", answers(404, b'{"detail":"The model does not exist"}')),
    "vllm.no-model": at(CHAT, Mutation(status=404)),
    "vllm.error.shape": at(CHAT, document(_other_error)),
    "vllm.error.key": at(CHAT, answers(200)),
    "vllm.error.queue-full": at(CHAT, Mutation(status=500), when=lambda seen: b"ignore_eos" not in seen.body),
    "vllm.drops.guided_choice": at(CHAT, document(HEEDED)),
    "vllm.drops.guided_regex": at(CHAT, answers(400, b'{"error":{"message":"guided_regex is not known"}}')),
    "vllm.drops.regex": at(CHAT, document(HEEDED)),
    "vllm.lora.listed": at("/v1/models", document(_orphaned)),
    "vllm.lora.asked": at(CHAT, document(lambda answer: answer | {"model": MODEL})),
    "vllm.lora.loading": at(
        "/v1/unload_lora_adapter", request(lambda body: {"lora_name": "played-lora"}),
    ),
}  # fmt: skip


def test_a_well_engine_conforms() -> None:
    playing.well(STAGE.play())


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_engine_is_noticed(case: str) -> None:
    playing.noticed(STAGE, case, BROKEN[case])


def test_a_lora_is_loaded_where_none_is() -> None:
    unloaded = Broken(settings={"loras": ()}, setup={"lora": "not-loaded-yet"})
    playing.well(STAGE.play(unloaded, {case for case in BROKEN if case.startswith("vllm.lora.")}))


@pytest.mark.parametrize(
    ("body", "kind"), [(b'{"detail":"Not Found"}', "skipped"), (b'{"error":{"message":"no such path"}}', "failed")]
)
def test_loading_is_skipped_only_where_it_is_switched_off(body: bytes, kind: str) -> None:
    (result,) = STAGE.play(at("/v1/load_lora_adapter", answers(404, body)), {"vllm.lora.loading"})
    assert result.kind == kind, result.message


def test_a_done_behind_message_stop_is_only_noted() -> None:
    """vLLM 0.12 sends one, and SDKs of Messages read over it."""
    more = at("/v1/messages", Mutation(events=lambda events: [*events, b"data: [DONE]\n\n"]))
    (result,) = STAGE.play(more, {"vllm.messages"})
    assert (result.kind, result.notes) == ("passed", ("[DONE] follows message_stop",))


def test_every_case_can_fail() -> None:
    playing.covers(PROFILE, BROKEN)
