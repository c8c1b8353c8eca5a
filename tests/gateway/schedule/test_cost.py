"""What a placement costs: which differences between endpoints make which difference, all else being equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schedule.ask import Ask
from gateway.schedule.cost import Costs
from gateway.schedule.speed import Speed
from gateway.types import Load, Usage
from tests.gateway.schedule.fleet import Fake, ask, speed

NOW = 100.0
TEXT = "".join(f"{number:07} " for number in range(4000))  # 32 000 bytes, 8000 tokens
TOKENS = 8000.0


def prompt(text: str = TEXT, now: float = NOW) -> Ask:
    return ask(text, now=now)


def one(
    id: str,
    pending: int,
    streams: int,
    owed: float,
    foreign: tuple[int, int],
    slow: float,
    cached: int,
    load: Load | None,
) -> tuple[Fake, int]:
    """An endpoint that may exist: who waits there is there; ``cached`` bytes of the prompt are in its cache."""
    found = Speed()
    found.factor = slow
    fake = Fake(
        id, load, pending + streams, pending, pending * 1000.0, NOW + owed, float(sum(foreign)), float(foreign[0]),
        speed=found,
    )  # fmt: skip
    return fake, cached


counts = st.sampled_from([0, 0, 1, 3]) | st.integers(0, 300)
endpoints = st.builds(
    one,
    st.text("abcdef", min_size=1, max_size=3),
    counts,
    counts,
    st.sampled_from([-1e6, -50.0, -1.0, 0.0]) | st.floats(0, 100),
    st.tuples(counts, counts),
    st.sampled_from([0.02, 1.0, 50.0]),
    st.integers(0, len(TEXT)),
    st.none() | st.builds(Load, block_size=st.sampled_from([0, 16]), blocks=st.sampled_from([0, 10_000])),
)
fleets = st.lists(endpoints, min_size=1, max_size=7, unique_by=lambda pair: pair[0].id)


def holding(fleet: Sequence[tuple[Fake, int]]) -> Costs:
    """After each has been given its part of the prompt."""
    costs = offered_to([fake for fake, _ in fleet])
    for fake, cached in fleet:
        costs.placed(ask(TEXT[:cached], now=0.0), fake)
        costs.loaded(fake)
    return costs


def offered_to(fleet: Sequence[Fake]) -> Costs:
    """With a choice behind it: before the first one nothing is reckoned."""
    costs = Costs()
    costs(prompt("", 0.0), fleet)
    return costs


def idle(count: int) -> list[Fake]:
    return [Fake(f"e{number}") for number in range(count)]


# --- whatever there is ------------------------------------------------------------------------------------------------


@given(fleets)
def test_costs_are_finite_and_aligned(fleet: list[tuple[Fake, int]]) -> None:
    fakes = [fake for fake, _ in fleet]
    costs = holding(fleet)
    found = costs.costs(prompt(), fakes)
    assert len(found) == len(fakes)
    assert all(0.0 < cost < math.inf for cost in found)
    assert costs.costs(prompt(), fakes[::-1]) == pytest.approx(found[::-1])
    scores = costs(prompt(), fakes)
    assert all(0.0 < score <= 1.0 for score in scores)
    assert [score == max(scores) for score in scores] == [cost == min(found) for cost in found]


@given(fleets, st.integers(0, len(TEXT)))
def test_more_of_the_prompt_in_its_cache_never_makes_an_endpoint_dearer(
    fleet: list[tuple[Fake, int]], more: int
) -> None:
    (fake, cached), rest = fleet[0], fleet[1:]
    twin = msgspec.structs.replace(fake, id="twin")
    fakes = [fake, twin, *(other for other, _ in rest)]
    less, richer = holding([(fake, cached), (twin, min(cached, more)), *rest]).costs(prompt(), fakes)[:2][::-1]
    assert richer <= less
    if cached - min(cached, more) > 1100:
        assert richer < less, "a whole block more"


@given(fleets, st.floats(0, 100))
def test_more_owed_work_never_makes_an_endpoint_cheaper(fleet: list[tuple[Fake, int]], more: float) -> None:
    fake, cached = fleet[0]
    at_work = msgspec.structs.replace(fake, until=max(fake.until, NOW))
    busier = msgspec.structs.replace(at_work, until=at_work.until + more)
    longer = msgspec.structs.replace(
        busier, inflight=fake.inflight + 1, pending=fake.pending + 1, backlog=fake.backlog + 1000.0
    )
    alone = [holding([(each, cached), *fleet[1:]]) for each in (at_work, busier, longer)]
    rest = [other for other, _ in fleet[1:]]
    found = [
        costs.costs(prompt(), [each, *rest])[0]
        for costs, each in zip(alone, (at_work, busier, longer), strict=True)
    ]  # fmt: skip
    assert found[0] <= found[1] <= found[2] * (1 + 1e-12)
    assert found[1] - found[0] == pytest.approx(more, abs=1e-6)


# --- one term at a time -----------------------------------------------------------------------------------------------


def test_at_an_idle_fleet_a_prompt_costs_what_it_takes() -> None:
    """Price 1, however much was asked for lately."""
    fleet = idle(3)
    costs = offered_to(fleet)
    for _ in range(1000):
        costs.placed(prompt("", NOW - 1.0), fleet[0])
    assert costs.costs(prompt(), fleet) == pytest.approx([TOKENS * fleet[0].speed.prefill] * 3)


@pytest.mark.parametrize("offered", [0, 100, 100_000])
@pytest.mark.parametrize("queues", [(4, 4, 4), (16, 0, 0), (1, 4, 9), (400, 400, 400)])
def test_the_price_is_bounded_by_what_waits(offered: int, queues: tuple[int, ...]) -> None:
    """Each that waits may be delayed once by what is computed here, and by those that come: thirteen times at most."""
    fleet = [Fake(f"e{index}", inflight=count, pending=count, until=NOW) for index, count in enumerate(queues)]
    costs = offered_to(fleet)
    for _ in range(offered):
        costs.placed(prompt(now=NOW), fleet[0])
    own = TOKENS * fleet[0].speed.prefill
    average = min(16.0, (sum(count**0.5 for count in queues) / 3) ** 2)
    for cost, count in zip(costs.costs(prompt(TEXT[::-1]), fleet), queues, strict=True):
        price = cost / own
        assert 1.0 + min(average, count + 1) - 1e-9 <= price <= 1.0 + 12.5 * min(average, count + 1) + 1e-9
        if not offered:
            assert price == pytest.approx(1.0 + min(average, count + 1))


def test_what_was_asked_for_raises_the_price_and_is_forgotten() -> None:
    fleet = [Fake(f"e{index}", inflight=2, pending=2, until=NOW) for index in range(3)]

    def price(offered: int, later: float) -> float:
        costs = offered_to(fleet)
        for _ in range(offered):
            costs.placed(prompt(now=0.0), fleet[0])
        return costs.costs(prompt(TEXT[::-1], later), [msgspec.structs.replace(each, until=later) for each in fleet])[0]

    assert price(0, 1.0) < price(50, 1.0) < price(100, 1.0)
    assert price(100, 1000.0) == pytest.approx(price(0, 1000.0))


def test_one_that_hangs_costs_ever_more() -> None:
    hung, costs = Fake("a", inflight=1, pending=1, until=NOW), Costs()
    found = [costs.costs(prompt(now=NOW + later), [hung, *idle(1)])[0] for later in range(60)]
    assert found == sorted(found)
    assert found[59] > found[30] + 25.0 > found[1] + 50.0


def test_one_that_is_late_with_nothing_costs_nothing_for_it() -> None:
    quiet = Fake("a", inflight=1, until=NOW - 50.0)
    fresh = Fake("b", inflight=1, until=NOW)
    found = Costs().costs(prompt(), [quiet, fresh])
    assert found[0] == found[1]


@pytest.mark.parametrize("slow", [0.5, 1.0, 4.0])
def test_a_slow_endpoint_costs_as_much_more(slow: float) -> None:
    usual, other = Fake("a"), Fake("b", speed=speed(slow * Speed().prefill))
    found = Costs().costs(prompt(), [usual, other])
    assert found[1] == pytest.approx(slow * found[0])


def test_streams_cost_what_they_slow_and_what_stands_still() -> None:
    none, some, others = Fake("a"), Fake("b", inflight=10), Fake("c", foreign=10.0)
    found = Costs().costs(prompt(), [none, some, others])
    assert found[1] == found[2] > found[0]
    assert found[1] - found[0] == pytest.approx(10 * (0.1 * found[0] + 300 * some.speed.pace.crowding))


# --- what is held -----------------------------------------------------------------------------------------------------


def served(
    costs: Costs, fleet: Sequence[Fake], cached: float | None, text: str = TEXT, *, here: int = 0, completion: int = 0
) -> Ask:
    """A request that the first endpoint takes; the engine says that ``cached`` of its believed hit were there."""
    request = prompt(text)
    costs.costs(request, fleet)
    costs.placed(request, fleet[here])
    if cached is None:
        costs.left(request, fleet[here], None)
    else:
        hit = request.hits.get(fleet[here].id, 0.0)
        costs.left(request, fleet[here], Usage(int(request.tokens), completion, int(cached * hit)))
    return request


def believed(costs: Costs, fleet: Sequence[Fake]) -> float:
    request = prompt()
    costs.costs(request, fleet)
    return request.hits.get(fleet[0].id, 0.0)


def test_what_was_placed_is_held_but_for_the_last_token() -> None:
    costs, fleet = Costs(), idle(2)
    served(costs, fleet, 0.0)
    assert believed(costs, fleet) > 0.95 * TOKENS
    short = "x" * 1024
    served(costs, fleet, 0.0, short)
    request = prompt(short)
    costs.costs(request, fleet)
    assert request.hits == {"e0": 255.0}


@pytest.mark.parametrize("cached", [0.25, 0.5])
def test_less_is_believed_where_engines_report_less(cached: float) -> None:
    costs, fleet = Costs(), idle(2)
    served(costs, fleet, 0.0)
    at_first, trust = believed(costs, fleet), 1.0
    for _ in range(400):
        # the engine reports a part of what was placed, whatever is believed of it
        served(costs, fleet, cached / trust)
        trust = believed(costs, fleet) / at_first
    assert trust == pytest.approx(cached, rel=0.05)
    for _ in range(400):
        served(costs, fleet, 1.0 / trust)
        trust = believed(costs, fleet) / at_first
    assert trust > 0.95


def test_engines_that_never_report_are_believed_in() -> None:
    costs, fleet = Costs(), idle(2)
    for _ in range(200):
        served(costs, fleet, 0.0)
    assert believed(costs, fleet) > 0.95 * TOKENS


def test_streams_cut_short_say_nothing_of_caches_nor_of_lengths() -> None:
    """Their client left before the engine told its usage."""
    costs, fleet = Costs(), idle(2)
    served(costs, fleet, 0.0)
    served(costs, fleet, 1.0)
    before = believed(costs, fleet)
    sent = 0.0
    costs.loaded(msgspec.structs.replace(fleet[0], load=Load(prompt_tokens=0.0)))
    for _ in range(100):
        request = prompt()
        costs.costs(request, fleet)
        costs.placed(request, fleet[0])
        sent += TOKENS
        costs.left(request, fleet[0], Usage(completion=7))
        costs.loaded(msgspec.structs.replace(fleet[0], load=Load(prompt_tokens=sent)))
    assert believed(costs, fleet) == before
    assert costs._shared.ours == 1.0


def test_hits_are_whole_blocks() -> None:
    costs, fleet = Costs(), idle(2)
    served(costs, fleet, 0.0)
    costs.loaded(msgspec.structs.replace(fleet[0], load=Load(block_size=3000)))
    assert believed(costs, fleet) == 6000.0


def test_where_there_never_was_a_choice_nothing_is_remembered() -> None:
    costs, (only, other) = Costs(), idle(2)
    request = prompt()
    costs.placed(request, only)
    costs.left(request, only, Usage(8000, 5, 0))
    assert (costs.index.holdings.blocks, request.read) == (0, False)
    served(costs, [only, other], 0.0)
    assert costs.index.holdings.blocks > 0


def test_what_failed_is_taken_back() -> None:
    costs, fleet = Costs(), idle(2)
    served(costs, fleet, None)
    assert costs.index.holdings.blocks == 0
    served(costs, fleet, 0.0, TEXT[:16_000])
    before = believed(costs, fleet)
    served(costs, fleet, None)
    assert believed(costs, fleet) == before > 3000.0


def test_an_endpoint_that_is_gone_is_forgotten() -> None:
    costs, fleet = Costs(), idle(2)
    served(costs, fleet, 0.0)
    costs.forget("e0")
    assert believed(costs, fleet) == 0.0


@pytest.mark.parametrize("ours", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("ratio", [4.0, 2.0])
def test_as_much_is_held_as_blocks_have_room_for(ours: float, ratio: float) -> None:
    """In bytes of text, and of a cache that others fill too our part."""
    costs, fleet = Costs(), idle(2)
    counted = 0.0
    costs.loaded(msgspec.structs.replace(fleet[0], load=Load(block_size=16, blocks=4000)))
    for number in range(300):
        request = ask(f"{number}" + TEXT, now=NOW)
        request.bytes_per_token = ratio
        costs.costs(request, fleet)
        costs.placed(request, fleet[0])
        counted += request.tokens / ours
        load = Load(block_size=16, blocks=4000, prompt_tokens=counted)
        costs.loaded(msgspec.structs.replace(fleet[0], load=load))
    room = 4000 * 16 * ratio * ours
    assert room - 2 * len(TEXT) < costs.index.holdings.bytes <= 1.02 * room


def test_answers_take_room_and_their_length_is_learned() -> None:
    costs, fleet = Costs(), idle(2)
    busy = [Fake("e0", inflight=5), Fake("e1")]

    def decode() -> float:
        crowded, quiet = costs.costs(prompt(TEXT[::-1]), busy)
        return crowded - quiet

    served(costs, fleet, 0.0)
    before, held = decode(), costs.index.holdings.bytes
    for _ in range(200):
        served(costs, fleet, 0.0, TEXT, completion=3000)
    assert decode() > before
    assert costs.index.holdings.bytes > held


def test_what_others_hold_is_expected_where_a_conversation_belongs() -> None:
    costs, fleet = Costs(), idle(4)
    assert max(costs.costs(prompt(), fleet)) == min(costs.costs(prompt(), fleet))
    counted = 0.0
    for number in range(100):
        served(costs, fleet, 0.0, f"{number}" + TEXT[:8000])
        counted += 3 * 2000.0
        costs.loaded(msgspec.structs.replace(fleet[0], load=Load(prompt_tokens=counted)))
    found = sorted(costs.costs(prompt(), fleet))
    assert found[0] < 0.5 * found[1] == 0.5 * found[3]
