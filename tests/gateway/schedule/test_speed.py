"""Speeds are found however they are mixed with noise, and nothing that is observed makes them absurd."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schedule.speed import DEFAULT_CROWDING, DEFAULT_PREFILL, Line, Pace, Speed

amounts = st.sampled_from([0.0, 1e-9, 1.0, 1e9]) | st.floats(0, 1e6)
prompts = st.sampled_from([1.0, 1e6]) | st.floats(1, 1e5)


# --- a line -----------------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e-2), st.floats(0, 1), st.integers(0, 99))
def test_a_line_is_found_through_noise(slope: float, intercept: float, seed: int) -> None:
    line, rng = Line(DEFAULT_PREFILL, 1e6), random.Random(seed)
    for _ in range(800):
        x = rng.uniform(10, 8000)
        line.add(x, (intercept + slope * x) * rng.uniform(0.8, 1.2))
    middle = intercept + slope * 4000
    assert line.intercept + line.slope * 4000 == pytest.approx(middle, rel=0.05)
    assert line.slope * 4000 == pytest.approx(slope * 4000, abs=0.1 * middle)
    assert line.intercept == pytest.approx(intercept, abs=0.1 * middle)


@given(st.lists(st.tuples(amounts, amounts), max_size=60))
def test_a_line_never_falls_nor_lies_below_zero(points: list[tuple[float, float]]) -> None:
    line, most = Line(DEFAULT_PREFILL, 1e6), 0.0
    for x, y in points:
        line.add(x, y)
        most = max(most, y)
        assert math.isfinite(line.slope)
        assert line.slope >= 0.0
        assert 0.0 <= line.intercept <= most * (1 + 1e-9)


def test_where_all_are_alike_the_slope_stays_what_it_was() -> None:
    line = Line(2e-4, 1e6)
    for _ in range(1000):
        line.add(500.0, 0.3)
    assert line.slope == pytest.approx(2e-4, rel=0.01)
    assert line.intercept == pytest.approx(0.2, rel=0.01)


def test_a_line_follows_what_changes() -> None:
    line, rng = Line(DEFAULT_PREFILL, 1e6), random.Random(1)
    for slope in (1e-4, 4e-4):
        for _ in range(3000):
            x = rng.uniform(10, 8000)
            line.add(x, slope * x)
        assert line.slope == pytest.approx(slope, rel=0.02)


# --- endpoints of a pool ----------------------------------------------------------------------------------------------


def fleet_of(*slowness: float) -> list[Speed]:
    pace = Pace()
    return [Speed(pace) for _ in slowness]


def seconds(tokens: float) -> float:
    return 0.02 + tokens * 2e-4


def serve(
    speeds: list[Speed],
    slowness: tuple[float, ...],
    count: int,
    take: Callable[[float], float] = seconds,
    seed: int = 1,
) -> None:
    """Each endpoint in turn computes a prompt, up to a fifth faster or slower than it should."""
    rng = random.Random(seed)
    for _ in range(count):
        for speed, slow in zip(speeds, slowness, strict=True):
            tokens = rng.uniform(10, 8000)
            speed.served(tokens, slow * take(tokens) * rng.uniform(0.8, 1.2))


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from("scdf"), prompts, amounts, st.booleans()), min_size=1, max_size=80
    )
)
def test_whatever_is_observed_speeds_stay_finite_and_positive(
    events: list[tuple[int, str, float, float, bool]],
) -> None:
    speeds, now = fleet_of(1, 1, 1), 0.0
    for index, kind, tokens, took, busy in events:
        speed = speeds[index]
        now += took
        if kind == "s":
            speed.served(tokens, took)
        elif kind == "c":
            speed.computed(tokens if took != 1.0 else -tokens, now, busy)
        elif kind == "d":
            speed.streamed(took)
            speed.pace.streamed(took, tokens)
        else:
            speed.fade()
        for each in speeds:
            assert 1e-9 <= each.prefill <= 2.5
            assert 0.0 <= each.step < math.inf
            assert 0.02 <= each.factor <= 50.0
            assert 0.0 <= each.decode <= 1e10
        assert 0.0 <= speed.pace.crowding <= 0.002
        assert math.isfinite(speed.pace.service)


@pytest.mark.parametrize("slow", [0.5, 1.0, 2.0, 4.0])
def test_an_endpoints_factor_comes_to_its_slowness(slow: float) -> None:
    slowness = (1.0, 1.0, 1.0, slow)
    speeds = fleet_of(*slowness)
    serve(speeds, slowness, 300)
    usual = speeds[0]
    assert speeds[3].factor / usual.factor == pytest.approx(slow, rel=0.15)
    assert usual.prefill == pytest.approx(2e-4, rel=0.15)
    assert usual.step == pytest.approx(0.02, abs=0.03)
    assert speeds[3].prefill == pytest.approx(slow * 2e-4, rel=0.2)
    assert usual.pace.prefill == pytest.approx(2e-4, rel=0.5), "a newcomer is like the others, not like their mean"


def test_alike_endpoints_stay_alike() -> None:
    slowness = (1.0,) * 8
    speeds = fleet_of(*slowness)
    serve(speeds, slowness, 200)
    assert max(speed.factor for speed in speeds) < 1.15 * min(speed.factor for speed in speeds)


def test_a_newcomer_is_as_fast_as_its_peers_until_it_has_shown_otherwise() -> None:
    speeds = fleet_of(1, 1)
    serve(speeds, (1.0, 1.0), 300)
    newcomer = Speed(speeds[0].pace)
    assert newcomer.factor == 1.0
    assert newcomer.prefill == pytest.approx(2e-4, rel=0.1)
    newcomer.served(2000.0, 0.5 * seconds(2000.0))
    assert 0.75 < newcomer.factor < 1.0, "one good answer proves little"


def test_one_odd_answer_moves_little() -> None:
    speeds = fleet_of(1, 1, 1, 1)
    serve(speeds, (1.0,) * 4, 200)
    one, other = speeds[0], speeds[1]
    factor, prefill, pool = one.factor, one.prefill, other.prefill
    one.served(2000.0, 3600.0)
    assert one.factor < 1.2 * factor
    assert one.prefill < 1.2 * prefill
    assert other.prefill == pytest.approx(pool, rel=0.02)
    one.served(1.0, 3600.0)
    assert other.step < 0.05


def test_slowness_that_is_not_seen_again_is_forgotten() -> None:
    slowness = (1.0, 1.0, 1.0, 4.0)
    speeds = fleet_of(*slowness)
    serve(speeds, slowness, 200)
    before = speeds[3].factor
    last = before
    for _ in range(4 * 60 * 5):
        speeds[3].fade()
        assert speeds[3].factor <= last
        last = speeds[3].factor
    assert 1.0 < last < before
    for _ in range(60 * 60 * 5):
        speeds[3].fade()
    assert speeds[3].factor == pytest.approx(1.0, abs=0.05)


def test_one_that_never_answered_does_not_fade() -> None:
    speed = Speed()
    speed.fade()
    assert (speed.factor, speed.prefill) == (1.0, DEFAULT_PREFILL)


# --- streams ----------------------------------------------------------------------------------------------------------


def test_what_one_more_stream_costs_is_found() -> None:
    pace, rng = Pace(), random.Random(1)
    assert pace.crowding == DEFAULT_CROWDING
    for _ in range(2000):
        streams = rng.randint(1, 60)
        pace.streamed((0.012 + 4e-4 * streams) * rng.uniform(0.8, 1.2), streams)
    assert pace.crowding == pytest.approx(4e-4, rel=0.1)


def test_crowding_is_bounded() -> None:
    pace = Pace()
    for streams in range(1, 200):
        pace.streamed(0.01 * streams, streams)
    assert pace.crowding == 0.002


def test_a_stream_that_stood_still_says_little_of_the_next() -> None:
    speed = Speed()
    for _ in range(50):
        speed.streamed(0.02)
    assert speed.decode == pytest.approx(0.02)
    speed.streamed(3600.0)
    assert speed.decode < 0.04
    speed.pace.streamed(3600.0, 5.0)
    assert speed.pace.crowding <= 0.002


# --- what engines count themselves ------------------------------------------------------------------------------------


def count_along(speed: Speed, rate: float, *, busy: float = 1.0, seed: int = 1, scrapes: int = 4000) -> None:
    """An engine that others use too computes a chunk of 512 to 2048 tokens at a time and is asked every 0.2 s; in the
    part of the time that it is not ``busy`` it does nothing most of the time.
    """
    rng, now, counted, due = random.Random(seed), 0.0, 0.0, 0.0
    waiting = True
    for _ in range(scrapes):
        now += 0.2
        work = 0.0
        if rng.random() < 0.05:
            waiting = rng.random() < busy
        due += 0.2 * (1.0 if waiting else 0.1)
        while due >= (chunk := rng.uniform(512, 2048)) / rate:
            due -= chunk / rate
            work += chunk
        counted += work
        speed.computed(work, now, waiting)


@pytest.mark.parametrize("busy", [1.0, 0.5])
@pytest.mark.parametrize("rate", [4000.0, 16_000.0, 40_000.0])
def test_the_rate_is_told_from_stretches_in_which_others_waited_all_the_while(rate: float, busy: float) -> None:
    """Though stretches are all about as long, and how long in tokens is as uncertain as in seconds."""
    speed = Speed()
    count_along(speed, rate, busy=busy)
    assert speed.prefill == pytest.approx(1 / rate, rel=0.15)
    assert speed.step < 0.01


def test_an_engine_that_has_nothing_to_do_says_nothing_of_its_speed() -> None:
    speed = Speed()
    count_along(speed, 16_000.0, busy=0.0, scrapes=2000)
    assert speed.prefill == DEFAULT_PREFILL


@pytest.mark.parametrize("fell", [True, False])
@pytest.mark.parametrize("counted", [5e6, 5e9, 5e5])
def test_a_counter_that_was_missing_once_is_not_taken_for_work(counted: float, fell: bool) -> None:
    """It fell to nothing, if it was there at first, and comes back: by how much tells something only if it is much."""
    speed, now = Speed(), 0.0
    for turn in range(400):
        now += 0.2
        jump = {200: -counted if fell else 0.0, 201: counted if fell or counted > 1e6 else 0.0}.get(turn, 0.0)
        speed.computed(2000.0 + jump, now, True)
    assert speed.prefill == pytest.approx(1e-4, rel=0.05)


def test_a_counter_that_stands_still_belongs_to_the_stretch() -> None:
    """A chunk may take longer than the time between two questions."""
    speed, now = Speed(), 0.0
    for turn in range(400):
        now += 0.2
        speed.computed(8000.0 if turn % 4 == 0 else 0.0, now, True)
    assert speed.prefill == pytest.approx(1e-4, rel=0.05)
