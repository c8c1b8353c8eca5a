import errno
import math
import socket
import time

import pytest
import trio

from gateway import descriptors
from gateway.burden import BYTES, DESCRIPTORS, LATE, Burden, burden
from gateway.config.settings import ExtProcListener, GrpcListener, HttpListener, Listeners
from gateway.net import SocketStream, connect, crowded
from gateway.turn import turn
from protocols.openai.serve import OpenAIApp
from tests.protocols.openai.fakes import FakeCore, FakeHttp


def test_turns_that_are_long_and_have_no_rest_shed_and_shorter_ones_do_not() -> None:
    async def main() -> list[float]:
        found = burden()
        shares = []
        for target in (1.0, 0.0001):
            found.bound(math.inf, target, 1000)
            until = time.perf_counter() + 0.45
            while time.perf_counter() < until:
                busy = time.perf_counter() + 0.001
                while time.perf_counter() < busy:
                    pass
                await trio.lowlevel.checkpoint()
            shares.append(found.pace.share)
        assert turn().pace is found.pace
        return shares

    quick, slow = trio.run(main)
    assert quick == 0.0
    assert slow > 0.0


def test_what_is_shed_is_told_when_to_come_again_and_lookups_are_answered() -> None:
    late = Burden()
    late.pace.share = 1.0
    http = FakeHttp(b"POST", b"/v1/chat/completions", b"{}")
    app = OpenAIApp(FakeCore(), burden=late)
    trio.run(app, http)
    assert http.status == 503
    assert http.field(b"retry-after") == b"1"
    look = FakeHttp(b"GET", b"/healthz")
    trio.run(app, look)
    assert look.status == 200
    assert late.refused[LATE] == 1


def test_a_body_is_refused_where_there_is_no_room_and_a_request_without_one_is_not() -> None:
    full = Burden()
    full.buffered.limit(1000)
    full.buffered.held = 1000
    assert full.refusal(0) is None
    refusal = full.refusal(1)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.why, refusal.retry_after) == (503, "overloaded", BYTES, 1.0)
    assert full.refused == {BYTES: 1, LATE: 0, DESCRIPTORS: 0, "connections": 0}


def test_what_a_peer_does_not_read_counts_as_held_until_it_does_or_is_gone() -> None:
    trio.run(unread)


async def unread() -> None:
    near, far = socket.socketpair()
    stream, buffered = SocketStream(near), burden().buffered
    size = 8 << 20
    stream.send_soon(b"x" * size)
    stream.flush()
    assert 0 < buffered.held == stream.queued < size
    stream.send_soon(b"more")
    assert buffered.held == stream.queued
    far.setblocking(False)
    reader = SocketStream(far)
    got = 0
    while got < size + 4:
        got += len(await reader.receive_some())
    assert buffered.held == 0
    stream.send_soon(b"x" * size)
    stream.flush()
    assert buffered.held
    stream.close()
    assert buffered.held == 0
    reader.close()


def test_engines_are_reached_for_longer_than_clients_are_taken() -> None:
    trio.run(crowd)


async def crowd() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    streams = [SocketStream(sock) for pair in pairs for sock in pair]
    try:
        burden().bound(math.inf, 0.0, 5)  # 1 kept: 4 sockets, 3 of clients
        assert crowded()
        with pytest.raises(OSError, match="Too many open files"):
            await connect("127.0.0.1", 9)
        burden().bound(math.inf, 0.0, 100)
        assert not crowded()
    finally:
        for stream in streams:
            stream.close()


def test_a_limit_that_is_too_low_for_the_listeners_is_told_with_what_to_do() -> None:
    few = Listeners(http=HttpListener(max_connections=100), grpc=GrpcListener(address="off"))
    assert descriptors.shortage(few, 1024) == ""
    both = Listeners(http=HttpListener(max_connections=300), grpc=GrpcListener(max_connections=300))
    told = descriptors.shortage(both, 1024)
    assert "enough for 576 connections" in told
    assert "allow 600" in told
    assert "ulimit" in told
    assert descriptors.shortage(Listeners(ext_proc=ExtProcListener()), 50_000) != ""
    assert descriptors.shortage(Listeners(), 65_536) == ""


def test_connections_that_are_dialled_at_once_count_before_they_stand() -> None:
    trio.run(dialled)


async def dialled() -> None:
    burden().bound(math.inf, 0.0, 8)  # 2 kept: 6 sockets
    made: list[SocketStream] = []
    refused: list[int | None] = []

    async def dial(port: int) -> None:
        try:
            made.append(await connect("127.0.0.1", port))
        except OSError as error:
            refused.append(error.errno)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(dial, listening.getsockname()[1])
    for stream in made:
        stream.close()
    assert (len(made), refused) == (6, [errno.EMFILE] * 4)
    assert burden().dialling == 0
