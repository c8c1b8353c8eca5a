"""The simulated engines answer as the recorded ones did: status, members, their order, and error texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conformance.engines import Settings
from conformance.engines.engine import Engine
from tests.conformance.engines.played import (
    JSON,
    Played,
    Recording,
    ask,
    events,
    load,
    ordered,
    play,
    recordings,
    shape,
    shapes,
)
from tests.recordings import folder

LOOSE = {("sglang", "responses"), ("vllm", "responses")}
PARTIAL = {"get-model-info", "get-server-info", "props"}
NOISE = {"chat-default-tokens", "chat-json-schema", "chat-n2-stream", "completion-logprobs", "tokenize-chat"}
"""What came depends on what the recorded model said, and that was noise."""
APART = {
    "vllm": {"embeddings"},  # simulated ones are served whatever the model
    "sglang": {
        *("chat-tools-forced", "chat-tools-forced-stream", "chat-tools-required"),  # the recorded model called nothing
        *("err-bad-role", "err-invalid-json", "err-max-tokens-string", "err-no-messages"),  # a traceback in the message
        "err-context-too-long-stream",
    },
    "llamacpp": {
        *("chat-tools-forced", "chat-tools-forced-stream", "chat-tools-required"),  # the recorded model called nothing
        "err-max-tokens-negative",  # no limit: the recorded model found no end
    },
}


def settings(engine: str) -> Settings:
    version = "0.32.0" if engine.startswith("vllm") else ""
    parser = engine == "vllm-lora-tools"
    loras = ("lora-a",) if parser else ()
    return Settings(
        models=("tiny",),
        max_model_len=2048,
        max_running=4 if engine == "llamacpp" else 256,
        usage_details=False,
        version=version,
        tool_parser=parser,
        loras=loras,
    )


async def replay(engine: Engine, name: str, recorded: Recording) -> Played:
    headers = list(JSON) + recorded.extra
    if name == "err-content-type":
        headers = [(b"content-type", b"text/plain")]
    return await ask(engine, recorded.path, recorded.sent, method=recorded.method, headers=headers)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        (engine, name)
        for engine in ("vllm", "vllm-lora-tools", "sglang", "llamacpp")
        for name in recordings(engine)
        if name not in NOISE | APART.get(engine, set())
    ],
)
def test_answers_as_recorded(engine: str, name: str) -> None:
    recorded = load(engine, name)

    async def script(simulated: Engine) -> None:
        answer = await replay(simulated, name, recorded)
        assert answer.status == recorded.status
        kind = recorded.headers.get("content-type")
        assert answer.headers.get("content-type") == kind
        if kind is not None and kind.startswith("application/json"):
            compare(engine, name, answer, json.loads(recorded.body))
        elif kind is not None and kind.startswith("text/event-stream"):
            assert ordered(shapes(answer.events)) == ordered(shapes(events(recorded.body)))
        else:
            assert answer.body == recorded.body.strip()

    play(engine.partition("-")[0], settings(engine), script)


def compare(engine: str, name: str, answer: Played, recorded: Any) -> None:
    if answer.status >= 400 and not name.startswith("err-context-too-long"):
        assert answer.json == recorded
    elif name in PARTIAL:
        assert set(answer.json) <= set(recorded)
    elif (engine, name) in LOOSE:
        assert set(answer.json) == set(recorded)
    elif name == "tokenize":
        assert list(answer.json) == list(recorded)
    else:
        assert ordered(shape(answer.json)) == ordered(shape(recorded))


@pytest.mark.parametrize("name", ["chat", "chat-stream", "err-n0", "notfound"])
def test_llamacpp_has_its_own_fields(name: str) -> None:
    recorded = load("llamacpp", name)

    async def script(engine: Engine) -> None:
        answer = await replay(engine, name, recorded)
        fields = {key: value for key, value in recorded.headers.items() if key in ("server", "x-accel-buffering")}
        assert fields.items() <= answer.headers.items()
        assert answer.closing is (name.startswith("chat-stream") or recorded.headers.get("connection") == "close")

    play("llamacpp", settings("llamacpp"), script)


def test_llamacpp_names_the_same_metrics() -> None:
    def families(page: str) -> list[str]:
        return [line for line in page.splitlines() if line.startswith("# TYPE")]

    async def script(engine: Engine) -> None:
        shown = (await ask(engine, "/metrics")).body.decode()
        assert families(shown) == families((folder("llamacpp") / "metrics.prom").read_text())

    play("llamacpp", settings("llamacpp"), script)


def test_ids_carry_the_request_id() -> None:
    recorded = load("vllm", "chat-requestid")

    async def script(engine: Engine) -> None:
        answer = await replay(engine, "chat-requestid", recorded)
        assert answer.json["id"] == "chatcmpl-req-abc-123"

    play("vllm", settings("vllm"), script)
