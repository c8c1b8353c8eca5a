"""Errors: the status that SDKs choose their exception by, and the object they read. (P)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.cases.openai.profile import CHAT_CREATE, ERRORS, NODE, PROFILE, PYTHON
from conformance.cases.openai.prompts import user
from conformance.cases.openai.shapes import Error, conform
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, COMPLETIONS, MODELS, Target

_BAD_REQUEST = f"{ERRORS}: 400 invalid_request_error"
_SDK = f"{PYTHON} and {NODE}: message, type, param and code are read from body.error"
REFUSED = (400, 422)
UNKNOWN = "no-such-model-here"


async def _refused(target: Target, statuses: Sequence[int] = REFUSED, **members: Any) -> Answer:
    """The refusal of a chat with ``members``."""
    return (await target.ask(CHAT, {**target.chat(), **members})).expect(*statuses)


def _error(answer: Answer) -> Error:
    return conform(answer.json, Error, "the error")


# -- the object -----------------------------------------------------------------------------------------------------


@PROFILE.case("errors.envelope", "An error is an object below the member error, with a message", source=_SDK)
async def envelope(target: Target) -> None:
    answer = await _refused(target, messages="no list")
    check.equal(answer.media_type, "application/json", "the content type of an error")
    message = check.member(answer.json, "error.message", "the error")
    check.true(check.kind(message, str, "the error's message"), "the error's message is empty")


@PROFILE.case("errors.shape", "An error has message, type, param and code, the code a string or null", source=ERRORS)
async def shape(target: Target) -> None:
    _error(await _refused(target, messages="no list"))


@PROFILE.case("errors.shape-json", "So has the error for a body that is not JSON", source=ERRORS)
async def shape_json(target: Target) -> None:
    _error((await target.ask(CHAT, body=b'{"model": ')).expect(*REFUSED))


@PROFILE.case("errors.shape-model", "So has the error for an unknown model", source=ERRORS)
async def shape_model(target: Target) -> None:
    _error(await _refused(target, (400, 403, 404), model=UNKNOWN))


@PROFILE.case("errors.shape-path", "So has the error for an unknown path", source=ERRORS, level=Level.SHOULD)
async def shape_path(target: Target) -> None:
    _error((await target.ask("/v1/no-such-path", {})).expect(404))


@PROFILE.case("errors.shape-completions", "So have errors of the completions endpoint", source=ERRORS)
async def shape_completions(target: Target) -> None:
    document = {"model": target.setup.model, "prompt": "Hi.", "max_tokens": "many"}
    _error(target.may_refuse(await target.ask(COMPLETIONS, document)).expect(*REFUSED))


@PROFILE.case(
    "errors.param", "The error names the parameter that is wrong", source=f"{ERRORS}: param", level=Level.SHOULD
)
async def param(target: Target) -> None:
    error = _error(await _refused(target, max_tokens="many")).error
    check.equal(error.param, "max_tokens", "param of an error about max_tokens")


@PROFILE.case(
    "errors.message", "The message says which member is wrong", source=f"{ERRORS}: message", level=Level.SHOULD
)
async def message(target: Target) -> None:
    answer = await _refused(target, max_tokens="many")
    check.contains(check.member(answer.json, "error.message"), "max_tokens", "the error about max_tokens")


# -- what is refused ------------------------------------------------------------------------------------------------


@PROFILE.case("errors.not-json", "A body that is not JSON is a 400", source=_BAD_REQUEST)
async def not_json(target: Target) -> None:
    for body in (b"{", b'{"model": "m",}', b"not json"):
        (await target.ask(CHAT, body=body)).expect(*REFUSED)


@PROFILE.case("errors.not-object", "A body that is no JSON object is a 400", source=_BAD_REQUEST)
async def not_object(target: Target) -> None:
    for body in (b"[]", b'"text"', b"17", b"null", b"true"):
        (await target.ask(CHAT, body=body)).expect(*REFUSED)


@PROFILE.case("errors.no-body", "A request without a body is a 400", source=_BAD_REQUEST)
async def no_body(target: Target) -> None:
    (await target.ask(CHAT, method="POST", body=b"")).expect(*REFUSED)


@PROFILE.case("errors.not-utf8", "A body that is not UTF-8 is a 400", source="RFC 8259 §8.1", level=Level.SHOULD)
async def not_utf8(target: Target) -> None:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "\xff\xfe\xc3"}], "max_tokens": 2}'
    (await target.ask(CHAT, body=body % target.setup.model.encode())).expect(*REFUSED)


@PROFILE.case("errors.no-messages", "A chat without messages is a 400", source=_BAD_REQUEST)
async def no_messages(target: Target) -> None:
    (await target.ask(CHAT, target.chat(messages=None))).expect(*REFUSED)


@PROFILE.case("errors.empty-messages", "A chat with no message in its list is a 400", source=f"{CHAT_CREATE}: messages")
async def empty_messages(target: Target) -> None:
    await _refused(target, messages=[])


@PROFILE.case("errors.messages-type", "messages of another type are a 400", source=_BAD_REQUEST)
async def messages_type(target: Target) -> None:
    for messages in ("Hello.", {"role": "user", "content": "Hello."}, [17], 5):
        await _refused(target, messages=messages)


@PROFILE.case(
    "errors.role", "A role there is none of is a 400", source=f"{CHAT_CREATE}: messages.role", level=Level.SHOULD
)
async def role(target: Target) -> None:
    await _refused(target, messages=[{"role": "emperor", "content": "Hello."}])


@PROFILE.case("errors.no-role", "A message without a role is a 400", source=f"{CHAT_CREATE}: messages.role")
async def no_role(target: Target) -> None:
    await _refused(target, messages=[{"content": "Hello."}])


@PROFILE.case(
    "errors.content-type",
    "Content that is a number is a 400",
    source=f"{CHAT_CREATE}: messages.content",
    level=Level.SHOULD,
)
async def content(target: Target) -> None:
    await _refused(target, messages=[user(17)])


@PROFILE.case(
    "errors.part-type",
    "A content part without a type is a 400",
    source=f"{CHAT_CREATE}: content parts",
    level=Level.SHOULD,
)
async def part(target: Target) -> None:
    await _refused(target, messages=[user([{"words": "Hello."}])])


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


@PROFILE.case("errors.types", "A parameter of a wrong type is a 400", source=_BAD_REQUEST, level=Level.SHOULD)
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
    await _refused(target, n=0)


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
    await _refused(target, temperature=-0.5)


@PROFILE.case("errors.top-p", "top_p above 1 is a 400", source=f"{CHAT_CREATE}: top_p, 0 to 1", level=Level.SHOULD)
async def top_p(target: Target) -> None:
    await _refused(target, top_p=1.5)


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
    source=_BAD_REQUEST,
    level=Level.SHOULD,
)
async def huge(target: Target) -> None:
    await _limit_refused(target, 10**30)


@PROFILE.case(
    "errors.deep", "A body nested 20000 deep is a 400, and the server lives on", source=_BAD_REQUEST, level=Level.SHOULD
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
    answer = await _refused(target, stream=True, messages="no list")
    check.equal(answer.media_type, "application/json", "the content type of an error")
    wrong = await _refused(target, stream=True, max_tokens="many")
    check.equal(wrong.media_type, "application/json", "the content type of an error")


# -- models, paths, methods -----------------------------------------------------------------------------------------


@PROFILE.case("errors.unknown-model", "A model there is none of is a 404", source=f"{ERRORS}: model_not_found")
async def unknown_model(target: Target) -> None:
    await _refused(target, (404,), model=UNKNOWN)


@PROFILE.case(
    "errors.unknown-model-code", "Its code is model_not_found", source=f"{ERRORS}: model_not_found", level=Level.SHOULD
)
async def unknown_model_code(target: Target) -> None:
    answer = await _refused(target, (400, 403, 404), model=UNKNOWN)
    check.equal(check.member(answer.json, "error.code"), "model_not_found", "code of an error about an unknown model")


@PROFILE.case(
    "errors.unknown-model-stream", "An unknown model is a 404 for a stream too", source=f"{ERRORS}: model_not_found"
)
async def unknown_model_stream(target: Target) -> None:
    await _refused(target, (404,), model=UNKNOWN, stream=True)


@PROFILE.case(
    "errors.no-model", "A chat without a model is a 400", source=f"{CHAT_CREATE}: model is required", level=Level.SHOULD
)
async def no_model(target: Target) -> None:
    (await target.ask(CHAT, target.chat(model=None))).expect(400, 422)


@PROFILE.case("errors.model-type", "A model that is no string is a 400", source=f"{CHAT_CREATE}: model")
async def model_type(target: Target) -> None:
    await _refused(target, model=5)


async def _too_long(target: Target) -> Answer:
    """A prompt of some 200000 tokens; skipped where even that fits."""
    text = "one two three four five six seven eight " * 25_000
    answer = await target.ask(CHAT, target.chat(text, max_tokens=1))
    if answer.status == 200:
        target.skip("the model's context is longer than 200000 tokens, or the prompt was cut")
    return answer


@PROFILE.case(
    "errors.context",
    "A prompt longer than the context is a 400, or a 413 for its size",
    source=f"{ERRORS}: context_length_exceeded",
)
async def context(target: Target) -> None:
    (await _too_long(target)).expect(400, 413, 422)


@PROFILE.case(
    "errors.context-code",
    "Its code is context_length_exceeded",
    source=f"{ERRORS}; LangChain and agents shorten their history on it",
    level=Level.SHOULD,
)
async def context_code(target: Target) -> None:
    answer = await _too_long(target)
    if answer.status == 413:
        target.skip("the body is refused for its size")
    check.equal(check.member(answer.json, "error.code"), "context_length_exceeded", "code of a prompt too long")


@PROFILE.case("errors.path", "A path there is none of is a 404", source="RFC 9110 §15.5.5")
async def path(target: Target) -> None:
    (await target.ask("/v1/no-such-path", {})).expect(404)
    (await target.ask("/v1/chat/completion", target.chat())).expect(404)


@PROFILE.case("errors.method", "GET where POST is wanted is a 405, or a 404", source="RFC 9110 §15.5.6")
async def method(target: Target) -> None:
    (await target.ask(CHAT)).expect(404, 405)
    (await target.ask(CHAT, target.chat(), method="PUT")).expect(404, 405)
    (await target.ask(MODELS, {})).expect(404, 405)


# -- keys -----------------------------------------------------------------------------------------------------------


@PROFILE.case("errors.key-missing", "A request without a key is a 401", source=f"{ERRORS}: 401", needs=("key",))
async def key_missing(target: Target) -> None:
    for stream in (False, True):
        (await target.ask(CHAT, target.chat(stream=stream), key="")).expect(401)


@PROFILE.case("errors.key-wrong", "A request with a wrong key is a 401", source=f"{ERRORS}: 401", needs=("key",))
async def key_wrong(target: Target) -> None:
    (await target.ask(CHAT, target.chat(), key="sk-of-nobody-at-all")).expect(401)
    basic = [("authorization", "Basic c2stb2Y6bm9ib2R5")]
    (await target.ask(CHAT, target.chat(), headers=basic)).expect(401)


@PROFILE.case(
    "errors.key-shape", "The 401 has an error object", source=f"{ERRORS}: 401 invalid_api_key", needs=("key",)
)
async def key_shape(target: Target) -> None:
    _error((await target.ask(CHAT, target.chat(), key="sk-of-nobody-at-all")).expect(401))


@PROFILE.case(
    "errors.key-hidden", "The 401 does not repeat the key", source="OWASP: secrets in messages", needs=("key",)
)
async def key_hidden(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(), key="sk-of-nobody-at-all")).expect(401)
    check.true("nobody-at-all" not in answer.text, "the error repeats the key that was sent", got=answer.text)


@PROFILE.case(
    "errors.key-before-body",
    "Who calls is asked before what is sent is read",
    source=f"{ERRORS}: 401; what a stranger sends is not looked at",
    level=Level.SHOULD,
    needs=("key",),
)
async def key_before_body(target: Target) -> None:
    (await target.ask(CHAT, body=b"{", key="sk-of-nobody-at-all")).expect(401)
