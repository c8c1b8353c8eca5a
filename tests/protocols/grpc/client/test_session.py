"""Servers that do not do as they should, and connections that go away."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.grpc import framed
from protocols.grpc.client import Code, RpcError, connect
from protocols.grpc.client.call import Call
from protocols.grpc.client.session import Session
from tests.protocols.grpc.client.scripted import HEAD, OK, Scripted, scripted

PATH = "/test.Echo/say"


def heads(server: Scripted, stream: int, *fields: tuple[str, str], end: bool = False) -> None:
    server.h2.send_headers(stream, fields, end_stream=end)


def fine(server: Scripted, stream: int, *messages: bytes) -> None:
    heads(server, stream, *HEAD)
    for message in messages or (b"fine",):
        server.h2.send_data(stream, framed(message))
    heads(server, stream, *OK, end=True)


def web_page(status: str):
    def answer(server: Scripted, stream: int) -> None:
        heads(server, stream, (":status", status), ("content-type", "text/html"))
        server.h2.send_data(stream, b"<html>", end_stream=True)

    return answer


def bytes_then(data: bytes, *trailers: tuple[str, str]):
    def answer(server: Scripted, stream: int) -> None:
        heads(server, stream, *HEAD)
        server.h2.send_data(stream, data, end_stream=not trailers)
        if trailers:
            heads(server, stream, *trailers, end=True)

    return answer


def resetting(code: ErrorCodes):
    return lambda server, stream: server.h2.reset_stream(stream, code)


def trailers_only(*fields: tuple[str, str]):
    return lambda server, stream: heads(server, stream, *HEAD, *fields, end=True)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (web_page("503"), Code.UNAVAILABLE, "HTTP 503 Service Unavailable"),
        (web_page("404"), Code.UNIMPLEMENTED, "HTTP 404"),
        (web_page("401"), Code.UNAUTHENTICATED, "HTTP 401"),
        (web_page("777"), Code.UNKNOWN, "HTTP 777"),
        (web_page("200"), Code.UNKNOWN, "text/html, not gRPC"),
        (bytes_then(framed(b"a")), Code.UNKNOWN, "without a status"),
        (bytes_then(framed(b"a"), ("x", "y")), Code.UNKNOWN, "without a status"),
        (bytes_then(framed(b"abc")[:-1], *OK), Code.INTERNAL, "within a message"),
        (bytes_then(b"", *OK), Code.INTERNAL, "no message"),
        (bytes_then(framed(b"a") * 2, *OK), Code.INTERNAL, "more than one"),
        (bytes_then(framed(b"a", gzip=True), *OK), Code.INTERNAL, "compressed"),
        (bytes_then(b"\0\xff\xff\xff\xff"), Code.RESOURCE_EXHAUSTED, "4294967295"),
        (bytes_then(framed(b"a"), ("grpc-status", "99")), Code.UNKNOWN, ""),
        (bytes_then(framed(b"a"), ("grpc-status", "x")), Code.UNKNOWN, ""),
        (bytes_then(framed(b"a"), ("grpc-status", "3"), ("grpc-message", "a%zz%20b")), Code.INVALID_ARGUMENT, "a%zz b"),
        (trailers_only(("grpc-status", "5"), ("grpc-message", "gone")), Code.NOT_FOUND, "gone"),
        (trailers_only(("grpc-status", "8"), ("grpc-status-details-bin", "!")), Code.RESOURCE_EXHAUSTED, ""),
        (trailers_only(("grpc-status", "8"), ("grpc-status-details-bin", "/////w")), Code.RESOURCE_EXHAUSTED, ""),
        (resetting(ErrorCodes.CANCEL), Code.CANCELLED, "CANCEL"),
        (resetting(ErrorCodes.INTERNAL_ERROR), Code.INTERNAL, "INTERNAL_ERROR"),
        (resetting(ErrorCodes.ENHANCE_YOUR_CALM), Code.RESOURCE_EXHAUSTED, "CALM"),
    ],
)
def test_what_a_bad_answer_becomes(answer, code: Code, text: str) -> None:
    async def main() -> None:
        requests = []
        async with scripted(answer, requests) as channel:
            with pytest.raises(RpcError) as caught:
                await channel.unary_unary(PATH, b"", bytes)
        assert caught.value.code is code
        assert text in caught.value.message
        assert caught.value.details == ()
        assert len(requests) == 1

    trio.run(main)


def test_what_nobody_wants_any_more_is_reset_and_the_connection_goes_on() -> None:
    servers = []

    def answer(server: Scripted, stream: int) -> None:
        servers.append(server)
        if stream == 1:
            heads(server, stream, *HEAD)
            server.h2.send_data(stream, b"\7")
            server.h2.send_data(stream, b"\0\0\0\0\0")
        else:
            fine(server, stream)

    async def main() -> None:
        async with scripted(answer, []) as channel:
            with pytest.raises(RpcError, match="INTERNAL"):
                await channel.unary_unary(PATH, b"", bytes)
            assert await channel.unary_unary(PATH, b"", bytes) == b"fine"
        assert servers[-1].resets == {1: ErrorCodes.CANCEL}
        assert len(set(servers)) == 1

    trio.run(main)


def test_an_answer_that_comes_while_the_request_is_sent_is_received_before_the_failure() -> None:
    answer = bytes_then(framed(b"early"), ("grpc-status", "8"))

    async def main() -> None:
        async with scripted(answer, [], early=True) as channel:
            async with channel.unary_stream(PATH, bytes(5_000_000), bytes) as call:  # far beyond the window
                assert await call.receive() == b"early"
                with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
                    await call.receive()
            with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
                await channel.unary_unary(PATH, bytes(5_000_000), bytes)

    trio.run(main)


class Stuck(trio.abc.Stream):
    """A peer that takes a part of what it is sent and then nothing."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send_all(self, data: bytes) -> None:
        self.sent.append(bytes(data))
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def test_nothing_follows_half_a_frame() -> None:
    async def main() -> None:
        stream = Stuck()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Session(stream, float("inf")).run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(stream.sent) == 1

    trio.run(main)


