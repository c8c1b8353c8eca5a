"""A gRPC server's HTTP/2 connection, whole, on streams in memory under a virtual clock. (T)

Property: frames say the same however they are cut. Whatever a client sends, the connection ends once the client is
gone; no handler goes on and no byte is counted as held; nothing fails but by HTTP/2's rules, which is to say nothing is
logged as a failure; what the client is sent are whole frames, and never more of them than its bytes can ask for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio
from grpclib.const import Cardinality, Handler
from h2.events import Event
from h2.exceptions import ProtocolError
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair, wait_all_tasks_blocked

from gateway.wire import h2
from protocols.grpc.connection import Connection
from protocols.grpc.http2 import Http2
from protocols.grpc.limits import Limits
from protocols.grpc.server import Server
from protocols.grpc.stream import Stream
from tests.fuzz.pieces import cut

_LIMITS = Limits(max_message=2000, max_unfinished=4000, max_headers=2000, max_streams=8, max_nuisance=20.0)
_MOST = 1 << 20
"""Bytes of answers that some kilobytes of requests may cause."""


class _Echo:
    def __init__(self) -> None:
        self.running = 0

    async def chat(self, stream: Stream) -> None:
        self.running += 1
        try:
            async for message in stream:
                await stream.send_message(message)
        finally:
            self.running -= 1

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/t/Chat": Handler(self.chat, Cardinality.STREAM_STREAM, None, None),
            "/t/Unary": Handler(self.chat, Cardinality.UNARY_UNARY, None, None),
        }


class _Failures(logging.Handler):
    """What is logged as a failure, or as worse."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(logging.Formatter().format(record))


_log = logging.getLogger("infer_gateway")


class _Plain:
    """Messages as they are."""

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, data: bytes, kind: object) -> bytes:
        return data


def target(data: bytes) -> None:
    """First byte: frames alone or a whole connection, how the rest is cut, whether the preface stands before it; the
    rest are the client's bytes.
    """
    if not data:
        return
    choice, rest = data[0], data[1:]
    wire = rest if choice & 1 else h2.PREFACE + h2.settings({}) + rest
    if choice & 2 and wire.startswith(h2.PREFACE):
        _same(wire, choice >> 2)
        return
    failures = _Failures()
    _log.addHandler(failures)
    try:
        sent = trio.run(_conversation, wire, choice >> 2, clock=MockClock(autojump_threshold=0))
    finally:
        _log.removeHandler(failures)
    assert not failures.found, failures.found[0]
    assert len(sent) <= _MOST, len(sent)
    if not sent.startswith(b"HTTP/1.1 "):
        _check_frames(sent)


def _same(wire: bytes, seed: int) -> None:
    """What was read along with an error is not heard any more: the connection is over."""
    preface, rest = wire[: len(h2.PREFACE)], wire[len(h2.PREFACE) :]
    (said, error), (again, code) = _said([wire]), _said([preface, *cut(rest, seed)])
    assert error == code, (error, code)
    assert said == (again if error is None else again[: len(said)]), (said, again)


def _said(pieces: Iterable[bytes]) -> tuple[list[object], int | None]:
    """The events, and the code of the error that ended them."""
    http2 = Http2(_LIMITS)
    http2.greet()
    said: list[object] = []
    try:
        for piece in pieces:
            events = http2.receive(piece)
            while events or http2.more:
                said += [_plain(event) for event in events]
                events = http2.receive(b"") if http2.more else []
    except ProtocolError as error:
        return said, error.error_code
    return said, None


def _plain(event: Event) -> tuple[object, ...]:
    return type(event), getattr(event, "stream_id", None), getattr(event, "data", None), getattr(event, "headers", None)


async def _conversation(wire: bytes, seed: int) -> bytes:
    """What the server says to it, once all is over."""
    echo = _Echo()
    server = Server([echo], [], _LIMITS, codec=_Plain())
    ours, theirs = memory_stream_pair()
    connection = Connection(server, theirs, "fuzz")
    sent = bytearray()

    async def read() -> None:
        async for piece in ours:
            sent.extend(piece)

    async def patrol() -> None:
        while True:
            await trio.sleep(1.0)
            connection.inspect()

    with trio.fail_after(600.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(patrol)
            nursery.start_soon(read)
            nursery.start_soon(_send, ours, wire, seed)
            await connection.run()
            await wait_all_tasks_blocked()  # the client reads what is left
            nursery.cancel_scope.cancel()
    assert echo.running == 0, echo.running
    assert server.burden.buffered.held == 0, server.burden.buffered.held
    return bytes(sent)


async def _send(stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream], wire: bytes, seed: int) -> None:
    try:
        for piece in cut(wire, seed):
            await stream.send_all(piece)
        await trio.sleep(2.0)
        await stream.send_stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def _check_frames(sent: bytes) -> None:
    at = 0
    while at < len(sent):
        assert at + 9 <= len(sent), sent[at:]
        at += 9 + int.from_bytes(sent[at : at + 3], "big")
    assert at == len(sent), (at, len(sent))
