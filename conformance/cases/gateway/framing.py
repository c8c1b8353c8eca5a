"""Requests whose boundaries two servers could see differently, and other bytes that are no request. (T)

Invariant: whatever is sent, there is one answer and it is a refusal, or the request was read as its specification says.
"""

from __future__ import annotations

import json

from conformance.cases.gateway.profile import PROFILE
from conformance.cases.gateway.raw import Reply, head, raw
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, MODELS, Target

_JSON = "Content-Type: application/json"
_SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"


def _post(target: Target, *fields: str) -> bytes:
    return head(target, f"POST {target.path(CHAT)} HTTP/1.1", _JSON, *fields)


def _get(target: Target, *fields: str) -> bytes:
    return head(target, f"GET {target.path(MODELS)} HTTP/1.1", *fields)


def _body(target: Target) -> bytes:
    return json.dumps(target.chat(max_tokens=1)).encode()


def _refused(reply: Reply, what: str) -> None:
    check.true(reply.refused, f"{what} is served", 400, reply.status)
    check.at_most(len(reply.statuses), 1, f"the number of answers to {what}")
    check.true(reply.closed, f"the connection stays open after {what}", "closed", "open after 2 s")


@PROFILE.case("http.cl-and-te", "Both Content-Length and Transfer-Encoding: 400", source="RFC 9112 §6.3, §11.2")
async def cl_and_te(target: Target) -> None:
    body = b"0\r\n\r\n" + _SMUGGLED
    for length in (len(body), 4):
        _refused(
            await raw(target, _post(target, f"Content-Length: {length}", "Transfer-Encoding: chunked") + body),
            "a request of two lengths",
        )


@PROFILE.case("http.two-lengths", "Two Content-Lengths that differ: 400", source="RFC 9112 §6.3")
async def two_lengths(target: Target) -> None:
    body = _body(target)
    for fields in ((f"Content-Length: {len(body)}", "Content-Length: 0"), (f"Content-Length: {len(body)}, 0",)):
        _refused(await raw(target, _post(target, *fields) + body), "a request of two lengths")


@PROFILE.case("http.bad-length", "A Content-Length that is no number: 400", source="RFC 9112 §6.3")
async def bad_length(target: Target) -> None:
    for value in ("+5", "-1", "0x10", "5 5", "five"):
        _refused(await raw(target, _post(target, f"Content-Length: {value}") + b"{}   "), f"Content-Length: {value}")
    huge = await raw(target, _post(target, f"Content-Length: {10**22}") + b"{}   ")
    check.true(huge.refused or not huge.statuses, "a body of 10²² bytes is taken for whole", 413, huge.status)


@PROFILE.case("http.bad-encoding", "A transfer coding that nobody knows: 400 or 501", source="RFC 9112 §6.1")
async def bad_encoding(target: Target) -> None:
    for value in ("xchunked", "chunked, identity", "chunked, chunked", "identity, foo"):
        _refused(
            await raw(target, _post(target, f"Transfer-Encoding: {value}") + b"0\r\n\r\n" + _SMUGGLED),
            f"Transfer-Encoding: {value}",
        )


@PROFILE.case("http.bad-chunk", "A chunk whose size is none: 400", source="RFC 9112 §7.1")
async def bad_chunk(target: Target) -> None:
    for chunk in (b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n"):
        _refused(await raw(target, _post(target, "Transfer-Encoding: chunked") + chunk), f"the chunk {chunk!r}")


@PROFILE.case("http.chunked", "A body in chunks is a body like any other", source="RFC 9112 §7.1")
async def chunked(target: Target) -> None:
    body = _body(target)
    pieces = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in body) + b"0\r\nx-trailer: 1\r\n\r\n"
    reply = await raw(target, _post(target, "Transfer-Encoding: chunked", "Connection: close") + pieces, wait=10)
    check.equal(reply.status, 200, "the status of a chunked request")


@PROFILE.case("http.space-before-colon", "A space before a field's colon: 400", source="RFC 9112 §5.1")
async def space_before_colon(target: Target) -> None:
    _refused(await raw(target, _get(target, "X-Field : 1")), "a space before the colon")
    body = _body(target)
    data = _post(target, f"Content-Length : {len(body)}") + body
    _refused(await raw(target, data), "a space before the colon of Content-Length")


