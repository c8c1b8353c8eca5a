import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from gateway.config.verdict import Condition, Verdict
from gateway.sources.kube.client import ApiError, Unreachable
from gateway.sources.kube.conditions import Owner
from gateway.sources.kube.events import Events
from gateway.sources.kube.notes import Note, Regarding
from tests.gateway.sources.kube.memory import Memory, nothing

ROUTE = ("networking.serving.volcano.sh/v1alpha1", "ModelRoute", "ns")


def play(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def note(text: str = "line 3: no", name: str = "gateway", namespace: str = "ns") -> Note:
    return Note(Regarding("v1", "ConfigMap", namespace, name, "u1"), True, "ReloadFailed", text)


def verdict(status: str, message: str = "") -> Verdict:
    condition = Condition("Accepted", "True" if status == "True" else "False", "Because", message)
    return Verdict(*ROUTE, "x", "u1", 1, (condition,))


class Stage:
    def __init__(self) -> None:
        self.server = Memory()
        self.leads = True
        self.events = Events(self.server, lambda: self.leads, "gateway-0", Owner("us"), rng=random.Random(1))

    @property
    def told(self) -> list[tuple[str, int]]:
        """Texts and counts of all events there are."""
        return [(tree["note"], tree.get("series", {}).get("count", 1)) for tree in self.server.objects.values()]


@contextlib.asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.events.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


def test_what_happens_again_is_one_event_that_is_counted() -> None:
    async def main() -> None:
        stage = Stage()
        async with running(stage):
            for _ in range(61):
                stage.events.tell(note())
                await trio.sleep(2)
            assert stage.told == [("line 3: no", 61)]
            assert len(stage.server.writes) == 3
            await trio.sleep(400)
            stage.events.tell(note())
            await trio.sleep(1)
            assert stage.told == [("line 3: no", 61), ("line 3: no", 1)]

    play(main)


def test_an_object_gets_few_events_and_others_get_theirs() -> None:
    async def main() -> None:
        stage = Stage()
        async with running(stage):
            for turn in range(300):
                stage.events.tell(note(f"line {turn}"))
                await trio.sleep(1)
            assert len(stage.server.writes) == 10
            stage.events.tell(note(name="other"))
            await trio.sleep(1)
            assert len(stage.server.writes) == 11
            await trio.sleep(600)
            stage.events.tell(note("later"))
            await trio.sleep(1)
            assert ("later", 1) in stage.told

    play(main)


def test_only_who_leads_tells() -> None:
    async def main() -> None:
        stage = Stage()
        async with running(stage):
            stage.leads = False
            for turn in range(20):
                stage.events.tell(note(f"before {turn}"))
                await trio.sleep(1)
            stage.leads = True
            stage.events.tell(note("after"))
            await trio.sleep(1)
            assert stage.told == [("after", 1)]

    play(main)


def test_verdicts_are_told_as_they_change_whether_statuses_are_kept_or_not() -> None:
    async def main() -> None:
        stage, unkept = Stage(), {"metadata": {}}
        async with running(stage):
            for now in (
                verdict("True"),
                verdict("False", "a"),
                verdict("False", "a"),
                verdict("False", "b"),
                verdict("True", "c"),
            ):
                stage.events.judged(now, unkept)
                await trio.sleep(70)
            assert [text for text, _ in stage.told] == ["a", "b", "c"]
            stands = {
                "status": {"conditions": [{"type": "Accepted", "status": "False", "reason": "Because", "message": "d"}]}
            }
            stage.events.judged(verdict("False", "d"), stands)
            await trio.sleep(1)
            assert len(stage.told) == 3

    play(main)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failure_that_passes_is_waited_for(when: str) -> None:
    async def main() -> None:
        stage, left = Stage(), [Unreachable("reset"), ApiError(429, "", "", 5.0), ApiError(500)]

        async def fail(method: str, path: str) -> None:
            if left:
                raise left.pop()

        setattr(stage.server, when, fail)
        async with running(stage):
            stage.events.tell(note())
            await trio.sleep(60)
            assert ("line 3: no", 1) in stage.told
            assert not left

    play(main)


def test_what_cannot_be_told_is_dropped() -> None:
    async def main() -> None:
        stage = Stage()
        async with running(stage):
            stage.server.before = away
            for index in range(1000):
                stage.events.tell(note(name=f"o{index}"))
            await trio.sleep(100)
            stage.server.before = nothing
            await trio.sleep(1000)
            assert len(stage.server.objects) <= 260
            stage.events.tell(note("later"))
            await trio.sleep(1)
            assert ("later", 1) in stage.told

    async def away(method: str, path: str) -> None:
        raise Unreachable("connection refused")

    play(main)


@pytest.mark.parametrize("status", [403, 404])
def test_where_it_is_not_allowed_it_is_off_and_the_log_says_so_once(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        stage = Stage()
        async with running(stage):
            stage.server.before = forbid
            for index in range(10):
                stage.events.tell(note(name=f"o{index}"))
                stage.events.tell(note(namespace="allowed", name=f"o{index}"))
                await trio.sleep(1)
            assert asked.count("ns") == 1
            assert len(stage.told) == 10
            stage.server.before = nothing
            await trio.sleep(700)
            stage.events.tell(note())
            await trio.sleep(1)
            assert len(stage.told) == 11

    asked: list[str] = []

    async def forbid(method: str, path: str) -> None:
        asked.append(path.split("/")[5])
        if asked[-1] == "ns":
            raise ApiError(status, "Forbidden", "no")

    with caplog.at_level(logging.WARNING, "infer_gateway.kubernetes"):
        play(main)
    assert len(caplog.messages) == 1
    assert "create and patch on events of events.k8s.io" in caplog.messages[0]


def test_an_event_that_has_been_deleted_is_made_again() -> None:
    async def main() -> None:
        stage = Stage()
        async with running(stage):
            stage.events.tell(note())
            await trio.sleep(61)
            stage.server.objects.clear()
            stage.events.tell(note())
            await trio.sleep(5)
            assert stage.told == [("line 3: no", 1)]

    play(main)
