"""What is particular to llama-server beyond what was recorded: slots, tools, thoughts, keys, failures."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from conformance.engines import Settings
from conformance.engines.engine import Engine
from tests.conformance.engines.played import JSON, ask, play

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"required": ["q"]}}}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, **more}


def served(**settings: Any) -> Settings:
    return Settings(models=("m",), **settings)


def test_slots_show_who_works() -> None:
    async def script(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, engine, CHAT, chat(max_tokens=100))
            await trio.testing.wait_all_tasks_blocked()
            assert [slot["is_processing"] for slot in (await ask(engine, "/slots")).json] == [True, True]
            assert (await ask(engine, "/slots?fail_on_no_slot=1")).status == 503
            shown = (await ask(engine, "/metrics")).body.decode()
            assert "\nllamacpp:requests_processing 2\n" in shown
            assert "\nllamacpp:requests_deferred 1\n" in shown
            nursery.cancel_scope.cancel()
        assert (await ask(engine, "/slots?fail_on_no_slot=1")).status == 200
        assert (await ask(engine, "/props")).json["total_slots"] == 2

    play("llamacpp", served(itl=0.1, max_running=2), script)


def test_timings_tell_the_time() -> None:
    async def script(engine: Engine) -> None:
        timings = (await ask(engine, CHAT, chat())).json["timings"]
        assert round(timings["prompt_ms"]) == 2000
        assert round(timings["predicted_ms"]) == 1500
        assert round(timings["predicted_per_second"], 6) == 2
        assert timings["predicted_n"] == 4

    play("llamacpp", served(ttft=2.0, itl=0.5), script)


def test_thoughts_and_tools() -> None:
    async def script(engine: Engine) -> None:
        body = chat(max_tokens=60, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look_up"}})
        choice = (await ask(engine, CHAT, body)).json["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["reasoning_content"]
        events = (await ask(engine, CHAT, {**body, "stream": True})).events[:-1]
        calls = [each["choices"][0]["delta"].get("tool_calls", [{}])[0] for each in events]
        told = "".join(call["function"]["arguments"] for call in calls if call)
        assert told == choice["message"]["tool_calls"][0]["function"]["arguments"]
        blocks = (await ask(engine, "/v1/messages", chat(max_tokens=30))).json["content"]
        assert [block["type"] for block in blocks] == ["thinking", "text"]

    play("llamacpp", Settings(models=("m-reason",)), script)


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/messages", {"max_tokens": 3}, 500, "'messages' is required"),
        ("/v1/completions", {}, 400, "[json.exception.out_of_range.403] key 'prompt' not found"),
        ("/v1/responses", {}, 400, "'input' is required"),
        (CHAT, {"messages": "x"}, 400, "Expected 'messages' to be an array"),
        (CHAT, {"messages": [{"role": "user"}]}, 400, "All non-assistant messages must contain 'content'"),
        (
            CHAT,
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
            500,
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        ),
        (CHAT, chat(tool_choice="nope"), 400, "Invalid tool_choice: nope"),
        (CHAT, chat(n=300), 400, "Field 'n': Value must be between 1 <= value <= 256, but got 300"),
        (
            CHAT,
            chat(response_format={"type": "nope"}),
            400,
            'response_format type must be one of "text" or "json_object", but got: nope',
        ),
    ],
)
def test_what_a_live_server_said(path: str, body: Any, status: int, told: str) -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, path, body)
        assert (answer.status, answer.json["error"]["message"]) == (status, told)

    play("llamacpp", served(), script)


def test_a_connection_ends_with_its_stream() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat(stream=True))).closing
        assert not (await ask(engine, CHAT, chat())).closing

    play("llamacpp", served(), script)


def test_streams_of_several_prompts_begin_with_nothing() -> None:
    async def script(engine: Engine) -> None:
        body = {"prompt": ["a", "b"], "max_tokens": 2, "stream": True}
        assert (await ask(engine, "/v1/completions", body)).body.startswith(b"data: null\n\ndata: {")
        assert (await ask(engine, "/v1/completions", {**body, "prompt": "a"})).body.startswith(b"data: {")

    play("llamacpp", served(), script)


def test_responses_without_numbers() -> None:
    async def script(engine: Engine) -> None:
        events = (await ask(engine, "/v1/responses", {"input": "Hi", "max_output_tokens": 1, "stream": True})).events
        assert [list(each) for each in events] == [
            *(["type", "response"],) * 2,
            ["type", "item"],
            ["type", "item_id", "part"],
            ["type", "item_id", "delta"],
            ["type", "item_id", "text"],
            ["type", "item_id", "part"],
            ["type", "item"],
            ["type", "response", "timings"],
        ]
        assert list(events[0]["response"]) == ["id", "object", "status"]
        assert list(events[-1]["response"]) == ["id", "object", "created_at", "status", "model", "output", "usage"]

    play("llamacpp", served(), script)


def test_keys() -> None:
    async def script(engine: Engine) -> None:
        refused = await ask(engine, CHAT, chat())
        assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
        for field in ((b"authorization", b"Bearer k"), (b"x-api-key", b"k")):
            assert (await ask(engine, CHAT, chat(), headers=(*JSON, field))).status == 200
        for path in ("/health", "/v1/models"):
            assert (await ask(engine, path)).status == 200
        assert (await ask(engine, "/metrics")).status == 401

    play("llamacpp", served(api_key="k"), script)


def test_embeddings_only_of_a_model_for_them() -> None:
    async def script(engine: Engine) -> None:
        answer = (await ask(engine, "/v1/embeddings", {"input": ["a", "b"]})).json
        assert [each["index"] for each in answer["data"]] == [0, 1]
        assert (await ask(engine, "/v1/models")).json["models"][0]["capabilities"] == ["embedding"]

    play("llamacpp", Settings(models=("tiny-embed",)), script)


def test_tokens_there_and_back() -> None:
    async def script(engine: Engine) -> None:
        tokens = (await ask(engine, "/tokenize", {"content": "Hello there"})).json["tokens"]
        assert (await ask(engine, "/detokenize", {"tokens": tokens})).json == {"content": "Hello there"}
        counted = (await ask(engine, "/v1/messages/count_tokens", chat())).json["input_tokens"]
        assert counted == (await ask(engine, "/v1/messages", chat())).json["usage"]["input_tokens"]

    play("llamacpp", served(), script)


def test_failing() -> None:
    async def script(engine: Engine) -> None:
        events = (await ask(engine, CHAT, chat(stream=True))).body.decode().strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["type"] == "server_error"
        assert (await ask(engine, CHAT, chat())).json["error"]["code"] == 500

    play("llamacpp", served(fail=("error-event:2",)), script)
