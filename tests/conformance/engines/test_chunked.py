"""Steps with a budget: who is served in them, how long they take, and that the books balance under any events."""

from __future__ import annotations

import math

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from conformance.engines import Settings
from conformance.engines.batch import Pace, Sequence, State
from conformance.engines.blocks import BlockPool, chain
from conformance.engines.chunked import Chunked
from conformance.engines.serve import build

BLOCK = 4


def batch(blocks: int = 64, running: int = 3, chunk: int = 8, **pace: float) -> Chunked:
    return Chunked(BlockPool(blocks), BLOCK, running, None, Pace(chunk=chunk, **pace))


def sequence(prompt: bytes, target: int) -> Sequence:
    return Sequence(chain(prompt, BLOCK), len(prompt), target)


def check(made: Chunked, everyone: list[Sequence], computed: set[int]) -> None:
    pool = made.pool
    shared = {block for each in made.running for block in each.hashes[: each.shared]}
    assert pool.used + pool.kept + pool.free == pool.capacity
    assert pool.private == sum(each.private for each in made.running)
    assert pool.used == len(shared) + pool.private
    assert shared <= computed, "only what was computed is shared"
    assert len(made.running) <= made.max_running
    assert {id(each) for each in made.running} == {id(e) for e in everyone if e.state is State.RUNNING}
    assert {id(each) for each in made.waiting} == {id(e) for e in everyone if e.state is State.WAITING}
    assert {id(each) for each in made.decoding} == {id(each) for each in made.running if not each.left}
    for each in made.running:
        tokens = each.prompt + each.generated
        assert each.shared + each.private == made.blocks(tokens + each.room)
        assert each.room > 0 or not each.target, "who runs has room for the next token"
        assert each.shared * BLOCK <= max(0, tokens - each.left)


