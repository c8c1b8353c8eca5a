"""Flow control both ways: what is given back and when, and that what waits is bounded and harms nobody else."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.const import Cardinality, Handler
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.net import SocketStream
from gateway.wire import h2
from gateway.wire.grpc import Code
from protocols.grpc.limits import Limits
from protocols.grpc.stream import HIGH_WATER, Stream
from tests.protocols.grpc.rig import Client, Rig, message, run

FOR_EVER = struct.pack(">I", 2**32 - 1)


class Slow:
    """Takes a message each time it is told to."""

    def __init__(self) -> None:
        self.turns = trio.Semaphore(0)
        self.taken = 0

    async def take(self, stream: Stream) -> None:
        while True:
            await self.turns.acquire()
            if await stream.recv_message() is None:
                return await stream.send_message(BytesValue())
            self.taken += 1

    def __mapping__(self) -> dict[str, Handler]:
        return {"/test.Slow/Take": Handler(self.take, Cardinality.STREAM_UNARY, BytesValue, BytesValue)}


def test_window_is_given_back_only_as_messages_are_consumed() -> None:
    slow = Slow()

    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        assert (await client.call("Unary", b"")).status is Code.OK  # the settings have arrived
        stream_id = client.open("/test.Slow/Take")
        part = message(bytes(8192 - 10))
        sent = 0
        while client.h2.local_flow_control_window(stream_id) >= len(part):
            await client.send(stream_id, part)
            sent += 1
        assert sent == 8
        with trio.move_on_after(60):
            await client.until(lambda: client.h2.local_flow_control_window(stream_id) >= len(part))
            raise AssertionError("the window came back although nothing was consumed")
        for _ in range(4):
            slow.turns.release()
        await client.until(lambda: client.h2.local_flow_control_window(stream_id) >= 2 * len(part))
        assert slow.taken == 4
        for _ in range(5):
            slow.turns.release()
        await client.send(stream_id, b"", end=True)
        assert (await client.answer(stream_id)).status is Code.OK

    run(scenario, Limits(window=65536, ping_after=1000), None, MockClock(autojump_threshold=0), slow)


@pytest.mark.parametrize("method", ["Unary", "Collect"])
def test_a_message_larger_than_the_windows_arrives(method: str) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        for size in (1_000_000, 3_000_000):
            answer = await client.call(method, bytes(size))
            assert answer.status is Code.OK
            assert answer.messages in ([bytes(size)], [b"%d" % size])

    run(scenario, Limits(window=65536, connection_window=100_000))


def test_unfinished_messages_of_one_connection_are_bounded_together() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        streams = [client.open("Unary") for _ in range(5)]
        for stream_id in streams:
            await client.send(stream_id, message(bytes(900_000))[:-1])
        await client.until(lambda: any(client.answers[stream_id].ended for stream_id in streams))
        refused = [stream_id for stream_id in streams if client.answers[stream_id].ended]
        assert [client.answers[stream_id].status for stream_id in refused] == [Code.RESOURCE_EXHAUSTED]
        for stream_id in set(streams) - set(refused):
            await client.send(stream_id, b"\0", end=True)
            assert (await client.answer(stream_id)).status is Code.OK
        assert (await client.call("Unary", bytes(1_000_000))).status is Code.OK

    run(scenario, Limits(max_unfinished=4_000_000), clock=MockClock(autojump_threshold=0))


def test_calls_that_nobody_finished_leave_no_debt() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        for _ in range(30):  # three times the connection's window, never consumed
            stream_id = client.open("Hold")
            await client.send(stream_id, message(bytes(100_000)))
            client.h2.reset_stream(stream_id, 8)
            await client.flush()
        await rig.until(lambda: rig.server.statistics().streams == 0)
        assert (await client.call("Unary", bytes(500_000))).status is Code.OK

    run(scenario, Limits(window=1 << 20, connection_window=1 << 20))


def test_a_client_that_gives_no_window_holds_up_its_call_and_no_other() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        client.h2.increment_flow_control_window(10_000_000)
        client.reading = False
        stalled = [client.open("Repeat") for _ in range(3)]
        for stream_id in stalled:
            await client.send(stream_id, message(FOR_EVER + bytes(100_000)), end=True)
        await client.until(lambda: all(client.answers[stream_id].data == 65535 for stream_id in stalled))
        await wait_all_tasks_blocked()
        (connection,) = rig.server.connections
        assert all(stream.outgoing.size <= HIGH_WATER + 100_020 for stream in connection.streams.values())
        client.reading = True
        assert (await client.call("Unary", bytes(100_000))).messages == [bytes(100_000)]
        assert rig.echo.left == 0
        await client.until(lambda: client.answers[stalled[2]].reset is not None)  # after write_timeout
        assert [client.answers[stream_id].reset for stream_id in stalled] == [8, 8, 8]
        assert (await client.call("Unary", b"x")).status is Code.OK
        assert (rig.echo.left, rig.server.statistics().streams) == (3, 0)

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_a_slow_reader_gets_everything() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Repeat")
        part = struct.pack(">I", 500) + bytes(996)
        await client.send(stream_id, message(part), end=True)
        assert (await client.answer(stream_id)).messages == [part] * 500

    run(scenario)


def small_buffers(rig: Rig) -> Client:
    """Most of what a client is sent waits for it to be read."""
    for listener in rig.listeners:
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.connect(("127.0.0.1", rig.port))
    return Client(SocketStream(sock))


def test_a_client_that_never_reads_is_held_to_what_is_bounded_and_cut() -> None:
    async def scenario(rig: Rig) -> None:
        client = small_buffers(rig)
        await client.start()
        client.h2.update_settings({4: 2**31 - 1})
        client.h2.increment_flow_control_window(2**31 - 1 - 65535)
        for _ in range(20):
            await client.send(client.open("Repeat"), message(FOR_EVER + bytes(1000)), end=True)
        await rig.until(lambda: rig.echo.entered == 20)
        (connection,) = rig.server.connections
        assert connection.socket is not None
        await rig.until(lambda: connection.socket.stuck_since is not None)
        await trio.sleep(30)
        assert all(stream.outgoing.size <= HIGH_WATER + 1020 for stream in connection.streams.values())
        await rig.until(lambda: not rig.server.connections, moving=True)
        assert rig.echo.left == 20
        client.stream.close()

    run(scenario, clock=MockClock(autojump_threshold=0.05))


def test_who_does_not_read_the_answers_to_its_pings_is_not_read_from() -> None:
    async def scenario(rig: Rig) -> None:
        client = small_buffers(rig)
        await client.start()
        with trio.move_on_after(5):
            while True:
                await client.stream.send_all(h2.ping(b"12345678") * 4000)
        (connection,) = rig.server.connections
        assert connection.pending < 3 * HIGH_WATER
        await rig.until(lambda: not rig.server.connections, moving=True)
        client.stream.close()

    run(scenario, Limits(max_ping_strikes=10**9), clock=MockClock(autojump_threshold=0.05))


@pytest.mark.parametrize("at_once", [True, False])
def test_the_connections_window_alone_moves_large_answers(at_once: bool) -> None:
    """``at_once``: it is all there from the start; else it comes in parts, and the streams' windows never change."""

    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        client.reading = False
        client.h2.update_settings({4: 2**31 - 1})
        if at_once:
            client.h2.increment_flow_control_window(2**30)
        streams = [client.open("Unary") for _ in range(2)]
        for stream_id in streams:
            await client.send(stream_id, message(bytes(400_000)), end=True)
        while not all(client.answers[stream_id].ended for stream_id in streams):
            await client.read()
            if not at_once:
                client.h2.increment_flow_control_window(10_000)
        assert [client.answers[stream_id].messages for stream_id in streams] == [[bytes(400_000)]] * 2

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_a_large_answer_lets_small_ones_pass() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        client.h2.update_settings({4: 1 << 30})
        client.h2.increment_flow_control_window(1 << 24)
        large, *small = [client.open("Hold") for _ in range(20)]
        for stream_id, size in ((large, 900_000), *((stream_id, 1) for stream_id in small)):
            await client.send(stream_id, message(bytes(size)), end=True)
        await rig.until(lambda: rig.echo.entered == 20)
        rig.echo.gate.set()
        await client.until(lambda: all(client.answers[stream_id].ended for stream_id in small))
        assert not client.answers[large].ended
        assert (await client.answer(large)).status is Code.OK

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_calls_share_a_window_that_comes_in_small_parts() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        client.reading = False
        client.h2.update_settings({4: 1 << 30})
        streams = [client.open("Repeat") for _ in range(5)]
        for stream_id in streams:
            await client.send(stream_id, message(FOR_EVER + bytes(1000)), end=True)
        for taken in range(16384, 41 * 16384, 16384):
            await client.until(lambda taken=taken: sum(answer.data for answer in client.answers.values()) >= taken)
            client.h2.increment_flow_control_window(16384)
        had = [client.answers[stream_id].data for stream_id in streams]
        assert min(had) > max(had) / 4

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_calls_that_were_held_up_and_reset_are_forgotten() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        client.reading = False
        for _ in range(5):
            stream_id = client.open("Repeat")
            await client.send(stream_id, message(FOR_EVER + bytes(1000)), end=True)
        await client.until(lambda: sum(answer.data for answer in client.answers.values()) >= 65535)
        (connection,) = rig.server.connections
        await rig.until(lambda: len(connection._writer._held_up) == 5)
        for stream_id in client.answers:
            client.h2.reset_stream(stream_id, 8)
        await client.flush()
        await rig.until(lambda: not connection.streams)
        assert not connection._writer._held_up

    run(scenario)
