"""The Responses API, where the server has it. (P)"""

from __future__ import annotations

from typing import Any

from conformance.cases.openai.profile import PROFILE, PYTHON, RESPONSE, RESPONSE_EVENTS
from conformance.cases.openai.shapes import Error, Response, conform
from conformance.suite import check
from conformance.suite.answer import Stream
from conformance.suite.case import Level
from conformance.suite.target import Target

RESPONSES = "/v1/responses"
_ENDS = ("response.completed", "response.incomplete", "response.failed")


def _asked(target: Target, **members: Any) -> dict[str, Any]:
    return {"model": target.setup.model, "input": "Say hello.", "max_output_tokens": 16, "store": False, **members}


async def _answered(target: Target, **members: Any) -> dict[str, Any]:
    answer = target.may_refuse(await target.ask(RESPONSES, _asked(target, **members)))
    return check.kind(answer.expect(200).json, dict, "the answer")


async def _streamed(target: Target) -> Stream:
    """Without its [DONE], which some servers send and the SDKs pass over."""
    answer = target.may_refuse(await target.ask(RESPONSES, _asked(target, stream=True)))
    stream = answer.expect(200).stream()
    check.true(stream.chunks, "the stream has no event")
    return stream


def _text(response: dict[str, Any]) -> str:
    messages = [item for item in response.get("output") or () if item.get("type") == "message"]
    parts = [part for message in messages for part in message.get("content") or ()]
    return "".join(part.get("text") or "" for part in parts if part.get("type") == "output_text")


@PROFILE.case("responses.shape", "A response has the published shape", source=f"{RESPONSE}: the response object")
async def shape(target: Target) -> None:
    found = conform(await _answered(target), Response, "the response")
    check.among(found.status, ("completed", "incomplete"), "the status of a response that is there")


@PROFILE.case("responses.usage", "Usage is there and adds up", source=f"{RESPONSE}: usage")
async def usage(target: Target) -> None:
    found = conform(await _answered(target), Response, "the response").usage
    if found is None:
        check.fail("a whole response has no usage")
    check.equal(found.total_tokens, found.input_tokens + found.output_tokens, "total_tokens, as a sum,")
    check.at_least(found.input_tokens, 1, "input_tokens")
    check.at_most(found.output_tokens, 16, "output_tokens")


_REQUIRED = ("incomplete_details", "instructions", "parallel_tool_calls", "tool_choice", "tools")
_ADDED = "response.output_item.added"
_DETAILS = ("input_tokens_details", "output_tokens_details")


@PROFILE.case(
    "responses.required-members",
    "Members that are required though SDKs read them as absent are there",
    source=f"{RESPONSE}: required members of the response object and of its usage; clients in Go and Rust insist",
    level=Level.SHOULD,
)
async def required_members(target: Target) -> None:
    found = await _answered(target)
    for name in _REQUIRED:
        check.contains(found, name, "the response")
    for name in _DETAILS:
        check.contains(check.member(found, "usage", "the response"), name, "usage")


@PROFILE.case(
    "responses.incomplete",
    "A response cut by max_output_tokens is incomplete and says why",
    source=f"{RESPONSE}: incomplete_details",
    level=Level.SHOULD,
)
async def incomplete(target: Target) -> None:
    found = conform(await _answered(target, input="Tell a very long story."), Response, "the response")
    if found.usage is None or found.usage.output_tokens < 16:
        target.skip("the model ended its answer by itself")
    check.equal(found.status, "incomplete", "the status of a response as long as the limit")
    reason = found.incomplete_details and found.incomplete_details.reason
    check.equal(reason, "max_output_tokens", "incomplete_details.reason")


@PROFILE.case("responses.event-names", "Every event's name is its type", source=f"{RESPONSE_EVENTS}; {PYTHON}")
async def names(target: Target) -> None:
    stream = await _streamed(target)
    events = [event for event in stream.events if event.data != "[DONE]"]
    for event, data in zip(events, stream.chunks, strict=True):
        check.equal(event.name, check.member(data, "type", "an event"), "an event's name, against its type,")


@PROFILE.case("responses.events", "The events come in the published order", source=RESPONSE_EVENTS)
async def events(target: Target) -> None:
    kinds = [check.member(event, "type", "an event") for event in (await _streamed(target)).chunks]
    check.equal(kinds[0], "response.created", "the first event")
    check.among(kinds[-1], _ENDS, "the last event")
    check.equal(sum(kind in _ENDS for kind in kinds), 1, "the number of events that end the response")
    if "response.output_text.delta" in kinds:
        said = kinds.index("response.output_text.delta")  # thoughts are an item of their own, before
        kinds = kinds[max(at for at, kind in enumerate(kinds[:said]) if kind == _ADDED or not at) :]
        wanted = [_ADDED, "response.content_part.added", "response.output_text.delta"]
        wanted += ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
        check.equal([kind for kind in dict.fromkeys(kinds) if kind in wanted], wanted, "the order of a text's events")


@PROFILE.case(
    "responses.numbers",
    "Events are numbered one after the other",
    source=f"{RESPONSE_EVENTS}: sequence_number",
    level=Level.SHOULD,
)
async def numbers(target: Target) -> None:
    stream = await _streamed(target)
    found = [check.member(event, "sequence_number", "an event") for event in stream.chunks]
    check.equal(found, list(range(found[0], found[0] + len(found))), "the sequence numbers")


@PROFILE.case("responses.text", "The deltas add up to the text of the last event", source=RESPONSE_EVENTS)
async def text(target: Target) -> None:
    stream = await _streamed(target)
    deltas = [event["delta"] for event in stream.chunks if event.get("type") == "response.output_text.delta"]
    last = stream.chunks[-1]
    check.equal("".join(deltas), _text(check.member(last, "response", "the last event")), "the deltas, put together,")
    check.kind(check.member(last, "response.usage", "the last event"), dict, "usage in the last event")


@PROFILE.case("responses.no-done", "A stream of events ends without [DONE]", source=RESPONSE_EVENTS, level=Level.SHOULD)
async def no_done(target: Target) -> None:
    check.equal((await _streamed(target)).done, 0, "the number of [DONE]")


@PROFILE.case("responses.error", "A request without input is a 400 with an error object", source=RESPONSE)
async def error(target: Target) -> None:
    await _answered(target)
    answer = await target.ask(RESPONSES, {"model": target.setup.model, "max_output_tokens": 16})
    conform(answer.expect(400, 422).json, Error, "the error")
