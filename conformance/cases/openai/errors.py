"""Errors: the status that SDKs choose their exception by, and the object they read. (P)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.cases.openai.profile import CHAT_CREATE, ERRORS, NODE, PROFILE, PYTHON
from conformance.cases.openai.shapes import Error, conform
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, COMPLETIONS, MODELS, Target

BAD_REQUEST = f"{ERRORS}: 400 invalid_request_error"
_SDK = f"{PYTHON} and {NODE}: message, type, param and code are read from body.error"
REFUSED = (400, 422)
UNKNOWN = "no-such-model-here"


async def refused(target: Target, statuses: Sequence[int] = REFUSED, **members: Any) -> Answer:
    """The refusal of a chat with ``members``."""
    return (await target.ask(CHAT, {**target.chat(), **members})).expect(*statuses)


def _error(answer: Answer) -> Error:
    return conform(answer.json, Error, "the error")


# -- the object -----------------------------------------------------------------------------------------------------


@PROFILE.case("errors.envelope", "An error is an object below the member error, with a message", source=_SDK)
async def envelope(target: Target) -> None:
    answer = await refused(target, messages="no list")
    check.equal(answer.media_type, "application/json", "the content type of an error")
    message = check.member(answer.json, "error.message", "the error")
    check.true(check.kind(message, str, "the error's message"), "the error's message is empty")


@PROFILE.case("errors.shape", "An error has message, type, param and code, the code a string or null", source=ERRORS)
async def shape(target: Target) -> None:
    _error(await refused(target, messages="no list"))


@PROFILE.case("errors.shape-json", "So has the error for a body that is not JSON", source=ERRORS)
async def shape_json(target: Target) -> None:
    _error((await target.ask(CHAT, body=b'{"model": ')).expect(*REFUSED))


@PROFILE.case("errors.shape-model", "So has the error for an unknown model", source=ERRORS)
async def shape_model(target: Target) -> None:
    _error(await refused(target, (400, 403, 404), model=UNKNOWN))


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
    error = _error(await refused(target, max_tokens="many")).error
    check.equal(error.param, "max_tokens", "param of an error about max_tokens")


@PROFILE.case(
    "errors.message", "The message says which member is wrong", source=f"{ERRORS}: message", level=Level.SHOULD
)
async def message(target: Target) -> None:
    answer = await refused(target, max_tokens="many")
    check.contains(check.member(answer.json, "error.message"), "max_tokens", "the error about max_tokens")


# -- models, paths, methods -----------------------------------------------------------------------------------------


@PROFILE.case("errors.unknown-model", "A model there is none of is a 404", source=f"{ERRORS}: model_not_found")
async def unknown_model(target: Target) -> None:
    await refused(target, (404,), model=UNKNOWN)


@PROFILE.case(
    "errors.unknown-model-code", "Its code is model_not_found", source=f"{ERRORS}: model_not_found", level=Level.SHOULD
)
async def unknown_model_code(target: Target) -> None:
    answer = await refused(target, (400, 403, 404), model=UNKNOWN)
    check.equal(check.member(answer.json, "error.code"), "model_not_found", "code of an error about an unknown model")


@PROFILE.case(
    "errors.unknown-model-stream", "An unknown model is a 404 for a stream too", source=f"{ERRORS}: model_not_found"
)
async def unknown_model_stream(target: Target) -> None:
    await refused(target, (404,), model=UNKNOWN, stream=True)


@PROFILE.case(
    "errors.no-model", "A chat without a model is a 400", source=f"{CHAT_CREATE}: model is required", level=Level.SHOULD
)
async def no_model(target: Target) -> None:
    (await target.ask(CHAT, target.chat(model=None))).expect(400, 422)


@PROFILE.case("errors.model-type", "A model that is no string is a 400", source=f"{CHAT_CREATE}: model")
async def model_type(target: Target) -> None:
    await refused(target, model=5)


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
