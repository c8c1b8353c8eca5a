"""Time in which the process was stopped does not pass; all other time does."""

from __future__ import annotations

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.awake import Awake, elapsed


class Real:
    """The time that passes anyhow."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stop_is_left_out_wherever_it_falls() -> None:
    real = Real()
    clock = Awake(real)
    began = clock.current_time()
    real.now += 0.3  # at work
    assert clock.current_time() - began == pytest.approx(0.3)
    real.now += 60.0  # stopped at work
    assert clock.current_time() - began == pytest.approx(0.3)
    assert clock.deadline_to_sleep_time(began + 2.3) == pytest.approx(2.0)
    real.now += 2.0
    assert clock.current_time() - began == pytest.approx(2.3)
    assert clock.deadline_to_sleep_time(began + 3.3) == pytest.approx(1.0)
    real.now += 3600.0  # stopped asleep: it wakes when it was to
    assert clock.current_time() - began == pytest.approx(3.3)
    assert clock.away == pytest.approx(60.0 + 3599.0)


def test_a_long_sleep_is_no_stop() -> None:
    real = Real()
    clock = Awake(real)
    began = clock.current_time()
    assert clock.deadline_to_sleep_time(math.inf) == math.inf
    real.now += 86_400.0
    assert clock.current_time() - began == pytest.approx(86_400.0)
    assert not clock.away


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000) | st.none())))
def test_it_never_goes_back(steps: list[tuple[float, float | None]]) -> None:
    real = Real()
    clock = Awake(real)
    last = clock.current_time()
    for passed, pause in steps:
        if pause is not None:
            clock.deadline_to_sleep_time(last + pause)
        real.now += passed
        now = clock.current_time()
        assert last <= now <= last + (pause or 0.0) + 1.0 + 1e-6
        last = now


def test_what_has_elapsed_goes_on_while_it_stands() -> None:
    async def main() -> None:
        told, began = trio.current_time(), elapsed()
        while elapsed() == began:
            pass
        assert trio.current_time() == told
        assert 0 < elapsed() - began < 3600

    trio.run(main, clock=Awake(Real()))


def test_elsewhere_it_is_what_trio_says() -> None:
    async def main() -> None:
        began = elapsed()
        await trio.sleep(5)
        assert elapsed() - began == pytest.approx(5)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_trio_runs_by_it() -> None:
    async def main() -> None:
        began = trio.current_time()
        await trio.sleep(0.01)
        assert trio.current_time() - began >= 0.01

    trio.run(main, clock=Awake())
