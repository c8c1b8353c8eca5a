"""One connection at its edges: what was said arrives whole, and nothing a client does reaches beyond its connection."""

from __future__ import annotations

import gc
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from gateway.net import SocketStream
from gateway.wire import h1
from protocols.http.exchange import HttpExchange
from protocols.http.listener import Limits
from tests.protocols.http.rig import GET, TEXT, Rig, contexts, echo, read_all, read_until, run

LAST_GET = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
MUCH = 2_000_000
"""Far more than the buffers between the server and a slow client take."""
both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])

Client = trio.abc.Stream
Handler = Callable[[HttpExchange], Awaitable[None]]


def answering(size: int) -> Handler:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.respond(200, TEXT, b"x" * size)

    return handler


def run_slow(
    handler: Handler,
    scenario: Callable[[Rig, Client], Awaitable[None]],
    tls: bool,
    limits: Limits | None = None,
    clock: trio.abc.Clock | None = None,
) -> None:
    """With a client that reads only when told to, and little room on its way."""
    context, trusting = contexts() if tls else (None, None)

    async def with_client(rig: Rig) -> None:
        client = await (rig.slow_client() if trusting is None else rig.secure(trusting, slow=True))
        await scenario(rig, client)

    run(handler, with_client, limits, context, clock)


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@both
@pytest.mark.parametrize("size", [60_000, MUCH])
def test_the_last_answer_arrives_whole_though_it_is_read_late(size: int, tls: bool) -> None:
    async def scenario(rig: Rig, client: Client) -> None:
        await client.send_all(LAST_GET)
        await trio.testing.wait_all_tasks_blocked()
        assert len(body(await read_all(client))) == size

    run_slow(answering(size), scenario, tls)


@both
def test_drain_lets_an_answer_be_read_to_its_end(tls: bool) -> None:
    async def scenario(rig: Rig, client: Client) -> None:
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        rig.server.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert len(body(await read_all(client))) == MUCH

    run_slow(answering(MUCH), scenario, tls)


@both
def test_drain_does_not_wait_for_clients_that_never_spoke(tls: bool) -> None:
    async def scenario(rig: Rig, client: Client) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert rig.server.statistics().connections == 1
        rig.server.drain()
        assert await read_all(client) == b""

    run_slow(echo, scenario, tls)


def test_half_a_pipelined_request_is_finished_before_the_connection_is_drained() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET + b"GET /b HTTP/1.1\r\nHo")
        await read_until(client, b"GET /a ")
        rig.server.drain()
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"st: x\r\n\r\n")
        answer = await read_all(client)
        assert answer.endswith(b"GET /b ")
        assert b"connection: close" in answer

    run(echo, scenario)


def test_an_empty_line_after_a_request_begins_none() -> None:
    clock = trio.testing.MockClock()

    async def scenario(rig: Rig) -> None:
        patient, drained = await rig.client(), await rig.client()
        for client in (patient, drained):
            await client.send_all(GET)
            await read_until(client, b"GET /a ")
            await client.send_all(b"\r\n")
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(5)
        await trio.testing.wait_all_tasks_blocked()
        await patient.send_all(GET)
        await read_until(patient, b"GET /a ")
        rig.server.drain()
        assert await read_all(drained) == b""

    run(echo, scenario, Limits(header_timeout=1.0), clock=clock)


async def read_slowly(client: Client, clock: trio.testing.MockClock, size: int, for_s: int) -> None:
    """Take ``size`` bytes of body, a read every two seconds until ``for_s`` have passed."""
    answer = b""
    while len(body(answer)) < size:
        answer += await client.receive_some(65536)
        if clock.current_time() < for_s:
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(2)
            await trio.testing.wait_all_tasks_blocked()


@both
def test_a_slow_but_steady_reader_is_not_cut(tls: bool) -> None:
    clock = trio.testing.MockClock()

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, ((b"content-length", b"%d" % (2 * MUCH)),))
        await exchange.send(b"x" * MUCH)
        await exchange.finish(b"y" * MUCH)

    async def scenario(rig: Rig, client: Client) -> None:
        await client.send_all(LAST_GET)
        await read_slowly(client, clock, 2 * MUCH, for_s=12)

    run_slow(handler, scenario, tls, Limits(write_timeout=5.0), clock)


def test_idle_time_begins_when_the_answer_has_been_read() -> None:
    clock = trio.testing.MockClock()

    async def scenario(rig: Rig, client: Client) -> None:
        for _ in range(2):
            await client.send_all(GET)
            await read_slowly(client, clock, MUCH, for_s=8)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(3)
            await trio.testing.wait_all_tasks_blocked()
            assert rig.server.statistics().connections == 1
        clock.jump(3)
        assert await read_all(client) == b""

    run_slow(answering(MUCH), scenario, tls=False, limits=Limits(idle_timeout=5.0), clock=clock)


def test_the_end_of_a_connection_over_tls_is_told_apart_from_a_cut() -> None:
    context, trusting = contexts()

    async def scenario(rig: Rig) -> None:
        client = trio.SSLStream(await rig.client(), trusting, server_hostname="127.0.0.1", https_compatible=False)
        await client.send_all(LAST_GET)
        assert (await read_all(client)).endswith(b"GET /a ")

    run(echo, scenario, context=context)


