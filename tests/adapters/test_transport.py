"""The transport against servers that answer exactly what a script says: reuse, staleness, framing, cancellation."""

from __future__ import annotations

import contextlib
import gc
import gzip
import ssl
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
import trustme

from adapters.transport import HTTPTransport, TransportSettings
from gateway.errors import GatewayError, InvalidRequest, UpstreamError, UpstreamTimeout
from gateway.net import held
from gateway.request_id import HERE
from gateway.types import Endpoint, UpstreamRequest
from gateway.wire import h1

POST = UpstreamRequest(b"POST", b"/v1/x", ((b"a", b"b"),), b"{}")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
MemoryStream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


class Net:
    """Endpoints in memory: each connection is served by a script of what to do per request."""

    def __init__(self, nursery: trio.Nursery, serve: Callable[[trio.abc.Stream], Awaitable[None]]) -> None:
        self.nursery = nursery
        self.serve = serve
        self.connections = 0

    async def connect(self, endpoint: Endpoint) -> trio.abc.Stream:
        self.connections += 1
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: MemoryStream) -> None:
        try:
            await self.serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await stream.aclose()


async def request(stream: trio.abc.Stream) -> bytes:
    data = b""
    while not data.endswith(b"{}"):
        more = await stream.receive_some(65536)
        if not more:
            raise trio.ClosedResourceError
        data += more
    return data


def run(
    serve: Callable[[trio.abc.Stream], Awaitable[None]], scenario: Callable[[HTTPTransport, Net], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            net = Net(nursery, serve)
            await scenario(HTTPTransport(TransportSettings(), net.connect), net)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


ENDPOINT = Endpoint("vllm", "http", "engine", 8000, "/base", ((b"authorization", b"Bearer key"),))


async def ask(transport: HTTPTransport, upstream: UpstreamRequest = POST) -> bytes:
    body = b""
    async with transport.send(ENDPOINT, upstream) as response:
        while data := await response.receive():
            body += data
    return body


def answering(*answers: bytes) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """Every connection gives these answers in turn and then closes."""

    async def serve(stream: trio.abc.Stream) -> None:
        for answer in answers:
            await request(stream)
            await stream.send_all(answer)

    return serve


def test_what_is_sent() -> None:
    seen = []

    async def serve(stream: trio.abc.Stream) -> None:
        seen.append(await request(stream))
        await stream.send_all(OK)

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        assert await ask(transport) == b"ok"

    run(serve, scenario)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /base/v1/x HTTP/1.1",
        b"host: engine:8000",
        b"authorization: Bearer key",
        b"a: b",
        b"via: 1.1 " + HERE,
        b"content-length: 2",
    ]
    assert body == b"{}"


@pytest.mark.parametrize("value", [b"x\r\ny: z", b"x\n", b"x\r", b"x\n\nPOST / HTTP/1.1"])
def test_a_clients_field_is_one_field(value: bytes) -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        with pytest.raises(InvalidRequest, match="line end"):
            await ask(transport, UpstreamRequest(b"POST", b"/v1/x", (), b"{}", ((b"traceparent", value),)))
        assert net.connections == 0

    run(answering(OK), scenario)


def test_an_endpoints_query_goes_with_every_request() -> None:
    seen = []

    async def serve(stream: trio.abc.Stream) -> None:
        seen.append(await request(stream))
        await stream.send_all(OK)

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        at = Endpoint("openai", "http", "engine", 8000, "/base", query="api-version=1&b=c%20d")
        assert await ask_at(transport, at) == b"ok"

    run(serve, scenario)
    assert seen[0].startswith(b"POST /base/v1/x?api-version=1&b=c%20d HTTP/1.1\r\n")


def test_connections_are_reused_last_in_first_out() -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        for _ in range(5):
            assert await ask(transport) == b"ok"
            assert (transport.busy, transport.idle, transport.opened) == (0, 1, 1)
        assert net.connections == 1
        async with transport.send(ENDPOINT, POST):
            assert (transport.busy, transport.idle) == (1, 0)

    run(answering(*[OK] * 6), scenario)


def test_a_reused_connection_that_died_is_replaced_silently() -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        for _ in range(3):
            assert await ask(transport) == b"ok"
        assert net.connections == 3

    run(answering(OK), scenario)


def test_a_fresh_connection_that_dies_is_an_error_that_may_be_tried_elsewhere() -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        with pytest.raises(UpstreamError) as caught:
            await ask(transport)
        assert caught.value.retryable
        assert caught.value.status == 502
        assert net.connections == 1

    run(answering(b""), scenario)


def test_a_reused_connection_that_began_to_answer_is_not_replaced() -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        await ask(transport)
        with pytest.raises(UpstreamError):
            await ask(transport)
        assert net.connections == 1
        assert (transport.busy, transport.idle) == (0, 0)

    run(answering(OK, b"HTTP/1.1 2"), scenario)


def test_a_request_the_engine_may_have_worked_on_is_not_repeated() -> None:
    asked_at = []

    async def serve(stream: trio.abc.Stream) -> None:
        for work_s in (0, 60):
            await request(stream)
            asked_at.append(trio.current_time())
            await trio.sleep(work_s)
            if not work_s:
                await stream.send_all(OK)

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        await ask(transport)
        with pytest.raises(UpstreamError):
            await ask(transport)
        assert asked_at == [0, 0]
        assert net.connections == 1

    run(serve, scenario)


def test_idle_connections_are_dropped_before_the_engine_drops_them() -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        await ask(transport)
        await trio.sleep(4)
        await ask(transport)
        assert net.connections == 2

    run(answering(*[OK] * 9), scenario)


def test_expiry_closes_what_nobody_asks_for() -> None:
    ended = trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        await request(stream)
        await stream.send_all(OK)
        assert await stream.receive_some(1) == b""
        ended.set()

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        net.nursery.start_soon(transport.expire)
        await ask(transport)
        await ended.wait()
        assert 3.5 <= trio.current_time() <= 5

    run(serve, scenario)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(OK, b"ok", id="length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok", id="chunked"
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", b"ok", id="until close"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", id="interim"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="no body"),
    ],
)
def test_any_framing_in_any_pieces(answer: bytes, body: bytes) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await request(stream)
        for index in range(len(answer)):
            await stream.send_all(answer[index : index + 1])

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        assert await ask(transport) == body

    run(serve, scenario)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_an_answer_compressed_unasked_is_inflated(coding: bytes) -> None:
    body = b"data: {}\n\n" * 50
    packed = gzip.compress(body) if coding == b"gzip" else zlib.compress(body)
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\ncontent-length: %d\r\n\r\n%b" % (coding, len(packed), packed)

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        async with transport.send(ENDPOINT, POST) as response:
            got = b""
            while data := await response.receive():
                got += data
            assert got == body
            assert [name for name, _ in response.headers] == []

    run(answering(answer), scenario)


