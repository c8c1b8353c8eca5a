"""What is said of an API server that is away: one line, whatever number of watches wait for it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from gateway.sources.kube.outage import Outage

SERVER = "https://server:6443"
AWAY = "connection refused"
NAMES = ("pods", "routes", "servers", "providers")


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def play(scenario: Callable[[Outage], Awaitable[None]], *live: str) -> None:
    async def main() -> None:
        outage = Outage(SERVER)
        for name in live:
            outage.live(name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outage.run)
            await trio.testing.wait_all_tasks_blocked()
            await scenario(outage)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_an_outage_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for each in range(20):
            for name in NAMES:
                outage.failed(name, "closed" if each == 0 else AWAY, answered=False)
            await trio.sleep(2 if each else 0.5)
        assert outage.away
        for name in NAMES:
            outage.live(name)
        assert not outage.away

    play(scenario, *NAMES)
    assert lines(caplog) == [
        ("WARNING", f"API server {SERVER}: 4 of 4 watches wait for it, what is known stays: {AWAY}"),
        ("INFO", f"API server {SERVER}: back after 38 s, 2 of 4 watches are in step again"),
    ]


def test_a_server_that_was_never_there_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for name in NAMES:
            outage.failed(name, AWAY, answered=False)
        await trio.sleep(10)

    play(scenario)
    assert [level for level, _ in lines(caplog)] == ["WARNING"]


def test_those_that_wait_are_named_where_others_do_not(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for name in NAMES[:3]:
            outage.failed(name, "500: no", answered=True)
        await trio.sleep(10)

    play(scenario, *NAMES)
    assert [text for _, text in lines(caplog)] == [
        f"API server {SERVER}: 3 of 4 watches wait for it (pods, routes, servers), what is known stays: 500: no"
    ]


def test_what_goes_wrong_with_one_is_told_of_it_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for _ in range(5):
            outage.failed("pods", AWAY, answered=False)
            await trio.sleep(5)
        outage.live("pods")
        await trio.sleep(300)
        outage.failed("pods", AWAY, answered=False)
        await trio.sleep(5)
        outage.live("pods")

    play(scenario, *NAMES)
    assert lines(caplog) == [
        ("WARNING", f"pods: cannot be followed, what is known stays: {AWAY}"),
        ("INFO", "pods: in step again"),
    ]


def test_a_lost_connection_is_no_news_and_an_answer_is(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for name, answered in (("pods", False), ("routes", True)):
            outage.failed(name, "cut off", answered)
            outage.live(name)
        await trio.sleep(5)

    play(scenario, *NAMES)
    assert lines(caplog) == [("WARNING", "routes: cannot be followed, what is known stays: cut off")]


def test_what_one_is_answered_during_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for name in NAMES:
            outage.failed(name, AWAY, answered=False)
        await trio.sleep(5)
        for name in NAMES:
            outage.failed(name, "503: starting", answered=True)
        outage.failed("pods", "500: a hook is gone", answered=True)

    play(scenario, *NAMES)
    told = [text for _, text in lines(caplog)][1:]
    assert told == [
        "pods: cannot be followed, what is known stays: 503: starting",
        "pods: cannot be followed, what is known stays: 500: a hook is gone",
    ]


def test_one_that_fails_when_the_others_are_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for name in NAMES:
            outage.failed(name, AWAY, answered=False)
        await trio.sleep(5)
        for name in NAMES[1:]:
            outage.live(name)
        await trio.sleep(100)
        outage.failed("pods", AWAY, answered=False)
        await trio.sleep(5)

    play(scenario, *NAMES)
    assert [text for _, text in lines(caplog)][2:] == [f"pods: cannot be followed, what is known stays: {AWAY}"]


def test_what_is_not_watched_any_more_does_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(outage: Outage) -> None:
        for name in NAMES[:3]:
            outage.failed(name, AWAY, answered=False)
        for name in NAMES[:2]:
            outage.left(name)
        await trio.sleep(5)

    play(scenario, *NAMES)
    assert [text for _, text in lines(caplog)] == [f"servers: cannot be followed, what is known stays: {AWAY}"]
