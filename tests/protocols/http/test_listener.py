"""The listener over real sockets: keep-alive, pipelining, limits, disconnects, drain."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trio

from gateway.http_refusals import HttpRefusals
from gateway.meter import Record
from gateway.net import SocketStream
from protocols.http.exchange import HttpExchange
from protocols.http.listener import Limits
from tests.protocols.http.rig import GET, TEXT, Rig, contexts, echo, read_all, read_until, run


def test_keep_alive_and_a_length_for_small_answers() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        for _ in range(3):
            await client.send_all(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
            answer = await read_until(client, b"POST /p hi")
            assert b"content-length: 10\r\n" in answer
            assert b"date: " in answer
        assert rig.server.statistics().connections == 1

    run(echo, scenario)


def test_pipelined_requests_are_answered_in_order_and_a_bad_one_last() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET + GET.replace(b"/a", b"/b") + b"GET /c HTTP/1.1\nHost: x\n\n")
        answer = await read_all(client)
        assert answer.index(b"GET /a") < answer.index(b"GET /b") < answer.index(b"HTTP/1.1 400 ")
        assert b"connection: close" in answer

    run(echo, scenario)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 3000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, b"413"),
        (b"\x16\x03\x01", b"400"),
    ],
)
def test_what_is_too_much_is_refused_and_the_connection_closed(data: bytes, status: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(data)
        answer = await read_all(client)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b'{"error":' in answer

    run(echo, scenario, Limits(max_header=2000, max_body=4000))


@pytest.mark.parametrize(
    ("data", "status", "reason", "why"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 3000 + b"\r\n\r\n",
            431,
            "header_too_large",
            "exceeds 2000 bytes",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", 413, "request_too_large", "exceeds 4000 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed", "a request needs a Host field"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: gifts\r\n\r\n", 417, "unsupported", "the only expectation"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 405, "method_not_allowed", "CONNECT"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx", 408, "request_timeout", "in time"),
    ],
)
def test_what_never_became_a_request_is_noted_once(data: bytes, status: int, reason: str, why: str) -> None:
    counts: dict[str, int] = {}
    noted: list[Record] = []

    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET + data)
        answer = await read_all(client)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert f"x-request-id: {noted[0].id}\r\n".encode() in answer

    limits = Limits(max_header=2000, max_body=4000, header_timeout=60.0, body_timeout=0.1)
    run(echo, scenario, limits, refusals=HttpRefusals(counts, noted.append))
    (record,) = noted
    assert (record.status, record.reason, record.operation) == (status, reason, "")
    assert why in record.why
    assert record.ended >= record.started > 0
    assert {name for name, count in counts.items() if count} == {reason}


def test_who_cannot_be_spoken_to_by_tls_is_counted_and_who_only_looks_is_not() -> None:
    counts: dict[str, int] = {}
    context, _ = contexts()

    async def scenario(rig: Rig) -> None:
        looking = await rig.client()
        await looking.send_eof()
        assert await read_all(looking) == b""
        plain = await rig.client()
        await plain.send_all(GET)
        with contextlib.suppress(trio.BrokenResourceError):
            await read_all(plain)

    run(echo, scenario, context=context, refusals=HttpRefusals(counts, lambda record: None))
    assert {name: count for name, count in counts.items() if count} == {"tls": 1}


def test_slow_header_slow_body_and_idle_connections_end() -> None:
    async def scenario(rig: Rig) -> None:
        header, body, idle = [await rig.client() for _ in range(3)]
        await header.send_all(b"GET / HT")
        await body.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        await idle.send_all(GET)
        assert (await read_all(header)).startswith(b"HTTP/1.1 408 ")
        assert (await read_all(body)).startswith(b"HTTP/1.1 408 ")
        assert (await read_all(idle)).endswith(b"GET /a ")

    run(echo, scenario, Limits(header_timeout=0.1, body_timeout=0.1, idle_timeout=0.1))


def test_expect_100_continue() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"hi")
        assert (await read_until(client, b"hi")).startswith(b"HTTP/1.1 200 ")

    run(echo, scenario)


def test_head_has_the_length_and_no_body() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(b"HEAD /h HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        answer = await read_until(client, b"GET /a ")
        assert b"content-length: 8\r\n" in answer
        assert b"HEAD /h" not in answer

    run(echo, scenario)


async def stream(exchange: HttpExchange) -> None:
    await exchange.start(200, TEXT)
    for part in (b"one", b"two"):
        await exchange.send(part)
    await exchange.finish(b"three")


def test_streams_are_chunked_and_end_the_connection_for_http_1_0() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET)
        answer = await read_until(client, b"0\r\n\r\n")
        assert answer.endswith(b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")
        client.close()
        client = await rig.client()
        await client.send_all(b"GET / HTTP/1.0\r\n\r\n")
        answer = await read_all(client)
        assert answer.endswith(b"\r\n\r\nonetwothree")
        assert b"chunked" not in answer

    run(stream, scenario)


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_a_client_that_leaves_cancels_the_handler(how: str) -> None:
    began, ended = trio.Event(), trio.Event()

    async def wait(exchange: HttpExchange) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET)
        await began.wait()
        if how == "half-close":
            await client.send_eof()
        else:
            if how == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            client.close()
        await ended.wait()

    run(wait, scenario)


def test_a_client_that_stops_reading_is_cut() -> None:
    ended = trio.Event()

    async def flood(exchange: HttpExchange) -> None:
        await exchange.start(200, TEXT)
        try:
            while True:
                await exchange.send(b"x" * 65536)
        finally:
            ended.set()

    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET)
        await ended.wait()

    run(flood, scenario, Limits(write_timeout=0.1))


def test_drain_finishes_what_runs_and_closes_what_idles() -> None:
    proceed, began = trio.Event(), trio.Event()

    async def slow(exchange: HttpExchange) -> None:
        if exchange.request.target == b"/a":
            began.set()
            await proceed.wait()
        await exchange.respond(200, TEXT, b"done")

    async def scenario(rig: Rig) -> None:
        idle, busy = await rig.client(), await rig.client()
        await idle.send_all(GET.replace(b"/a", b"/quick"))
        await read_until(idle, b"done")
        await busy.send_all(GET)
        await began.wait()
        rig.server.drain()
        assert await read_all(idle) == b""
        with pytest.raises(OSError, match="ECONNREFUSED"):
            await rig.client()
        proceed.set()
        answer = await read_all(busy)
        assert answer.endswith(b"done")
        assert b"connection: close" in answer

    run(slow, scenario)


def test_a_bug_in_a_handler_is_a_500_and_nothing_more() -> None:
    async def broken(exchange: HttpExchange) -> None:
        if exchange.request.target == b"/late":
            await exchange.start(200, TEXT)
            await exchange.send(b"some")
        raise LookupError("a bug")

    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET)
        assert (await read_until(client, b"}")).startswith(b"HTTP/1.1 500 ")
        await client.send_all(GET.replace(b"/a", b"/late"))
        assert not (await read_all(client)).endswith(b"0\r\n\r\n")

    run(broken, scenario)


def test_more_connections_than_allowed_are_told_so() -> None:
    async def scenario(rig: Rig) -> None:
        first = await rig.client()
        await first.send_all(GET)
        await read_until(first, b"GET /a ")
        second = await rig.client()
        assert (await read_all(second)).startswith(b"HTTP/1.1 503 ")
        first.close()

    run(echo, scenario, Limits(max_connections=1))


def test_who_only_idles_makes_room_for_newcomers() -> None:
    async def scenario(rig: Rig) -> None:
        idle, busy = [await rig.client() for _ in range(3)], await rig.client()
        await busy.send_all(GET[:10])
        assert (await read_all(await rig.client())).startswith(b"HTTP/1.1 503 ")
        assert await read_all(idle[0]) == b""
        newcomer = await rig.client()
        for client, rest in ((newcomer, GET), (busy, GET[10:])):
            await client.send_all(rest)
            await read_until(client, b"GET /a ")

    run(echo, scenario, Limits(max_connections=4))


def test_a_burst_of_connections_is_counted_as_it_comes() -> None:
    async def scenario(rig: Rig) -> None:
        burst = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(5)]  # all before one is accepted
        rig.clients += map(SocketStream, burst)
        for turned_away in rig.clients[2:]:
            assert (await read_all(turned_away)).startswith(b"HTTP/1.1 503 ")
        assert rig.server.statistics().connections == 2

    run(echo, scenario, Limits(max_connections=2))


def test_a_comment_from_outside_goes_between_chunks() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        await client.send_all(GET)
        assert (await read_until(client, b"0\r\n\r\n")).endswith(b"\r\n\r\n5\r\n: hi\n\r\n3\r\nend\r\n0\r\n\r\n")
        client.close()

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, TEXT)
        exchange.send_soon(b": hi\n")
        await exchange.finish(b"end")

    run(handler, scenario)


def test_tls() -> None:
    context, trusting = contexts()

    async def scenario(rig: Rig) -> None:
        raw = await rig.client()
        client = trio.SSLStream(raw, trusting, server_hostname="127.0.0.1", https_compatible=True)
        await client.send_all(GET)
        answer = await read_until(client, b"0\r\n\r\n")
        assert b"one" in answer
        plain = await rig.client()
        await plain.send_all(GET)
        await read_all(plain)

    run(stream, scenario, context=context)


def test_tls_clients_that_leave_are_noticed() -> None:
    context, trusting = contexts()
    began, ended = trio.Event(), trio.Event()

    async def wait(exchange: HttpExchange) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def scenario(rig: Rig) -> None:
        raw = await rig.client()
        client = trio.SSLStream(raw, trusting, server_hostname="127.0.0.1", https_compatible=True)
        await client.send_all(GET)
        await began.wait()
        raw.close()
        await ended.wait()

    run(wait, scenario, context=context)