def test_more_calls_than_a_connection_takes_wait() -> None:
    """h2, at the server, ends a connection with a stream too many."""
    waiting = []

    def answer(server: Scripted, stream: int) -> None:
        waiting.append(stream)
        if len(waiting) == 2:
            for each in waiting:
                fine(server, each)
            waiting.clear()

    async def main() -> None:
        requests = []
        async with (
            scripted(answer, requests, settings={SettingCodes.MAX_CONCURRENT_STREAMS: 2}) as channel,
            trio.open_nursery() as nursery,
        ):
            for _ in range(20):
                nursery.start_soon(channel.unary_unary, PATH, b"", bytes)
        assert len(requests) == 20
        assert requests == sorted(requests)  # on one connection

    trio.run(main)


def test_binary_metadata_in_one_field_and_such_that_is_none() -> None:
    def answer(server: Scripted, stream: int) -> None:
        heads(server, stream, *HEAD, ("a-bin", "AQ==, Ag"), ("b-bin", "!"), ("grpc-encoding", "identity"), ("c", "d"))
        heads(server, stream, *OK, end=True)

    async def main() -> None:
        async with scripted(answer, []) as channel, channel.unary_stream(PATH, b"", bytes) as call:
            assert await call.initial_metadata() == (("a-bin", b"\1"), ("a-bin", b"\2"), ("c", "d"))

    trio.run(main)


def test_a_call_in_a_cancelled_scope_is_cancelled() -> None:
    async def main() -> None:
        async with scripted(fine, []) as channel:
            await channel.unary_unary(PATH, b"", bytes)
            with trio.CancelScope() as scope:
                scope.cancel()
                assert dict(channel._head(PATH, []))[b"grpc-timeout"] == b"1n"  # cancelled since it last waited
                await channel.unary_unary(PATH, b"", bytes)
            assert scope.cancelled_caught

    trio.run(main)


def test_a_refused_call_is_repeated_and_at_last_given_up() -> None:
    def answer(server: Scripted, stream: int) -> None:
        if len(server.requests) == 1:
            server.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        else:
            fine(server, stream)

    async def main() -> None:
        requests = []
        async with scripted(answer, requests) as channel:
            assert await channel.unary_unary(PATH, b"", bytes) == b"fine"
        assert len(requests) == 2

        requests.clear()
        async with scripted(resetting(ErrorCodes.REFUSED_STREAM), requests) as channel:
            with pytest.raises(RpcError, match="UNAVAILABLE"):
                await channel.unary_unary(PATH, b"", bytes)
        assert len(requests) == 5

    trio.run(main)