@PROFILE.case("http.folding", "A folded field is refused, or read as one line", source="RFC 9112 §5.2")
async def folding(target: Target) -> None:
    reply = await raw(target, _get(target, "X-Request-Id: a\r\n x-injected: 1", "Connection: close"))
    if not reply.refused:
        names = [name for name, _ in reply.fields]
        check.true("x-injected" not in names, "a folded line became a field", "no field x-injected", names)
        check.true("\n" not in dict(reply.fields).get("x-request-id", ""), "a line break came back")


@PROFILE.case(
    "http.control-bytes",
    "NUL and a bare CR inside of a field: 400",
    source="RFC 9110 §5.5: rejected, or replaced by spaces",
    level=Level.SHOULD,
)
async def control_bytes(target: Target) -> None:
    for byte in ("\x00", "\r"):
        _refused(await raw(target, _get(target, f"X-Field: a{byte}b")), f"a field with {byte!r}")


@PROFILE.case("http.no-host", "HTTP/1.1 without Host, or with two: 400", source="RFC 9112 §3.2", level=Level.SHOULD)
async def no_host(target: Target) -> None:
    path = target.path(MODELS)
    for data in (f"GET {path} HTTP/1.1\r\n\r\n", f"GET {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"):
        reply = await raw(target, data.encode(), answers=1)
        check.equal(reply.status, 400, "the status")


@PROFILE.case(
    "http.rubbish", "Bytes that are no HTTP are refused, and the next client is served", source="RFC 9112 §2.2"
)
async def rubbish(target: Target) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 3 + b"\r\n\r\n",
        b"EHLO a\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x00" * 200 + b"\r\n\r\n",
    ):
        _refused(await raw(target, data), f"{data[:12]!r}")
    (await target.ask(MODELS)).expect(200)


@PROFILE.case(
    "http.target",
    "Request targets with control bytes or none at all: 400",
    source="RFC 9112 §3: SHOULD",
    level=Level.SHOULD,
)
async def bad_target(target: Target) -> None:
    for line in ("GET /v1/\x00models HTTP/1.1", "GET /v1/mo dels HTTP/1.1", "GET  HTTP/1.1", "GET /v1/models HTTP/9.9"):
        reply = await raw(target, head(target, line), answers=1)
        check.true(reply.refused, f"{line!r} is served", 400, reply.status)


@PROFILE.case(
    "http.expect", "Who asks whether to send a body is answered", source="RFC 9110 §10.1.1", level=Level.SHOULD
)
async def expect(target: Target) -> None:
    body = _body(target)
    data = _post(target, f"Content-Length: {len(body)}", "Expect: 100-continue")
    reply = await raw(target, data, wait=2.0, answers=1)
    check.true(reply.status is not None, "no answer to Expect: 100-continue", "100, or the final status", "none in 2 s")


@PROFILE.case(
    "http.pipelined", "Requests sent at once are answered in order", source="RFC 9112 §9.3.2", level=Level.SHOULD
)
async def pipelined(target: Target) -> None:
    one = head(target, "GET /v1/no-such-path HTTP/1.1")
    reply = await raw(target, _get(target) + one, wait=5.0, answers=2)
    check.equal(reply.statuses, [200, 404], "the statuses, in order")


@PROFILE.case(
    "http.old", "A client of HTTP/1.0 gets an answer it can read", source="RFC 9112 §6.1: no chunks", level=Level.SHOULD
)
async def old(target: Target) -> None:
    reply = await raw(target, head(target, f"GET {target.path(MODELS)} HTTP/1.0"), wait=5.0)
    check.equal(reply.status, 200, "the status")
    check.true(reply.closed, "the connection stays open")
    check.true("transfer-encoding" not in dict(reply.fields), "the answer comes in chunks", "none", reply.fields)


@PROFILE.case("http.reuse", "A connection serves one request after the other", source="RFC 9112 §9.3")
async def reuse(target: Target) -> None:
    async with target.connect() as connection:
        for stream in (False, True, False):
            answer = await target.ask(CHAT, target.chat(stream=stream), on=connection)
            answer.expect(200)


@PROFILE.case("http.slow-head", "A request that comes in single bytes is read all the same", source="RFC 9112 §2.2")
async def slow_head(target: Target) -> None:
    async with target.connect() as connection:
        data = _get(target, "Connection: close")
        for at in range(len(data)):
            await connection.send_raw(data[at : at + 1])
        received = b""
        while piece := await connection.stream.receive_some(65536):
            received += bytes(piece)
    check.matches(received.decode("latin-1")[:15], r"^HTTP/1\.1 200", "the status line")
