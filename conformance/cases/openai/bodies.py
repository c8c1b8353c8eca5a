"""How a request's body may come: whole, large, chunked, late, in pieces; and what stands above it. (T)"""

from __future__ import annotations

import trio

from conformance.cases.openai.answers import well_ended
from conformance.cases.openai.profile import PROFILE
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target
from conformance.suite.wire import Connection, Headers, WireError

_RFC = "RFC 9112"
_LARGE = 2_000_000


async def _chunked(connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
    """Without a content-length, in chunks of uneven size, one of them a single byte."""
    fields = [field for field in headers if field[0] != "content-length"]
    await connection.begin(method, path, [*fields, ("transfer-encoding", "chunked")])
    for start, end in ((0, 1), (1, 20), (20, len(body))):
        await connection.pour(body[start:end])
    await connection.pour(b"", last=True)


async def _in_pieces(connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
    """A slow client: the head, then a few bytes at a time."""
    await connection.begin(method, path, headers)
    step = max(1, len(body) // 8)
    for start in range(0, len(body), step):
        await trio.sleep(0.02)
        await connection.pour(body[start : start + step], last=start + step >= len(body))


async def _expecting(connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
    """As curl does with large bodies: the head alone, a second for the server to say 100, then the body."""
    await connection.begin(method, path, [*headers, ("expect", "100-continue")])
    await trio.sleep(0.05)
    await connection.pour(body, last=True)


async def _patient(connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
    """Goes on to the answer where the server does not take all of the body."""
    try:
        with trio.move_on_after(8):
            await connection.send(method, path, headers, body)
    except WireError:
        pass


@PROFILE.case("bodies.chunked", "A chunked body is read", source=f"{_RFC} §7.1: a recipient must be able to")
async def chunked(target: Target) -> None:
    async with target.open(CHAT, target.chat(), send=_chunked) as answer:
        await _good(answer)


@PROFILE.case("bodies.in-pieces", "A body that comes in pieces is waited for", source=f"{_RFC} §6")
async def in_pieces(target: Target) -> None:
    async with target.open(CHAT, target.chat(), send=_in_pieces) as answer:
        await _good(answer)


@PROFILE.case(
    "bodies.expect", "Expect: 100-continue is understood", source="RFC 9110 §10.1.1; curl sends it from 1 MiB on"
)
async def expect(target: Target) -> None:
    async with target.open(CHAT, target.chat(), send=_expecting) as answer:
        await _good(answer)


async def _good(answer: Answer) -> None:
    await answer.read()
    check.member(answer.expect(200).json, "choices.0.message")


@PROFILE.case(
    "bodies.large",
    "A body of 2 MB is served, or refused with a status; it is not cut off",
    source="RFC 9110 §15.5.14; images make bodies this large",
    alone=True,
)
async def large(target: Target) -> None:
    """Spaces, so that it is no longer for the model than for the server."""
    document = b'{"model": "%s", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi."}]%s}'
    body = document % (target.setup.model.encode(), b" " * _LARGE)
    async with target.open(CHAT, body=body, send=_patient) as answer:
        await answer.read()
        answer.expect(200, 400, 413)
        check.equal(answer.media_type, "application/json", f"the content type of the {answer.status}")
        check.kind(answer.json, dict, "the answer")
        target.note("served" if answer.status == 200 else f"refused with {answer.status}")


@PROFILE.case(
    "bodies.charset",
    "A charset beside application/json is understood",
    source="RFC 9110 §8.3; .NET and Java clients send it",
)
async def charset(target: Target) -> None:
    (await target.ask(CHAT, target.chat(), headers=[("content-type", "application/json; charset=utf-8")])).expect(200)


@PROFILE.case(
    "bodies.other-type",
    "A body of another declared type is read, or refused with 400 or 415",
    source="RFC 9110 §15.5.16",
    level=Level.SHOULD,
)
async def other_type(target: Target) -> None:
    for name in ("text/plain", ""):
        answer = await target.ask(CHAT, target.chat(), headers=[("content-type", name)])
        answer.expect(200, 400, 415, 422)
        target.note(f"{name or 'no type'}: {answer.status}")


@PROFILE.case(
    "bodies.header-names",
    "Names of header fields are read in any case",
    source="RFC 9110 §5.1: field names are case-insensitive",
)
async def header_names(target: Target) -> None:
    async with target.open(CHAT, target.chat(), send=_shouted) as answer:
        await _good(answer)


async def _shouted(connection: Connection, method: str, path: str, headers: Headers, body: bytes) -> None:
    await connection.send(method, path, [(name.upper(), value) for name, value in headers], body)


@PROFILE.case(
    "bodies.many-headers", "40 header fields and 6 KB of them are taken", source=f"{_RFC} §5.4; proxies add their own"
)
async def many_headers(target: Target) -> None:
    extra = [(f"x-filler-{at}", "v" * 140) for at in range(40)]
    (await target.ask(CHAT, target.chat(), headers=extra)).expect(200)


@PROFILE.case(
    "bodies.query",
    "A query nobody knows does no harm",
    source="Azure's api-version; openai-python default_query",
    level=Level.SHOULD,
)
async def query(target: Target) -> None:
    (await target.ask(f"{CHAT}?api-version=2024-10-21", target.chat())).expect(200)


@PROFILE.case(
    "bodies.compressed-answer",
    "An answer to a client that takes gzip says how it is encoded",
    source="RFC 9110 §8.4; openai-python sends accept-encoding: gzip, deflate",
)
async def compressed(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(), headers=[("accept-encoding", "gzip, deflate")])
    encoding = answer.expect(200).headers.get("content-encoding", "identity")
    check.among(encoding, ("identity", "gzip", "deflate"), "the content encoding")
    check.equal(bytes(answer.body[:2]) == b"\x1f\x8b", encoding == "gzip", "whether the body is gzip, as it is said,")
    if encoding == "identity":
        check.kind(answer.json, dict, "the answer")


@PROFILE.case("bodies.accept", "Any Accept is served", source="curl, browsers and SDKs send what they like")
async def accept(target: Target) -> None:
    for value in ("*/*", "text/event-stream", "application/json, text/plain, */*"):
        (await target.ask(CHAT, target.chat(), headers=[("accept", value)])).expect(200)
    well_ended((await target.ask(CHAT, target.chat(stream=True), headers=[("accept", "*/*")])).expect(200).stream())
