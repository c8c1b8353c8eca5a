"""The simulated trtllm-serve: flat errors, streams without nulls, two metrics pages."""

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


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, **more}


def served(**settings: Any) -> Settings:
    return Settings(models=("m",), **settings)


def one(path: str, body: Any, settings: Settings | None = None) -> Played:
    found: list[Played] = []

    async def script(engine: Engine) -> None:
        found.append(await ask(engine, path, body))

    play("trtllm", settings or served(), script)
    return found[0]


def test_chats_stream_without_nulls() -> None:
    answer = one(CHAT, chat(stream=True, model="whatever"))
    first, *chunks, done = answer.events
    assert done == "[DONE]"
    assert answer.body.split(b"\n\n")[0].endswith(b"} ")
    assert first["choices"] == [{"index": 0, "delta": {"role": "assistant"}}]
    assert b"null" not in answer.body
    assert [chunk["choices"][0].get("finish_reason") for chunk in chunks] == [None, None, None, "length"]
    assert {chunk["model"] for chunk in chunks} == {"whatever"}


def test_usage_tells_what_was_cached() -> None:
    long = [{"role": "user", "content": "word " * 100}]

    async def script(engine: Engine) -> None:
        for cached in (False, True):
            usage = (await ask(engine, CHAT, chat(messages=long))).json["usage"]
            assert bool(usage["prompt_tokens_details"]["cached_tokens"]) is cached
        asked = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        *chunks, last, _ = (await ask(engine, CHAT, chat(**asked))).events
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 4]
        assert last["choices"] == []

    play("trtllm", served(), script)


def test_thoughts_and_tools() -> None:
    settings = Settings(models=("m-reason",))
    body = chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look_up"}}, max_tokens=60)
    whole = one(CHAT, body, settings).json["choices"][0]
    assert whole["finish_reason"] == "stop"
    assert whole["message"]["reasoning_content"]
    *events, _ = one(CHAT, {**body, "stream": True}, settings).events
    calls = [call for each in events for call in each["choices"][0]["delta"].get("tool_calls", ())]
    told = "".join(call["function"].get("arguments", "") for call in calls)
    assert told == whole["message"]["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize(
    ("body", "flat"),
    [
        (chat(max_tokens="many"), False),
        ({"model": "m"}, False),
        (b"{", False),
        (chat(messages=[]), True),
        (chat(max_tokens=0), True),
        (chat(messages=[{"role": "user", "content": "x" * 140_000}]), True),
    ],
)
def test_errors(body: Any, flat: bool) -> None:
    answer = one(CHAT, body)
    assert answer.status == 400
    if flat:
        assert answer.json | {"message": ""} == {
            "object": "error",
            "message": "",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        }
    else:
        assert isinstance(answer.json["error"], str)


def test_completions_have_every_member() -> None:
    body = {"model": "m", "prompt": "Hi", "max_tokens": 2}
    assert one("/v1/completions", body).json["choices"][0]["disaggregated_params"] is None
    *chunks, _ = one("/v1/completions", {**body, "stream": True}).events
    assert [chunk["usage"] for chunk in chunks] == [None, None]


def test_metrics_of_both_kinds() -> None:
    async def script(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, engine, CHAT, chat(max_tokens=20))
            await trio.testing.wait_all_tasks_blocked()
            shown = (await ask(engine, "/prometheus/metrics")).body.decode()
            assert 'trtllm_num_requests_running{engine_type="pytorch",model_name="m"} 2.0' in shown
            assert 'trtllm_num_requests_waiting{engine_type="pytorch",model_name="m"} 1.0' in shown
            stats = (await ask(engine, "/metrics")).json
            assert (stats[-1]["numActiveRequests"], stats[-1]["numQueuedRequests"]) == (2, 1)
        assert (await ask(engine, "/metrics")).json[-1]["numActiveRequests"] == 0
        assert (await ask(engine, "/metrics")).json == []
        shown = (await ask(engine, "/prometheus/metrics")).body.decode()
        assert (
            'trtllm_request_success_total{engine_type="pytorch",finished_reason="length",model_name="m"} 3.0' in shown
        )

    play("trtllm", served(itl=0.1, max_running=2), script)


def test_the_other_routes() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, "/health")).body == b""
        assert (await ask(engine, "/health_generate")).body == b"Generation health check OK"
        assert (await ask(engine, "/version")).json == {"version": "1.2.0"}
        assert (await ask(engine, "/v1/models")).json["data"][0]["owned_by"] == "tensorrt_llm"
        assert (await ask(engine, "/v1/responses", {"model": "m", "input": "Hi"})).json["object"] == "response"
        events = (await ask(engine, CHAT, chat(stream=True))).body.decode().strip().split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == 500

    play("trtllm", served(fail=("error-event:2@path=" + CHAT,)), script)
