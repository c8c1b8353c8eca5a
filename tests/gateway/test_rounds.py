"""Asking many again and again, under virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
import trio.testing

from gateway.rounds import Rounds


class Asked:
    """Notes when it is asked what; answers are ``waits`` seconds apart, and take ``takes`` seconds to come."""

    def __init__(self) -> None:
        self.log: list[tuple[float, str]] = []
        self.waits: dict[str, float] = {}
        self.takes: dict[str, float] = {}
        self.failing: set[str] = set()
        self.rounds = Rounds(self.ask, lambda key: f"question to {key}", rate=100.0)

    async def ask(self, key: str) -> float:
        self.log.append((trio.current_time(), key))
        await trio.sleep(self.takes.get(key, 0.0))
        if key in self.failing:
            self.failing.remove(key)
            raise ValueError("rubbish")
        return self.waits.get(key, 1.0)

    def times(self, key: str) -> list[float]:
        return [at for at, asked in self.log if asked == key]


def run(scenario: Callable[[Asked], Awaitable[None]]) -> None:
    async def main() -> None:
        asked = Asked()
        async with trio.open_nursery() as nursery:
            asked.rounds.add("early")
            nursery.start_soon(asked.rounds.run)
            await scenario(asked)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_those_that_are_asked_seldom_are_asked_together() -> None:
    async def scenario(asked: Asked) -> None:
        keys = [f"seldom{n}" for n in range(64)]
        asked.waits = {key: 4.0 + n / 1000 for n, key in enumerate(keys)}
        for key in keys:
            asked.rounds.add(key)
        await trio.sleep(60.0)
        assert len({at for at, _ in asked.log if at > 50.0}) < 64
        for key in keys:
            times = asked.times(key)
            assert all(
                wait <= after - before < wait + 0.1
                for before, after in pairwise(times[3:])
                if (wait := asked.waits[key])
            )
        asked.rounds.hurry(keys[0])
        await trio.sleep(0.001)
        assert asked.log[-1][1] == keys[0]

    run(scenario)


def test_each_is_asked_as_often_as_its_answers_say_and_what_hangs_delays_no_other() -> None:
    async def scenario(asked: Asked) -> None:
        asked.takes["hung"], asked.waits["slow"] = 1e9, 4.0
        asked.rounds.add("hung")
        asked.rounds.add("slow", 0.5)
        await trio.sleep(9.9)
        assert asked.times("early") == [*range(10)]
        assert asked.times("slow") == [0.5, 4.5, 8.5]
        assert len(asked.times("hung")) == 1

    run(scenario)


def test_of_what_was_given_up_nothing_goes_on() -> None:
    async def scenario(asked: Asked) -> None:
        asked.takes["early"] = 0.5
        await trio.sleep(0.1)
        assert asked.rounds.keep(["late"]) == {"early"}
        assert asked.rounds.keep(["late", "early"]) == set()
        asked.rounds.drop("late")
        await trio.sleep(0.3)
        assert [key for _, key in asked.log] == ["early", "early"]
        assert asked.rounds.keys == {"early"}

    run(scenario)


def test_who_is_hurried_is_asked_at_once_and_who_is_being_asked_once_more() -> None:
    async def scenario(asked: Asked) -> None:
        await trio.sleep(0.25)
        asked.takes["early"] = 0.5
        asked.rounds.hurry("early")
        asked.rounds.hurry("unknown")
        await trio.sleep(0.1)
        asked.rounds.hurry("early")
        await trio.sleep(1.0)
        assert asked.times("early") == [0.0, 0.25, 0.75]
        await trio.sleep(0.25)
        asked.rounds.hurry("early", 0.3)
        await trio.sleep(0.35)
        assert asked.times("early")[3:] == [pytest.approx(1.9)]

    run(scenario)


def test_one_that_fails_is_asked_again_later(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(asked: Asked) -> None:
        asked.failing.add("early")
        await trio.sleep(0.5)
        first, second = asked.times("early")
        assert 0.05 <= second - first <= 0.1
        await trio.sleep(1.0)
        assert asked.times("early")[2:] == [second + 1.0]
        assert caplog.messages == ["question to early failed and is restarted: ValueError: rubbish"]

    run(scenario)


def test_many_that_are_due_at_once_are_begun_one_after_the_other() -> None:
    async def scenario(asked: Asked) -> None:
        await trio.sleep(0.5)
        for number in range(200):
            asked.waits[str(number)] = 1e9
            asked.rounds.add(str(number))
        await trio.sleep(1.0)
        assert 95 <= len(asked.log) - 2 <= 110  # a hundred a second
        await trio.sleep(1.1)
        assert {key for _, key in asked.log} == {"early", *map(str, range(200))}

    run(scenario)


def test_slow_ones_do_not_use_up_what_may_be_under_way() -> None:
    async def scenario(asked: Asked) -> None:
        for number in range(50):
            asked.takes[str(number)] = 1e9
            asked.rounds.add(str(number))
        await trio.sleep(3.0)
        asked.rounds.add("late")
        await trio.sleep(0.1)
        assert len(asked.times("late")) == 1

    run(scenario)


def test_what_is_moved_often_leaves_nothing_behind() -> None:
    async def scenario(asked: Asked) -> None:
        asked.waits["early"] = 1e6
        for _ in range(3):
            await trio.sleep(1)
            for number in range(500):
                asked.rounds.add(str(number), 1e6)
                asked.rounds.drop(str(number))
        assert len(asked.rounds._due) < 100

    run(scenario)
