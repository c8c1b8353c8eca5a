import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.overload import MOST_SHED, SMALL, Buffered, Descriptors, Pace

MOST = 8 << 20
TARGET = 0.03


def test_large_bodies_are_refused_before_small_ones_and_these_before_answers() -> None:
    buffered = Buffered(MOST)
    assert buffered.room(MOST * 3 // 4, MOST * 3 // 4)
    assert not buffered.room(MOST * 3 // 4 + 1, MOST * 3 // 4 + 1)
    buffered.held = MOST * 3 // 4
    assert buffered.tight
    assert not buffered.room(1, SMALL + 1)
    assert buffered.room(1, SMALL)
    assert buffered.held <= buffered.small
    buffered.held = MOST * 7 // 8 + 1
    assert buffered.held > buffered.small
    assert not buffered.room(0, 0)
    assert not buffered.spent
    buffered.held = MOST + 1
    assert buffered.spent


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4 << 20)), max_size=60))
def test_whoever_asks_before_adding_never_passes_the_bound(steps: list[tuple[bool, int]]) -> None:
    buffered = Buffered(MOST)
    bodies: list[int] = []
    for come, size in steps:
        if not come and bodies:
            buffered.held -= bodies.pop()
        elif buffered.room(size, size):
            bodies.append(size)
            buffered.held += size
        assert buffered.held == sum(bodies) <= MOST * 7 // 8


def test_without_a_bound_there_is_always_room() -> None:
    buffered = Buffered()
    buffered.held = 1 << 60
    assert buffered.room(1 << 60, 1 << 60)
    assert (buffered.held > buffered.small, buffered.tight, buffered.spent) == (False, False, False)


@given(st.integers(16, 1 << 20))
def test_engines_are_reached_when_no_more_clients_are_taken(limit: int) -> None:
    found = Descriptors(limit)
    assert 0 < found.clients < found.sockets < limit
    assert found.sockets - found.clients >= found.sockets // 4


def test_no_limit_on_descriptors_is_none() -> None:
    assert Descriptors().clients == math.inf


class Process:
    """Turns of work, and rest between them."""

    def __init__(self, target: float = TARGET) -> None:
        self.rest = self.now = 0.0
        self.pace = Pace(target, lambda: self.rest)

    def play(self, turns: int, work: float, rest: float = 0.0) -> None:
        for _ in range(turns):
            self.rest += rest
            self.now += work + rest
            self.pace.turned(self.now, work)

    def refused(self, requests: int = 1000) -> int:
        return sum(self.pace.refuses() for _ in range(requests))


@given(st.lists(st.floats(0.0, TARGET / 3), min_size=1, max_size=200))
def test_turns_that_are_short_enough_shed_nothing(works: list[float]) -> None:
    process = Process()
    for work in works:
        process.play(1, work)
        assert not process.refused(10)


@given(st.floats(0.0001, 5.0), st.floats(0.0001, 0.01), st.integers(0, 20))
def test_one_long_turn_among_short_ones_sheds_nothing(long: float, short: float, at: int) -> None:
    process = Process()
    process.play(at, short)
    process.play(1, long)
    for _ in range(100):
        process.play(1, short)
        assert process.pace.share == 0.0


@given(st.floats(0.016, 1.0))
def test_long_turns_shed_nothing_while_there_is_also_rest(work: float) -> None:
    process = Process()
    process.play(200, work, rest=work / 10)
    assert process.pace.share == 0.0


def test_a_processor_that_does_not_keep_up_sheds_more_and_more_and_ceases_when_it_does() -> None:
    process = Process()
    process.play(8, 0.03)
    assert process.pace.share == 0.0, "once is nothing"
    process.play(20, 0.03)
    assert 0 < process.refused() < 500
    process.play(400, 0.03)
    assert process.pace.share == MOST_SHED
    process.play(300, 0.005)
    assert process.refused() < 500
    process.play(60, 0.001, rest=0.02)
    assert process.pace.share == 0.0
    assert process.refused() == 0


@given(st.floats(0.03, 1.0), st.integers(1, 2000))
def test_refusals_come_evenly(share: float, requests: int) -> None:
    process = Process()
    process.pace.share = share
    assert abs(process.refused(requests) - share * requests) <= 1


def test_a_target_of_0_sheds_nothing() -> None:
    process = Process(0.0)
    process.play(1000, 1.0)
    assert process.pace.share == 0.0
