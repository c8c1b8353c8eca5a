"""Errors: OpenAI's object for each class of them, with the status and the code that SDKs decide by. (T)"""

from __future__ import annotations

from typing import Any

from conformance.cases.gateway.profile import PROFILE
from conformance.cases.gateway.raw import head, raw
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, EMBEDDINGS, MODELS, Target

_SCHEMA = "OpenAI's openapi.json, ErrorResponse: type, message, param and code are required"


def envelope(answer: Answer, what: str) -> dict[str, Any]:
    """The error object, whose members have to be of OpenAI's types."""
    check.equal(answer.media_type, "application/json", f"the content type of {what}")
    error = answer.error
    for name in ("message", "type", "param", "code"):
        check.true(name in error, f"the error of {what} lacks {name!r}", "message, type, param and code", error)
    check.true(check.kind(error["message"], str, f"the message of {what}"), f"the message of {what} is empty")
    check.kind(error["type"], str, f"the type of {what}")
    check.kind(error["param"], (str, type(None)), f"the param of {what}")
    check.kind(error["code"], (str, type(None)), f"the code of {what}")
    return error


@PROFILE.case("error.syntax", "A body that is not JSON: 400 with the error object", source=_SCHEMA)
async def syntax(target: Target) -> None:
    for body in (b"{", b"", b"not JSON", b'{"model": "m"} trailing', b"\xff\xfe{}", b"[" * 100_000):
        what = f"the body {body[:20]!r}"
        envelope((await target.ask(CHAT, method="POST", body=body)).expect(400), what)


@PROFILE.case("error.no-object", "JSON that is no object: 400 with the error object", source=_SCHEMA)
async def no_object(target: Target) -> None:
    for body in (b"[]", b"null", b'"text"', b"7"):
        envelope((await target.ask(CHAT, body=body)).expect(400, 422), f"the body {body!r}")


@PROFILE.case("error.types", "A member of a wrong type: 400 that names it", source=f"{_SCHEMA}; API reference, errors")
async def types(target: Target) -> None:
    for name, value in (("messages", "hello"), ("stream", "yes"), ("max_tokens", "many")):
        answer = (await target.ask(CHAT, target.chat(**{name: value}))).expect(400, 422)
        error = envelope(answer, f"{name}: {value!r}")
        check.contains(f"{error['param']} {error['message']}", name, "param or message")


@PROFILE.case(
    "error.param", "`param` names the member at fault", source="OpenAI API reference, errors", level=Level.SHOULD
)
async def param(target: Target) -> None:
    error = envelope((await target.ask(CHAT, target.chat(stream="yes"))).expect(400, 422), "stream: 'yes'")
    check.equal(error["param"], "stream", "param")


@PROFILE.case(
    "error.no-model", "A request that names no model: 400 with the error object", source=_SCHEMA, level=Level.SHOULD
)
async def no_model(target: Target) -> None:
    for model in (None, "", 7):
        answer = await target.ask(CHAT, target.chat(model=model) if model is not None else target.chat(model=None))
        envelope(answer.expect(400, 404, 422), f"the model {model!r}")


@PROFILE.case("error.unknown-model", "An unknown model: 404 model_not_found", source="OpenAI API reference, errors")
async def unknown_model(target: Target) -> None:
    for model in ("no-such-model", "näme/☃\u202e", "../../etc/passwd", "m" * 5000):
        answer = (await target.ask(CHAT, target.chat(model=model))).expect(404)
        check.equal(envelope(answer, "an unknown model")["code"], "model_not_found", "code")


@PROFILE.case("error.unknown-model-stream", "…with 404 for a stream as well, not inside of it", source=_SCHEMA)
async def unknown_model_stream(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(model="no-such-model", stream=True))).expect(404)
    check.equal(envelope(answer, "an unknown model")["code"], "model_not_found", "code")


@PROFILE.case("error.unknown-model-embedding", "…and for embeddings", source=_SCHEMA)
async def unknown_model_embedding(target: Target) -> None:
    answer = await target.ask(EMBEDDINGS, {"model": "no-such-model", "input": "a"})
    if answer.status in (405, 501):
        target.skip("embeddings are not offered")
    check.equal(envelope(answer.expect(404), "an unknown model")["code"], "model_not_found", "code")


@PROFILE.case("error.path", "An unknown path: 404 with the error object", source=_SCHEMA, level=Level.SHOULD)
async def path(target: Target) -> None:
    for unknown in ("/v1/no-such-path", "/v1/chat", "/no-such"):
        envelope((await target.ask(unknown, {})).expect(404), unknown)


@PROFILE.case(
    "error.method",
    "A method that a path does not have: 405 with Allow",
    source="RFC 9110 §15.5.6",
    level=Level.SHOULD,
)
async def method(target: Target) -> None:
    for verb, where, right in (("GET", CHAT, "POST"), ("PUT", CHAT, "POST"), ("DELETE", MODELS, "GET")):
        answer = (await target.ask(where, method=verb)).expect(405)
        envelope(answer, f"{verb} {where}")
        check.contains(answer.headers.get("allow", ""), right, f"Allow of {verb} {where}")


@PROFILE.case(
    "error.too-large", "A body beyond all limits is refused before it is read", source="RFC 9110 §15.5.14",
    level=Level.SHOULD,
)  # fmt: skip
async def too_large(target: Target) -> None:
    line = f"POST {target.path(CHAT)} HTTP/1.1"
    reply = await raw(
        target, head(target, line, "Content-Type: application/json", f"Content-Length: {2**40}"), answers=1
    )
    check.true(reply.status in (400, 413), "a body of a terabyte is not refused", 413, reply.status)


@PROFILE.case("error.large-head", "Header fields beyond all limits: 431", source="RFC 6585 §5", level=Level.SHOULD)
async def large_head(target: Target) -> None:
    line = f"GET {target.path(MODELS)} HTTP/1.1"
    reply = await raw(target, head(target, line, *(f"x-filler-{n}: {'a' * 8000}" for n in range(300))))
    check.true(
        reply.status in (400, 431) or (reply.status is None and reply.closed), "2.4 MB of header are not refused", 431,
        reply.status,
    )  # fmt: skip
    after = await target.ask(MODELS)
    check.equal(after.status, 200, "the status of the next request")


@PROFILE.case("error.form", "A form, which is what curl sends unasked, is refused or read as JSON", source=_SCHEMA)
async def form(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(), headers=[("content-type", "application/x-www-form-urlencoded")])
    if answer.status != 200:
        envelope(answer.expect(400, 415, 422), "a form")


@PROFILE.case(
    "error.keeps-connection", "After a refused request the connection serves on, or says that it closes",
    source="RFC 9112 §9.3",
)  # fmt: skip
async def keeps_connection(target: Target) -> None:
    async with target.connect() as connection:
        first = await target.ask(CHAT, target.chat(model="no-such-model"), on=connection)
        check.at_least(first.status, 400, "the status")
        if first.headers.get("connection", "").lower() == "close":
            return
        second = await target.ask(CHAT, target.chat(), on=connection)
        second.expect(200)