@settings(max_examples=150, deadline=None)
@given(
    blocks=st.integers(6, 24),
    running=st.integers(1, 5),
    chunk=st.integers(1, 20),
    events=st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.integers(0, 40), st.integers(0, 12)),
            st.tuples(st.just("step"), st.integers(1, 3), st.just(0)),
            st.tuples(st.just("abort"), st.integers(0, 20), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_books_balance(blocks: int, running: int, chunk: int, events: list[tuple[str, int, int]]) -> None:
    made = batch(blocks, running, chunk, itl=0.5)
    everyone: list[Sequence] = []
    computed: set[int] = set()
    now = 0.0

    def step() -> None:
        before = {id(each): each.generated for each in everyone}
        planned = sum(count for _, count in made._chunks)
        assert not planned or planned + len(made.decoding) <= chunk
        served = made.step(now)
        for each in everyone:
            assert each.generated - before[id(each)] in ((0, 1) if each in served else (0,))
            if each in served or each.left:
                computed.update(each.hashes[: max(0, each.prompt + each.generated - each.left) // BLOCK])
        assert {id(each) for each in made.ended} == {id(each) for each in served if each.over}
        assert all(each in served and each.generated == 1 for each in made.first)

    for kind, number, target in events:
        now += 1
        if kind == "submit":
            new = sequence(b"abcd" * (number % 7) + b"x" * (number % 5), target)
            if made.blocks(new.prompt + new.target) <= blocks:
                made.submit(new, now)
                everyone.append(new)
        elif kind == "step":
            step()
        elif everyone:
            made.abort(everyone[number % len(everyone)], now)
        check(made, everyone, computed)
    for _ in range(3000):
        if not made.held:
            break
        assert made.next_at() < math.inf, "an engine with work has a next step"
        now += 1
        step()
        check(made, everyone, computed)
    assert not made.held, "every sequence ends"
    assert made.pool.used == 0
    made.step(now)
    assert made.next_at() == math.inf


def test_a_step_takes_the_time_of_what_is_in_it() -> None:
    made = batch(chunk=10, itl=1.0, itl_growth=0.25, prefill_rate=4.0, ttft=0.5)
    one = sequence(b"aaaa", 3)
    made.submit(one, 10)
    assert (made.next_at(), one.state) == (10, State.WAITING)
    assert made.step(10) == []
    assert made.next_at() == 10 + 1 + 4 / 4 + 0.5
    two = sequence(b"b" * 18, 2)
    made.submit(two, 11)
    assert two.state is State.WAITING, "nothing starts in the middle of a step"
    assert made.step(12.5) == [one]
    assert (one.first_at, two.admitted, two.left) == (12.5, 12.5, 18)
    assert made.next_at() == 12.5 + 1 + 0.25 + 9 / 4 + 0.5, "the prompt's chunk makes the other one's token late"
    assert made.step(16.5) == [one]
    assert made.next_at() == 16.5 + 1 + 0.25 + 9 / 4
    assert made.step(20) == [one, two]
    assert (made.first, made.ended) == ([two], [one])
    assert made.next_at() == 20 + 1 + 0.25
    assert made.step(21.25) == [two]
    assert made.next_at() == math.inf


def test_what_comes_to_an_idle_engine_at_once_shares_the_first_step() -> None:
    made = batch(chunk=10, itl=1.0)
    made.submit(sequence(b"aaaa", 1), 5)
    made.submit(sequence(b"bbbb", 1), 5)
    made.step(5)
    assert len(made.step(6)) == 2


def test_the_budget_goes_to_decoding_then_to_the_old_then_to_the_new() -> None:
    made = batch(chunk=6, itl=1.0)
    for prompt in (b"aaaa", b"bbbbbbbb", b"cccc"):
        made.submit(sequence(prompt, 9), 0)
    one, two, three = made.waiting
    made.step(0)
    assert [(each, count) for each, count in made._chunks] == [(one, 4), (two, 2)]
    made.step(1)
    assert [(each, count) for each, count in made._chunks] == [(two, 5)]
    assert list(made.waiting) == [three]
    made.step(2)
    assert [(each, count) for each, count in made._chunks] == [(two, 1), (three, 4)]


def test_a_block_is_shared_when_it_is_computed() -> None:
    made = batch(chunk=4, itl=1.0)
    made.submit(sequence(b"aaaabbbbcccc", 1), 0)
    made.step(0)
    early = sequence(b"aaaabbbbcccc", 1)
    made.submit(early, 0)
    made.step(1)
    assert made.pool.hits(early.hashes) == 1
    made.step(2)
    assert made.pool.hits(early.hashes) == 2
    made.step(3)
    assert early.cached == 8


def test_two_that_compute_the_same_end_up_with_one_copy() -> None:
    made = batch(chunk=100, itl=1.0)
    for _ in range(2):
        made.submit(sequence(b"aaaabbbb", 5), 0)
    made.step(0)
    assert made.pool.used == 6
    made.step(1)
    assert made.pool.used == 4
    assert [each.cached for each in made.running] == [0, 0]


def test_the_youngest_gives_way_and_is_computed_again() -> None:
    made = batch(blocks=4, running=2, chunk=20, itl=1.0)
    old, young = sequence(b"aaaa", 8), sequence(b"bbbb", 8)
    made.submit(old, 0)
    made.submit(young, 0)
    for now in range(6):
        made.step(now)
    assert made.preemptions == 1
    assert (old.state, young.state) == (State.RUNNING, State.WAITING)
    assert (old.generated, young.generated) == (5, 4)
    for now in range(6, 30):
        made.step(now)
    assert old.over
    assert young.over
    assert young.generated == 8


def test_an_engine_of_steps_tells_who_waits() -> None:
    async def main() -> None:
        engine = build("vllm", Settings(chunk_tokens=8, itl=0.1))
        batch = engine.model.batch
        assert isinstance(batch, Chunked)
        long, late = Sequence([], 12, 2, streaming=True), Sequence([], 3, 1)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            began = trio.current_time()
            with engine.model.submit([long]) as ticket:
                await trio.testing.wait_all_tasks_blocked()
                with engine.model.submit([late]) as other:
                    assert (len(batch.running), len(batch.waiting)) == (1, 1)
                    await other.wait_over()
                    assert trio.current_time() - began == pytest.approx(0.2)
                await ticket.wait_over()
                assert trio.current_time() - began == pytest.approx(0.3)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
