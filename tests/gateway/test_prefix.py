"""Chains cover beginnings and nothing else; the index holds exactly what a cache that drops by age would hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from gateway.prefix import Blocks, PrefixIndex, chain

KTHENA = Blocks(64, 0, 128, published=True)
SMALL = Blocks(4, 2)
ENDPOINTS = st.sampled_from("abc")

blocks_of_any_kind = st.builds(Blocks, st.integers(1, 20), st.integers(0, 5), st.integers(0, 6), st.booleans())
whole_blocks = st.builds(Blocks, st.integers(1, 20), st.integers(0, 5), st.integers(0, 6))
stems = st.sampled_from([b"a" * 40, b"a" * 8 + b"b" * 32, b"a" * 20 + b"b" * 20, b"b" * 40])
texts = st.builds(lambda stem, length: stem[:length], stems, st.integers(0, 40) | st.sampled_from([8, 16, 40]))


def steps(blocks: Blocks, length: int) -> Iterator[int]:
    """The sizes of the whole blocks that fit ``length`` bytes, straight from the definition."""
    position = count = 0
    while not blocks.limit or count < blocks.limit:
        step = blocks.size
        while blocks.growth and 2 * step * blocks.growth <= position:
            step *= 2
        if position + step > length:
            return
        yield step
        position, count = position + step, count + 1


class TestChain:
    @pytest.mark.parametrize(
        ("text", "size", "hashes"),
        [
            (b"Hello World", 64, [1993528491812861608]),
            (
                b"This is a longer prompt that should span multiple blocks based on the block size",
                20,
                [8626393537367828840, 16829149375953976751, 13000309909902416355, 4164474810863779859],
            ),
            (b"", 64, []),
        ],
    )
    def test_published_vectors(self, text: bytes, size: int, hashes: list[int]) -> None:
        assert list(chain(text, b"test-model", Blocks(size, 0, 128, published=True))) == hashes

    def test_published_ends_with_a_cut_block_and_at_the_limit(self) -> None:
        assert len(chain(b"x" * 65, b"m", KTHENA)) == 2
        assert len(chain(b"x" * 9000, b"m", KTHENA)) == 128
        assert chain(b"x" * 8192 + b"a", b"m", KTHENA) == chain(b"x" * 8192 + b"b", b"m", KTHENA)

    @given(st.binary(max_size=400), st.integers(0, 400), whole_blocks)
    def test_a_beginning_of_the_text_has_a_beginning_of_the_chain(self, text: bytes, cut: int, blocks: Blocks) -> None:
        whole, part = chain(text, b"m", blocks), chain(text[:cut], b"m", blocks)
        assert part == whole[: len(part)]
        assert len(part) == len(list(steps(blocks, min(cut, len(text)))))

    @given(st.binary(min_size=1, max_size=400), st.data(), blocks_of_any_kind)
    def test_a_changed_byte_changes_every_hash_from_its_block_on(
        self, text: bytes, data: st.DataObject, blocks: Blocks
    ) -> None:
        at = data.draw(st.integers(0, len(text) - 1))
        other = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        before = len(list(steps(Blocks(blocks.size, 0 if blocks.published else blocks.growth, blocks.limit), at)))
        one, two = chain(text, b"m", blocks), chain(other, b"m", blocks)
        assert one[:before] == two[:before]
        assert not set(one[before:]) & set(two[before:])

    @given(st.binary(max_size=200), blocks_of_any_kind)
    def test_two_seeds_share_nothing(self, text: bytes, blocks: Blocks) -> None:
        assert not set(chain(text, b"llama", blocks)) & set(chain(text, b"qwen", blocks))

    def test_blocks_grow_with_the_position(self) -> None:
        assert list(steps(Blocks(4, 2), 60)) == [4, 4, 4, 4, 8, 8, 16]
        assert len(chain(bytes(32 << 10), b"m", Blocks())) == 128
        assert len(chain(bytes(512 << 10), b"m", Blocks())) == 384

    @given(st.integers(0, 400), whole_blocks)
    def test_an_index_counts_the_bytes_of_the_blocks(self, length: int, blocks: Blocks) -> None:
        index = PrefixIndex(blocks, 1000)
        hashes = chain(bytes(length), b"m", blocks)
        index.place("a", hashes, length)
        assert index.match(hashes) == ({"a": sum(steps(blocks, length))} if hashes else {})


class Owner:
    """One placement; its identity is its age's."""

    def __init__(self, chain: tuple[int, ...], known: int) -> None:
        self.chain = chain
        self.known = known


