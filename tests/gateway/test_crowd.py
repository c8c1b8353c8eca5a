"""Ten times what engines can serve: nearly whoever is let into the queue is served, and the others are told at once."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from tests.gateway.crowd import Crowd, poisson

SLOTS, MEAN_S, QUEUE_S, UNTIL_S, SETTLED_S = 16, 0.4, 2.0, 20.0, 4.0
RATE = SLOTS / MEAN_S
Caller = Callable[[random.Random, int], str]
CALLERS: dict[str, Caller] = {
    "one": lambda rng, index: "flood",
    "fifty": lambda rng, index: f"c{rng.randrange(50)}",
    "thousand": lambda rng, index: f"c{rng.randrange(1000)}",
    "always new ones": lambda rng, index: f"c{index}",
}
TIMES: dict[str, Callable[[random.Random], float]] = {
    "alike": lambda rng: MEAN_S,
    "unlike": lambda rng: rng.expovariate(1.0 / MEAN_S),
}


def goodput(crowd: Crowd, since: float = 1.0) -> float:
    """Of what the slots can do; by when requests began."""
    return sum(fate.at >= since for fate in crowd.served) / (UNTIL_S - MEAN_S - since) / RATE


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("callers", CALLERS)
def test_refusals_are_told_at_once_and_slots_are_always_taken(callers: str, times: str) -> None:
    crowd = Crowd(poisson(10 * RATE, CALLERS[callers], 1), TIMES[times], slots=SLOTS, queue_timeout=QUEUE_S)
    crowd.play(UNTIL_S)
    assert crowd.late(SETTLED_S) < 0.01
    assert goodput(crowd) > 0.93


def test_what_takes_longer_when_engines_are_full_is_learned_before_many_have_waited_in_vain() -> None:
    arrivals = poisson(10 * RATE, CALLERS["one"], 1)
    early = itertools.takewhile(lambda arrival: arrival[0] < 5.0, poisson(0.3 * RATE, CALLERS["one"], 2))
    crowd: Crowd

    def seconds(rng: random.Random) -> float:
        return MEAN_S * (0.4 + 0.6 * crowd.place.present / SLOTS)

    crowd = Crowd(
        heapq.merge(early, ((at + 5.0, caller) for at, caller in arrivals)), seconds, slots=16, queue_timeout=2
    )
    crowd.play(UNTIL_S)
    assert crowd.late(5.0) < 0.01


def test_light_callers_are_let_in_beside_a_flood() -> None:
    light = poisson(0.3 * RATE, lambda rng, index: f"light{rng.randrange(20)}", 2)
    both = heapq.merge(poisson(10 * RATE, CALLERS["one"], 1), light)
    crowd = Crowd(both, TIMES["alike"], slots=SLOTS, queue_timeout=QUEUE_S).play(UNTIL_S)
    assert crowd.late(SETTLED_S) < 0.01
    assert not [fate for fate in crowd.refused if fate.caller.startswith("light")]


def test_callers_who_ask_for_less_than_their_share_are_let_in_beside_hundreds_who_ask_for_far_more() -> None:
    light = poisson(0.02 * RATE, lambda rng, index: f"light{rng.randrange(20)}", 2)
    many = poisson(10 * RATE, lambda rng, index: f"c{rng.randrange(300)}", 1)
    crowd = Crowd(heapq.merge(many, light), TIMES["unlike"], slots=SLOTS, queue_timeout=QUEUE_S).play(120.0)
    told = [
        sum(fate.caller.startswith("light") for fate in fates if fate.at > 40.0)
        for fates in (crowd.served, crowd.refused)
    ]
    assert told[0] > 9 * told[1]
    assert crowd.late(SETTLED_S) < 0.01


def test_endpoints_that_go_take_their_part_of_the_rate_with_them() -> None:
    crowd = Crowd(poisson(10 * RATE, CALLERS["one"], 1), TIMES["unlike"], slots=SLOTS, queue_timeout=QUEUE_S)
    crowd.play(6.0)
    crowd.place.slots /= 4
    crowd.play(UNTIL_S)
    assert crowd.late(8.0) < 0.01  # who waited already when it happened, waited in vain
