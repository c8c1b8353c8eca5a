"""The simulated Gemini endpoint: Google's errors, calls without an index, usage that grows, hidden thoughts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from conformance.engines import Settings
from conformance.engines.engine import Engine
from tests.conformance.engines.played import JSON, Played, ask, play

CHAT = "/v1beta/openai/chat/completions"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"required": ["q"]}}}
ASKED = {"role": "user", "content": "Hello."}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [ASKED], "max_tokens": 4, **more}


def served(**settings: Any) -> Settings:
    return Settings(models=("m", "m-reason"), **settings)


def one(body: Any, settings: Settings | None = None) -> Played:
    found: list[Played] = []

    async def script(engine: Engine) -> None:
        found.append(await ask(engine, CHAT, body))

    play("gemini", settings or served(), script)
    return found[0]


def test_usage_grows_with_every_chunk() -> None:
    stream, whole = one(chat(stream=True)), one(chat()).json
    *chunks, done = stream.events
    assert done == "[DONE]"
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4]
    assert chunks[-1]["usage"] == whole["usage"]
    assert [chunk["choices"][0].get("finish_reason") for chunk in chunks] == [None, None, None, "length"]
    assert {chunk["choices"][0]["delta"]["role"] for chunk in chunks} == {"assistant"}
    told = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert told == whole["choices"][0]["message"]["content"]


def test_thoughts_are_in_the_total_only() -> None:
    *chunks, _ = one(chat(model="m-reason", max_tokens=20, stream=True)).events
    usage = one(chat(model="m-reason", max_tokens=20)).json["usage"]
    assert usage["total_tokens"] - usage["prompt_tokens"] == 20
    assert usage["completion_tokens"] == len(chunks) == 8
    assert chunks[-1]["usage"] == usage
    eaten = one(chat(model="m-reason", max_tokens=5)).json["choices"][0]
    assert (eaten["message"], eaten["finish_reason"]) == ({"role": "assistant"}, "length")
    assert one(chat(model="m-reason", reasoning_effort="none")).json["usage"]["completion_tokens"] == 4


def test_a_call_is_one_delta_without_an_index() -> None:
    body = chat(model="m-reason", tools=[TOOL], tool_choice="required", max_tokens=60)
    whole = one(body).json["choices"][0]
    *chunks, _ = one({**body, "stream": True}).events
    calls = [
        each["choices"][0]["delta"]["tool_calls"] for each in chunks if "tool_calls" in each["choices"][0]["delta"]
    ]
    assert len(calls) == 1
    assert "index" not in calls[0][0]
    assert calls[0][0]["function"] == whole["message"]["tool_calls"][0]["function"]
    assert (whole["finish_reason"], chunks[-1]["choices"][0]["finish_reason"]) == ("tool_calls", "stop")


def test_a_call_comes_back_with_its_signature_and_its_answer() -> None:
    first = one(chat(model="m-reason", tools=[TOOL], tool_choice="required", max_tokens=60)).json
    turn = first["choices"][0]["message"]
    answer = {"role": "tool", "tool_call_id": turn["tool_calls"][0]["id"], "content": "found"}
    assert one(chat(model="m-reason", messages=[ASKED, turn, answer])).status == 200
    bare = {**turn, "tool_calls": [{**turn["tool_calls"][0], "extra_content": None}]}
    refused = one(chat(model="m-reason", messages=[ASKED, bare, answer]))
    assert (refused.status, "thought_signature" in refused.json[0]["error"]["message"]) == (400, True)
    assert one(chat(messages=[ASKED, bare, answer])).status == 200
    unpaired = one(chat(messages=[ASKED, bare, ASKED]))
    assert "number of function response parts" in unpaired.json[0]["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        (chat(store=True), 400, "INVALID_ARGUMENT"),
        (chat(logit_bias={}), 400, "INVALID_ARGUMENT"),
        (chat(model="none"), 404, "NOT_FOUND"),
        (chat(messages=[]), 400, "INVALID_ARGUMENT"),
        (chat(temperature=3), 400, "INVALID_ARGUMENT"),
        (chat(messages=[{"role": "user", "content": "x" * 140_000}]), 400, "INVALID_ARGUMENT"),
        (b"{", 400, "INVALID_ARGUMENT"),
        (chat(model="models/m"), 200, ""),
    ],
)
def test_errors_are_lists(body: Any, status: int, name: str) -> None:
    answer = one(body)
    assert answer.status == status
    if name:
        assert (answer.json[0]["error"]["code"], answer.json[0]["error"]["status"]) == (status, name)


def test_keys() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat())).status == 400
        wrong = await ask(engine, CHAT, chat(), headers=(*JSON, (b"authorization", b"Bearer no")))
        assert wrong.json[0]["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        assert (await ask(engine, CHAT, chat(), headers=(*JSON, (b"authorization", b"Bearer k")))).status == 200

    play("gemini", served(api_key="k"), script)


def test_how_long_to_wait_is_in_the_details() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat())).status == 200
        await trio.sleep(46.5)
        refused = await ask(engine, CHAT, chat())
        assert (refused.status, refused.json[0]["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        info = refused.json[0]["error"]["details"][-1]
        assert (info["@type"], info["retryDelay"]) == ("type.googleapis.com/google.rpc.RetryInfo", "13.5s")
        assert "retry-after" not in refused.headers

    play("gemini", served(rate_limit_requests=1), script)


def test_models_and_embeddings() -> None:
    async def script(engine: Engine) -> None:
        listed = (await ask(engine, "/v1beta/openai/models")).json["data"]
        assert [card["id"] for card in listed] == ["models/m", "models/m-reason"]
        for name in ("m", "models/m"):
            assert (await ask(engine, f"/v1beta/openai/models/{name}")).status == 200
        assert (await ask(engine, "/v1beta/openai/models/none")).status == 404
        assert (await ask(engine, "/v1beta/openai/embeddings", {"model": "m", "input": "a"})).json["data"]
        broken = await ask(engine, CHAT, chat(stream=True))
        assert broken.events[-1]["error"]["status"] == "INTERNAL"

    play("gemini", served(fail=("error-event:2@path=" + CHAT,)), script)
