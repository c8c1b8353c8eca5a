"""Anthropic: what its adapter takes for granted of the Messages API. (T)

Source: Anthropic API reference, version 2023-06-01.
"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases.engines.shared import asked, providers
from conformance.suite import check
from conformance.suite.answer import Answer, Stream
from conformance.suite.case import Level, Profile
from conformance.suite.target import MODELS, Target

PROFILE = Profile("engine/anthropic", "Anthropic, Messages API")

MESSAGES = "/v1/messages"
_API = "Anthropic API reference 2023-06-01, Messages"
_STREAMING = "Anthropic API reference 2023-06-01, Streaming messages"
_ERRORS = "Anthropic API reference 2023-06-01, Errors"
_FUNCTION: dict[str, Any] = asked.TOOL["function"]
_TOOL = {**{name: _FUNCTION[name] for name in ("name", "description")}, "input_schema": _FUNCTION["parameters"]}
_SAY = {"max_tokens": 16, **providers.SAY}

providers.add_key(PROFILE, _ERRORS, (401,), MESSAGES, _SAY)
providers.add_ration(
    PROFILE, "Anthropic API reference, Rate limits: response headers",
    tuple(f"anthropic-ratelimit-requests-{what}" for what in ("limit", "remaining", "reset")),  # type: ignore[arg-type]
    r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$", MESSAGES, _SAY,
)  # fmt: skip


def request(target: Target, text: str = "Say hello.", /, **members: Any) -> dict[str, Any]:
    body = {"model": target.setup.model, "max_tokens": 16, "messages": [{"role": "user", "content": text}], **members}
    return {name: value for name, value in body.items() if value is not None}


async def said(target: Target, text: str = "Say hello.", /, **members: Any) -> dict[str, Any]:
    """The 200 of a whole answer."""
    return check.kind(
        (await target.ask(MESSAGES, request(target, text, **members))).expect(200).json, dict, "the answer"
    )


async def told(target: Target, text: str = "Say hello.", /, **members: Any) -> Stream:
    """A whole stream."""
    return (await target.ask(MESSAGES, request(target, text, stream=True, **members))).expect(200).stream()


def refused(answer: Answer, kind: str, *statuses: int) -> str:
    """The message of an error in Anthropic's envelope."""
    body = answer.expect(*statuses).json
    check.equal(check.member(body, "type", "the error's body"), "error", "its type")
    check.equal(check.member(body, "error.type", "the error's body"), kind, "the error's type")
    return check.kind(check.member(body, "error.message", "the error's body"), str, "the error's message")


# --- whole answers ----------------------------------------------------------------------------------------------------


@PROFILE.case("message", "An answer is a message of the assistant, in blocks", source=_API)
async def message(target: Target) -> None:
    answer = await said(target)
    check.equal((answer.get("type"), answer.get("role")), ("message", "assistant"), "type and role")
    check.kind(answer.get("id"), str, "the id")
    blocks = check.kind(answer.get("content"), list, "the content")
    check.true(blocks, "the content has no blocks")
    for block in blocks:
        check.among(block.get("type"), ("text", "thinking", "redacted_thinking"), "a block's type")


@PROFILE.case("usage", "Usage counts input, output and what was cached", source=_API)
async def usage(target: Target) -> None:
    found = check.member(await said(target), "usage")
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        check.kind(found.get(name), int, name)
    check.at_least(found["input_tokens"], 1, "input_tokens")


@PROFILE.case("limit", "max_tokens ends an answer with that stop_reason", source=_API)
async def limit(target: Target) -> None:
    answer = await said(target, "Count to one hundred.", max_tokens=4)
    check.equal(answer.get("stop_reason"), "max_tokens", "stop_reason")
    check.at_most(check.member(answer, "usage.output_tokens"), 4, "output_tokens")


@PROFILE.case("limit.required", "A request without max_tokens is a 400 that names it", source=_API)
async def limit_required(target: Target) -> None:
    answer = await target.ask(MESSAGES, request(target, max_tokens=None))
    check.contains(refused(answer, "invalid_request_error", 400), "max_tokens", "the message")


@PROFILE.case("system", "A system prompt stands beside the messages", source=_API)
async def system(target: Target) -> None:
    plain = check.member(await said(target), "usage.input_tokens")
    more = check.member(await said(target, system="Answer in the language of the question."), "usage.input_tokens")
    check.true(more > plain, "a system prompt does not count", f"more than {plain}", more)


@PROFILE.case("unknown-member", "A member nobody knows is 400 and named", source=_API)
async def unknown_member(target: Target) -> None:
    answer = await target.ask(MESSAGES, request(target, no_such_member_8c1d=1))
    check.contains(refused(answer, "invalid_request_error", 400), "no_such_member_8c1d", "the message")


@PROFILE.case("count", "count_tokens counts as the answer's usage does", source=_API, level=Level.SHOULD)
async def count(target: Target) -> None:
    body = request(target, max_tokens=None)
    counted = check.member((await target.ask(f"{MESSAGES}/count_tokens", body)).expect(200).json, "input_tokens")
    used = check.member(await said(target), "usage.input_tokens")
    check.at_most(abs(counted - used), 8, f"the difference between {counted} counted and {used} used")


@PROFILE.case("models", "Models are listed with type, id and display_name", source="Anthropic API reference, Models")
async def models(target: Target) -> None:
    cards = check.member((await target.ask(MODELS)).expect(200).json, "data")
    check.true(cards, "no model is listed")
    for card in cards:
        check.equal(card.get("type"), "model", "a card's type")
        check.kind(card.get("id"), str, "a card's id")


