"""llama.cpp's profile: it passes on the real server and a simulated one, and notices one that is broken."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio

from conformance.cases.engines.llamacpp import PROFILE, SIGNALS
from conformance.cases.engines.shared import asked
from conformance.engines import Mutation, Settings
from conformance.suite.detect import detect
from conformance.suite.outcome import Kind, Result
from conformance.suite.run import Runner
from conformance.suite.target import Setup
from conformance.suite.wire import address
from tests.conformance.cases import playing
from tests.conformance.cases.breaking import CHAT, CLOSING, HEEDED, fixed, hasty, metrics, without
from tests.conformance.cases.playing import KEY, MODEL, Stage, answers, at, chunks, document
from tests.engines.llamacpp import LlamaCpp

SETTINGS = Settings(models=(MODEL,), api_key=KEY, ttft=0.005, itl=0.005, max_running=4)
STAGE = Stage(PROFILE, "llamacpp", SETTINGS)


def _nobodys(answer: Any) -> None:
    answer["data"][0]["owned_by"] = "nobody"


def _forgetful(answer: Any) -> None:
    answer["usage"]["prompt_tokens_details"]["cached_tokens"] = 0


def _other_error(answer: Any) -> None:
    answer["error"] |= {"message": "no", "type": "invalid_request_error", "code": "400"}


BROKEN = {
    **metrics("llamacpp", SIGNALS),
    "llamacpp.metrics.seconds": fixed(SIGNALS, ["llamacpp:tokens_predicted_seconds_total"], 7),
    "llamacpp.slots": hasty(at("/slots", document(lambda slots: [each | {"is_processing": False} for each in slots]))),
    "llamacpp.health": at("/health", document(lambda answer: {"status": "loading model"})),
    "llamacpp.props": at("/props", document(lambda answer: {"model": MODEL})),
    "llamacpp.models": at("/v1/models", document(_nobodys)),
    "llamacpp.tokenize": at("/detokenize", document(lambda answer: {"content": "something else"})),
    "llamacpp.tokenize.prompt": at("/tokenize", document(lambda answer: {"tokens": [1]})),
    "llamacpp.embeddings": at("/v1/embeddings", Mutation(status=400)),
    "llamacpp.messages": at("/v1/messages", Mutation(events=without("message_stop"))),
    "llamacpp.idle": CLOSING,
    "llamacpp.unknown-model": at(CHAT, document(lambda answer: answer | {"model": asked.UNKNOWN})),
    "llamacpp.stream.role": at(CHAT, Mutation(events=lambda events: events[1:])),
    "llamacpp.stream.timings": at(CHAT, chunks(lambda chunk: chunk | {"timings": None})),
    "llamacpp.usage.cached": at(CHAT, document(_forgetful)),
    "llamacpp.stream.tools": at(CHAT, chunks(lambda chunk: chunk | {"choices": []})),
    "llamacpp.error.context": at(CHAT, document(_other_error)),
    "llamacpp.error.no-route": at("/v1/no-such-route", answers(404, b'{"detail":"The model does not exist"}')),
    "llamacpp.error.shape": at(CHAT, document(_other_error)),
    "llamacpp.error.key": at(CHAT, Mutation(status=403)),
    "llamacpp.drops.guided_regex": at(CHAT, document(HEEDED)),
    "llamacpp.drops.structured_outputs": at(CHAT, document(HEEDED)),
    "llamacpp.drops.regex": at(CHAT, answers(400, b'{"error":{"message":"regex is not known"}}')),
}


def test_a_well_engine_conforms() -> None:
    playing.well(STAGE.play())


def test_the_real_server_conforms() -> None:
    """But for what its profile foretells; only where it is too fast to be seen at work may a case say so."""
    with LlamaCpp() as engine:
        results = trio.run(_play, engine.url)
    wrong = [result for result in results if result.kind is Kind.FAILED]
    assert not wrong, playing.told(wrong)
    skipped = [r for r in results if r.kind is Kind.SKIPPED and not re.search("too fast|needs --api-key", r.message)]
    assert not skipped, playing.told(skipped)


async def _play(url: str) -> list[Result]:
    setup, odd = await detect(Setup(address(url), "auto"))
    assert (setup.engine, odd) == ("llamacpp", "")
    return await Runner(setup, PROFILE.deviations).run(list(PROFILE))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_engine_is_noticed(case: str) -> None:
    playing.noticed(STAGE, case, BROKEN[case])


def test_every_case_can_fail() -> None:
    playing.covers(PROFILE, BROKEN)