class Model:
    """An endpoint's cache as a list of (owner, number of the block or None, bytes), what goes first first."""

    def __init__(self, capacity: int, entries: int) -> None:
        self.capacity = capacity
        self.entries = entries
        self.items: list[tuple[Owner, int | None, int]] = []

    @property
    def blocks(self) -> set[int]:
        return {owner.chain[number] for owner, number, _ in self.items if number is not None}

    @property
    def bytes(self) -> int:
        return sum(size for _, _, size in self.items)

    def held(self, hashes: tuple[int, ...]) -> int:
        blocks = self.blocks
        return next((number for number, block in enumerate(hashes) if block not in blocks), len(hashes))

    def place(self, hashes: tuple[int, ...], sizes: list[int], length: int) -> Owner:
        owner = Owner(hashes, self.held(hashes))
        self.items = [item for item in self.items if item[1] is None or item[0].chain[item[1]] not in set(hashes)]
        alive = {id(item[0]) for item in self.items if item[1] is not None or not item[0].chain}
        self.items = [item for item in self.items if id(item[0]) in alive]
        if length > sum(sizes):
            self.items.append((owner, None, length - sum(sizes)))
        self.items += reversed([(owner, number, size) for number, size in enumerate(sizes)])
        self.settle()
        return owner

    def fill(self, length: int) -> None:
        newest = self.items[-1][0] if self.items else None
        self.items.append((Owner((), 0) if newest is None or newest.chain else newest, None, length))
        self.settle()

    def withdraw(self, hashes: tuple[int, ...], known: int) -> None:
        self.items = [
            (owner, number, size)
            for owner, number, size in self.items
            if owner.chain != hashes or owner.known != known or (number is not None and number < known)
        ]

    def settle(self) -> None:
        while self.items:
            owner, number, size = self.items[0]
            if len({id(item[0]) for item in self.items}) > self.entries:
                self.items = [item for item in self.items if item[0] is not owner]
            elif len(self.blocks) > self.entries or (number is not None and self.bytes > self.capacity):
                del self.items[0]
            elif self.bytes > self.capacity:
                left = size - min(size, self.bytes - self.capacity)
                self.items[:1] = [(owner, None, left)] if left else []
            else:
                return


class Holding(RuleBasedStateMachine):
    """Every operation on the index and on the model; after each, every chain ever placed is matched."""

    placed = Bundle("placed")

    @initialize(capacity=st.integers(0, 200), entries=st.sampled_from([3, 8, 1000]))
    def start(self, capacity: int, entries: int) -> None:
        self.index = PrefixIndex(SMALL, capacity, entries)
        self.capacity = capacity
        self.entries = entries
        self.models: dict[str, Model] = {}
        self.chains: set[tuple[int, ...]] = set()

    def model(self, endpoint: str) -> Model:
        return self.models.setdefault(endpoint, Model(self.capacity, self.entries))

    @rule(target=placed, endpoint=ENDPOINTS, text=texts)
    def place(self, endpoint: str, text: bytes) -> tuple[str, tuple[int, ...], int]:
        hashes, model = tuple(chain(text, b"m", SMALL)), self.model(endpoint)
        self.chains.add(hashes)
        known = self.index.place(endpoint, hashes, len(text))
        if hashes:
            assert known == model.held(hashes)
            model.place(hashes, list(steps(SMALL, len(text))), len(text))
        elif text:
            model.fill(len(text))
        return endpoint, hashes, known

    @rule(placement=consumes(placed))
    def withdraw(self, placement: tuple[str, tuple[int, ...], int]) -> None:
        endpoint, hashes, known = placement
        self.index.withdraw(*placement)
        if hashes and endpoint in self.models:
            self.models[endpoint].withdraw(hashes, known)

    @rule(endpoint=ENDPOINTS, length=st.integers(1, 40))
    def fill(self, endpoint: str, length: int) -> None:
        self.index.fill(endpoint, length)
        if endpoint in self.models:
            self.models[endpoint].fill(length)

    @rule(endpoint=ENDPOINTS, capacity=st.integers(0, 200))
    def resize(self, endpoint: str, capacity: int) -> None:
        self.index.resize(endpoint, capacity)
        self.model(endpoint).capacity = capacity
        self.model(endpoint).settle()

    @rule(endpoint=ENDPOINTS)
    def forget(self, endpoint: str) -> None:
        self.index.forget(endpoint)
        self.models.pop(endpoint, None)

    @invariant()
    def the_longest_match_is_the_model_s(self) -> None:
        ends = [sum(list(steps(SMALL, 1000))[:count]) for count in range(12)]
        for hashes in self.chains:
            held = {endpoint: model.held(hashes) for endpoint, model in self.models.items()}
            assert self.index.match(hashes) == {endpoint: ends[count] for endpoint, count in held.items() if count}

    @invariant()
    def nothing_is_held_that_does_not_fit(self) -> None:
        models = self.models.values()
        holdings = self.index.holdings
        assert holdings.endpoints == len(models)
        assert holdings.blocks == sum(len(model.blocks) for model in models)
        assert holdings.bytes == sum(model.bytes for model in models)
        assert all(model.bytes <= model.capacity and len(model.blocks) <= self.entries for model in models)


