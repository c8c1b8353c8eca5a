"""The simulated Anthropic API: its envelope, its events, its checks, its limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from conformance.engines import Settings
from conformance.engines.anthropic_forms import signature
from conformance.engines.engine import Engine
from tests.conformance.engines.played import JSON, Played, ask, play

PATH = "/v1/messages"
VERSION = (*JSON, (b"anthropic-version", b"2023-06-01"))
TOOL = {"name": "look_up", "input_schema": {"type": "object", "required": ["q"]}}
CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"}]}
ASKED = {"role": "user", "content": "Hello."}


def message(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [ASKED], "max_tokens": 4, **more}


def served(**settings: Any) -> Settings:
    return Settings(models=("m", "m-reason"), **settings)


async def send(engine: Engine, path: str = PATH, body: Any = None, *more: tuple[bytes, bytes]) -> Played:
    return await ask(engine, path, body, headers=(*VERSION, *more))


def one(body: dict[str, Any], settings: Settings | None = None) -> Played:
    """One message, answered."""
    found: list[Played] = []

    async def script(engine: Engine) -> None:
        found.append(await send(engine, PATH, body))

    play("anthropic", settings or served(), script)
    return found[0]


def names(answer: Played) -> list[str]:
    """The names of a stream's events, which must be their types too; runs of one are folded."""
    found: list[str] = []
    for block in answer.body.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        kind = json.loads(data.removeprefix("data: "))["type"]
        assert name == f"event: {kind}"
        if not found or found[-1] != kind:
            found.append(kind)
    return found


def test_a_message() -> None:
    answer = one(message())
    assert answer.json["type"] == "message"
    assert answer.json["content"][0]["type"] == "text"
    assert (answer.json["stop_reason"], answer.json["stop_sequence"]) == ("max_tokens", None)
    assert answer.json["usage"]["output_tokens"] == 4
    assert answer.json["id"].startswith("msg_")
    assert answer.headers["request-id"].startswith("req_")


def test_a_stream_is_named_events_with_a_ping() -> None:
    stream, whole = one(message(stream=True)), one(message())
    assert names(stream) == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    told = "".join(each["delta"]["text"] for each in stream.events if each["type"] == "content_block_delta")
    assert told == whole.json["content"][0]["text"]
    assert stream.events[-2]["usage"]["output_tokens"] == 4
    assert b"[DONE]" not in stream.body


@pytest.mark.parametrize("body", [{"stop_sequences": ["e"], "max_tokens": 50}, {"max_tokens": 4}, {"max_tokens": 300}])
def test_why_a_message_ends(body: dict[str, Any]) -> None:
    answer = one(message(**body), served(max_model_len=300)).json
    wanted = {50: "stop_sequence", 4: "max_tokens", 300: "model_context_window_exceeded"}[body["max_tokens"]]
    assert answer["stop_reason"] == wanted
    assert answer["stop_sequence"] == ("e" if wanted == "stop_sequence" else None)