# --- streams ----------------------------------------------------------------------------------------------------------


def kinds(stream: Stream) -> list[str]:
    """The events' types in order, without pings."""
    return [chunk.get("type", "") for chunk in stream.chunks if chunk.get("type") != "ping"]


@PROFILE.case("stream", "message_start, blocks, message_delta, message_stop; no [DONE]", source=_STREAMING)
async def stream(target: Target) -> None:
    found = await told(target)
    check.equal(found.done, 0, "the number of [DONE]")
    order = kinds(found)
    check.equal(order[:1], ["message_start"], "the first event")
    check.equal(order[-2:], ["message_delta", "message_stop"], "the last events")
    inner = set(order[1:-2])
    check.equal(inner, {"content_block_start", "content_block_delta", "content_block_stop"}, "the events between")


@PROFILE.case("stream.names", "An event's name is its type", source=_STREAMING)
async def stream_names(target: Target) -> None:
    for event in (await told(target)).events:
        check.equal(event.name, json.loads(event.data or "{}").get("type"), "an event's name, against its type,")


@PROFILE.case("stream.blocks", "Blocks are numbered, and each ends before the next begins", source=_STREAMING)
async def stream_blocks(target: Target) -> None:
    open_block, begun = -1, 0
    for chunk in (await told(target, max_tokens=200)).chunks:
        match chunk.get("type"):
            case "content_block_start":
                check.equal((open_block, chunk.get("index")), (-1, begun), "the open block and the one that begins")
                open_block, begun = begun, begun + 1
            case "content_block_delta":
                check.equal(chunk.get("index"), open_block, "the index of a delta")
            case "content_block_stop":
                check.equal(chunk.get("index"), open_block, "the index of a block that ends")
                open_block = -1
    check.equal(open_block, -1, "the block that is open at the end")


@PROFILE.case("stream.usage", "Usage begins in message_start and counts up in message_delta", source=_STREAMING)
async def stream_usage(target: Target) -> None:
    chunks = (await told(target)).chunks
    began = check.member(chunks[0], "message.usage", "message_start")
    ended = [chunk for chunk in chunks if chunk.get("type") == "message_delta"][-1]
    check.kind(check.member(began, "input_tokens", "the usage"), int, "input_tokens")
    check.kind(check.member(ended, "delta.stop_reason", "message_delta"), str, "stop_reason")
    out = check.member(ended, "usage.output_tokens", "message_delta")
    check.at_least(out, began.get("output_tokens", 0), "output_tokens at the end")


# --- tools ------------------------------------------------------------------------------------------------------------

_FORCED: dict[str, Any] = {"tools": [_TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}, "max_tokens": 400}


@PROFILE.case("tools", "A call is a tool_use block with an object for input", source=_API)
async def tools(target: Target) -> None:
    answer = await said(target, providers.ASKS_TOOL, **_FORCED)
    calls = [block for block in answer["content"] if block.get("type") == "tool_use"]
    check.equal(len(calls), 1, "the number of tool_use blocks")
    check.equal(calls[0].get("name"), "get_weather", "the tool's name")
    check.kind(calls[0].get("input"), dict, "the input")
    check.equal(answer.get("stop_reason"), "tool_use", "stop_reason")


@PROFILE.case("tools.stream", "Its input comes as pieces of JSON", source=_STREAMING)
async def tools_stream(target: Target) -> None:
    chunks = (await told(target, providers.ASKS_TOOL, **_FORCED)).chunks
    deltas = [chunk["delta"] for chunk in chunks if chunk.get("type") == "content_block_delta"]
    text = "".join(delta.get("partial_json", "") for delta in deltas if delta.get("type") == "input_json_delta")
    try:
        check.kind(json.loads(text), dict, "the input")
    except ValueError:
        check.fail("the pieces are no JSON together", "a JSON object", text)


@PROFILE.case("tools.result", "A result goes back in a turn of the user", source=_API)
async def tools_result(target: Target) -> None:
    answer = await said(target, providers.ASKS_TOOL, **_FORCED)
    call = next(block for block in answer["content"] if block.get("type") == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "clear sky"}
    messages = [
        {"role": "user", "content": providers.ASKS_TOOL},
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [result]},
    ]
    await said(target, messages=messages, tools=[_TOOL])


# --- refusals ---------------------------------------------------------------------------------------------------------


@PROFILE.case("version", "A request without anthropic-version is a 400", source="Anthropic API reference, Versions")
async def version(target: Target) -> None:
    answer = await target.ask(MESSAGES, request(target), headers=[("anthropic-version", "")])
    refused(answer, "invalid_request_error", 400)


@PROFILE.case("error.model", "A model nobody has is 404 not_found_error", source=_ERRORS)
async def model(target: Target) -> None:
    refused(await target.ask(MESSAGES, request(target, model=asked.UNKNOWN)), "not_found_error", 404)


@PROFILE.case("request-id", "Answers and errors carry request-id", source=_ERRORS)
async def request_id(target: Target) -> None:
    for body in (request(target), request(target, max_tokens=None)):
        answer = await target.ask(MESSAGES, body)
        check.contains(answer.headers, "request-id", f"the header of the {answer.status}")


@PROFILE.case("error.context", "A prompt too long is a 400 that says so", source=_ERRORS)
async def context(target: Target) -> None:
    answer = await target.ask(MESSAGES, request(target, "word " * 300_000))
    if answer.status in (200, 413, 429):
        target.skip(f"300,000 words are answered with {answer.status}")
    check.matches(refused(answer, "invalid_request_error", 400), "prompt is too long|context", "the message")
