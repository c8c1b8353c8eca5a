"""Requests that are wrong in one way each: they are refused with a 400, and nothing breaks. (P)"""

from __future__ import annotations

from typing import Any

from conformance.cases.openai.errors import BAD_REQUEST, REFUSED, refused
from conformance.cases.openai.profile import CHAT_CREATE, NODE, PROFILE, PYTHON
from conformance.cases.openai.prompts import user
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target


@PROFILE.case("errors.not-json", "A body that is not JSON is a 400", source=BAD_REQUEST)
async def not_json(target: Target) -> None:
    for body in (b"{", b'{"model": "m",}', b"not json"):
        (await target.ask(CHAT, body=body)).expect(*REFUSED)


@PROFILE.case("errors.not-object", "A body that is no JSON object is a 400", source=BAD_REQUEST)
async def not_object(target: Target) -> None:
    for body in (b"[]", b'"text"', b"17", b"null", b"true"):
        (await target.ask(CHAT, body=body)).expect(*REFUSED)


@PROFILE.case("errors.no-body", "A request without a body is a 400", source=BAD_REQUEST)
async def no_body(target: Target) -> None:
    (await target.ask(CHAT, method="POST", body=b"")).expect(*REFUSED)


@PROFILE.case("errors.not-utf8", "A body that is not UTF-8 is a 400", source="RFC 8259 §8.1", level=Level.SHOULD)
async def not_utf8(target: Target) -> None:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "\xff\xfe\xc3"}], "max_tokens": 2}'
    (await target.ask(CHAT, body=body % target.setup.model.encode())).expect(*REFUSED)


@PROFILE.case("errors.no-messages", "A chat without messages is a 400", source=BAD_REQUEST)
async def no_messages(target: Target) -> None:
    (await target.ask(CHAT, target.chat(messages=None))).expect(*REFUSED)


@PROFILE.case("errors.empty-messages", "A chat with no message in its list is a 400", source=f"{CHAT_CREATE}: messages")
async def empty_messages(target: Target) -> None:
    await refused(target, messages=[])


@PROFILE.case("errors.messages-type", "messages of another type are a 400", source=BAD_REQUEST)
async def messages_type(target: Target) -> None:
    for messages in ("Hello.", {"role": "user", "content": "Hello."}, [17], 5):
        await refused(target, messages=messages)


@PROFILE.case(
    "errors.role", "A role there is none of is a 400", source=f"{CHAT_CREATE}: messages.role", level=Level.SHOULD
)
async def role(target: Target) -> None:
    await refused(target, messages=[{"role": "emperor", "content": "Hello."}])


@PROFILE.case("errors.no-role", "A message without a role is a 400", source=f"{CHAT_CREATE}: messages.role")
async def no_role(target: Target) -> None:
    await refused(target, messages=[{"content": "Hello."}])


@PROFILE.case(
    "errors.content-type",
    "Content that is a number is a 400",
    source=f"{CHAT_CREATE}: messages.content",
    level=Level.SHOULD,
)
async def content(target: Target) -> None:
    await refused(target, messages=[user(17)])


@PROFILE.case(
    "errors.part-type",
    "A content part without a type is a 400",
    source=f"{CHAT_CREATE}: content parts",
    level=Level.SHOULD,
)
async def part(target: Target) -> None:
    await refused(target, messages=[user([{"words": "Hello."}])])


_TYPES: dict[str, Any] = {
    "max_tokens": "many",
    "temperature": "warm",
    "top_p": [],
    "n": "two",
    "stop": 5,
    "stream": "surely",
    "tools": "hammer",
    "seed": "lucky",
    "logprobs": "all",
    "stream_options": 7,
    "response_format": "json",
}


@PROFILE.case("errors.types", "A parameter of a wrong type is a 400", source=BAD_REQUEST, level=Level.SHOULD)
async def types(target: Target) -> None:
    for name, value in _TYPES.items():
        answer = await target.ask(CHAT, {**target.chat(), name: value})
        check.among(answer.status, REFUSED, f"the status for {name}: {value!r}")