def test_a_compressed_error_in_single_bytes_is_read_to_its_end() -> None:
    """What inflates to nothing yet is not the end of the body."""
    packed = gzip.compress(b"no such thing")
    head = b"HTTP/1.1 400 Bad\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)

    async def serve(stream: trio.abc.Stream) -> None:
        await request(stream)
        await stream.send_all(head)
        for index in range(len(packed)):
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(packed[index : index + 1])

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        async with transport.send(ENDPOINT, POST) as response:
            body = b""
            while True:
                data = await response.receive()
                body += data
                if not data or response.complete:
                    break
            assert (response.status, body) == (400, b"no such thing")

    run(serve, scenario)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", id="short of its length"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n", id="no last chunk"),
        pytest.param(b"\x00\x01rubbish", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nxx", id="unknown coding"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nxx", id="bad gzip"),
    ],
)
def test_what_is_cut_or_rubbish_is_an_error(answer: bytes) -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        with pytest.raises(UpstreamError):
            await ask(transport)

    run(answering(answer), scenario)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"])
def test_cancelling_closes_the_connection_at_once(answer: bytes) -> None:
    closed_at = []

    async def serve(stream: trio.abc.Stream) -> None:
        await request(stream)
        if answer:
            await stream.send_all(answer)
        assert await stream.receive_some(1) == b""
        closed_at.append(trio.current_time())

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        with trio.move_on_after(2):
            await ask(transport)
        await trio.testing.wait_all_tasks_blocked()
        assert closed_at == [2]

    run(serve, scenario)