@pytest.mark.parametrize(
    ("body", "thinks"),
    [
        ({"model": "m-reason"}, True),
        ({"model": "m-reason", "thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1100}, True),
        ({}, False),
    ],
)
def test_thoughts_are_signed(body: dict[str, Any], thinks: bool) -> None:
    body = message(**{"max_tokens": 30, **body})
    whole, stream = one(body).json["content"], one({**body, "stream": True}).events
    assert (whole[0]["type"] == "thinking") is thinks
    deltas = [each["delta"] for each in stream if each["type"] == "content_block_delta"]
    signed = [each["signature"] for each in deltas if each["type"] == "signature_delta"]
    if not thinks:
        assert not signed
        return
    assert signed == [whole[0]["signature"]] == [signature(whole[0]["thinking"])]
    assert "".join(each["thinking"] for each in deltas if "thinking" in each) == whole[0]["thinking"]


def test_tools() -> None:
    body = message(max_tokens=50, tools=[TOOL], tool_choice={"type": "any"})
    whole, stream = one(body).json, one({**body, "stream": True})
    assert (whole["content"][0]["type"], whole["stop_reason"]) == ("tool_use", "tool_use")
    assert whole["content"][0]["id"].startswith("toolu_")
    parts = [each["delta"]["partial_json"] for each in stream.events if each["type"] == "content_block_delta"]
    assert json.loads("".join(parts)) == whole["content"][0]["input"]
    after = one(message(tools=[TOOL], messages=[{"role": "user", "content": "look_up"}, CALL, RESULT])).json
    assert after["content"][0]["type"] == "text"


def test_the_cache_is_told_of_when_asked_for() -> None:
    long = {"role": "user", "content": [{"type": "text", "text": "word " * 100}]}
    marked = {"role": "user", "content": [{**long["content"][0], "cache_control": {"type": "ephemeral"}}]}  # type: ignore[dict-item]

    other = {"role": "user", "content": [{**marked["content"][0], "text": "else " * 100}]}  # type: ignore[dict-item]
    sent = (long, long, marked, marked, other)

    async def script(engine: Engine) -> None:
        shown.extend([(await send(engine, PATH, message(messages=[turn]))).json["usage"] for turn in sent])
        stream = (await send(engine, PATH, message(messages=[marked], stream=True))).events
        shown.append(stream[0]["message"]["usage"])
        assert stream[-2]["usage"]["cache_read_input_tokens"] == shown[-1]["cache_read_input_tokens"]

    shown: list[dict[str, Any]] = []
    play("anthropic", served(), script)
    total = [each["input_tokens"] + each["cache_creation_input_tokens"] for each in shown]
    total = [each + use["cache_read_input_tokens"] for each, use in zip(total, shown, strict=True)]
    assert len(set(total)) == 1
    read = [each["cache_read_input_tokens"] for each in shown]
    assert read[:2] == [0, 0]
    assert read[2] == read[3] == read[5] > read[4]
    assert shown[0]["cache_creation_input_tokens"] == 0
    assert shown[4]["cache_creation_input_tokens"] > 0


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ((), 401, "authentication_error"),
        (((b"x-api-key", b"no"),), 401, "authentication_error"),
        (((b"authorization", b"Bearer no"),), 401, "authentication_error"),
        (((b"authorization", b"Bearer k"), (b"anthropic-version", b"2026-10-21")), 200, ""),
        (((b"x-api-key", b"k"),), 400, "invalid_request_error"),
        (((b"x-api-key", b"k"), (b"anthropic-version", b"2000-01-01")), 400, "invalid_request_error"),
        (((b"x-api-key", b"k"), (b"anthropic-version", b"2023-06-01")), 200, ""),
    ],
)
def test_key_and_version(headers: tuple[tuple[bytes, bytes], ...], status: int, kind: str) -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, PATH, message(), headers=(*JSON, *headers))
        assert answer.status == status
        if kind:
            assert answer.json["error"]["type"] == kind
            assert answer.json["request_id"] == answer.headers["request-id"]

    play("anthropic", served(api_key="k"), script)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"n": 2}, "n: Extra inputs are not permitted"),
        ({"max_tokens": "4"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": 10**6}, "max_tokens: 1000000 > 32768"),
        ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "system", "content": "x"}]}, 'Unexpected role "system"'),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 'must use the "user" role'),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "must be non-empty"),
        ({"messages": [ASKED, CALL, ASKED]}, "messages.2: `tool_use` ids were found without `tool_result`"),
        ({"messages": [ASKED, RESULT]}, "messages.1.content.0: unexpected `tool_use_id`"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "greater than or equal to 1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "`max_tokens` must be greater"),
        (
            {
                "thinking": {"type": "enabled", "budget_tokens": 1024},
                "max_tokens": 1025,
                "messages": [ASKED, CALL, RESULT],
            },
            "Expected `thinking` or `redacted_thinking`, but found `tool_use`",
        ),
        (
            {"messages": [ASKED, {"role": "assistant", "content": [{"type": "thinking", "thinking": "a"}]}, ASKED]},
            "Invalid `signature`",
        ),
        ({"messages": [{"role": "user", "content": "x" * 140_000}]}, "prompt is too long: "),
    ],
)
def test_what_is_refused(more: dict[str, Any], told: str) -> None:
    answer = one(message(**more))
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert told in answer.json["error"]["message"]


