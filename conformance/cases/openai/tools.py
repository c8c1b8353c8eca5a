"""Function calling: asked for, forced, forbidden, streamed, and answered. (P)

A model of random weights calls tools only where the engine makes it, so what is left to the model is only looked at.
"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases.openai.answers import finish, well_ended
from conformance.cases.openai.parameters import known
from conformance.cases.openai.profile import CHAT_CREATE, CHAT_OBJECT, CHUNK_OBJECT, PROFILE
from conformance.cases.openai.prompts import user
from conformance.cases.openai.shapes import Chat, Chunk, ToolCall, ToolDelta, conform
from conformance.suite import check
from conformance.suite.answer import Stream
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_TOOLS = f"{CHAT_CREATE}: tools, tool_choice"
_TEXT = "What is the weather in Paris? Use get_weather."
_NAMES = ("tool_choice", "tools", "tool choice", "tool", "jinja")
_ENOUGH = 200
"""Tokens in which any model that is held to a schema can write the arguments."""


def tool(name: str = "get_weather") -> dict[str, Any]:
    city = {"type": "string", "enum": ["Paris", "Rome"]}
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False}
    function = {"name": name, "description": "The weather in a city.", "parameters": schema, "strict": True}
    return {"type": "function", "function": function}


def calling(target: Target, choice: Any = "required", **members: Any) -> dict[str, Any]:
    """A request that has to end in a call."""
    asked = {"tools": [tool()], "tool_choice": choice, "max_tokens": _ENOUGH, "temperature": 0, **members}
    return target.chat(_TEXT, **asked)


NAMED = {"type": "function", "function": {"name": "get_weather"}}


async def _called(target: Target, choice: Any) -> tuple[list[ToolCall], str]:
    answer = known(target, await target.ask(CHAT, calling(target, choice)), *_NAMES)
    found = conform(answer.json, Chat, "the chat completion").choices[0]
    if found.finish_reason == "length":
        target.skip(f"the model made no call within {_ENOUGH} tokens")
    calls = found.message.tool_calls or []
    check.true(calls, "the message calls no tool", "tool_calls", answer.json)
    return calls, found.finish_reason


def _arguments(text: str) -> None:
    try:
        found = json.loads(text)
    except ValueError as error:
        check.fail(f"the arguments of the call are not JSON: {error}", got=text)
    check.kind(found, dict, "the call's arguments, parsed,")
    check.contains(found, "city", "the call's arguments")


@PROFILE.case("tools.required", 'tool_choice "required" ends in a call', source=f"{_TOOLS}; {CHAT_OBJECT}")
async def required(target: Target) -> None:
    calls, reason = await _called(target, "required")
    for call in calls:
        check.equal(call.function.name, "get_weather", "the function called")
        check.true(call.id, "the call's id is empty")
    _arguments(calls[0].function.arguments)  # the limit may cut the last of several
    check.equal(reason, "tool_calls", "the finish reason of an answer that calls a tool")


@PROFILE.case("tools.named", "tool_choice that names a function calls it", source=_TOOLS)
async def named(target: Target) -> None:
    calls, reason = await _called(target, NAMED)
    check.equal([call.function.name for call in calls], ["get_weather"], "the functions called")
    _arguments(calls[0].function.arguments)
    check.among(reason, ("stop", "tool_calls"), "the finish reason")


@PROFILE.case(
    "tools.ids",
    "Calls of different answers have different ids",
    source=f"{CHAT_OBJECT}: tool_calls.id",
    level=Level.SHOULD,
)
async def ids(target: Target) -> None:
    first, second = [(await _called(target, "required"))[0][0].id for _ in range(2)]
    check.true(first != second, "the calls of two answers have the same id", got=first)


@PROFILE.case("tools.auto", 'tool_choice "auto" answers with a call or a text', source=_TOOLS)
async def auto(target: Target) -> None:
    answer = await target.ask(CHAT, calling(target, "auto", max_tokens=16))
    choice = conform(known(target, answer, *_NAMES, "auto").json, Chat, "the chat completion").choices[0]
    calls = choice.message.tool_calls
    check.true(
        calls or choice.message.content is not None, "the message has neither a call nor a text", got=answer.json
    )
    if calls and choice.finish_reason != "length":
        check.equal(choice.finish_reason, "tool_calls", "the finish reason of an answer that calls a tool")


@PROFILE.case("tools.default", "Tools without a tool_choice are taken", source=f"{_TOOLS}: auto is the default")
async def default(target: Target) -> None:
    asked = target.chat("Hello.", tools=[tool()])
    conform(known(target, await target.ask(CHAT, asked), *_NAMES, "auto").json, Chat, "the chat completion")


@PROFILE.case("tools.none", 'tool_choice "none" calls no tool', source=_TOOLS)
async def none(target: Target) -> None:
    answer = known(target, await target.ask(CHAT, calling(target, "none", max_tokens=16)), *_NAMES).json
    check.true(not check.member(answer, "choices.0.message").get("tool_calls"), "a tool is called", got=answer)
    check.among(finish(answer), ("stop", "length"), "the finish reason")


@PROFILE.case(
    "tools.parallel", "parallel_tool_calls: false gives one call at most", source=f"{CHAT_CREATE}: parallel_tool_calls"
)
async def parallel(target: Target) -> None:
    asked = calling(target, tools=[tool(), tool("get_time")], parallel_tool_calls=False)
    answer = known(target, await target.ask(CHAT, asked), "parallel_tool_calls", *_NAMES).json
    calls = check.member(answer, "choices.0.message").get("tool_calls") or []
    check.at_most(len(calls), 1, "the number of calls")


# -- streamed -------------------------------------------------------------------------------------------------------


async def _streamed(target: Target, choice: Any = "required") -> tuple[Stream, list[ToolDelta]]:
    stream = known(target, await target.ask(CHAT, calling(target, choice, stream=True)), *_NAMES).stream()
    well_ended(stream)
    if stream.finish() == ["length"]:
        target.skip(f"the model made no call within {_ENOUGH} tokens")
    found = [choice for chunk in stream.chunks for choice in conform(chunk, Chunk, "a chunk").choices]
    deltas = [call for choice in found for call in choice.delta.tool_calls or ()]
    check.true(deltas, "the stream calls no tool", got=[choice.get("delta") for choice in stream.choices()])
    return stream, deltas


@PROFILE.case("tools.stream", "A streamed call's arguments add up to JSON", source=f"{CHUNK_OBJECT}: delta.tool_calls")
async def streamed(target: Target) -> None:
    stream, deltas = await _streamed(target)
    for index in {delta.index for delta in deltas}:
        parts = [delta.function for delta in deltas if delta.index == index and delta.function]
        check.equal("".join(part.name or "" for part in parts), "get_weather", "the function called")
        if index == min(delta.index for delta in deltas):  # the limit may cut the last of several
            _arguments("".join(part.arguments or "" for part in parts))
    check.equal(stream.finish(), ["tool_calls"], "the finish reasons of a stream that calls a tool")


@PROFILE.case(
    "tools.stream-opening",
    "A streamed call begins with id, type and name; what follows repeats none of them",
    source=f"{CHUNK_OBJECT}; clients that add deltas up would join them",
)
async def opening(target: Target) -> None:
    _, deltas = await _streamed(target)
    for index in {delta.index for delta in deltas}:
        first, *rest = [delta for delta in deltas if delta.index == index]
        check.true(first.id, "the first delta of a call has no id")
        check.equal(first.type, "function", "the type in a call's first delta")
        check.true(first.function and first.function.name, "the first delta of a call has no name")
        again = [delta for delta in rest if delta.id or (delta.function and delta.function.name)]
        check.equal(again, [], "the later deltas of a call with an id or a name")


@PROFILE.case("tools.stream-indices", "Streamed calls are numbered from 0", source=f"{CHUNK_OBJECT}: index")
async def indices(target: Target) -> None:
    _, deltas = await _streamed(target)
    found = sorted({delta.index for delta in deltas})
    check.equal(found, list(range(len(found))), "the indices of the calls")


@PROFILE.case("tools.stream-named", "A named function is called in a stream too", source=_TOOLS)
async def stream_named(target: Target) -> None:
    stream, deltas = await _streamed(target, NAMED)
    names = [delta.function.name for delta in deltas if delta.function and delta.function.name]
    check.true(set(names) == {"get_weather"}, "another function is called", "get_weather", names)
    check.among(stream.finish()[0], ("stop", "tool_calls"), "the finish reason")


# -- results --------------------------------------------------------------------------------------------------------


_OF_TURNS = ("tools", "auto", "reasoning_content", "thought_signature")
"""What a refusal of earlier turns may name: models that think want what they thought back."""


def _conversation(**assistant: Any) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    call = {"id": "call_0123456789", "type": "function", "function": function}
    return [
        user(_TEXT),
        {"role": "assistant", "tool_calls": [call], **assistant},
        {"role": "tool", "tool_call_id": "call_0123456789", "content": '{"degrees": 21}'},
    ]


@PROFILE.case("tools.results", "A call and its result are taken back", source=f"{CHAT_CREATE}: messages, role tool")
async def results(target: Target) -> None:
    asked = target.chat(messages=_conversation(content=""), tools=[tool()])
    conform(known(target, await target.ask(CHAT, asked), *_OF_TURNS).json, Chat, "the chat completion")


@PROFILE.case(
    "tools.results-null-content",
    "An assistant's message with calls may have no content, or a null one",
    source=f"{CHAT_CREATE}: messages, role assistant: content is required unless tool_calls is specified",
)
async def null_content(target: Target) -> None:
    for messages in (_conversation(content=None), _conversation()):
        answer = await target.ask(CHAT, target.chat(messages=messages, tools=[tool()]))
        known(target, answer, *_OF_TURNS)


@PROFILE.case(
    "tools.unknown-name",
    "tool_choice that names no tool of the request is refused with 400",
    source=_TOOLS,
    level=Level.SHOULD,
)
async def unknown_name(target: Target) -> None:
    wrong = {"type": "function", "function": {"name": "no_such_tool"}}
    (await target.ask(CHAT, calling(target, wrong, max_tokens=8))).expect(400, 422)


@PROFILE.case("tools.empty", "An empty list of tools is taken, or refused with 400", source=_TOOLS, level=Level.SHOULD)
async def empty(target: Target) -> None:
    (await target.ask(CHAT, target.chat(tools=[]))).expect(200, 400, 422)
