"""Gateways that cannot talk to each other agree on where a conversation belongs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prefix import Blocks, chain
from gateway.schedule.home import Homes
from tests.gateway.schedule.fleet import Fake

BLOCKS = Blocks()
keys = st.integers(1, 2**64 - 1)


def fakes(count: int) -> list[Fake]:
    return [Fake(f"10.0.0.{number}:8000") for number in range(count)]


def hashes(text: str) -> Sequence[int]:
    return chain(text.encode(), b"m", BLOCKS)


class Traffic:
    """Conversations that begin with one of a few system prompts, of different popularity, and grow as they go on."""

    def __init__(self, openings: Sequence[int], seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.openings = [self._words(size) for size in openings]
        self.going: list[str] = []

    def _words(self, size: int) -> str:
        return self.rng.randbytes(size // 2).hex()

    def turn(self) -> str:
        if len(self.going) < 50 or self.rng.random() < 0.2:
            number = min(int(self.rng.expovariate(0.5)), len(self.openings) - 1)
            self.going.append(self.openings[number])
            self.going = self.going[-300:]
        index = self.rng.randrange(len(self.going))
        self.going[index] += self._words(1500)
        return self.going[index]


@pytest.mark.parametrize("gateways", [2, 3])
def test_gateways_that_see_samples_of_the_same_traffic_agree(gateways: int) -> None:
    traffic, rng, fleet = Traffic([600, 2000, 5000, 12_000, 0, 900]), random.Random(2), fakes(8)
    there = [Homes() for _ in range(gateways)]
    same = asked = 0
    for turn in range(4500):
        prompt = hashes(traffic.turn())
        homes = rng.choice(there)
        home = homes.of(homes.key(prompt, 8), fleet)
        if turn > 1500 and turn % 5 == 0:
            asked += 1
            same += all(each.of(each.key(prompt, 8), fleet) == home for each in there)
    assert same >= 0.95 * asked


def test_a_conversation_stays_at_home_as_it_grows() -> None:
    """From where it has left its opening by a block of the next depth on."""
    traffic, fleet, homes = Traffic([600, 2000, 5000]), fakes(8), Homes()
    for _ in range(3000):
        homes.key(hashes(traffic.turn()), 8)
    moved = 0
    going = [conversation for conversation in traffic.going if len(conversation) > 8500]
    for conversation in going:
        longer = conversation + "x" * 9000
        moved += homes.of(homes.key(hashes(conversation), 8), fleet) != homes.of(homes.key(hashes(longer), 8), fleet)
    assert len(going) > 50
    assert not moved


@pytest.mark.parametrize("opening", [1500, 3000, 9000, 17_000])
def test_what_many_begin_with_is_nobodys_key(opening: int) -> None:
    """Else all who share a system prompt were sent to one endpoint."""
    rng, homes = random.Random(1), Homes()
    shared = rng.randbytes(opening // 2).hex()
    common = set(hashes(shared))
    found = [homes.key(hashes(shared + rng.randbytes(20_000).hex()), 8) for _ in range(600)]
    assert not common.intersection(found[50:])
    assert len(set(found[50:])) == 550
    fleet = fakes(8)
    share = [sum(homes.of(key, fleet) == fake.id for key in found[50:]) for fake in fleet]
    assert max(share) < 2 * 550 / 8


def test_a_beginning_is_shared_where_it_would_fill_half_an_endpoint() -> None:
    """Of 16 openings, each of a 16th of the traffic, each may have a home among two endpoints, but not among 32."""
    for endpoints, belongs in ((2, True), (32, False)):
        rng, homes = random.Random(1), Homes()
        openings = [rng.randbytes(600).hex() for _ in range(16)]
        own = {key for opening in openings for key in hashes(opening)}
        found = [homes.key(hashes(openings[turn % 16] + rng.randbytes(4000).hex()), endpoints) for turn in range(3000)]
        assert [key in own for key in found[1000:]] == [belongs] * 2000


def test_a_prompt_too_short_has_no_key_and_a_popular_one_that_ends_there_still_has_one() -> None:
    homes = Homes()
    assert homes.key(hashes("x" * 1000), 8) == 0
    assert homes.key([], 8) == 0
    found = {homes.key(hashes("x" * 1100), 8) for _ in range(500)}
    assert found == {hashes("x" * 1100)[3]}


@given(st.lists(keys, min_size=1, max_size=60), st.integers(2, 12), st.data())
def test_when_an_endpoint_goes_only_its_conversations_move(found: list[int], count: int, data: st.DataObject) -> None:
    homes, fleet = Homes(), fakes(count)
    gone = data.draw(st.sampled_from(fleet))
    before = {key: homes.of(key, fleet) for key in found}
    left = [fake for fake in fleet if fake is not gone]
    after = {key: homes.of(key, left) for key in found}
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == gone.id}
    assert {key: homes.of(key, fleet) for key in found} == before


@given(keys, st.permutations(range(6)))
def test_the_order_of_candidates_does_not_matter(key: int, order: list[int]) -> None:
    fleet = fakes(6)
    assert Homes().of(key, [fleet[index] for index in order]) == Homes().of(key, fleet)


def test_conversations_are_spread_evenly() -> None:
    homes, fleet, rng = Homes(), fakes(8), random.Random(3)
    found = [homes.of(rng.getrandbits(64), fleet) for _ in range(8000)]
    assert all(850 < found.count(fake.id) < 1150 for fake in fleet)


def test_memory_is_bounded() -> None:
    """Also where no prompt is like another, and where all are asked for again and again."""
    fleet = fakes(4)
    for sizes, again in ((5, 10**9), (128, 10**9), (128, 5000)):
        homes = Homes()
        for turn in range(30_000):
            first = turn % again << 8
            homes.of(homes.key(range(first, first + sizes), 4), fleet)
            assert len(homes._counts) <= 20_010
            assert len(homes._homes) <= 20_000


def test_what_was_popular_once_may_be_a_key_again() -> None:
    rng, homes = random.Random(5), Homes()
    opening = rng.randbytes(600).hex()
    for _ in range(4000):
        homes.key(hashes(opening + rng.randbytes(1000).hex()), 8)
    others = [[rng.getrandbits(64) for _ in range(8)] for _ in range(100)]
    for turn in range(20_000):
        homes.key(others[turn % 100], 8)
    assert homes.key(hashes(opening + "x" * 4000), 8) == hashes(opening)[3]
