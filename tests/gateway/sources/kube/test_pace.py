import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sources.kube.pace import Agenda, Bucket, backoff


@given(st.lists(st.floats(0.0, 2.0), max_size=200))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(pauses: list[float]) -> None:
    bucket, now, taken = Bucket(4.0, 5.0), 100.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now) == 0.0
    assert taken <= 5.0 + 4.0 * (now - 100.0) + 1e-6


def test_who_waits_as_long_as_it_is_told_gets_its_turn() -> None:
    bucket, now = Bucket(3.0, 2.0), 0.0
    assert [bucket.take(now), bucket.take(now)] == [0.0, 0.0]
    pause = bucket.take(now)
    assert pause == pytest.approx(1 / 3)
    assert bucket.take(now + pause) == 0.0


def test_pauses_double_up_to_their_ceiling() -> None:
    assert [backoff(n, 0.5, 3.0) for n in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 10), st.booleans())))
def test_an_agenda_is_a_list_of_the_earliest_times(steps: list[tuple[int, float, bool]]) -> None:
    agenda, model = Agenda[int](), dict[int, float]()
    for key, at, gone in steps:
        if gone:
            agenda.discard(key)
            model.pop(key, None)
        else:
            agenda.add(key, at)
            model[key] = min(at, model.get(key, math.inf))
        assert agenda.first == min(model.values(), default=math.inf)
        assert len(agenda) == len(model)
    while model:
        first = agenda.first
        assert model.pop(agenda.pop()) == first
    assert agenda.first == math.inf


def test_what_has_gone_takes_no_place() -> None:
    agenda = Agenda[int]()
    agenda.add(0, 0.5)
    for n in range(1, 1000):
        agenda.add(n, 1.0)
        agenda.discard(n)
    assert len(agenda._heap) < 100
    assert [agenda.pop(), agenda.first] == [0, math.inf]


def test_keys_of_one_time_come_in_order() -> None:
    agenda = Agenda[str]()
    for key in "cab":
        agenda.add(key, 1.0)
    assert [agenda.pop() for _ in range(3)] == ["c", "a", "b"]