@PROFILE.case(
    "errors.types-survived",
    "A parameter of a wrong type breaks nothing: the answer is a 200 or a 400",
    source="RFC 9110 §15.6: a 5xx says that the server erred, and SDKs repeat the request",
    level=Level.SHOULD,
)
async def types_survived(target: Target) -> None:
    for name, value in (_TYPES | {"messages": [17], "model": 5}).items():
        answer = await target.ask(CHAT, {**target.chat(), name: value})
        check.at_most(answer.status, 499, f"the status for {name}: {value!r}")


@PROFILE.case("errors.max-tokens", "max_tokens below 0 is a 400", source=f"{CHAT_CREATE}: max_tokens")
async def max_tokens(target: Target) -> None:
    await _limit_refused(target, -1)


async def _limit_refused(target: Target, limit: int) -> None:
    """Streamed and left at once where it is taken, since some servers take it for no limit at all."""
    async with target.open(CHAT, target.chat(max_tokens=limit, stream=True)) as answer:
        if answer.status != 200:
            await answer.read()
        check.among(answer.status, REFUSED, f"the status for max_tokens: {limit}")


@PROFILE.case("errors.n", "n of 0 is a 400", source=f"{CHAT_CREATE}: n, at least 1", level=Level.SHOULD)
async def n(target: Target) -> None:
    await refused(target, n=0)


_RANGES = {
    "temperature": (-0.5, 2.5),
    "top_p": (-0.5, 1.5),
    "presence_penalty": (-2.5, 2.5),
    "frequency_penalty": (-2.5, 2.5),
}


@PROFILE.case(
    "errors.temperature-negative",
    "A temperature below 0 is a 400",
    source=f"{CHAT_CREATE}: temperature, 0 to 2",
    level=Level.SHOULD,
)
async def temperature(target: Target) -> None:
    await refused(target, temperature=-0.5)


@PROFILE.case("errors.top-p", "top_p above 1 is a 400", source=f"{CHAT_CREATE}: top_p, 0 to 1", level=Level.SHOULD)
async def top_p(target: Target) -> None:
    await refused(target, top_p=1.5)


@PROFILE.case(
    "errors.ranges",
    "Sampling parameters outside of their published ranges are a 400",
    source=f"{CHAT_CREATE}: temperature, top_p, presence_penalty, frequency_penalty",
    level=Level.SHOULD,
)
async def ranges(target: Target) -> None:
    for name, values in _RANGES.items():
        for value in values:
            answer = await target.ask(CHAT, target.chat(**{name: value}))
            check.among(answer.status, REFUSED, f"the status for {name}: {value}")


@PROFILE.case(
    "errors.huge-numbers",
    "A number too large for any machine is a 400",
    source=BAD_REQUEST,
    level=Level.SHOULD,
)
async def huge(target: Target) -> None:
    await _limit_refused(target, 10**30)


@PROFILE.case(
    "errors.deep", "A body nested 20000 deep is a 400, and the server lives on", source=BAD_REQUEST, level=Level.SHOULD
)
async def deep(target: Target) -> None:
    body = b'{"messages": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    answer = await target.ask(CHAT, body=body)
    await target.chatted()
    answer.expect(*REFUSED)


@PROFILE.case(
    "errors.stream-status",
    "What is wrong with a request is told by a status though it asks for a stream",
    source=f"{PYTHON} and {NODE}: the exception is chosen by the status",
)
async def stream_status(target: Target) -> None:
    answer = await refused(target, stream=True, messages="no list")
    check.equal(answer.media_type, "application/json", "the content type of an error")
    wrong = await refused(target, stream=True, max_tokens="many")
    check.equal(wrong.media_type, "application/json", "the content type of an error")
