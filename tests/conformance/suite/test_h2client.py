"""gRPC calls as the suite makes them: what their ends stand for, and what is written down of them."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import DataReceived, RequestReceived

from conformance.suite import rpc
from conformance.suite.check import Failure
from conformance.suite.h2client import Link, connect
from conformance.suite.rpc import Call, framed
from conformance.suite.target import Setup, Target
from conformance.suite.wire import Address

KEY = "sk-h2client"
Answer = Callable[[H2Connection, int], None]


async def served(stream: trio.abc.Stream, answer: Answer) -> None:
    """An HTTP/2 server that answers every request alike, once its first DATA has come."""
    state = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
    state.initiate_connection()
    asked: set[int] = set()
    await stream.send_all(state.data_to_send())
    while data := await stream.receive_some(65536):
        for event in state.receive_data(bytes(data)):
            if isinstance(event, DataReceived):
                state.increment_flow_control_window(event.flow_controlled_length)
                if event.stream_id in state.streams and not event.stream_ended:
                    state.increment_flow_control_window(event.flow_controlled_length, event.stream_id)
                if event.stream_id not in asked:
                    asked.add(event.stream_id)
                    answer(state, event.stream_id)
            assert not isinstance(event, RequestReceived) or dict(event.headers)["te"] == "trailers"
        await stream.send_all(state.data_to_send())
        if state.state_machine.state is ConnectionState.CLOSED:
            return


def play(answer: Answer, scenario: Callable[[Target, Link], Awaitable[None]]) -> Target:
    async def run() -> Target:
        async with trio.open_nursery() as nursery:

            async def handle(stream: trio.SocketStream) -> None:
                async with stream:
                    await served(stream, answer)

            listeners = await nursery.start(trio.serve_tcp, handle, 0)
            where = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
            target = Target(Setup(where, "gateway", key=KEY))
            async with connect(target, where) as link:
                await scenario(target, link)
            nursery.cancel_scope.cancel()
        return target

    return trio.run(run)


def ended(answer: Answer) -> Call:
    """A call that is answered so."""
    calls: list[Call] = []

    async def scenario(target: Target, link: Link) -> None:
        calls.append(await link.unary("/a.B/C", StringValue(value="hi"), StringValue))

    play(answer, scenario)
    return calls[0]


HEAD = [(":status", "200"), ("content-type", "application/grpc")]


def well(state: H2Connection, number: int) -> None:
    state.send_headers(number, HEAD)
    state.send_data(number, framed(StringValue(value="yes")))
    state.send_headers(number, [("grpc-status", "0"), ("grpc-message", "a%C3%A4")], end_stream=True)


def reset(code: int) -> Answer:
    return lambda state, number: state.reset_stream(number, code)


def http(status: str) -> Answer:
    return lambda state, number: state.send_headers(number, [(":status", status)], end_stream=True)


def torn(state: H2Connection, number: int) -> None:
    state.send_headers(number, HEAD)
    state.send_data(number, b"\0\0\0\0\7abc", end_stream=True)


def leaving(state: H2Connection, number: int) -> None:
    state.close_connection(2)


def test_an_answer_and_its_status() -> None:
    call = ended(well)
    assert (call.code, call.message) == (rpc.OK, "aä")
    assert call.received == [StringValue(value="yes")]
    assert call.body == b'"yes"\n'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reset(8), rpc.CANCELLED),
        (reset(7), rpc.UNAVAILABLE),
        (reset(1), rpc.INTERNAL),
        (http("401"), rpc.UNAUTHENTICATED),
        (http("404"), rpc.UNIMPLEMENTED),
        (http("503"), rpc.UNAVAILABLE),
        (http("418"), rpc.UNKNOWN),
        (torn, rpc.UNAVAILABLE),
        (leaving, rpc.UNAVAILABLE),
    ],
)
def test_what_stands_for_a_status_that_was_not_said(answer: Answer, code: int) -> None:
    call = ended(answer)
    assert call.status is None
    assert call.code == code
    with pytest.raises(Failure, match="status of the call differs") as raised:
        call.expect(rpc.OK)
    assert raised.value.expected == "0 OK"
    assert (raised.value.got or "").startswith(f"{code} ")


def test_a_server_that_leaves_says_why() -> None:
    async def scenario(target: Target, link: Link) -> None:
        await link.unary("/a.B/C", b"", StringValue)
        assert link.goaway == 2

    play(leaving, scenario)


def test_a_call_that_goes_on_has_no_status() -> None:
    async def scenario(target: Target, link: Link) -> None:
        call = await link.open("/a.B/C", StringValue)
        with pytest.raises(Failure, match="has not ended"):
            _ = call.code

    play(well, scenario)


def test_a_call_is_written_down_as_grpcurl_without_its_key() -> None:
    async def scenario(target: Target, link: Link) -> None:
        call = await link.open("/a.B/C", StringValue, also=[("x-a", "b c")])
        await call.send(Struct(fields={"a": Value(string_value="it's")}))
        await call.send(BytesValue(value=f"Bearer {KEY}".encode()), end=True)
        await call.finish()
        await call.send(StringValue(value="late"))

    (trace,) = play(well, scenario).traces
    start = 'grpcurl -plaintext -H "authorization: Bearer $API_KEY" -H \'x-a: b c\' -d \'{"a": "it\'"\'"\'s"}\n'
    assert trace.command.startswith(start)
    assert trace.command.endswith(f'"$API_KEY"\n"late"\' {trace.url.removeprefix("grpc://").replace("/", " ", 1)}')


def test_large_messages_are_not_written_down() -> None:
    async def scenario(target: Target, link: Link) -> None:
        call = await link.open("/a.B/C", StringValue)
        await call.send(StringValue(value="a" * 30_000))
        for _ in range(100):
            await call.send(StringValue(value="b" * 1000))
        await call.cancel()

    (trace,) = play(lambda state, number: None, scenario).traces
    assert trace.body.startswith('{"…": "30004 bytes"}\n'.encode())
    assert 50_000 < len(trace.body) < 70_000


def test_tls_agrees_on_http2(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["http/1.1", "h2"])
    agreed: list[str | None] = []

    async def handle(stream: Any) -> None:
        await stream.do_handshake()
        agreed.append(stream.selected_alpn_protocol())
        await served(stream, well)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_ssl_over_tcp, handle, 0, context)
            port = listeners[0].transport_listener.socket.getsockname()[1]
            where = Address("127.0.0.1", port, tls=True, ca=str(tmp_path / "ca.pem"))
            target = Target(Setup(where, "gateway"))
            async with connect(target, where) as link:
                (await link.unary("/a.B/C", b"", StringValue)).expect(rpc.OK)
            assert target.traces[0].command == f"grpcurl 127.0.0.1:{port} a.B/C"
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert agreed == ["h2"]
