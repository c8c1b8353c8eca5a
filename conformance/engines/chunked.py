"""Continuous batching in chunked-prefill steps, as vLLM v1 schedules: prompts and answers share each step's budget. (P)

Invariants: those of `Batch`; a sequence that runs is either prefilling or decoding; a block is shared only once it has
been computed.
"""

from __future__ import annotations

import math

from conformance.engines.batch import Batch, Pace, Sequence, State
from conformance.engines.blocks import BlockPool


class Chunked(Batch):
    """A step begins when the last one ends, or when something comes to an idle engine, and its tokens come at its end.

    It serves every decoding sequence with one token, then prefills up to ``pace.chunk`` tokens together: running
    sequences first, then new ones. ``first`` and ``ended`` are those whose first and last token the last step made.
    """

    def __init__(self, pool: BlockPool, block_size: int, max_running: int, max_queued: int | None, pace: Pace) -> None:
        super().__init__(pool, block_size, max_running, max_queued, pace)
        self.decoding: list[Sequence] = []
        self.first: list[Sequence] = []
        self.ended: list[Sequence] = []
        self._prefilling: list[Sequence] = []
        self._chunks: list[tuple[Sequence, int]] = []
        self._full: list[Sequence] = []
        self._due = math.inf

    def admit(self, now: float) -> None:
        """Nothing starts in the middle of a step; an idle engine begins one."""
        if self.waiting and self._due == math.inf:
            self._due = now

    def next_at(self) -> float:
        """When the step under way ends, or an idle engine is to begin one; infinity while there is nothing to do."""
        return self._due

    def step(self, now: float) -> list[Sequence]:
        """End the step under way and begin the next one; those who got a token, some of them now over."""
        served = self._end(now)
        self._begin(now)
        return served

    # -- the end of a step ----------------------------------------------------------------------------------------

    def _end(self, now: float) -> list[Sequence]:
        served, full = self.decoding.copy(), self._full
        self.first, self.ended = [], []
        for sequence in served:  # the loop that runs once a token: no calls in it
            sequence.generated += 1
            sequence.room -= 1
            sequence.last_at = now
            if sequence.generated >= sequence.target:
                self.ended.append(sequence)
            elif not sequence.room:
                full.append(sequence)
        for sequence, count in self._chunks:
            if sequence.state is State.RUNNING:
                self._computed(sequence, count)
                if not sequence.left:
                    self._answer(sequence, now)
                    served.append(sequence)
        for sequence in self.ended:
            self._stop(sequence)
        return served

    def _computed(self, sequence: Sequence, count: int) -> None:
        """``count`` more tokens of a prompt are in the cache: others may use the blocks they fill."""
        sequence.left -= count
        filled = (sequence.prompt + sequence.generated - sequence.left) // self.block_size
        shared, full = sequence.shared, min(filled, len(sequence.hashes))
        if full > shared:
            self.pool.share(sequence.hashes[shared:full])
            sequence.private -= full - shared
            sequence.shared = full

    def _answer(self, sequence: Sequence, now: float) -> None:
        """The prompt is computed, which makes a token too."""
        self._prefilling.remove(sequence)
        self.decoding.append(sequence)
        if sequence.generated < sequence.target:
            sequence.generated += 1
            sequence.room -= 1
            sequence.last_at = now
            if sequence.generated == 1:
                sequence.first_at = now
                self.first.append(sequence)
        if sequence.generated >= sequence.target:
            self.ended.append(sequence)
        elif not sequence.room:
            self._full.append(sequence)

    # -- the beginning of a step ----------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        pace = self.pace
        if not (self._full or self._prefilling or self.waiting):  # most steps: nothing but decoding
            self._chunks = []
            self._due = now + pace.itl + pace.itl_growth * len(self.decoding) if self.decoding else math.inf
            return
        preemptions = self.preemptions
        for sequence in self._full:
            if sequence.state is State.RUNNING:
                self._grow(sequence)
        self._full.clear()
        self._chunks = []
        budget = self._resume(pace.chunk - len(self.decoding))
        started = 0
        if self.preemptions == preemptions:  # what was just taken from one sequence is not for a new one
            started = self._start_new(budget, now)
        if not self._chunks and not self.decoding:
            self._due = math.inf
            return
        prefilled = sum(count for _, count in self._chunks)
        self._due = now + pace.itl + pace.itl_growth * len(self.decoding)
        self._due += prefilled / pace.prefill_rate + pace.ttft * started

    def _resume(self, budget: int) -> int:
        """Chunks for the prompts under way; what is left of the budget."""
        for sequence in self._prefilling:
            if budget <= 0:
                break
            budget -= self._chunk(sequence, budget)
        return budget

    def _start_new(self, budget: int, now: float) -> int:
        """Start waiting sequences in their order while budget, slots and blocks allow; how many."""
        started = 0
        while budget > 0 and self.waiting and len(self.running) < self.max_running:
            sequence = self.waiting[0]
            if not self._start(sequence, now):
                break
            self.waiting.popleft()
            budget -= self._chunk(sequence, budget)
            started += 1
        return started

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        count = min(budget, sequence.left)
        self._chunks.append((sequence, count))
        return count

    def _start(self, sequence: Sequence, now: float) -> bool:
        tokens = sequence.prompt + sequence.generated
        # As in `Batch`: the last prompt token is always computed, and there is room for the next one.
        hits = self.pool.hits(sequence.hashes[: max(0, sequence.prompt - 1) // self.block_size])
        whole = self.blocks(tokens + (sequence.generated < sequence.target))
        if not self.pool.acquire(sequence.hashes[:hits], whole - hits):
            return False
        sequence.shared, sequence.private = hits, whole - hits
        sequence.room = whole * self.block_size - tokens
        sequence.left = max(1, tokens - hits * self.block_size)  # an empty prompt takes a step too
        if not sequence.preempted:
            sequence.cached, sequence.admitted = hits * self.block_size, now
        sequence.state = State.RUNNING
        self.running.append(sequence)
        self._prefilling.append(sequence)
        return True

    def _release(self, sequence: Sequence) -> None:
        (self._prefilling if sequence.left else self.decoding).remove(sequence)
        self.pool.release(sequence.hashes[: sequence.shared], sequence.private)
        sequence.shared = sequence.private = sequence.room = 0
