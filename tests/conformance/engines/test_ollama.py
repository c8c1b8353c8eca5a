"""The simulated Ollama: what it ignores, how it streams, its native routes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from conformance.engines import Settings
from conformance.engines.engine import Engine
from tests.conformance.engines.played import Played, ask, play

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"required": ["q"]}}}
CALLED = {"tools": [TOOL], "messages": [{"role": "user", "content": "look_up this"}], "max_tokens": 60}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, **more}


def served(**settings: Any) -> Settings:
    return Settings(models=("m", "m-reason:8b"), **settings)


def one(path: str, body: Any, settings: Settings | None = None) -> Played:
    found: list[Played] = []

    async def script(engine: Engine) -> None:
        found.append(await ask(engine, path, body))

    play("ollama", settings or served(), script)
    return found[0]


def test_what_is_ignored() -> None:
    asked = {"n": 3, "logit_bias": {"1": 5}, "max_completion_tokens": 2, "max_tokens": None, "no_such_field": 1}
    answer = one(CHAT, chat(**asked)).json
    assert len(answer["choices"]) == 1
    assert answer["usage"]["completion_tokens"] > 2
    assert one(CHAT, chat(**CALLED, tool_choice="none")).json["choices"][0]["finish_reason"] == "tool_calls"
    forced = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60}
    assert one(CHAT, chat(**forced)).json["choices"][0]["message"]["content"]
    assert one(CHAT, chat(messages=[{"role": "user", "content": "x" * 200_000}])).status == 200


def test_a_stream() -> None:
    answer = one(CHAT, chat(stream=True, stream_options={"include_usage": True}))
    *chunks, last, done = answer.events
    assert done == "[DONE]"
    assert [("role" in chunk["choices"][0]["delta"]) for chunk in chunks] == [True, False, False, False, False]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["length"]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
    assert last["system_fingerprint"] == "fp_ollama"
    assert answer.headers["content-type"] == "text/event-stream"


def test_completions_have_zeros_until_the_end() -> None:
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, _ = one("/v1/completions", {"model": "m", "prompt": "Hi", "max_tokens": 3, **stream}).events
    assert {chunk["usage"]["total_tokens"] for chunk in chunks} == {0}
    assert last["usage"]["completion_tokens"] == 3
    refused = one("/v1/completions", {"model": "m", "prompt": ["a", "b"]})
    assert refused.json["error"]["message"].startswith("json: cannot unmarshal array into Go struct field")


def test_a_call_comes_whole() -> None:
    body = chat(**CALLED, model="m-reason:8b")
    message = one(CHAT, body).json["choices"][0]["message"]
    *events, _ = one(CHAT, {**body, "stream": True}).events
    deltas = [each["choices"][0]["delta"] for each in events]
    calls = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert len(calls) == 1
    assert calls[0][0]["function"] == message["tool_calls"][0]["function"]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == message["reasoning"]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (chat(model="none"), 404, "not_found_error"),
        (chat(model=""), 400, "invalid_request_error"),
        (chat(messages=[]), 400, "invalid_request_error"),
        (chat(max_tokens="4"), 400, "invalid_request_error"),
        (b"{", 400, "invalid_request_error"),
        (chat(model="m:latest"), 200, ""),
        (chat(model="m-reason"), 404, "not_found_error"),
    ],
)
def test_errors(body: Any, status: int, kind: str) -> None:
    answer = one(CHAT, body)
    assert answer.status == status
    if kind:
        assert answer.json["error"] | {"message": ""} == {"message": "", "type": kind, "param": None, "code": None}


def test_full_queue() -> None:
    async def script(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, CHAT, chat(max_tokens=100))
            await trio.testing.wait_all_tasks_blocked()
            full = await ask(engine, CHAT, chat())
            assert (full.status, full.json["error"]["type"]) == (503, "api_error")
            assert (await ask(engine, "/api/chat", chat())).json["error"].startswith("server busy")
            nursery.cancel_scope.cancel()

    play("ollama", served(itl=0.1, max_running=1, max_queued=0), script)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_native_streams_are_lines(path: str) -> None:
    body = {"model": "m", "prompt": "Hi", "messages": chat()["messages"], "options": {"num_predict": 3}}
    answer, whole = one(path, body), one(path, {**body, "stream": False}).json
    assert answer.headers["content-type"] == "application/x-ndjson"
    *lines, last = [json.loads(line) for line in answer.body.splitlines()]

    def said(line: dict[str, Any]) -> str:
        return str(line["response"] if path == "/api/generate" else line["message"]["content"])

    assert "".join(map(said, lines)) == said(whole)
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 3)
    assert whole["done"]
    broken = one(path, body, served(fail=("error-event:1",)))
    assert json.loads(broken.body.splitlines()[-1]) == {"error": "simulated failure"}


def test_native_thoughts_tools_and_formats() -> None:
    body = {**CALLED, "model": "m-reason:8b", "stream": False}
    message = one("/api/chat", body).json["message"]
    assert message["thinking"]
    assert message["tool_calls"][0]["function"]["arguments"] == {"q": "value"}
    formed = one("/api/chat", {**chat(), "stream": False, "format": {"type": "object", "required": ["a"]}})
    assert json.loads(formed.json["message"]["content"]) == {"a": "value"}


def test_models_are_tagged_and_loaded_when_asked_for() -> None:
    async def script(engine: Engine) -> None:
        listed = (await ask(engine, "/v1/models")).json["data"]
        assert [card["id"] for card in listed] == ["m:latest", "m-reason:8b"]
        assert [each["name"] for each in (await ask(engine, "/api/tags")).json["models"]] == ["m:latest", "m-reason:8b"]
        assert (await ask(engine, "/api/ps")).json == {"models": []}
        await ask(engine, CHAT, chat())
        assert [each["name"] for each in (await ask(engine, "/api/ps")).json["models"]] == ["m:latest"]
        assert (await ask(engine, "/api/version")).json == {"version": "0.33.0"}
        assert (await ask(engine, "/")).body == b"Ollama is running"
        assert (await ask(engine, "/metrics")).status == 404
        assert (await ask(engine, "/api/show", {"model": "m"})).status == 200
        embedded = (await ask(engine, "/v1/embeddings", {"model": "m", "input": "a", "encoding_format": "base64"})).json
        assert isinstance(embedded["data"][0]["embedding"], str)

    play("ollama", served(), script)
