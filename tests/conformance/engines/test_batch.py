"""Blocks and batches keep their books under any sequence of events."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.engines.batch import Batch, Pace, QueueFull, Sequence, State
from conformance.engines.blocks import BlockPool, chain

BLOCK = 4


def batch(blocks: int = 16, running: int = 3, queued: int | None = None, **pace: float) -> Batch:
    return Batch(BlockPool(blocks), BLOCK, running, queued, Pace(**pace))


def sequence(prompt: bytes, target: int) -> Sequence:
    return Sequence(chain(prompt, BLOCK), len(prompt), target)


def check(made: Batch, everyone: list[Sequence]) -> None:
    pool = made.pool
    held = {block for each in made.running for block in each.hashes}
    private = sum(each.private for each in made.running)
    assert pool.used + pool.kept + pool.free == pool.capacity
    assert pool.private == private
    assert pool.used == len(held) + private
    assert len(made.running) <= made.max_running
    assert {id(each) for each in made.running} == {id(e) for e in everyone if e.state is State.RUNNING}
    assert {id(each) for each in made.waiting} == {id(e) for e in everyone if e.state is State.WAITING}
    for each in made.running:
        tokens = each.prompt + each.generated
        assert len(each.hashes) + each.private == made.blocks(tokens + each.room)
        assert 0 <= each.room <= BLOCK


@settings(max_examples=150, deadline=None)
@given(
    blocks=st.integers(6, 24),
    running=st.integers(1, 5),
    events=st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.integers(0, 40), st.integers(0, 12)),
            st.tuples(st.just("step"), st.integers(1, 3), st.just(0)),
            st.tuples(st.just("abort"), st.integers(0, 20), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_books_balance(blocks: int, running: int, events: list[tuple[str, int, int]]) -> None:
    made, everyone, now = batch(blocks, running), [], 0.0
    for kind, number, target in events:
        now += 1
        if kind == "submit":
            prompt = b"abcd" * (number % 7) + b"x" * (number % 5)
            new = sequence(prompt, target)
            if made.blocks(new.prompt + new.target) <= blocks:
                made.submit(new, now)
                everyone.append(new)
        elif kind == "step":
            before = {id(each): each.generated for each in everyone}
            for each in made.step(now):
                assert each.generated - before[id(each)] in (0, 1)
        elif everyone:
            made.abort(everyone[number % len(everyone)], now)
        check(made, everyone)
    for _ in range(2000):
        if not made.held:
            break
        now += 1
        made.step(now)
        check(made, everyone)
    assert not made.held, "every sequence ends"
    assert made.pool.used == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=30), st.integers(2, 12))
def test_a_hit_is_a_block_that_is_there(prompts: list[tuple[int, int]], capacity: int) -> None:
    pool = BlockPool(capacity)
    there: set[int] = set()
    for start, length in prompts:
        hashes = chain(bytes([start]) * BLOCK * length, BLOCK)
        hits = pool.hits(hashes)
        assert all(block in there for block in hashes[:hits])
        if pool.acquire(hashes):
            there |= set(hashes)
            assert pool.hits(hashes) == len(hashes)
            pool.release(hashes)
        there = {block for block in there if pool.hits([block])}
        assert len(there) == pool.kept


def test_hashes_chain() -> None:
    one, other = chain(b"aaaabbbbcccc", 4), chain(b"xxxxbbbbcccc", 4)
    assert len(one) == 3
    assert not set(one) & set(other)
    assert chain(b"aaaabbbbzzzz", 4)[:2] == one[:2]
    assert chain(b"aaaabbbb", 4, "salt")[0] != one[0]


def test_the_least_recently_used_go_first_and_tails_before_heads() -> None:
    pool = BlockPool(4)
    old, new = chain(b"oooopppp", 4), chain(b"nnnnmmmm", 4)
    for hashes in (old, new):
        assert pool.acquire(hashes)
        pool.release(hashes)
    assert pool.acquire((), 1)
    assert (pool.hits(old), pool.hits(new)) == (1, 2)
    assert pool.evicted == 1


def test_blocks_are_granted_whole_or_not_at_all() -> None:
    pool = BlockPool(3)
    assert pool.acquire((), 2)
    assert not pool.acquire(chain(b"aaaabbbb", 4))
    assert (pool.free, pool.used, pool.kept) == (1, 2, 0)


def test_queue_limit_counts_what_waits() -> None:
    made = batch(running=1, queued=1)
    for _ in range(2):
        made.submit(sequence(b"abc", 1), 0)
    with pytest.raises(QueueFull):
        made.submit(sequence(b"abc", 1), 0)
    made.step(0)
    made.submit(sequence(b"abc", 1), 0)


def test_too_long_for_the_cache() -> None:
    with pytest.raises(ValueError, match="longer than the whole KV cache"):
        batch(blocks=2).submit(sequence(b"abcdefgh", 1), 0)


def test_a_prefix_is_reused_but_its_last_token_computed() -> None:
    made = batch()
    first, again = sequence(b"aaaabbbb", 1), sequence(b"aaaabbbb", 1)
    made.submit(first, 0)
    made.step(0)
    made.submit(again, 0)
    assert (first.cached, again.cached) == (0, 4)


def test_prefill_takes_its_turn_and_its_time() -> None:
    made = batch(prefill_rate=4.0, ttft=0.5, itl=0.1)
    one, two = sequence(b"aaaa", 3), sequence(b"bbbbbbbb", 3)
    made.submit(one, 10)
    made.submit(two, 10)
    assert (one.ready_at, two.ready_at) == (11.5, 13.5)
    assert made.next_at() == 11.5
    assert made.step(11.5) == [one]
    assert made.next_at() == pytest.approx(11.6)
    made.abort(one, 11.55)
    assert made.next_at() == 13.5
    made.abort(two, 11.6)
    assert made.next_at() == math.inf


def test_steps_slow_down_with_company() -> None:
    made = batch(itl=0.1, itl_growth=0.01)
    for _ in range(3):
        made.submit(sequence(b"a", 5), 0)
    made.step(0)
    assert made.next_at() == pytest.approx(0.12)


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    made = batch(blocks=4, running=2)
    old, young = sequence(b"aaaa", 8), sequence(b"bbbb", 8)
    made.submit(old, 0)
    made.submit(young, 0)
    for now in range(1, 6):
        made.step(now)
    assert made.preemptions == 1
    assert (old.state, young.state) == (State.RUNNING, State.WAITING)
    assert (old.generated, young.generated) == (5, 4)
    for now in range(6, 30):
        made.step(now)
    assert old.over
    assert young.over
    assert young.generated == 8