def test_leaving_with_the_body_half_read_closes_and_a_whole_one_keeps() -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        async with transport.send(ENDPOINT, POST):
            pass  # the body came with the head: the connection is clean
        async with transport.send(ENDPOINT, POST) as response:
            assert not response.complete
        await ask(transport)
        assert net.connections == 2

    run(answering(OK, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", OK), scenario)


def test_abort_ends_a_wait_with_an_error() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await request(stream)
        await stream.receive_some(1)

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        sending = transport.send(ENDPOINT, POST)

        async def cut() -> None:
            await trio.sleep(1)
            sending.abort()

        net.nursery.start_soon(cut)
        with pytest.raises(UpstreamError):
            async with sending:
                raise AssertionError("nothing was answered")

    run(serve, scenario)


def test_connecting_has_its_own_deadline() -> None:
    async def hang(endpoint: Endpoint) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        with pytest.raises(UpstreamTimeout) as caught:
            await ask(HTTPTransport(TransportSettings(connect_timeout=2), hang))
        assert caught.value.retryable
        assert trio.current_time() == 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("at_once", [True, False])
def test_abort_ends_connecting_too(at_once: bool) -> None:
    async def hang(endpoint: Endpoint) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        sending = HTTPTransport(TransportSettings(connect_timeout=20), hang).send(ENDPOINT, POST)

        async def cut() -> None:
            await trio.sleep(2)
            sending.abort()

        async with trio.open_nursery() as nursery:
            if at_once:
                sending.abort()
            else:
                nursery.start_soon(cut)
            with pytest.raises(UpstreamError) as caught:
                async with sending:
                    raise AssertionError("nothing was answered")
        assert not caught.value.retryable
        assert trio.current_time() == (0 if at_once else 2)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_request_to_an_endpoint_that_leaves_meanwhile_keeps_no_connection() -> None:
    """Nobody would ever close it."""
    closed = trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        await request(stream)
        await stream.send_all(OK)
        assert await stream.receive_some(1) == b""
        closed.set()

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        async with transport.send(ENDPOINT, POST) as upstream:
            transport.forget(ENDPOINT)
            assert await upstream.receive() == b"ok"
        with trio.fail_after(1):
            await closed.wait()
        assert transport.idle == 0

    run(serve, scenario)


def test_much_that_comes_of_little_comes_piece_by_piece() -> None:
    packed = gzip.compress(bytes(5_000_000)) + b"what follows the end"
    answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(packed), packed)

    async def scenario(transport: HTTPTransport, net: Net) -> None:
        async with transport.send(ENDPOINT, POST) as upstream:
            sizes = [len(await upstream.receive())]
            while not upstream.complete:
                sizes.append(len(await upstream.receive()))
        assert sum(sizes) == 5_000_000
        assert max(sizes) == 1 << 20

    run(answering(answer), scenario)


def over_tcp(
    context: ssl.SSLContext | None,
    scenario: Callable[[Endpoint], Awaitable[None]],
    script: Callable[[trio.abc.Stream], Awaitable[None]] = answering(OK, OK),  # noqa: B008 — holds nothing
) -> None:
    async def main() -> None:
        async def serve(stream: trio.abc.Stream) -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await script(stream)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                if context is None:
                    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
                else:
                    listeners = await nursery.start(
                        partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
                    )
                listener = listeners[0]
                if context is not None:
                    listener = listener.transport_listener
                port = listener.socket.getsockname()[1]
                await scenario(Endpoint("openai", "http" if context is None else "https", "localhost", port))
                nursery.cancel_scope.cancel()

    trio.run(main)


async def ask_at(transport: HTTPTransport, endpoint: Endpoint) -> bytes:
    async with transport.send(endpoint, POST) as response:
        return await response.receive()


def test_real_sockets() -> None:
    async def scenario(endpoint: Endpoint) -> None:
        transport = HTTPTransport()
        assert await ask_at(transport, endpoint) == b"ok"
        assert await ask_at(transport, endpoint) == b"ok"
        assert transport.opened == 1
        transport.close_idle()

    over_tcp(None, scenario)


def test_bytes_nobody_asked_for_are_not_the_next_answer() -> None:
    idle, said = trio.Event(), trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        for answer in (OK, OK):
            await request(stream)
            await stream.send_all(answer)
            await idle.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL")
            said.set()

    async def scenario(endpoint: Endpoint) -> None:
        transport = HTTPTransport()
        assert await ask_at(transport, endpoint) == b"ok"
        idle.set()
        await said.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert await ask_at(transport, endpoint) == b"ok"
        assert transport.opened == 2
        transport.close_idle()

    over_tcp(None, scenario, serve)


def test_an_engine_that_has_closed_in_the_meantime_is_not_asked_there() -> None:
    async def scenario(endpoint: Endpoint) -> None:
        transport = HTTPTransport()
        for _ in range(2):
            assert await ask_at(transport, endpoint) == b"ok"
            await trio.testing.wait_all_tasks_blocked()
        assert transport.opened == 2
        transport.close_idle()

    over_tcp(None, scenario, answering(OK))


@pytest.mark.parametrize("secure", [False, True])
def test_an_early_answer_leaves_no_half_request_on_a_kept_connection(secure: bool) -> None:
    """…and is not waited for until the request is sent, as it may never be."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if secure else None
    if context is not None:
        trustme.CA().issue_cert("localhost").configure_cert(context)

    async def serve(stream: trio.abc.Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(1024)
        await stream.send_all(OK)
        await trio.sleep_forever()

    async def scenario(endpoint: Endpoint) -> None:
        transport = HTTPTransport()
        asked = msgspec.structs.replace(endpoint, verify=False)
        for body in (b"x" * 16_000_000, b"{}"):
            async with transport.send(asked, UpstreamRequest(b"POST", b"/", (), body)) as response:
                assert await response.receive() == b"ok"
        assert transport.opened == 2
        transport.close_idle()

    over_tcp(context, scenario, serve)


def test_a_connection_over_tls_is_used_again() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def scenario(endpoint: Endpoint) -> None:
        transport = HTTPTransport()
        unverified = Endpoint("openai", "https", "localhost", endpoint.port, verify=False)
        for _ in range(2):
            assert await ask_at(transport, unverified) == b"ok"
            await trio.testing.wait_all_tasks_blocked()  # session tickets arrive
        assert transport.opened == 1
        transport.close_idle()

    over_tcp(context, scenario)


def test_https_is_verified(tmp_path: object) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def scenario(endpoint: Endpoint) -> None:
        transport = HTTPTransport()
        with pytest.raises(GatewayError, match="certificate does not verify"):
            await ask_at(transport, endpoint)
        with authority.cert_pem.tempfile() as ca_file:
            trusted = Endpoint("openai", "https", "localhost", endpoint.port, ca_file=ca_file)
            assert await ask_at(transport, trusted) == b"ok"
        unverified = Endpoint("openai", "https", "localhost", endpoint.port, verify=False)
        assert await ask_at(transport, unverified) == b"ok"
        transport.close_idle()

    over_tcp(context, scenario)


def test_authorities_are_those_of_the_file_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Replaced, broken, gone and back, while an engine's certificate changes from one authority's to another's."""
    before, after, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    before.issue_cert("localhost").configure_cert(context)

    async def scenario(endpoint: Endpoint) -> None:
        asked = Endpoint("openai", "https", "localhost", endpoint.port, ca_file=str(file))
        transport = HTTPTransport()
        open_before = held()[0]
        for content in (None, b"noise"):
            if content is not None:
                file.write_bytes(content)
            with pytest.raises(UpstreamError, match=r"authorities that are to vouch for it cannot be used$") as told:
                await transport.dial(asked)
            assert str(file) in str(told.value.__cause__ and told.value.__cause__.__cause__)
        before.cert_pem.write_to_path(str(file))
        (await transport.dial(asked)).close()
        for content in (b"", b"noise", before.cert_pem.bytes()[:300]):
            file.write_bytes(content)
            (await transport.dial(asked)).close()
            assert caplog.records.pop().getMessage().startswith(f"cannot use the authorities in {file}: ")
            (await transport.dial(asked)).close()
            assert not caplog.records, "told once"
            caplog.clear()
        file.unlink()
        (await transport.dial(asked)).close()
        after.cert_pem.write_to_path(str(file))
        with pytest.raises(UpstreamError, match="certificate does not verify"):
            await transport.dial(asked)
        after.issue_cert("localhost").configure_cert(context)
        (await transport.dial(asked)).close()
        assert held()[0] <= open_before, "a connection is left over"

    over_tcp(context, scenario)


def test_a_refused_connection_is_told_without_the_address() -> None:
    async def main() -> None:
        with pytest.raises(UpstreamError, match=r"cannot be reached: connection refused$"):
            await ask_at(HTTPTransport(), Endpoint("vllm", "http", "127.0.0.1", 1))

    trio.run(main)


def test_an_endpoint_that_leads_outward_is_not_this_machine() -> None:
    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        transport = HTTPTransport()
        for host in ("localhost", "127.1", "2130706433"):
            with pytest.raises(UpstreamError, match="own machine"):
                await transport.dial(Endpoint("vllm", "http", host, port, outward=True))
        (await transport.dial(Endpoint("vllm", "http", "127.1", port))).close()
        await listener.aclose()

    trio.run(main)


@pytest.mark.usefixtures("uncollected")
def test_a_connection_that_is_closed_needs_no_garbage_collector() -> None:
    async def scenario(transport: HTTPTransport, net: Net) -> None:
        assert await ask(transport) == b"ok"
        transport.close_idle()
        assert not [each for each in gc.get_objects() if isinstance(each, h1.ResponseParser)]

    run(answering(OK), scenario)
