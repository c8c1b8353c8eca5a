"""What holds for a connection: it is kept, reused, closed as agreed; and requests can be told apart. (T)"""

from __future__ import annotations

import trio

from conformance.cases.openai.answers import well_ended
from conformance.cases.openai.profile import NODE, PROFILE, PYTHON
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, MODELS, Target
from conformance.suite.wire import Connection

_REUSE = "RFC 9112 §9.3: persistent connections are the default"
_REQUEST_ID = f"{PYTHON} and {NODE}: _request_id and errors' request_id are read from x-request-id"


async def _again(target: Target, connection: Connection) -> None:
    answer = await target.ask(CHAT, target.chat(), on=connection)
    check.member(answer.expect(200).json, "choices.0.message")


@PROFILE.case("connections.reuse", "A connection serves one request after the other", source=_REUSE, level=Level.SHOULD)
async def reuse(target: Target) -> None:
    async with target.connect() as connection:
        for _ in range(4):
            await _again(target, connection)


@PROFILE.case(
    "connections.after-error", "A connection serves on after a refused request", source=_REUSE, level=Level.SHOULD
)
async def after_error(target: Target) -> None:
    async with target.connect() as connection:
        (await target.ask(CHAT, target.chat(messages="no list"), on=connection)).expect(400, 422)
        await _again(target, connection)
        (await target.ask("/v1/no-such-path", {"a": 1}, on=connection)).expect(404)
        await _again(target, connection)


@PROFILE.case(
    "connections.after-stream",
    "A connection serves on after a stream that was read to its end",
    source=f"{_REUSE}; {PYTHON} reads on after [DONE] to give the connection back",
    level=Level.SHOULD,
)
async def after_stream(target: Target) -> None:
    async with target.connect() as connection:
        for _ in range(2):
            answer = await target.ask(CHAT, target.chat(stream=True), on=connection)
            well_ended(answer.expect(200).stream())
            await _again(target, connection)


@PROFILE.case(
    "connections.close", "Connection: close is done", source="RFC 9112 §9.6: the server must close", level=Level.SHOULD
)
async def close(target: Target) -> None:
    async with target.connect() as connection:
        answer = await target.ask(CHAT, target.chat(), headers=[("connection", "close")], on=connection)
        answer.expect(200)
        with trio.move_on_after(2) as scope:
            await connection.silence()
        check.true(not scope.cancelled_caught, "the connection is still open 2 s after the answer to Connection: close")


@PROFILE.case(
    "connections.stray-method",
    "HEAD and OPTIONS are answered, whatever with, and break nothing",
    source="RFC 9110 §9.3.2, §9.3.7; browsers and load balancers send them",
    level=Level.SHOULD,
)
async def stray(target: Target) -> None:
    for method in ("OPTIONS", "HEAD"):
        answer = await target.ask(MODELS, method=method)
        check.at_most(answer.status, 499, f"the status for {method}")
        target.note(f"{method}: {answer.status}")
    await target.chatted()


@PROFILE.case(
    "connections.http10",
    "A client of HTTP/1.0 is answered to the end",
    source="RFC 9112 §2.3; ab and old health checks",
    level=Level.INFO,
)
async def http10(target: Target) -> None:
    path = target.path(MODELS)
    lines = [f"{name}: {value}" for name, value in (("host", target.setup.address.authority), *target.headers())]
    received = b""
    async with target.connect() as connection:
        await connection.send_raw("\r\n".join([f"GET {path} HTTP/1.0", *lines, "", ""]).encode())
        with trio.move_on_after(2) as scope:
            while data := await connection.stream.receive_some(65536):
                received += data
    check.true(not scope.cancelled_caught, "the connection stays open after the answer", got=received)
    head = received.partition(b"\r\n\r\n")[0].lower()
    check.matches(head.decode("latin-1"), r"^http/1\.[01] 200", "the status line")
    check.true(b"transfer-encoding" not in head, "the answer is chunked, which HTTP/1.0 does not know", got=head)


# -- request ids ----------------------------------------------------------------------------------------------------


def _id(answer: Answer) -> str:
    found = answer.headers.get("x-request-id", "")
    check.true(found, f"the {answer.status} has no x-request-id", got=[name for name, _ in answer.fields])
    return found


@PROFILE.case("connections.request-id", "Answers have an x-request-id", source=_REQUEST_ID, level=Level.SHOULD)
async def request_id(target: Target) -> None:
    _id((await target.ask(CHAT, target.chat())).expect(200))
    _id((await target.ask(CHAT, target.chat(stream=True))).expect(200))


@PROFILE.case("connections.request-id-errors", "So have errors", source=_REQUEST_ID, level=Level.SHOULD)
async def request_id_errors(target: Target) -> None:
    _id((await target.ask(CHAT, target.chat(messages="no list"))).expect(400, 422))
    _id((await target.ask("/v1/no-such-path", {})).expect(404))


@PROFILE.case(
    "connections.request-id-own", "Every answer's x-request-id is its own", source=_REQUEST_ID, level=Level.SHOULD
)
async def request_id_own(target: Target) -> None:
    first, second = [_id((await target.ask(CHAT, target.chat())).expect(200)) for _ in range(2)]
    check.true(first != second, "two answers have the same x-request-id", got=first)
