"""Sockets: nothing queued is lost or overtaken, every wait ends, and a connection knows when it is quiet."""

from __future__ import annotations

import gc
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from gateway.net import READ_SIZE, SocketStream, _rest, connect

MUCH = 1_000_000
"""Far more than the small send buffers here take."""


class Pair:
    """A stream with a small send buffer and its peer."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.stream = SocketStream(ours)
        self.theirs.setblocking(False)
        self.peer = trio.socket.from_stdlib_socket(self.theirs)

    async def read(self, size: int = 1 << 30) -> bytes:
        """``size`` bytes at least, or all until the end."""
        data = b""
        while len(data) < size:
            more = await self.peer.recv(READ_SIZE)
            if not more:
                break
            data += more
        return data


def run(scenario: Callable[[Pair], Awaitable[None]], clock: trio.abc.Clock | None = None) -> None:
    async def main() -> None:
        pair = Pair()
        try:
            with trio.fail_after(10):
                await scenario(pair)
        finally:
            pair.stream.close()
            pair.theirs.close()

    trio.run(main, clock=clock)


def test_what_the_kernel_did_not_take_follows_without_any_other_event() -> None:
    """The peer reads in a thread of its own: this one sleeps until the kernel has room."""

    async def scenario(pair: Pair) -> None:
        def read() -> None:
            size = 0
            while size < MUCH:
                size += len(pair.theirs.recv(READ_SIZE))

        pair.theirs.settimeout(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, read)
            await trio.testing.wait_all_tasks_blocked()
            pair.stream.send_soon(b"x" * MUCH)
        assert pair.stream.stuck_since is None

    run(scenario)


def test_since_when_a_peer_does_not_read_is_known_and_moves_with_its_progress() -> None:
    clock = trio.testing.MockClock()

    async def scenario(pair: Pair) -> None:
        pair.stream.send_soon(b"x" * MUCH)
        pair.stream.flush()
        clock.jump(1)
        assert pair.stream.stuck_since == 0
        await pair.read(MUCH // 2)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.stream.stuck_since == 1

    run(scenario, clock)


@pytest.mark.parametrize("turn_first", [False, True])
def test_closing_with_bytes_the_kernel_does_not_take_drops_them_and_nothing_else(turn_first: bool) -> None:
    async def scenario(other: Pair) -> None:
        for _ in range(3):  # a descriptor used again is another connection
            pair = Pair()
            pair.stream.send_soon(b"x" * MUCH)
            if turn_first:
                await trio.lowlevel.checkpoint()
            pair.stream.close()
            pair.stream.close()
            await trio.testing.wait_all_tasks_blocked()
            taken = await pair.read()
            assert 0 < len(taken) < MUCH
            assert taken == b"x" * len(taken)
            pair.theirs.close()

    run(scenario)


async def ends_closed(work: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await work()


def test_closing_ends_the_waits_of_other_tasks() -> None:
    async def scenario(pair: Pair) -> None:
        async with trio.open_nursery() as nursery:
            pair.stream.send_soon(b"x" * MUCH)
            nursery.start_soon(ends_closed, pair.stream.receive_some)
            nursery.start_soon(ends_closed, partial(pair.stream.send_all, b"x" * MUCH))
            nursery.start_soon(ends_closed, pair.stream.wait_sent)
            await trio.testing.wait_all_tasks_blocked()
            assert pair.stream.stuck_since is not None
            pair.stream.close()
        await ends_closed(pair.stream.receive_some)
        await ends_closed(partial(pair.stream.send_all, b"x"))
        await ends_closed(pair.stream.send_eof)
        await pair.stream.aclose()

    run(scenario)


@pytest.mark.parametrize("end", [SocketStream.aclose, SocketStream.send_eof])
def test_the_end_comes_after_everything_that_was_sent(end: Callable[[SocketStream], Awaitable[None]]) -> None:
    async def scenario(pair: Pair) -> None:
        async def write() -> None:
            for number in range(10):
                await pair.stream.send_all(b"%d" % number * (MUCH // 10))
            await end(pair.stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert await pair.read() == b"".join(b"%d" % number * (MUCH // 10) for number in range(10))

    run(scenario)


def test_closing_politely_closes_at_once_when_cancelled() -> None:
    async def scenario(pair: Pair) -> None:
        pair.stream.send_soon(b"x" * MUCH)
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.stream.aclose()
        assert pair.stream.socket.fileno() == -1
        assert len(await pair.read()) < MUCH

    run(scenario)


def test_writers_on_a_stuck_connection_keep_their_order() -> None:
    async def scenario(pair: Pair) -> None:
        await trio.lowlevel.checkpoint()
        pair.stream.send_soon(b"x" * MUCH)
        pair.stream.flush()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(pair.stream.send_all, b"%d" % number)
                await trio.testing.wait_all_tasks_blocked()
            assert (await pair.read(MUCH + 10))[MUCH:] == b"0123456789"

    run(scenario)


def test_what_one_turn_says_leaves_together_and_no_call_is_needed() -> None:
    async def scenario(pair: Pair) -> None:
        assert not pair.stream.send_soon(b"a")
        await pair.stream.send_all(b"b")
        assert not pair.stream.send_soon(b"c")
        with pytest.raises(BlockingIOError):
            pair.theirs.recv(1)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.theirs.recv(10) == b"abc"

    run(scenario)


def test_more_connections_than_the_outbox_holds_are_all_heard() -> None:
    async def scenario(_: Pair) -> None:
        pairs = [Pair() for _ in range(40)]
        for number, pair in enumerate(pairs):
            pair.stream.send_soon(b"%d" % number)
        await trio.testing.wait_all_tasks_blocked()
        assert [pair.theirs.recv(10) for pair in pairs] == [b"%d" % number for number in range(40)]
        for pair in pairs:
            pair.stream.close()
            pair.theirs.close()

    run(scenario)


def test_a_broken_connection_is_reported_by_the_next_call() -> None:
    async def scenario(pair: Pair) -> None:
        pair.theirs.close()
        pair.stream.send_soon(b"a")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await pair.stream.send_all(b"b")
        with pytest.raises(trio.BrokenResourceError):
            await pair.stream.wait_sent()

    run(scenario)


def test_a_cancelled_read_loses_nothing() -> None:
    async def scenario(pair: Pair) -> None:
        for number in range(5):
            with trio.CancelScope() as scope:
                scope.cancel()
                await pair.stream.receive_some()
            assert scope.cancelled_caught
            pair.theirs.send(b"%d" % number)
        assert await pair.stream.receive_some() == b"01234"

    run(scenario)


def test_a_long_message_is_read_in_pieces_to_its_end() -> None:
    async def scenario(pair: Pair) -> None:
        pair.theirs.send(b"x" * 100)
        pair.theirs.shutdown(socket.SHUT_WR)
        assert [len(await pair.stream.receive_some(size)) for size in (30, 30, 30, 30, 30)] == [30, 30, 30, 10, 0]

    run(scenario)


def test_quiet_is_a_connection_with_nothing_to_read_and_no_end() -> None:
    async def scenario(pair: Pair) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert pair.stream.quiet()
        pair.theirs.send(b"ab")
        await trio.testing.wait_all_tasks_blocked()
        assert not pair.stream.quiet()
        assert await pair.stream.receive_some(1) == b"a"
        assert not pair.stream.quiet()
        assert await pair.stream.receive_some(1) == b"b"  # all of it, though nobody has seen that
        assert pair.stream.quiet()
        pair.theirs.close()
        await trio.testing.wait_all_tasks_blocked()
        assert not pair.stream.quiet()

    run(scenario)


def test_a_hang_up_is_told_though_nobody_reads() -> None:
    async def scenario(pair: Pair) -> None:
        told = trio.Event()
        pair.stream.on_hangup = told.set
        pair.theirs.send(b"x" * 10)
        await trio.testing.wait_all_tasks_blocked()
        assert not told.is_set()
        pair.theirs.close()
        await told.wait()
        assert pair.stream.ended
        assert await pair.stream.receive_some() == b"x" * 10

    run(scenario)


def test_connecting_says_what_was_tried() -> None:
    async def main() -> None:
        with socket.socket() as bound:  # and not listening
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            with pytest.raises(OSError, match=f"ECONNREFUSED connecting to 127.0.0.1:{port}"):
                await connect("127.0.0.1", port)

    trio.run(main)


@pytest.mark.usefixtures("uncollected")
def test_a_connection_that_was_refused_needs_no_garbage_collector() -> None:
    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                await connect(*bound.getsockname())

    trio.run(main)
    assert not [each for each in gc.get_objects() if isinstance(each, ConnectionRefusedError)]


def test_urgent_data_stops_a_read_and_no_more() -> None:
    async def scenario(pair: Pair) -> None:
        pair.theirs.send(b"abc")
        pair.theirs.send(b"!", socket.MSG_OOB)
        pair.theirs.send(b"def")
        received = b""
        while not received.endswith(b"def"):
            received += await pair.stream.receive_some()
        assert received == b"abcdef"

    run(scenario)


def test_what_is_left_of_a_large_answer_is_copied_a_few_times_only() -> None:
    left: bytes | memoryview = bytes(1 << 20)
    copies = 0
    while len(left) > 1000:
        left = _rest(left, 1000)
        copies += isinstance(left, bytes)
        assert memoryview(left).nbytes * 2 >= memoryview(getattr(left, "obj", left)).nbytes
    assert 5 < copies < 12


@pytest.mark.usefixtures("uncollected")
def test_a_broken_connection_needs_no_garbage_collector() -> None:
    async def main() -> None:
        pair = Pair()
        pair.theirs.close()
        pair.stream.send_soon(b"x")
        pair.stream.flush()
        with pytest.raises(trio.BrokenResourceError):
            pair.stream.send_soon(b"x")
        pair.stream.close()
        del pair
        await trio.testing.wait_all_tasks_blocked()
        assert not [each for each in gc.get_objects() if isinstance(each, SocketStream)]

    trio.run(main)