@both
def test_a_refusal_arrives_though_the_client_was_still_sending(tls: bool) -> None:
    async def scenario(rig: Rig, client: Client) -> None:
        await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MUCH)
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"x" * MUCH)
        assert (await read_until(client, b"}")).startswith(b"HTTP/1.1 413 ")

    run_slow(echo, scenario, tls, Limits(max_body=4000))


async def for_ever(exchange: HttpExchange) -> None:
    await trio.sleep_forever()


def test_clients_that_left_before_they_were_looked_at_cost_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", rig.port)) as client:
                client.sendall(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert rig.server.statistics().connections == 0

    run(for_ever, scenario)


def test_clients_that_read_nothing_of_many_answers_end_only_themselves() -> None:
    """Somewhere in this range of numbers the kernel takes all but the very last bytes."""

    async def scenario(rig: Rig) -> None:
        for number in range(20, 180, 7):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", rig.port))
                client.sendall(GET * number + LAST_GET)
                await trio.testing.wait_all_tasks_blocked()
        reader = await rig.client()
        await reader.send_all(LAST_GET)
        assert len(body(await read_all(reader))) == 30_000

    run(answering(30_000), scenario)


def test_who_asks_ahead_takes_turns_with_others() -> None:
    order: list[bytes] = []
    other: list[SocketStream] = []

    async def handler(exchange: HttpExchange) -> None:
        if not order:
            other[0].send_soon(GET.replace(b"/a", b"/b"))  # it is there before the next request is looked at
        order.append(exchange.request.target)
        await exchange.respond(200, TEXT, b"")

    async def scenario(rig: Rig) -> None:
        ahead = await rig.client()
        other.append(await rig.client())
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ahead.send_all(GET * 100)
        await read_until(other[0], b"\r\n\r\n")

    run(handler, scenario)
    assert order.index(b"/b") < 50


def test_pipelined_offers_to_upgrade_are_all_answered() -> None:
    offer = b"GET / HTTP/1.1\r\nHost:\r\nUpgrade:a\r\nConnection:upgrade\r\n\r\n"

    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, offer * 1100 + LAST_GET)
            answers = await read_all(client)
        assert answers.count(b"HTTP/1.1 200 ") == 1101

    run(echo, scenario)


def test_writers_on_a_stuck_connection_keep_their_order() -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, TEXT)
        await exchange.send(b"0" * MUCH)
        async with trio.open_nursery() as nursery:
            for number in range(1, 9):
                nursery.start_soon(exchange.send, b"%d" % number)
                await trio.lowlevel.checkpoint()
        await exchange.finish()

    async def scenario(rig: Rig, client: Client) -> None:
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        answer = await read_until(client, b"\r\n0\r\n\r\n")
        assert answer.endswith(b"".join(b"\r\n1\r\n%d" % number for number in range(1, 9)) + b"\r\n0\r\n\r\n")

    run_slow(handler, scenario, tls=False)


def test_a_comment_over_tls_never_breaks_the_framing() -> None:
    """It may be skipped; what it may not do is fall into another chunk, or after the end."""
    context, trusting = contexts()

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, TEXT)
        exchange.send_soon(b"a")
        await exchange.send(b"b")
        exchange.send_soon(b"c")
        await exchange.finish()
        exchange.send_soon(b"d")

    async def scenario(rig: Rig) -> None:
        client = await rig.secure(trusting)
        await client.send_all(LAST_GET)
        chunks = body(await read_all(client))
        assert chunks.endswith(b"0\r\n\r\n")
        said = chunks.removesuffix(b"0\r\n\r\n").split(b"1\r\n")
        assert said[0] == b""
        assert set(said[1:]) <= {b"a\r\n", b"b\r\n", b"c\r\n"}
        assert said.count(b"b\r\n") == 1

    run(handler, scenario, context=context)


@pytest.mark.usefixtures("uncollected")
@both
@pytest.mark.parametrize("said", [b"", b"GET /a HT", GET], ids=["nothing", "half a request", "a request"])
def test_a_connection_that_has_ended_needs_no_garbage_collector(said: bytes, tls: bool) -> None:
    """Clients that come and go in crowds make old garbage, which nobody looks at for long."""
    context, trusting = contexts() if tls else (None, None)

    async def scenario(rig: Rig) -> None:
        client = await (rig.client() if trusting is None else rig.secure(trusting))
        await client.send_all(said)
        await trio.testing.wait_all_tasks_blocked(0.01)
        rig.clients.pop().close()
        del client
        while rig.server.statistics().connections:  # noqa: ASYNC110 — nobody tells
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not [each for each in gc.get_objects() if isinstance(each, (h1.RequestParser, trio.SSLStream))]

    run(echo, scenario, context=context)


def test_what_has_come_of_a_refused_request_is_held_no_longer() -> None:
    """A client may take its time to go."""

    async def scenario(rig: Rig) -> None:
        buffered = rig.server.burden.buffered
        buffered.limit(100_000)
        client = await rig.client()
        await client.send_all(GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"))
        for _ in range(10):
            await client.send_all(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        assert b" 503 " in await read_until(client, b'"overloaded"}}')
        assert rig.server.statistics().connections == 1
        assert not buffered.held

    run(echo, scenario)
