"""The products as they are: their formulas with the published vectors, what they learn and when."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from conformance.replay.fleet import Fleet
from conformance.replay.policies import NAMES, policy
from conformance.replay.published import PUBLISHED, EndpointPicker, Kthena, hashed, paced, remember
from conformance.replay.traces import Request
from conformance.replay.virtual import Replay
from gateway.types import Load

from .tiny import BLOCK, conversations, scenario, trace

FLEET = Fleet(conversations(), scenario())
LONG = FLEET.trace.requests[-1]


def kthena(fleet: Fleet = FLEET) -> Kthena:
    return Kthena(fleet, random.Random(1))


def picker(fleet: Fleet = FLEET) -> EndpointPicker:
    return EndpointPicker(fleet, random.Random(1))


def load(at: float = 0.0, **numbers: float) -> Load:
    return Load(at=at, **{"waiting": 0.0, "running": 0.0, "kv_usage": 0.0, **numbers})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mine", "running", "scores"),
    [((1, 2, 3), (1, 2, 3), [66, 33, 0]), ((5, 5, 0), (5, 0, 0), [99, 0, 100]), ((0, 0, 0), (4, 5, 6), [100] * 3)],
)
def test_kthena_scores_requests_as_published(
    mine: tuple[int, ...], running: tuple[int, ...], scores: list[int]
) -> None:
    chooser = kthena()
    for engine, (count, seen) in enumerate(zip(mine, running, strict=True)):
        chooser.inflight[engine] = count
        chooser.scraped(engine, load(running=float(seen)), 1.0)
    assert [int(score) for score in chooser._requests([0, 1, 2])] == scores


def test_kthena_scores_the_pace_of_the_last_scrape_that_showed_one() -> None:
    chooser = kthena()
    for engine, ttft in enumerate((1.0, 2.0, 3.0)):
        chooser.scraped(engine, load(ttft_sum=ttft, ttft_count=1.0, tpot_sum=0.1, tpot_count=10.0), 1.0)
        chooser.scraped(engine, load(ttft_sum=ttft, ttft_count=1.0, tpot_sum=0.1, tpot_count=10.0), 2.0)
    assert chooser._latency([0, 1, 2]) == [100.0, 75.0, 50.0]
    assert kthena()._latency([0, 1, 2]) == [50.0] * 3


def test_kthena_learns_a_prompt_when_its_answer_is_through() -> None:
    chooser = kthena()
    best = next(iter(chooser.choose(LONG, 0.0)))
    chooser.placed(LONG, best, 0.0)
    assert chooser._matches([0, 1, 2], hashed(FLEET, LONG, 64, 128)) == {}
    chooser.ended(LONG, best, 1.0, 0)
    assert chooser._matches([0, 1, 2], hashed(FLEET, LONG, 64, 128)) == {best: 128}
    assert next(iter(chooser.choose(LONG, 2.0))) == best


def test_kthena_sees_8_kilobytes_of_a_prompt() -> None:
    same, other = (Request(i, 0.0, 5 * BLOCK, 1, (0, 1, 2, 3, 4 + i)) for i in (0, 1))
    fleet = Fleet(trace((0.0, 1, 1, (0,))), scenario())
    assert hashed(fleet, same, 64, 128) == hashed(fleet, other, 64, 128)
    assert len(hashed(fleet, same, 64, 128)) == 128
    assert len(hashed(fleet, Request(0, 0.0, 17, 1, (0,)), 64, 128)) == 2, "the last block counts in part"


def test_kthena_refuses_where_all_have_ten_waiting_and_names_five_otherwise() -> None:
    chooser = kthena(Fleet(conversations(), scenario(engines=8)))
    assert len([*chooser.choose(LONG, 0.0)]) == 5
    for engine in range(8):
        chooser.scraped(engine, load(waiting=9.0 if engine == 3 else 10.0), 1.0)
    assert [*chooser.choose(LONG, 1.0)] == [3]
    chooser.scraped(3, load(waiting=10.0), 2.0)
    assert [*chooser.choose(LONG, 2.0)] == []


def test_kthena_waits_for_an_engine_that_hangs_before_it_asks_the_others_again() -> None:
    chooser = kthena()
    chooser.scraped(0, None, 1.0)
    chooser.scraped(1, load(waiting=10.0), 10.9)
    assert 1 in chooser.choose(LONG, 10.9)
    chooser.scraped(1, load(waiting=10.0), 11.0)
    assert 1 not in chooser.choose(LONG, 11.0)


def test_the_picker_knows_a_prompt_from_its_dispatch_on_and_nothing_else_that_it_sent() -> None:
    chooser = picker()
    for _ in range(3):
        (best,) = chooser.choose(LONG, 0.0)
        chooser.placed(LONG, best, 0.0)
    assert chooser.inflight[best] == 3, "until a scrape shows it, the engine looks idle"
    assert chooser._matches(hashed(FLEET, LONG, 4 * BLOCK, 2048))[best] == len(LONG.blocks)


def test_the_picker_weighs_queue_and_usage_by_two_and_the_prefix_by_three() -> None:
    chooser = picker()
    [*chooser.choose(LONG, 0.0)]
    chooser.placed(LONG, 1, 0.0)
    chooser.scraped(1, load(waiting=4.0, kv_usage=0.4), 1.0)
    assert [*chooser.choose(LONG, 1.0)] == [1], "3 + 2 · 0.6 is more than 2 + 2"
    chooser.scraped(1, load(waiting=4.0, kv_usage=0.6), 1.0)
    assert [*chooser.choose(LONG, 1.0)] != [1]


def test_the_picker_is_as_large_as_the_first_engine_says() -> None:
    chooser = picker()
    assert chooser._block == 4 * BLOCK
    assert chooser._kept == FLEET.engines[0].batch.pool.capacity


def test_what_was_used_longest_ago_is_forgotten() -> None:
    held: OrderedDict[int, None] = OrderedDict()
    remember(held, [1, 2, 3], 3)
    remember(held, [1, 4], 3)
    assert [*held] == [3, 1, 4]


def test_each_is_scraped_at_its_own_pace() -> None:
    asked = scenario(interval=0.3)
    assert [paced(name, asked).interval for name in ("kthena-published", "epp-published", "ours")] == [1.0, 0.05, 0.3]


@pytest.mark.parametrize("name", PUBLISHED)
def test_conversations_come_back_to_where_they_were(name: str) -> None:
    assert name in NAMES
    played = conversations(gap=10.0)
    fleet = Fleet(played, paced(name, scenario()))
    hit = Replay(fleet, policy(name)).play().summary(played, fleet.scenario)["hit"]
    blind = Replay(Fleet(played, scenario()), policy("random")).play().summary(played, fleet.scenario)["hit"]
    assert hit > blind + 0.1