TestHolding = Holding.TestCase
TestHolding.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)


def hashes_of(text: bytes) -> tuple[int, ...]:
    return tuple(chain(text, b"m", SMALL))


class TestIndex:
    def test_a_failed_request_leaves_what_others_placed_since(self) -> None:
        index, first, longer = PrefixIndex(SMALL, 1000), hashes_of(b"a" * 8), hashes_of(b"a" * 12)
        known = index.place("e", first, 8)
        index.place("e", longer, 12)
        index.withdraw("e", first, known)
        assert index.match(longer) == {"e": 12}

    def test_a_failed_request_leaves_its_repetition(self) -> None:
        index, hashes = PrefixIndex(SMALL, 1000), hashes_of(b"a" * 8)
        known = index.place("e", hashes, 8)
        index.place("e", hashes, 8)
        index.withdraw("e", hashes, known)
        assert index.match(hashes) == {"e": 8}

    def test_a_failed_repetition_leaves_the_original(self) -> None:
        index, hashes = PrefixIndex(SMALL, 1000), hashes_of(b"a" * 8)
        index.place("e", hashes, 8)
        index.withdraw("e", hashes, index.place("e", hashes, 8))
        assert index.match(hashes) == {"e": 8}

    def test_a_failed_repetition_whose_tail_is_gone_frees_nothing(self) -> None:
        index, hashes = PrefixIndex(SMALL, 8), hashes_of(b"a" * 8)
        index.place("e", hashes, 8)
        known = index.place("e", hashes, 8)
        index.fill("e", 1)
        index.withdraw("e", hashes, known)
        assert (index.holdings.blocks, index.holdings.bytes) == (1, 5)

    def test_a_prompt_larger_than_the_cache_keeps_its_head(self) -> None:
        index, hashes = PrefixIndex(SMALL, 10), hashes_of(b"a" * 16)
        index.place("e", hashes, 16)
        assert index.match(hashes) == {"e": 8}

    def test_an_unknown_endpoint_is_not_brought_back_by_late_news(self) -> None:
        index = PrefixIndex(SMALL, 1000)
        index.fill("gone", 10)
        index.withdraw("gone", hashes_of(b"a" * 8), 0)
        assert index.holdings.endpoints == 0

    def test_generated_text_pushes_prompts_out(self) -> None:
        index, hashes = PrefixIndex(SMALL, 20), hashes_of(b"a" * 12)
        index.place("e", hashes, 12)
        index.fill("e", 12)
        assert index.match(hashes) == {"e": 8}

    def test_many_endpoints_keep_their_own(self) -> None:
        index, names = PrefixIndex(SMALL, 10_000), [f"e{number}" for number in range(700)]
        head = hashes_of(b"a" * 8)
        for number, name in enumerate(names):
            index.place(name, (*head, number), 12)
        for name in names[::2]:
            index.forget(name)
        assert index.match(head) == dict.fromkeys(names[1::2], 8)
        assert index.match((*head, 1)) == dict.fromkeys(names[1::2], 8) | {"e1": 12}
        assert index.match((*head, 2)) == dict.fromkeys(names[1::2], 8)

    @given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=6), max_size=40))
    def test_hashes_that_are_no_chains_break_no_bound(self, calls: list[list[int]]) -> None:
        index = PrefixIndex(SMALL, 40, entries=2)
        for hashes in calls:
            known = index.place("e", hashes, 4 * len(hashes))
            index.match(hashes)
            if len(hashes) == 3:
                index.withdraw("e", hashes, known)
            assert index.holdings.blocks <= 2

    def test_an_index_confused_by_equal_hashes_starts_again(self) -> None:
        index = PrefixIndex(SMALL, 40)
        index.place("e", [1, 2], 8)
        index.place("e", [2], 4)
        assert (index.match([1, 2]), index.match([2]), index.holdings.bytes) == ({}, {}, 0)
        index.place("e", [1, 2], 8)
        assert index.match([1, 2]) == {"e": 8}
