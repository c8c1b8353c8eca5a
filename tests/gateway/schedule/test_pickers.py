"""Pickers: permutations, best first, and how often whom."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schedule.parts import Parts
from gateway.schedule.pickers import MaxScore, PowerOfTwo, RandomChoice, WeightedRandom
from tests.gateway.schedule.fleet import Fake, ids, parts

PICKERS = [MaxScore(), WeightedRandom(), PowerOfTwo(), RandomChoice()]
scores_ = st.lists(st.floats() | st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12)


def fleet(count: int) -> list[Fake]:
    return [Fake(str(index)) for index in range(count)]


@pytest.mark.parametrize("picker", PICKERS, ids=lambda picker: type(picker).__name__)
@given(scores=scores_, seed=st.integers(0, 99))
def test_a_ranking_has_everybody_once(picker: MaxScore, scores: list[float], seed: int) -> None:
    ranked = list(picker.picker(parts(seed))(fleet(len(scores)), scores))
    assert sorted(ids(ranked)) == sorted(ids(fleet(len(scores))))


@given(scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_max_score_goes_down(scores: list[float], seed: int) -> None:
    ranked = [scores[int(candidate.id)] for candidate in MaxScore().picker(parts(seed))(fleet(len(scores)), scores)]
    assert ranked == sorted(scores, reverse=True)


def first(
    picker: MaxScore | WeightedRandom | PowerOfTwo | RandomChoice, scores: list[float], count: int
) -> Counter[str]:
    pick, candidates = picker.picker(parts()), fleet(len(scores))
    return Counter(next(iter(pick(candidates, scores))).id for _ in range(count))


def test_equal_scores_are_drawn_evenly() -> None:
    drawn = first(MaxScore(), [1.0, 0.5, 1.0, 1.0], 3000)
    assert set(drawn) == {"0", "2", "3"}
    assert all(900 < count < 1100 for count in drawn.values())


def test_equal_scores_fail_over_evenly_too() -> None:
    pick, candidates = MaxScore().picker(parts()), fleet(3)
    seconds = Counter(list(pick(candidates, [1.0, 0.5, 0.5]))[1].id for _ in range(1000))
    assert 440 < seconds["1"] < 560


def test_weights_are_proportions() -> None:
    drawn = first(WeightedRandom(), [0.6, 0.3, 0.1, 0.0], 10_000)
    assert abs(drawn["0"] - 6000) < 200
    assert abs(drawn["1"] - 3000) < 200
    assert abs(drawn["2"] - 1000) < 150
    assert "3" not in drawn


def test_weights_apply_to_those_that_are_left() -> None:
    pick, candidates = WeightedRandom().picker(parts()), fleet(3)
    rankings = [ids(list(pick(candidates, [0.6, 0.3, 0.1]))) for _ in range(10_000)]
    after = Counter(ranking[1] for ranking in rankings if ranking[0] == "0")
    assert abs(after["1"] / after.total() - 0.75) < 0.03


def test_without_any_weight_everybody_is_drawn() -> None:
    drawn = first(WeightedRandom(), [0.0, -1.0, 0.0], 3000)
    assert all(900 < drawn[id] < 1100 for id in "012")


def test_the_better_of_two() -> None:
    drawn = first(PowerOfTwo(), [0.0, 1.0, 0.5], 6000)
    # of three pairs two hold the best, one the second; the worst is never the better one
    assert abs(drawn["1"] - 4000) < 200
    assert abs(drawn["2"] - 2000) < 200
    assert "0" not in drawn


def test_the_rest_of_two_goes_by_score() -> None:
    scores = [0.1, 0.9, 0.5, 0.7]
    for seed in range(20):
        rest = [scores[int(c.id)] for c in list(PowerOfTwo().picker(parts(seed))(fleet(4), scores))[1:]]
        assert rest == sorted(rest, reverse=True)


def test_at_random() -> None:
    drawn = first(RandomChoice(), [1.0, 0.0, 0.0], 3000)
    assert all(900 < drawn[id] < 1100 for id in "012")


def test_only_the_first_is_worked_out_until_more_are_asked_for() -> None:
    class Counted:
        drawn = 0

        def random(self) -> float:
            self.drawn += 1
            return 0.5

    rng = Counted()

    ranked = iter(MaxScore().picker(Parts(rng))(fleet(500), [0.5] * 500))
    next(ranked)
    assert rng.drawn == 1
