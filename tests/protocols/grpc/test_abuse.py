"""What a client that means harm, or knows no better, gets: a status, a reset or GOAWAY; never more than its own."""

from __future__ import annotations

import contextlib
import gc
import itertools
import tracemalloc

import hpack
import pytest
import trio
import trio.testing
from h2.connection import H2Connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.wire import h2
from gateway.wire.grpc import Code, framed
from protocols.grpc.connection import Connection
from protocols.grpc.health import Health
from protocols.grpc.http2 import Http2
from protocols.grpc.limits import Limits
from tests.protocols.grpc.rig import HEADERS, TYPE, Rig, message, run

CALM = 11
PREFACE = h2.PREFACE + h2.settings({})
CALL = hpack.Encoder().encode([*HEADERS[:3], (":path", "/test.Echo/Hold"), *HEADERS[3:], *TYPE])


async def left(client: trio.abc.Stream) -> bytes:
    """What comes until the server closes."""
    data = b""
    with trio.fail_after(1000):
        while more := await client.receive_some(65536):
            data += more
    return data


def goaway(data: bytes) -> int | None:
    """The code of the last GOAWAY in frames, None without one."""
    code = None
    while len(data) >= 9:
        size, kind = int.from_bytes(data[:3], "big"), data[3]
        if kind == 7:
            code = int.from_bytes(data[13:17], "big")
        data = data[9 + size :]
    return code


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /x HTTP/1.1\r\n\r\n" + b"x" * 100_000])
def test_http1_is_told_what_this_port_speaks(data: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        await client.send_all(data)
        assert (await left(client)).startswith(b"HTTP/1.1 505 ")
        await rig.until(lambda: not rig.server.connections)

    run(scenario)


@pytest.mark.parametrize("data", [b"\x16\x03\x01" + bytes(200), b"\0" * 24, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"])
def test_other_protocols_are_closed(data: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        await client.send_all(data)
        assert goaway(await left(client)) is None

    run(scenario)


@pytest.mark.parametrize("sent", [b"", b"PRI * HTTP/2.0", h2.PREFACE])
def test_a_client_that_does_not_finish_its_preface_is_cut(sent: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = rig.memory_stream()
        started = trio.current_time()
        await client.send_all(sent)
        await left(client)
        assert 10 <= trio.current_time() - started <= 12

    run(scenario, clock=MockClock(autojump_threshold=0))


BROKEN = {
    "a frame that is too long": (h2.frame(0, 0, 1, bytes(16385)), 6),
    "data for nobody": (h2.data(1, b"x"), 1),
    "headers out of order": (h2.headers(5, CALL, True, 16384) + h2.headers(3, CALL, True, 16384), 1),
    "an even stream": (h2.headers(2, CALL, True, 16384), 1),
    "fields that are none": (h2.headers(1, b"\xff\xff\xff\xff\xff", True, 16384), 1),
    "a table larger than agreed on": (h2.headers(1, b"\x3f\xff\xff\x7f", True, 16384), 1),
    "no continuation": (h2.frame(1, 0, 1, CALL) + h2.ping(bytes(8)), 1),
    "continuations without end": (h2.frame(1, 0, 1, CALL) + h2.frame(9, 0, 1, b"") * 100, 1),
    "a window that overflows": (h2.frame(8, 0, 0, b"\x7f\xff\xff\xff"), 3),
    "a window of nothing": (h2.frame(8, 0, 0, bytes(4)), 1),
    "more than the window": (h2.headers(1, CALL, False, 16384) + h2.data(1, bytes(16384)) * 65, 3),
    "a push": (h2.frame(5, 4, 1, b"\0\0\0\2" + CALL), 1),
    "settings of odd length": (h2.frame(4, 0, 0, bytes(5)), 6),
    "a table that changes all the time": (h2.headers(1, b"\x20\x3f\x81\x05\x20" + CALL, True, 16384), 1),
    "fields without end": (h2.headers(1, b"\0\1a\x7f\xff\xff\xff\x7f" + bytes(300_000), True, 16384), CALM),
    "a bomb of fields": (
        h2.headers(1, hpack.Encoder().encode([("x", "y" * 3000)]) + b"\xbe" * 16000, True, 16384),
        CALM,
    ),
}


@pytest.mark.parametrize(("frames", "code"), BROKEN.values(), ids=BROKEN)
def test_who_breaks_http2_is_told_and_closed(frames: bytes, code: int) -> None:
    async def scenario(rig: Rig) -> None:
        other = await rig.client()
        client = await rig.raw()
        await client.send_all(PREFACE + frames)
        assert goaway(await left(client)) == code
        client.close()
        await rig.until(lambda: len(rig.server.connections) == 1)
        assert rig.echo.left == rig.echo.entered
        assert (await other.call("Unary", b"x")).status is Code.OK

    run(scenario, Limits(window=1 << 20))


@pytest.mark.parametrize("frames", [h2.headers(1, CALL, True, 16384)[:-3], h2.data(1, b"abc")[:5]])
def test_a_frame_cut_short_by_the_end(frames: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        await client.send_all(PREFACE + frames)
        await rig.until(lambda: len(rig.server.connections) == 1)
        await client.send_eof()
        await rig.until(lambda: not rig.server.connections)

    run(scenario)


FRAMES = st.one_of(
    st.builds(
        h2.frame,
        st.integers(0, 12),
        st.integers(0, 255),
        st.sampled_from([0, 1, 1, 3, 3, 5, 2, 2**31 - 1]),
        st.binary(max_size=40) | st.just(CALL) | st.just(message(b"abc")),
    ),
    st.just(h2.headers(1, CALL, False, 16384)),
    st.just(h2.headers(3, CALL.replace(b"Hold", b"Chat"), False, 16384)),
    st.binary(max_size=30),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FRAMES, max_size=12))
def test_no_bytes_disturb_anybody_else(frames: list[bytes]) -> None:
    async def scenario(rig: Rig) -> None:
        other, bad = await rig.memory_client(), rig.memory_stream()
        held = other.open("Hold")
        await other.send(held, message(b"x"), end=True)
        await bad.send_all(PREFACE + b"".join(frames))
        await trio.sleep(0.1)
        await bad.aclose()
        rig.echo.gate.set()
        assert (await other.answer(held)).messages == [b"x"]
        await rig.until(lambda: len(rig.server.connections) == 1, moving=True)
        assert rig.server.statistics().streams == 0
        assert rig.echo.left == rig.echo.entered

    run(scenario, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("reset", [(3, b"\0\0\0\x08"), (8, b"\x7f\xff\xff\xff")], ids=["theirs", "ours"])
def test_ten_thousand_rapid_resets_end_the_connection_and_hold_no_memory(reset: tuple[int, bytes]) -> None:
    """Ours: a window that overflows is the client's fault, and its stream's end."""
    kind, payload = reset

    async def scenario(rig: Rig) -> None:
        other, client = await rig.client(), await rig.raw()
        held = other.open("Hold")
        await other.send(held, message(b"x"), end=True)
        await client.send_all(PREFACE)
        tracemalloc.start()
        pairs = [h2.headers(n, CALL, False, 16384) + h2.frame(kind, 0, n, payload) for n in range(1, 20_001, 2)]
        with contextlib.suppress(trio.BrokenResourceError):  # who is closed cannot send the rest
            for start in range(0, len(pairs), 100):
                await client.send_all(b"".join(pairs[start : start + 100]))
        assert goaway(await left(client)) == CALM
        client.close()
        await rig.until(lambda: len(rig.server.connections) == 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000
        assert rig.echo.entered < 6000  # 200 a second are put up with
        rig.echo.gate.set()
        assert (await other.answer(held)).status is Code.OK
        assert rig.echo.left == rig.echo.entered

    run(scenario)


def test_resets_now_and_then_are_nobodys_business() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        for _ in range(100):
            for _ in range(20):
                stream_id = client.open("Hold")
                await client.flush()
                client.h2.reset_stream(stream_id, 8)
            await client.flush()
            await trio.sleep(1)
        assert (await client.call("Unary", b"x")).status is Code.OK

    run(scenario, Limits(max_nuisance=30, nuisance_rate=20), clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "frame", [h2.settings({}), h2.headers(1, CALL, False, 16384) + h2.data(1, b"") * 5, b"\0\0\0\x63\0\0\0\0\0"]
)
def test_frames_without_use_are_not_put_up_with_for_ever(frame: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        await client.send_all(PREFACE)
        with trio.move_on_after(5):
            await client.send_all(frame + frame[-9:] * 3000)
        assert goaway(await left(client)) == CALM

    run(scenario)


@pytest.mark.parametrize(
    "frame",
    [h2.frame(2, 0, 1, bytes(5)), h2.frame(6, 1, 0, bytes(8)), h2.goaway(0), h2.frame(4, 1, 0, b"")],
    ids=["priorities", "answers to no ping", "farewells", "settings that are acknowledged again"],
)
def test_frames_that_change_nothing_are_not_put_up_with_for_ever(frame: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        await client.send_all(PREFACE + h2.headers(1, CALL, False, 16384))
        with trio.move_on_after(5):
            await client.send_all(frame * 3000)
        assert goaway(await left(client)) == CALM

    run(scenario)


def test_priorities_that_come_with_calls_are_nobodys_business() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        calls = [h2.frame(1, 0x25, n, bytes(5) + CALL.replace(b"Hold", b"Unary")) for n in range(1, 101, 2)]
        await client.send_all(PREFACE + b"".join(calls) + h2.ping(b"and then"))
        received = b""
        while b"and then" not in received:
            received += await client.receive_some(65536)
        assert goaway(received) is None

    run(scenario, Limits(max_nuisance=10, nuisance_rate=0.0))


def test_pings_are_answered_and_too_many_end_the_connection() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        for _ in range(10):
            client.h2.ping(b"generous")
            await client.flush()
            await trio.sleep(10)
        for _ in range(50):  # each after something was sent
            client.h2.ping(b"measured")
            assert (await client.call("Unary", b"x")).status is Code.OK
        for _ in range(7):
            client.h2.ping(b"too many")
        await client.until_closed()
        assert client.pongs == [b"generous"] * 10 + [b"measured"] * 50 + [b"too many"] * 7
        assert [(end.error_code, end.additional_data) for end in client.goaways] == [(CALM, b"too_many_pings")]

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_streams_beyond_the_limit_are_refused_and_the_others_go_on() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        streams = [client.open("Hold") for _ in range(7)]  # before the limit is known
        for stream_id in streams:
            await client.send(stream_id, message(b"x"), end=True)
        for stream_id in streams[5:]:
            assert (await client.answer(stream_id)).reset == 7
        rig.echo.gate.set()
        for stream_id in streams[:5]:
            assert (await client.answer(stream_id)).status is Code.OK
        assert client.h2.remote_settings.max_concurrent_streams == 5

    run(scenario, Limits(max_streams=5))


def test_fields_beyond_what_is_accepted_end_their_call_only() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        assert (await client.call("Unary", b"x", fields=[("a", "b" * 5000)])).status is Code.RESOURCE_EXHAUSTED
        assert (await client.call("Unary", b"x", fields=[("a", "b" * 3000)])).status is Code.OK

    run(scenario, Limits(max_headers=4096))


def test_connections_beyond_the_limit_are_closed() -> None:
    async def scenario(rig: Rig) -> None:
        first = await rig.client()
        assert (await first.call("Unary", b"x")).status is Code.OK
        assert await left(await rig.raw()) == b""
        assert (await first.call("Unary", b"x")).status is Code.OK

    run(scenario, Limits(max_connections=1))


def test_resets_of_calls_that_were_answered_are_not_counted() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        for _ in range(50):
            stream_id = client.open("Chat")
            await client.send(stream_id, message(b"x"))
            await client.until(lambda stream_id=stream_id: bool(client.answers[stream_id].messages))
            client.h2.reset_stream(stream_id, 8)
            await client.flush()
        assert (await client.call("Unary", b"x")).status is Code.OK
        assert not client.goaways

    run(scenario, Limits(max_nuisance=10, nuisance_rate=0.0))


def test_a_read_full_of_small_frames_takes_turns_with_everybody_else() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        unknown = hpack.Encoder().encode([*HEADERS[:3], (":path", "/none"), *TYPE])
        await client.send_all(PREFACE + b"".join(h2.headers(n, unknown, True, 16384) for n in range(1, 1600, 2)))
        await rig.until(lambda: bool(rig.server.connections))
        (connection,) = rig.server.connections
        seen = [0]
        while seen[-1] < 1599:
            await trio.lowlevel.checkpoint()
            seen.append(connection._http2.last_id)
        assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 256

    run(scenario)


def test_a_window_full_of_small_messages_takes_turns_with_everybody_else() -> None:
    count = 50_000

    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        path = hpack.Encoder().encode([*HEADERS[:3], (":path", "/test.Echo/Collect"), *HEADERS[3:], *TYPE])
        data = message(b"") * count
        frames = [h2.data(1, data[at : at + 16384]) for at in range(0, len(data), 16384)]
        await client.send_all(PREFACE + h2.headers(1, path, False, 16384) + b"".join(frames))
        seen = [0]
        while seen[-1] < count:
            await trio.lowlevel.checkpoint()
            seen.append(rig.echo.taken)
        assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 256

    run(scenario)


def test_settings_that_nobody_knows_are_not_kept() -> None:
    names = range(16, 65536)
    frames = [h2.settings(dict.fromkeys(names[at : at + 2700], 1)) for at in range(0, len(names), 2700)]

    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        assert (await client.call("Unary", b"x")).status is Code.OK
        gc.collect()
        tracemalloc.start()
        await client.stream.send_all(b"".join(frames))
        assert (await client.call("Unary", b"x")).status is Code.OK
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held < 5_000_000

    run(scenario)


def test_calls_that_have_ended_are_forgotten() -> None:
    assert Http2(Limits())._h2._closed_streams._size_limit <= 8192


def test_metadata_that_is_held_is_counted_and_watchers_have_none() -> None:
    async def scenario(rig: Rig) -> None:
        client, held = await rig.client(), rig.server.burden.buffered
        large = [("a", "b" * 50_000)]
        await client.send(client.open("Hold", *large), message(b"x"), end=True)
        await client.send(client.open("Hold"), message(b"x"), end=True)
        await rig.until(lambda: rig.echo.entered == 2)
        assert 50_000 < held.held < 51_000
        watcher = client.open("/grpc.health.v1.Health/Watch", *large)
        await client.send(watcher, framed(b""), end=True)
        await client.until(lambda: bool(client.answers[watcher].data))
        assert 50_000 < held.held < 51_000
        rig.echo.gate.set()
        await rig.until(lambda: rig.server.statistics().streams == 1)
        assert held.held == 0

    run(scenario, None, None, None, Health())


def test_what_a_refusal_repeats_of_a_request_is_little() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        answer = await client.call("/" + "x" * 3000, b"")
        assert answer.status is Code.UNIMPLEMENTED
        assert len(answer.text) < 300
        answer = await client.call("Unary", b"", fields=[("grpc-encoding", "x" * 3000)])
        assert answer.status is Code.UNIMPLEMENTED
        assert len(answer.text) < 300

    run(scenario)


@pytest.mark.parametrize("length", ["1", "999", "-1", "x", "1, 2"])
def test_a_wrong_content_length_is_nobody_elses_business(length: str) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        held = client.open("Hold")
        await client.send(held, message(b"x"), end=True)
        assert (await client.call("Unary", b"y", fields=[("content-length", length)])).messages == [b"y"]
        rig.echo.gate.set()
        assert (await client.answer(held)).status is Code.OK

    run(scenario)


def test_resets_of_calls_that_were_waited_for_are_not_counted() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        streams = [client.open("Hold") for _ in range(100)]
        await client.flush()
        await trio.sleep(2)
        for stream_id in streams:
            client.h2.reset_stream(stream_id, 8)
        assert (await client.call("Unary", b"x")).status is Code.OK

    run(scenario, Limits(max_nuisance=10, nuisance_rate=0.0), clock=MockClock(autojump_threshold=0))


def test_requests_that_are_none_are_not_put_up_with_for_ever() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        await client.send_all(PREFACE + b"".join(h2.headers(n, b"\x82", True, 16384) for n in range(1, 4001, 2)))
        assert goaway(await left(client)) == CALM

    run(scenario)


@pytest.mark.parametrize(
    "data",
    [b"", PREFACE, PREFACE + h2.headers(1, CALL, False, 16384), PREFACE + h2.headers(1, CALL, True, 16384)],
    ids=["nothing", "settings", "a call that is coming", "a call"],
)
@pytest.mark.usefixtures("uncollected")
def test_a_connection_that_has_ended_needs_no_garbage_collector(data: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.raw()
        await client.send_all(data)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.aclose()
        await rig.until(lambda: not rig.server.connections)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert _of_connections() == before

    before = _of_connections()
    run(scenario)


def _of_connections() -> int:
    return sum(isinstance(each, (Http2, H2Connection, Connection)) for each in gc.get_objects())
