import logging
import random
from collections.abc import Callable

import pytest
import trio
import trio.testing

from gateway.supervise import Loops, describe, supervise


class Script:
    """Raises the given errors one run after the other, then sleeps; remembers when each run began."""

    def __init__(self, *steps: BaseException | float) -> None:
        self.steps = list(steps)
        self.began: list[float] = []

    async def __call__(self) -> None:
        self.began.append(trio.current_time())
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            await trio.sleep(step)
        await trio.sleep_forever()

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.began, self.began[1:], strict=False)]


class NoJitter(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def under_supervision(script: Callable[[], object], seconds: float, **options: object) -> dict[str, int]:
    counts: dict[str, int] = {}
    settings = {"name": "task", "rng": NoJitter(), "counts": counts, **options}

    async def main() -> None:
        with trio.move_on_after(seconds) as scope:
            await supervise(script, **settings)  # type: ignore[arg-type]
        assert scope.cancelled_caught

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return counts


def test_pauses_double_up_to_the_ceiling(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(*[OSError("refused")] * 8)
    counts = under_supervision(script, 100, base=0.5, ceiling=6.0)
    assert script.pauses == pytest.approx([0.5, 1, 2, 4, 6, 6, 6, 6])
    assert counts == {"task": 8}
    assert caplog.messages == ["task failed and is restarted: OSError: refused"]
    assert caplog.records[0].exc_info is None


def test_jitter_takes_off_up_to_half() -> None:
    script = Script(*[OSError()] * 50)
    under_supervision(script, 1000, base=4.0, ceiling=4.0, rng=random.Random(1))
    assert all(2.0 <= pause <= 4.0 for pause in script.pauses)
    assert len({round(pause, 6) for pause in script.pauses}) > 40


def test_a_healthy_run_starts_over(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(OSError("x"), OSError("x"), 31.0, OSError("x"), OSError("x"))
    under_supervision(script, 100, base=1.0, ceiling=30.0)
    assert script.pauses == pytest.approx([1, 2, 31 + 1, 2])
    assert len(caplog.messages) == 2


def test_each_change_of_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    errors = [OSError("a"), OSError("a"), OSError("b"), OSError("a")]
    under_supervision(Script(*errors), 1000)
    assert [message.rsplit(": ", 1)[1] for message in caplog.messages] == ["a", "b", "a"]


def test_an_unexpected_error_comes_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(KeyError("bug"), KeyError("bug"), ValueError("named"))
    under_supervision(script, 100, expected=(ValueError,))
    assert len(script.began) == 4
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [
        (logging.ERROR, True),
        (logging.WARNING, False),
    ]


def test_groups_are_expected_if_all_their_members_are(caplog: pytest.LogCaptureFixture) -> None:
    nested = ExceptionGroup("", [OSError("a"), ExceptionGroup("", [OSError("b"), OSError("a")])])
    mixed = ExceptionGroup("", [OSError("a"), KeyError("c")])
    under_supervision(Script(nested, mixed), 100)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert caplog.messages[0].endswith("OSError: a; OSError: b")


def test_it_ends_when_the_task_returns() -> None:
    async def task(number: int) -> None:
        assert number == 3

    async def main() -> None:
        await supervise(task, 3, name="task")

    trio.run(main)


def test_what_fails_while_being_cancelled_does_not_escape(caplog: pytest.LogCaptureFixture) -> None:
    async def task() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("while closing")

    assert under_supervision(task, 1.0) == {}
    assert caplog.messages == ["task failed while being cancelled: OSError: while closing"]


def test_exits_pass_through() -> None:
    async def task() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        trio.run(lambda: supervise(task, name="task"))

    async def grouped() -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt(), OSError()])

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(lambda: supervise(grouped, name="task"))
    assert [type(error) for error in caught.value.exceptions] == [KeyboardInterrupt]


def test_errors_are_described_in_one_line() -> None:
    assert describe(OSError()) == "OSError"
    assert describe(ExceptionGroup("", [OSError("x"), OSError("x")])) == "OSError: x"


class Worked:
    """Loops whose work notes when it begins and ends, fails if told so, and hangs."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failing: set[str] = set()
        self.restarts: dict[str, int] = {}
        self.loops = Loops(self.work, lambda key: f"work on {key}", self.restarts)

    async def work(self, key: str) -> None:
        self.log.append(f"+{key}")
        try:
            if key in self.failing:
                self.failing.remove(key)
                raise OSError("once")
            await trio.sleep_forever()
        finally:
            self.log.append(f"-{key}")

    def news(self) -> list[str]:
        news, self.log = sorted(self.log), []
        return news


def test_loops_begin_and_end_with_their_keys() -> None:
    async def main() -> None:
        worked = Worked()
        assert worked.loops.keep(["early", "dropped"]) == set()
        assert worked.loops.keep(["early"]) == {"dropped"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worked.loops.run)
            await trio.testing.wait_all_tasks_blocked()
            assert worked.news() == ["+early"]
            assert worked.loops.keep(["early", "late"]) == set()
            assert worked.loops.keys == {"early", "late"}
            await trio.testing.wait_all_tasks_blocked()
            assert worked.news() == ["+late"]
            assert worked.loops.keep(["late"]) == {"early"}
            await trio.testing.wait_all_tasks_blocked()
            assert worked.news() == ["-early"]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_loop_that_fails_begins_again_and_the_others_go_on() -> None:
    async def main() -> None:
        worked = Worked()
        worked.failing = {"a"}
        worked.loops.keep(["a", "b"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worked.loops.run)
            await trio.sleep(1)
            assert worked.news() == ["+a", "+a", "+b", "-a"]
            assert worked.restarts == {"work on a": 1}
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
