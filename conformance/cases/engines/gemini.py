"""Gemini's OpenAI-compatible endpoint: what its adapter takes for granted, and mends. (T)"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked, providers
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, MODELS, Target

PROFILE = Profile("engine/gemini", "Gemini, OpenAI-compatible", deviations=DEVIATIONS.get("gemini", {}))

_API = "Gemini API, OpenAI compatibility"
_ERRORS = "Google AIP-193; Gemini API, Troubleshooting"
_SIGNATURES = "Gemini API, Thought signatures"

providers.add_key(PROFILE, _ERRORS, (400, 401, 403), CHAT, providers.SAY)


def failure(answer: Answer) -> dict[str, Any]:
    """The error of a body that is an object, or a list of one."""
    body = answer.json
    if isinstance(body, list):
        body = check.member(body, "0", "the list of errors")
    return check.kind(check.member(body, "error", "the error's body"), dict, "the error")


@PROFILE.case("models", "Models are listed as models/NAME", source=_API, level=Level.INFO)
async def models(target: Target) -> None:
    for card in check.member((await target.ask(MODELS)).expect(200).json, "data"):
        check.matches(card.get("id"), "^models/", "a model's id")


@PROFILE.case("model.plain", "A model may be asked for without models/", source=_API)
async def model_plain(target: Target) -> None:
    await target.chatted(model=target.setup.model.removeprefix("models/"), max_tokens=64)


@PROFILE.case("error.shape", "Errors have code, message and status", source=_ERRORS)
async def error_shape(target: Target) -> None:
    error = failure((await target.ask(CHAT, target.chat(model=asked.UNKNOWN))).expect(400, 404))
    check.kind(error.get("code"), int, "the error's code")
    check.kind(error.get("message"), str, "the error's message")
    check.matches(error.get("status", ""), "^[A-Z_]+$", "the error's status")


@PROFILE.case(
    "error.list", "They come as a list of one", source="observed; openai-node cannot read it", level=Level.INFO
)
async def error_list(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(model=asked.UNKNOWN))
    check.kind(answer.json, list, "the error's body")


@PROFILE.case("unknown-member", "A member nobody knows is 400 and named", source=_API)
async def unknown_member(target: Target) -> None:
    answer = await providers.unknown_member(target, 400)
    check.contains(failure(answer).get("message", ""), "no_such_member_8c1d", "the error's message")


@PROFILE.case("usage", "A stream that is asked for its usage tells it", source=_API)
async def usage(target: Target) -> None:
    found = check.kind((await providers.streamed_usage(target, max_tokens=64)).usage, dict, "the stream's usage")
    parts = [check.kind(found.get(name), int, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    check.at_least(parts[2], parts[0] + parts[1], "total_tokens, thoughts included,")


@PROFILE.case("usage.cumulative", "Usage on several chunks counts up: the last is taken", source="observed")
async def usage_cumulative(target: Target) -> None:
    stream = await providers.streamed_usage(target, "Count to thirty.", max_tokens=200)
    counts = [chunk["usage"]["total_tokens"] for chunk in stream.chunks if chunk.get("usage")]
    check.true(counts, "no chunk tells usage")
    check.equal(counts, sorted(counts), "total_tokens over the chunks")


@PROFILE.case("thoughts", "Thoughts are in total_tokens only", source="observed", level=Level.INFO)
async def thoughts(target: Target) -> None:
    found = check.member(await target.chatted(max_tokens=200), "usage")
    counted = found["prompt_tokens"] + (found.get("completion_tokens") or 0)
    if found["total_tokens"] == counted:
        target.skip("this model did not think")
    check.true(not found.get("completion_tokens_details"), "thoughts are counted in the details", "nothing", found)


@PROFILE.case("tools", "A streamed call has a name and whole arguments", source=_API)
async def tools(target: Target) -> None:
    stream = await providers.called(target)
    call = next(delta["tool_calls"][0] for delta in stream.deltas() if delta.get("tool_calls"))
    check.equal(check.member(call, "function.name", "the call"), "get_weather", "the call's name")
    try:
        json.loads(check.member(call, "function.arguments", "the call"))
    except ValueError:
        check.fail("the arguments are not whole JSON", "a JSON object", call)


@PROFILE.case("tools.index", "Its delta has no index: it is given one", source="observed", level=Level.INFO)
async def tools_index(target: Target) -> None:
    stream = await providers.called(target)
    calls = [call for delta in stream.deltas() for call in delta.get("tool_calls") or ()]
    check.true(not any("index" in call for call in calls), "calls have an index now", "none", calls)


@PROFILE.case("tools.finish", "Its stream ends with stop: mended to tool_calls", source="observed", level=Level.INFO)
async def tools_finish(target: Target) -> None:
    check.equal((await providers.called(target)).finish(), ["stop"], "the finish reasons")


@PROFILE.case("tools.signature", "A call's signature may come back with its answer", source=_SIGNATURES)
async def tools_signature(target: Target) -> None:
    stream = await providers.called(target)
    call = next(delta["tool_calls"][0] for delta in stream.deltas() if delta.get("tool_calls"))
    call.pop("index", None)
    messages = [
        {"role": "user", "content": providers.ASKS_TOOL},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "name": "get_weather", "content": '{"sky": "clear"}'},
    ]
    (await target.ask(CHAT, target.chat(messages=messages, tools=[asked.TOOL], max_tokens=400))).expect(200)