def test_thoughts_that_come_back_unchanged_are_taken() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": signature("hm")}
    turns = [ASKED, {"role": "assistant", "content": [thought, *CALL["content"]]}, RESULT]  # type: ignore[misc]
    body = message(messages=turns, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=1030)
    assert one(body).status == 200


@pytest.mark.parametrize(("version", "status"), [(b"2023-06-01", 400), (b"2026-10-21", 200)])
def test_system_prompts_as_turns(version: bytes, status: int) -> None:
    async def script(engine: Engine) -> None:
        body = message(messages=[{"role": "system", "content": "Be brief."}, ASKED])
        answer = await ask(engine, PATH, body, headers=(*JSON, (b"anthropic-version", version)))
        assert answer.status == status

    play("anthropic", served(), script)


def test_unknown_models_and_paths() -> None:
    assert one(message(model="none")).json["error"] == {"type": "not_found_error", "message": "model: none"}

    async def script(engine: Engine) -> None:
        for path in ("/v1/nowhere", "/v1/models/none", "/v1/chat/completions"):
            assert (await send(engine, path)).status == 404
        assert (await send(engine, PATH)).status == 405

    play("anthropic", served(), script)


def test_full_and_failing() -> None:
    async def script(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, engine, PATH, message(max_tokens=100))
            await trio.testing.wait_all_tasks_blocked()
            full = await send(engine, PATH, message())
            assert (full.status, full.json["error"]["type"]) == (529, "overloaded_error")
            nursery.cancel_scope.cancel()

    play("anthropic", served(itl=0.1, max_running=1, max_queued=0), script)
    broken = one(message(stream=True), served(fail=("error-event:2",)))
    assert names(broken)[-1] == "error"
    assert broken.events[-1]["error"]["type"] == "overloaded_error"
    assert one(message(), served(fail=("500",))).json["error"]["type"] == "api_error"


def test_pings_fill_silence() -> None:
    answer = one(message(stream=True), served(ttft=20.0, itl=20.0))
    assert answer.body.startswith(b"event: message_start")
    assert answer.body.count(b"event: ping") == 4


def test_limits_are_counted_and_kept() -> None:
    async def script(engine: Engine) -> None:
        left = [(await send(engine, PATH, message())).headers["anthropic-ratelimit-requests-remaining"]]
        await trio.sleep(10)
        left.append((await send(engine, PATH, message())).headers["anthropic-ratelimit-requests-remaining"])
        assert left == ["1", "0"]
        refused = await send(engine, PATH, message())
        assert (refused.status, refused.json["error"]["type"]) == (429, "rate_limit_error")
        assert refused.headers["retry-after"] == "50"
        assert refused.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        await trio.sleep(50)
        assert (await send(engine, PATH, message())).status == 200

    play("anthropic", served(rate_limit_requests=2), script)


def test_models_come_in_pages() -> None:
    async def script(engine: Engine) -> None:
        listed = (await ask(engine, "/v1/models?limit=1", headers=VERSION)).json
        assert [card["id"] for card in listed["data"]] == ["m"]
        assert (listed["has_more"], listed["last_id"]) == (True, "m")
        rest = (await ask(engine, "/v1/models?after_id=m", headers=VERSION)).json
        assert [card["id"] for card in rest["data"]] == ["m-reason"]
        assert not rest["has_more"]
        assert (await ask(engine, "/v1/models/m", headers=VERSION)).json["type"] == "model"
        counted = await send(engine, "/v1/messages/count_tokens", {"model": "m", "messages": [ASKED]})
        assert counted.json["input_tokens"] > 0

    play("anthropic", served(), script)
