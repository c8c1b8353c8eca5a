"""How much of the traffic is ours is read from what engines count, however roughly prompts are measured."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schedule.shared import Shared
from gateway.types import Load
from tests.gateway.schedule.fleet import Fake

FLEET = [Fake(f"10.0.0.{number}:8000") for number in range(4)]
HASHES = list(range(1, 40))


def play(
    share: float, *, estimate: float = 1.0, told: bool = True, turns: int = 4000, shared: Shared | None = None
) -> Shared:
    """Requests of a thousand tokens, ours a part of them and taken for ``estimate`` times as long; engines compute one
    when it comes and, if ``told``, say at its end, ten requests later, how long it was; each is scraped in turn.
    """
    shared, rng, counted, ending = shared or Shared(), random.Random(1), [0.0] * len(FLEET), list[tuple[str, float]]()
    for turn in range(turns):
        at, tokens = rng.randrange(len(FLEET)), rng.uniform(100, 1900)
        counted[at] += tokens
        if rng.random() < share:
            shared.placed(FLEET[at].id, tokens * estimate)
            ending.append((FLEET[at].id, tokens * (1.0 - estimate)))
        if told and len(ending) > 10:
            shared.corrected(*ending.pop(0))
        index = turn % len(FLEET)
        shared.loaded(FLEET[index].id, Load(prompt_tokens=counted[index]))
    return shared


@pytest.mark.parametrize("estimate", [0.8, 1.0, 1.2])
def test_one_that_is_alone_has_it_all_and_expects_nothing(estimate: float) -> None:
    shared = play(1.0, estimate=estimate)
    assert shared.ours == pytest.approx(1.0, abs=0.03)
    home = shared.expected(HASHES, FLEET, 1000.0, {})
    assert sum(home.values()) <= 0.05 * 1000.0


def test_one_that_is_alone_comes_to_exactly_one() -> None:
    shared = play(1.0)
    assert shared.ours == 1.0
    held = {FLEET[0].id: 500.0}
    assert {id: tokens for id, tokens in shared.expected(HASHES, FLEET, 1000.0, held).items() if tokens} == held


@pytest.mark.parametrize("share", [1 / 2, 1 / 3, 1 / 8])
@pytest.mark.parametrize("estimate", [0.8, 1.0])
def test_the_part_that_is_ours_is_found(share: float, estimate: float) -> None:
    assert play(share, estimate=estimate).ours == pytest.approx(share, rel=0.15)


def test_usage_corrects_what_was_estimated() -> None:
    assert play(0.5, estimate=0.5, told=False).ours < 0.3
    assert play(0.5, estimate=0.5, told=True).ours == pytest.approx(0.5, rel=0.1)


def test_who_comes_later_is_noticed_and_who_goes_is_forgotten() -> None:
    shared = play(1.0)
    shared.loaded(FLEET[0].id, Load(prompt_tokens=1e9))  # and counters go on from elsewhere: as after a restart
    for each in FLEET:
        shared.forget(each.id)
    play(0.25, shared=shared)
    assert shared.ours == pytest.approx(0.25, rel=0.15)


def test_nothing_is_made_of_little() -> None:
    shared = Shared()
    shared.placed("a", 100.0)
    assert shared.loaded("a", Load(prompt_tokens=5000.0)) == 1.0
    assert shared.loaded("a", Load(prompt_tokens=20_000.0)) == 1.0
    assert shared.ours == 1.0
    assert shared.loaded("a", Load(prompt_tokens=40_000.0)) < 0.2


def test_a_counter_that_falls_is_no_traffic() -> None:
    shared = play(0.5)
    before = shared.ours
    shared.loaded(FLEET[0].id, Load(prompt_tokens=0.0))
    assert shared.ours == pytest.approx(before)


def test_of_an_endpoint_that_others_prefer_less_is_ours() -> None:
    shared = Shared()
    for turn in range(1, 200):
        for each, others in zip(FLEET, (0.0, 1.0, 3.0, 9.0), strict=True):
            shared.placed(each.id, 1000.0)
            part = shared.loaded(each.id, Load(prompt_tokens=turn * 1000.0 * (1.0 + others)))
            if turn == 199:
                assert part == pytest.approx(1 / (1 + others), rel=0.02)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("plcf"), st.sampled_from("ab"), st.sampled_from([0.0, -5e4, 1e12]) | st.floats(-1e5, 1e6)
        ),
        max_size=80,
    ),
    st.floats(0, 1000),
)
def test_whatever_is_told_a_part_is_a_part(events: list[tuple[str, str, float]], held: float) -> None:
    shared = Shared()
    for kind, endpoint, tokens in events:
        if kind == "p":
            shared.placed(endpoint, abs(tokens))
        elif kind == "c":
            shared.corrected(endpoint, tokens)
        elif kind == "l":
            assert 0.05 <= shared.loaded(endpoint, Load(prompt_tokens=abs(tokens))) <= 1.0
        else:
            shared.forget(endpoint)
        assert 0.05 <= shared.ours <= 1.0
    known = {FLEET[0].id: held}
    found = shared.expected(HASHES, FLEET, 1000.0, known)
    assert all(known.get(id, 0.0) <= tokens <= 1000.0 for id, tokens in found.items())
    assert len(found) <= 2
    assert known == {FLEET[0].id: held}


def test_what_others_may_hold_is_expected_of_one_endpoint_only_and_more_the_fewer_are_ours() -> None:
    found = []
    for share in (0.5, 0.1):
        expected = play(share).expected(HASHES, FLEET, 1000.0, {})
        assert len(expected) == 1
        found += expected.values()
    assert 500.0 < found[0] < found[1] <= 900.0
    assert play(0.1).expected([1], FLEET, 1000.0, {"x": 1.0}) == {"x": 1.0}
