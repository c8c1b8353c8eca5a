"""Connections over time: who is silent is asked, who is dead is closed, who is old is asked to go."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from gateway.wire.grpc import Code
from protocols.grpc.limits import Limits
from tests.protocols.grpc.rig import Rig, message, run


def test_a_silent_client_that_answers_pings_keeps_its_call() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        held = client.open("Hold")
        await client.send(held, message(b"x"), end=True)
        with trio.move_on_after(600):
            await client.answer(held)
        assert 15 <= client.pings <= 21
        rig.echo.gate.set()
        assert (await client.answer(held)).status is Code.OK

    run(scenario, Limits(ping_after=30, ping_timeout=20), clock=MockClock(autojump_threshold=0))


def test_a_client_that_is_gone_without_a_word_is_cut() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        held = client.open("Hold")
        await client.send(held, message(b"x"), end=True)
        await rig.until(lambda: rig.echo.entered == 1)
        started = trio.current_time()
        await rig.until(lambda: rig.echo.left == 1, moving=True)
        assert 50 <= trio.current_time() - started <= 54
        await rig.until(lambda: not rig.server.connections, moving=True)

    run(scenario, Limits(ping_after=30, ping_timeout=20), clock=MockClock(autojump_threshold=0))


def test_an_old_connection_is_asked_to_go_and_its_call_finishes() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        held = client.open("Hold")
        await client.send(held, message(b"x"), end=True)
        await client.until(lambda: len(client.goaways) == 2)
        assert 90 <= trio.current_time() <= 112
        rig.echo.gate.set()
        assert (await client.answer(held)).status is Code.OK
        await client.until_closed()

    run(scenario, Limits(max_age=100, age_grace=50), clock=MockClock(autojump_threshold=0))


def test_after_its_grace_an_old_connection_is_cut() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        held = client.open("Hold")
        await client.send(held, message(b"x"), end=True)
        await client.until_closed()
        assert 140 <= trio.current_time() <= 164
        assert rig.echo.left == 1
        assert client.answers[held].status is None

    run(scenario, Limits(max_age=100, age_grace=50), clock=MockClock(autojump_threshold=0))


def test_an_unused_connection_is_asked_to_go() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        assert (await client.call("Unary", b"x")).status is Code.OK
        await client.until_closed()
        assert 300 <= trio.current_time() <= 304
        assert [goaway.error_code for goaway in client.goaways] == [0, 0]

    run(scenario, Limits(idle_timeout=300), clock=MockClock(autojump_threshold=0))


def test_a_request_that_does_not_come_is_not_waited_for() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        silent, torn, slow, patient = (client.open(name) for name in ("Unary", "Chat", "Unary", "Chat"))
        await client.send(torn, message(b"whole") + message(b"torn")[:-1])
        whole = message(b"12345")
        for piece in (whole[:1], whole[1:4], whole[4:]):
            await client.send(slow, piece, end=piece == whole[4:])
            with trio.move_on_after(20):
                await client.until_closed()
        for call in (silent, torn):
            assert (await client.answer(call)).status is Code.DEADLINE_EXCEEDED
        assert (await client.answer(slow)).status is Code.OK
        await client.send(patient, message(b"at last"), end=True)  # between messages nothing is due
        assert (await client.answer(patient)).status is Code.OK

    run(scenario, Limits(message_timeout=30), clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(("most", "code"), [(1_000_000, Code.OK), (50_000, Code.DEADLINE_EXCEEDED)])
def test_a_request_that_is_long_in_coming_gives_way_where_there_is_want_of_room(most: int, code: Code) -> None:
    """However steadily it comes: 40 kB, the last of them a byte every 20 s."""

    async def scenario(rig: Rig) -> None:
        rig.server.burden.bound(most, 0.0, 1000)
        client = await rig.memory_client()
        call, whole = client.open("Unary"), message(bytes(40_000))
        pieces = [whole[:-5], *(whole[at : at + 1] for at in range(len(whole) - 5, len(whole)))]
        while pieces and not client.answers[call].ended:
            piece = pieces.pop(0)
            await client.send(call, piece, end=not pieces)
            with trio.move_on_after(20):
                await client.answer(call)
        assert (await client.answer(call)).status is code
        assert rig.server.burden.buffered.held == 0

    run(scenario, Limits(message_timeout=30), clock=MockClock(autojump_threshold=0))
