"""Output held to JSON: what was promised parses and fits. (P)"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases.openai.answers import finish, said, well_ended
from conformance.cases.openai.parameters import known
from conformance.cases.openai.profile import CHAT_CREATE, PROFILE
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_FORMAT = f"{CHAT_CREATE}: response_format"
_TEXT = "Answer with a JSON object that describes a city."
_NAMES = ("response_format", "json_schema", "json_object", "grammar")
_ENOUGH = 250
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "capital": {"type": "boolean"},
        "rivers": {"type": "array", "items": {"type": "string", "enum": ["Seine"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["city", "capital", "rivers"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}


def _asked(target: Target, form: dict[str, Any], **members: Any) -> dict[str, Any]:
    return target.chat(_TEXT, response_format=form, max_tokens=_ENOUGH, temperature=0, **members)


def _parsed(target: Target, text: str, reason: str) -> Any:
    if reason == "length":
        target.skip(f"the model did not come to an end within {_ENOUGH} tokens")
    try:
        return json.loads(text)
    except ValueError as error:
        check.fail(f"the text is not JSON: {error}", got=text)


def _fits(found: Any) -> None:
    check.kind(found, dict, "the JSON text, parsed,")
    check.equal(sorted(found), ["capital", "city", "rivers"], "the members of the object")
    check.among(found["city"], ("Paris", "Rome"), "city")
    check.kind(found["capital"], bool, "capital")
    check.true(found["rivers"] in (["Seine"], ["Seine", "Seine"]), "rivers does not fit", '["Seine"]', found["rivers"])


def _content(answer: Answer) -> str:
    return check.kind(check.member(answer.json, "choices.0.message.content"), str, "the content")


@PROFILE.case("formats.text", 'response_format "text" is taken', source=_FORMAT, level=Level.SHOULD)
async def plain(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(response_format={"type": "text"}))
    found = known(target, answer, *_NAMES).json
    if finish(found) == "length" and not said(found):
        target.skip("the model thinks beyond the limit")
    check.true(said(found), "the answer says nothing", got=found)


@PROFILE.case("formats.json-object", 'response_format "json_object" gives a JSON object', source=_FORMAT)
async def json_object(target: Target) -> None:
    answer = known(target, await target.ask(CHAT, _asked(target, {"type": "json_object"})), *_NAMES)
    check.kind(_parsed(target, _content(answer), finish(answer.json)), dict, "the JSON text, parsed,")


@PROFILE.case("formats.json-schema", 'response_format "json_schema" gives JSON that fits', source=_FORMAT)
async def json_schema(target: Target) -> None:
    answer = known(target, await target.ask(CHAT, _asked(target, JSON_SCHEMA)), *_NAMES)
    _fits(_parsed(target, _content(answer), finish(answer.json)))


@PROFILE.case("formats.stream", "A stream of JSON that has to fit adds up to it", source=_FORMAT)
async def stream(target: Target) -> None:
    answer = known(target, await target.ask(CHAT, _asked(target, JSON_SCHEMA, stream=True)), *_NAMES)
    found = answer.stream()
    well_ended(found)
    _fits(_parsed(target, found.text(), found.finish()[0]))


@PROFILE.case(
    "formats.unknown", "A response_format nobody knows is refused with 400", source=_FORMAT, level=Level.SHOULD
)
async def unknown(target: Target) -> None:
    (await target.ask(CHAT, target.chat(response_format={"type": "no_such_format"}))).expect(400, 422)


@PROFILE.case(
    "formats.bad-schema",
    "A json_schema without its schema is refused with 400, or taken; it breaks nothing",
    source=_FORMAT,
    level=Level.SHOULD,
)
async def bad_schema(target: Target) -> None:
    (await target.ask(CHAT, target.chat(response_format={"type": "json_schema"}))).expect(200, 400, 422)
