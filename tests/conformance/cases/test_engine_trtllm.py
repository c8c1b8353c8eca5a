"""trtllm-serve's profile: every case passes on a simulated server that is well, and notices one that is broken."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.cases.engines.trtllm import PROFILE, SIGNALS
from conformance.engines import Mutation, Settings
from tests.conformance.cases import playing
from tests.conformance.cases.breaking import CHAT, CLOSING, HEEDED, fixed, metrics
from tests.conformance.cases.playing import KEY, MODEL, Stage, answers, at, chunks, document

SETTINGS = Settings(models=(MODEL,), api_key=KEY, ttft=0.005, itl=0.005, kv_blocks=2048, max_running=8)
STAGE = Stage(PROFILE, "trtllm", SETTINGS)


def _nobodys(answer: Any) -> None:
    answer["data"][0]["owned_by"] = "nobody"


def _uncounted(answer: Any) -> None:
    answer["usage"]["prompt_tokens_details"]["cached_tokens"] = None


BROKEN = {
    **metrics("trtllm", SIGNALS),
    "trtllm.metrics.blocks": fixed(SIGNALS, ["trtllm_kv_cache_tokens_per_block"], 0),
    "trtllm.metrics.drained": at("/metrics", document(lambda answer: [{}, {}])),
    "trtllm.health": at("/health", Mutation(status=503)),
    "trtllm.version": at("/version", document(lambda answer: {"version": "main"})),
    "trtllm.models": at("/v1/models", document(_nobodys)),
    "trtllm.unknown-model": at(CHAT, Mutation(status=404)),
    "trtllm.idle": CLOSING,
    "trtllm.stream.usage": at(CHAT, chunks(lambda chunk: chunk | {"usage": None})),
    "trtllm.usage.cached": at(CHAT, document(_uncounted)),
    "trtllm.error.no-route": at("/v1/no-such-route", answers(404, b'{"detail":"The model does not exist"}')),
    "trtllm.error.shape": at(CHAT, document(lambda answer: {"error": answer})),
    "trtllm.error.validation": at(CHAT, answers(400, b'{"error":"no"}')),
    "trtllm.drops.structured_outputs": at(CHAT, document(HEEDED)),
}


def test_a_well_engine_conforms() -> None:
    playing.well(STAGE.play())


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_engine_is_noticed(case: str) -> None:
    playing.noticed(STAGE, case, BROKEN[case])


def test_every_case_can_fail() -> None:
    playing.covers(PROFILE, BROKEN)