def test_a_call_the_server_did_not_look_at_goes_to_a_new_connection() -> None:
    """GOAWAY says which calls it took: the first goes on on the old connection, the second moves."""

    def answer(server: Scripted, stream: int) -> None:
        if stream == 1 and len(server.requests) == 1:
            heads(server, 1, *HEAD)
            server.h2.send_data(1, framed(b"first"))
        elif stream == 3:
            server.raw = GoAwayFrame(last_stream_id=1, additional_data=b"max_age").serialize()
            server.h2.send_data(1, framed(b"second"))
            heads(server, 1, *OK, end=True)
        else:
            fine(server, stream)

    async def main() -> None:
        requests = []
        async with scripted(answer, requests) as channel, channel.unary_stream(PATH, b"", bytes) as call:
            assert await call.receive() == b"first"
            assert await channel.unary_unary(PATH, b"", bytes) == b"fine"
            assert [message async for message in call] == [b"second"]
        assert requests == [1, 3, 1]

    trio.run(main)


def test_why_a_server_leaves_is_told() -> None:
    def answer(server: Scripted, stream: int) -> None:
        server.raw = GoAwayFrame(last_stream_id=2**31 - 1, error_code=11, additional_data=b"too_many_pings").serialize()
        server.closing = True

    async def main() -> None:
        async with scripted(answer, []) as channel:
            with pytest.raises(RpcError, match=r"UNAVAILABLE: .*too_many_pings"):
                await channel.unary_unary(PATH, b"", bytes)

    trio.run(main)


def test_a_server_that_breaks_http2() -> None:
    def answer(server: Scripted, stream: int) -> None:
        server.raw = b"\0\0\0\1\0\0\0\0\0"  # HEADERS on stream 0

    async def main() -> None:
        requests = []
        async with scripted(answer, requests) as channel:
            with pytest.raises(RpcError, match="INTERNAL: the server broke HTTP/2"):
                await channel.unary_unary(PATH, b"", bytes)

    trio.run(main)


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_that_speaks_something_else(words: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(words)
        await stream.aclose()

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, serve, 0)
                port = listeners[0].socket.getsockname()[1]
                async with connect(f"127.0.0.1:{port}") as channel:
                    with pytest.raises(RpcError) as caught:
                        await channel.unary_unary(PATH, b"", bytes)
                    assert caught.value.code is Code.UNAVAILABLE
                nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("mute", [False, True])
def test_a_silent_server_is_asked_for_a_sign_of_life(mute: bool) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        server = Scripted(theirs, lambda server, stream: heads(server, stream, *HEAD), [])
        server.mute = mute
        session = Session(ours, silence=30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            nursery.start_soon(session.run)
            await session.greeted.wait()
            await trio.sleep(1000)  # without calls nothing is asked
            assert session.failure is None
            call = Call(session, lambda data: data, 1000)
            fields = [(b":method", b"POST"), (b":path", b"/a/b"), (b":scheme", b"http"), (b":authority", b"x")]
            await session.open(call, lambda: fields)
            await call.end()
            start = trio.current_time()
            with trio.move_on_after(600):
                with pytest.raises(RpcError, match="UNAVAILABLE: the server no longer answers"):
                    await call.receive()
                assert 30 <= trio.current_time() - start <= 80
            assert (session.failure is not None) is mute
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def said() -> bytes:
    """All that a server says that answers two calls and leaves."""
    server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    server.initiate_connection()
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    for stream in (1, 3):
        client.send_headers(stream, [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "x")])
    server.receive_data(client.data_to_send())
    for stream in (1, 3):
        server.send_headers(stream, HEAD)
        server.send_data(stream, framed(b"hello"))
        server.send_headers(stream, (*OK, ("grpc-status-details-bin", "CAE")), end_stream=True)
    server.ping(b"12345678")
    return server.data_to_send() + GoAwayFrame(last_stream_id=3).serialize()


SAID = said()


@given(st.lists(st.tuples(st.integers(0, len(SAID) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(SAID)))
def test_whatever_comes_every_call_ends(changes: list[tuple[int, int]], cut: int) -> None:
    words = bytearray(SAID)
    for at, byte in changes:
        words[at] = byte

    async def call(session: Session) -> None:
        call = Call(session, lambda data: data, 1000)
        fields = [(b":method", b"POST"), (b":path", b"/a/b"), (b":scheme", b"http"), (b":authority", b"x")]
        with suppress(RpcError):
            await session.open(call, lambda: fields)
            await call.end()
            while await call.receive() is not None:
                pass

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        session = Session(ours, float("inf"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            nursery.start_soon(call, session)
            nursery.start_soon(call, session)
            await trio.testing.wait_all_tasks_blocked()
            with suppress(trio.BrokenResourceError):
                await theirs.send_all(words[:cut])
                await theirs.send_all(words[cut:])
                await theirs.send_eof()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
