"""The client against grpcio's server: messages, metadata, deadlines, failures, flow control, lost connections."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import grpc
import pytest
import trio
import trustme
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from protocols.grpc.client import Channel, Code, RpcError, connect
from tests.protocols.grpc.client.rig import Echo, serving


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def port(echo: Echo) -> Iterator[int]:
    with serving(echo) as (_, bound):
        yield bound


@asynccontextmanager
async def channel_to(port: int, **options: object) -> AsyncIterator[Channel]:
    with trio.fail_after(30):
        async with connect(f"127.0.0.1:{port}", **options) as channel:
            yield channel


async def gather(channel: Channel, method: str, received: list[bytes], **options: float) -> None:
    async with channel.unary_stream(f"/test.Echo/{method}", b"", bytes, **options) as call:
        async for message in call:
            received.append(message)  # noqa: PERF401 — what came before a failure counts


def test_unary_calls_share_a_connection(port: int) -> None:
    async def main() -> None:
        answers = {}

        async def say(channel: Channel, text: bytes) -> None:
            answers[text] = await channel.unary_unary("/test.Echo/say", text, bytes)

        async with channel_to(port) as channel, trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(say, channel, b"%d" % number)
        assert answers == {b"%d" % n: b"%d" % n for n in range(50)}

    trio.run(main)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 20_000_000])
def test_messages_of_any_size_both_ways(port: int, size: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel:
            message = bytes(size)
            assert await channel.unary_unary("/test.Echo/say", message, bytes) == message

    trio.run(main)


def test_answers_stream_in_order(port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel, channel.unary_stream("/test.Echo/count", b"500 10", bytes) as call:
            numbers = [int(message.rstrip(b".")) async for message in call]
        assert numbers == list(range(500))

    trio.run(main)


def test_messages_go_both_ways_at_once(port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel, channel.stream_stream("/test.Echo/mirror", bytes) as call:
            for text in (b"abc", b"", b"de"):
                await call.send(text)
                assert await call.receive() == text[::-1]
            await call.end()
            assert await call.receive() is None
            assert await call.receive() is None  # and it stays so

    trio.run(main)


def test_much_goes_both_ways_with_two_tasks(port: int) -> None:
    async def main() -> None:
        messages = [bytes([number]) * 300_000 for number in range(40)]

        async def send_all(call: object) -> None:
            for message in messages:
                await call.send(message)
            await call.end()

        async with (
            channel_to(port) as channel,
            channel.stream_stream("/test.Echo/mirror", bytes) as call,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(send_all, call)
            assert [message async for message in call] == messages

    trio.run(main)


def test_a_server_may_end_before_the_client(port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel, channel.stream_stream("/test.Echo/early", bytes) as call:
            await call.send(b"first")
            assert [message async for message in call] == [b"first"]
            await call.send(b"second")  # goes nowhere
            await call.end()
            with pytest.raises(RuntimeError, match="ended"):
                await call.send(b"third")

    trio.run(main)


def test_metadata_both_ways(port: int) -> None:
    async def main() -> None:
        sent = {"authorization": "Bearer x y", "x-raw-bin": b"\1\2\0"}
        async with (
            channel_to(port) as channel,
            channel.unary_stream("/test.Echo/metadata", b"", bytes, metadata=sent) as call,
        ):
            assert await call.initial_metadata() == (("x-first", "a"), ("x-raw-bin", b"\0\xff"))
            received = eval(await call.receive())
            assert ("authorization", "Bearer x y") in received
            assert ("x-raw-bin", b"\1\2\0") in received
            assert await call.receive() is None
            assert call.trailing_metadata == (("x-last", "z"),)

    trio.run(main)


@pytest.mark.parametrize(
    "metadata",
    [
        {"grpc-timeout": "1S"},
        {"X-Upper": "a"},
        {"te": "a"},
        {"x-a": "\n"},
        {"x-a": b"a"},
        {"x-bin": "a"},
        {":path": "/"},
    ],
)
def test_metadata_that_cannot_be_sent(port: int, metadata: dict[str, str | bytes]) -> None:
    async def main() -> None:
        async with channel_to(port) as channel:
            with pytest.raises(ValueError):
                await channel.unary_unary("/test.Echo/say", b"", bytes, metadata=metadata)

    trio.run(main)


def test_an_error_has_code_text_and_details(port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel:
            with pytest.raises(RpcError) as caught:
                await channel.unary_unary("/test.Echo/fail", b"", bytes)
        error = caught.value
        assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, "zu viel: ü%")
        assert str(error) == "RESOURCE_EXHAUSTED: zu viel: ü%"
        assert error.detail(ErrorInfo).reason == "RATE_LIMITED"
        assert error.detail(RetryInfo).retry_delay.seconds == 3
        assert error.detail(BadRequest) is None
        assert error.detail(Any).type_url == "type.example/x.Y"
        assert ("x-last", "z") in error.metadata

    trio.run(main)


def test_a_stream_may_break_after_answers(port: int) -> None:
    async def main() -> None:
        received = []
        async with channel_to(port) as channel:
            with pytest.raises(RpcError, match="UNAVAILABLE: the engine has gone"):
                await gather(channel, "break_off", received)
        assert received == [b"one"]

    trio.run(main)


def test_a_method_that_is_not_there(port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel:
            with pytest.raises(RpcError) as caught:
                await channel.unary_unary("/test.Echo/nothing", b"", bytes)
        assert caught.value.code is Code.UNIMPLEMENTED

    trio.run(main)


def test_an_answer_that_is_too_large(port: int) -> None:
    async def main() -> None:
        async with channel_to(port, max_message=1000) as channel:
            assert len(await channel.unary_unary("/test.Echo/say", bytes(1000), bytes)) == 1000
            with pytest.raises(RpcError) as caught:
                await channel.unary_unary("/test.Echo/say", bytes(1001), bytes)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert await channel.unary_unary("/test.Echo/say", b"on", bytes) == b"on"

    trio.run(main)


def test_deadlines_of_scopes_and_calls_are_told(port: int) -> None:
    async def main() -> None:
        async with connect(f"127.0.0.1:{port}") as channel:
            ask = partial(channel.unary_unary, "/test.Echo/remaining", b"", bytes)
            assert float(await ask()) > 1e9
            with trio.fail_after(100):
                assert await ask() == b"100"
                assert await ask(timeout=50) == b"50"
                assert await ask(timeout=500) == b"100"

    trio.run(main)


def test_a_call_that_takes_too_long_fails_and_is_cancelled(echo: Echo, port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel:
            with pytest.raises(RpcError) as caught:
                await gather(channel, "stall", [], timeout=0.2)
            assert caught.value.code is Code.DEADLINE_EXCEEDED
            assert await trio.to_thread.run_sync(echo.cancelled.wait, 10)
            assert await channel.unary_unary("/test.Echo/say", b"on", bytes) == b"on"

    trio.run(main)


def test_the_time_limit_of_a_call_ends_with_it(port: int) -> None:
    async def main() -> None:
        async with (
            channel_to(port) as channel,
            channel.stream_stream("/test.Echo/mirror", bytes, timeout=20) as call,
        ):
            assert trio.current_effective_deadline() <= trio.current_time() + 20
            await call.end()
            assert await call.receive() is None
            assert trio.current_effective_deadline() > trio.current_time() + 20

    trio.run(main)


def test_a_cancelled_call_is_cancelled_at_the_server(echo: Echo, port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel:
            with trio.CancelScope() as scope:
                async with channel.unary_stream("/test.Echo/stall", b"", bytes) as call:
                    assert await call.receive() == b"one"
                    scope.cancel()
                    await call.receive()
            assert scope.cancelled_caught
            assert await trio.to_thread.run_sync(echo.cancelled.wait, 10)
            with pytest.raises(RpcError, match="CANCELLED"):
                await call.receive()

    trio.run(main)


def test_leaving_the_block_cancels_the_call(echo: Echo, port: int) -> None:
    async def main() -> None:
        async with channel_to(port) as channel:
            async with channel.unary_stream("/test.Echo/stall", b"", bytes) as call:
                assert await call.receive() == b"one"
            assert await trio.to_thread.run_sync(echo.cancelled.wait, 10)

    trio.run(main)


@pytest.mark.parametrize("failure", [KeyError("mine"), SystemExit(3)])
def test_an_exception_leaves_the_block_as_it_is(port: int, failure: BaseException) -> None:
    async def main() -> None:
        async with connect(f"127.0.0.1:{port}") as channel:
            await channel.unary_unary("/test.Echo/say", b"", bytes)
            raise failure

    with pytest.raises(type(failure)):
        trio.run(main)


def test_an_exception_outlives_a_cancellation(port: int) -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            async with connect(f"127.0.0.1:{port}") as channel:
                await channel.unary_unary("/test.Echo/say", b"", bytes)
                scope.cancel()
                raise KeyError("mine")

    with pytest.raises(KeyError):
        trio.run(main)


def test_answers_nobody_takes_stop_the_server_and_nobody_else(port: int) -> None:
    async def main() -> None:
        async with (
            channel_to(port) as channel,
            channel.unary_stream("/test.Echo/count", b"2000 10000", bytes) as call,
        ):
            await call.initial_metadata()
            for _ in range(200):
                await channel.unary_unary("/test.Echo/say", b"", bytes)
            held = sum(map(len, call._received))
            assert 500_000 < held <= 1024 * 1024
            assert len([message async for message in call]) == 2000

    trio.run(main)


def test_a_server_that_is_away_and_comes(echo: Echo) -> None:
    async def main() -> None:
        with serving(echo) as (_, port):
            pass
        async with channel_to(port) as channel:
            with pytest.raises(RpcError) as caught:
                await channel.unary_unary("/test.Echo/say", b"", bytes)
            assert caught.value.code is Code.UNAVAILABLE
            with serving(echo, port=port):
                assert await channel.unary_unary("/test.Echo/say", b"a", bytes) == b"a"
            with serving(echo, port=port):
                assert await channel.unary_unary("/test.Echo/say", b"b", bytes) == b"b"

    trio.run(main)


def test_a_call_under_way_outlives_goaway(echo: Echo) -> None:
    async def main(server: grpc.Server, port: int) -> None:
        async with channel_to(port) as channel:
            async with channel.unary_stream("/test.Echo/stall", b"", bytes) as call:
                assert await call.receive() == b"one"
                stopped = server.stop(20)
                while not channel._session.leaving:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                echo.release.set()
                assert await call.receive() == b"two"
                assert await call.receive() is None
            await trio.to_thread.run_sync(stopped.wait)

    with serving(echo) as (server, port):
        trio.run(main, server, port)


def test_a_call_whose_connection_dies_is_unavailable(echo: Echo) -> None:
    async def main(port: int) -> None:
        async with channel_to(port) as channel:
            async with channel.unary_stream("/test.Echo/stall", b"", bytes) as call:
                assert await call.receive() == b"one"
                await trio.aclose_forcefully(channel._session._stream)
                with pytest.raises(RpcError) as caught:
                    await call.receive()
                assert caught.value.code is Code.UNAVAILABLE
            assert await channel.unary_unary("/test.Echo/say", b"a", bytes) == b"a"

    with serving(echo) as (_, port):
        trio.run(main, port)


def test_tls_and_who_is_not_trusted(echo: Echo) -> None:
    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    client = authority.issue_cert("client.test")
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    trusting, strange = (ssl.create_default_context(ssl.Purpose.SERVER_AUTH) for _ in range(2))
    authority.configure_trust(trusting)
    client.configure_cert(trusting)
    other.configure_trust(strange)

    async def main(port: int) -> None:
        async with channel_to(port, ssl_context=trusting) as channel:
            assert await channel.unary_unary("/test.Echo/say", b"a", bytes) == b"a"
        for context in (strange, None):
            async with channel_to(port, ssl_context=context) as channel:
                with pytest.raises(RpcError) as caught:
                    await channel.unary_unary("/test.Echo/say", b"a", bytes)
                assert caught.value.code is Code.UNAVAILABLE

    with serving(echo, credentials=credentials) as (_, port):
        trio.run(main, port)


def test_tls_without_http2() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    trusting = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    authority.configure_trust(trusting)

    async def shake_hands(stream: trio.SSLStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.do_handshake()
            await stream.receive_some()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_ssl_over_tcp, shake_hands, 0, context, host="127.0.0.1")
            listeners = await nursery.start(serve)
            port = listeners[0].transport_listener.socket.getsockname()[1]
            async with channel_to(port, ssl_context=trusting) as channel:
                with pytest.raises(RpcError, match="does not speak HTTP/2"):
                    await channel.unary_unary("/test.Echo/say", b"", bytes)
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("target", ["localhost", ":1", "a:b", "::1:5", ""])
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(ValueError):
        connect(target)
