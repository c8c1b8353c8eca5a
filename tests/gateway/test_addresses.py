"""Names of endpoints: looked up once for all, and a name server that is silent holds nobody up for long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.addresses import AGAIN_S, FIRST_S, FRESH_S, PATIENCE_S, Addresses
from gateway.types import Endpoint


class Slow(Addresses):
    """Answers after ``delay`` seconds what ``names`` say then."""

    def __init__(self, delay: float = 0.0, **names: str) -> None:
        super().__init__()
        self.delay = delay
        self.names = names
        self.asked: list[str] = []

    async def _look_up(self, host: str) -> str:
        self.asked.append(host)
        await trio.sleep(self.delay)
        return self.names.get(host, "")


def at(host: str) -> Endpoint:
    return Endpoint("fake", "http", host, 1)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    trio.run(scenario, clock=MockClock(autojump_threshold=0))


def test_one_looks_up_for_all_and_whoever_leaves_takes_it_from_nobody() -> None:
    async def scenario() -> None:
        known = Slow(3, a="10.0.0.1")
        found: list[str] = []

        async def ask(patience: float) -> None:
            with trio.move_on_after(patience):
                found.append(await known.of(at("a")))

        async with trio.open_nursery() as nursery:
            for patience in (1, 10, 10):
                nursery.start_soon(ask, patience)
                await wait_all_tasks_blocked()
        assert found == ["10.0.0.1:1"] * 2
        assert known.asked == ["a"]
        assert trio.current_time() - known._found["a"][1] == -FRESH_S

    run(scenario)


def test_what_is_known_is_not_lost_to_silence_and_nobody_waits_twice() -> None:
    async def scenario() -> None:
        known = Slow(0, a="10.0.0.1")
        await known.of(at("a"))
        await trio.sleep(FRESH_S)
        known.delay, known.names = 20, {"a": "10.0.0.9"}
        for wait in (PATIENCE_S, 0):
            since = trio.current_time()
            assert await known.of(at("a")) == "10.0.0.1:1"
            assert trio.current_time() - since == wait
        await trio.sleep(20)
        assert await known.of(at("a")) == "10.0.0.9:1"
        assert known.asked == ["a", "a"]

    run(scenario)


def test_what_is_not_known_is_waited_for_together_and_a_while() -> None:
    async def scenario() -> None:
        known = Slow(60, a="10.0.0.1", b="10.0.0.2", c="10.0.0.3")
        names = [at(name) for name in "abc"]
        since = trio.current_time()
        assert await known.among(names, ("10.0.0.2",)) == ()
        assert trio.current_time() - since == FIRST_S
        assert await known.of(at("a")) == ""
        assert trio.current_time() - since == FIRST_S
        await trio.sleep(60)
        assert await known.among(names, ("10.0.0.2", "10.0.0.3:1")) == ("b:1", "c:1")
        assert sorted(known.asked) == ["a", "b", "c"]

    run(scenario)


def test_what_was_not_found_is_looked_for_again_soon() -> None:
    async def scenario() -> None:
        known = Slow()
        assert await known.of(at("a")) == await known.of(at("a")) == ""
        known.names = {"a": "fd00::1"}
        await trio.sleep(AGAIN_S)
        assert await known.of(at("a")) == "[fd00::1]:1"
        assert known.asked == ["a", "a"]

    run(scenario)


@pytest.mark.parametrize("name", ["x" * 70 + ".invalid", "a..b"])
def test_what_is_no_name_of_a_host_has_no_address(name: str) -> None:
    async def scenario() -> None:
        assert await Addresses().of(at(name)) == ""

    trio.run(scenario)


def test_a_bug_in_looking_up_is_a_name_without_an_address() -> None:
    class Broken(Addresses):
        async def _look_up(self, host: str) -> str:
            raise KeyError(host)

    async def scenario() -> None:
        assert await Broken().of(at("a")) == ""

    run(scenario)


def test_the_system_is_who_is_asked() -> None:
    async def scenario() -> None:
        assert await Addresses().of(at("localhost")) in ("127.0.0.1:1", "[::1]:1")

    trio.run(scenario)


def test_hosts_that_come_and_go_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.addresses.HOSTS_MAX", 3)

    async def scenario() -> None:
        known = Slow(0, a="10.0.0.1")
        for number in range(10):
            assert await known.of(at(f"10.1.0.{number}")) == f"10.1.0.{number}:1"
            assert await known.of(at("a")) == "10.0.0.1:1"
            assert len(known._found) <= 3

    run(scenario)
