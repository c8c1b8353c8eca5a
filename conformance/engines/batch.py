"""Continuous batching as decisions on explicit time: who runs, who waits, who gets a token in this step. (P)

Invariants: never more than ``max_running`` sequences run; the blocks of every sequence that does not run are back in
the pool; a sequence is in exactly one of: waiting, running, over.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable

import msgspec

from conformance.engines.blocks import BlockPool


class Pace(msgspec.Struct, frozen=True):
    """How fast an engine is. ``ttft`` is added to every request's prefill; ``itl`` is the time of one decode step and
    grows by ``itl_growth`` for each further sequence in it; all in seconds. ``prefill_rate`` is in tokens per second.

    ``chunk`` 0: prompts are computed one after the other, beside the decoding. Above, a step has a budget of so many
    tokens, prompts' and answers' (see `Chunked`), and takes ``itl``, ``itl_growth`` for each sequence that decodes, the
    time of the prompt tokens computed in it and ``ttft`` for each sequence that starts.
    """

    ttft: float = 0.0
    itl: float = 0.0
    itl_growth: float = 0.0
    prefill_rate: float = math.inf
    chunk: int = 0


class State(enum.Enum):
    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


class QueueFull(Exception):
    """The engine already holds as many requests as it may."""


class Sequence:
    """One generation: a prompt of known blocks and a number of tokens to make.

    ``hashes`` are the prompt's full blocks, ``prompt`` its tokens, ``target`` the tokens to generate. ``wake`` is
    called when tokens were made (only at the end if not ``streaming``). While it runs in chunks, ``left`` counts the
    tokens still to be prefilled and ``shared`` its blocks that others may use.
    """

    __slots__ = (
        "adapter",
        "admitted",
        "arrived",
        "cached",
        "first_at",
        "generated",
        "hashes",
        "last_at",
        "left",
        "preempted",
        "private",
        "prompt",
        "ready_at",
        "room",
        "shared",
        "state",
        "streaming",
        "target",
        "wake",
    )

    def __init__(
        self,
        hashes: list[int],
        prompt: int,
        target: int,
        *,
        streaming: bool = False,
        adapter: str = "",
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.hashes, self.prompt, self.target = hashes, prompt, target
        self.streaming, self.adapter, self.wake = streaming, adapter, wake
        self.state = State.NEW
        self.generated = self.cached = self.private = self.room = self.preempted = self.left = self.shared = 0
        self.arrived = self.admitted = self.first_at = self.last_at = 0.0
        self.ready_at = math.inf

    @property
    def over(self) -> bool:
        return self.state is State.OVER


class Batch:
    """The scheduler of one engine. Every method takes the time; none waits."""

    def __init__(self, pool: BlockPool, block_size: int, max_running: int, max_queued: int | None, pace: Pace) -> None:
        self.pool, self.block_size, self.pace = pool, block_size, pace
        self.max_running, self.max_queued = max_running, max_queued
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._prefill_free = -math.inf
        self._decode_at = -math.inf

    def blocks(self, tokens: int) -> int:
        """The blocks that ``tokens`` tokens fill, the last one maybe in part."""
        return -(-tokens // self.block_size)

    def check(self, count: int) -> None:
        """Raises QueueFull if ``count`` more sequences are not welcome."""
        if self.max_queued is not None and self.held + count > self.max_running + self.max_queued:
            raise QueueFull

    @property
    def held(self) -> int:
        return len(self.running) + len(self.waiting)

    def submit(self, sequence: Sequence, now: float) -> None:
        """Queue a sequence, and start it if there is room. Raises QueueFull; ValueError if it can never fit."""
        self.check(1)
        if self.blocks(sequence.prompt + sequence.target) > self.pool.capacity:
            raise ValueError("the sequence is longer than the whole KV cache")
        sequence.arrived = now
        sequence.state = State.WAITING
        self.waiting.append(sequence)
        self.admit(now)

    def admit(self, now: float) -> None:
        """Start waiting sequences in their order while slots and blocks allow."""
        while self.waiting and len(self.running) < self.max_running:
            if not self._start(self.waiting[0], now):
                return
            self.waiting.popleft()

    def _start(self, sequence: Sequence, now: float) -> bool:
        tokens = sequence.prompt + sequence.generated
        # The last prompt token is always computed: its logits make the first output token.
        reusable = max(0, sequence.prompt - 1) // self.block_size
        hits = self.pool.hits(sequence.hashes[:reusable])
        ahead = tokens + (
            sequence.generated < sequence.target
        )  # with room for the next token, so that it makes progress
        private = self.blocks(ahead) - len(sequence.hashes)
        if not self.pool.acquire(sequence.hashes, private):
            return False
        sequence.private = private
        sequence.room = self.blocks(ahead) * self.block_size - tokens
        cached = hits * self.block_size
        if not sequence.preempted:
            sequence.cached, sequence.admitted = cached, now
        self._prefill_free = max(now, self._prefill_free) + (tokens - cached) / self.pace.prefill_rate
        sequence.ready_at = self._prefill_free + self.pace.ttft
        sequence.state = State.RUNNING
        self.running.append(sequence)
        return True

    def next_at(self) -> float:
        """When the next step is due; infinity while nothing runs."""
        if not self.running:
            return math.inf
        due = min(sequence.ready_at for sequence in self.running)
        return max(due, self._decode_at)

    def step(self, now: float) -> list[Sequence]:
        """One token for every sequence whose prefill is done; those who got one, some of them now over."""
        served: list[Sequence] = []
        for sequence in tuple(self.running):
            if sequence.ready_at > now or sequence.state is not State.RUNNING:
                continue
            if sequence.generated < sequence.target:
                if not sequence.room and not self._grow(sequence):
                    continue
                sequence.room -= 1
                sequence.generated += 1
                if sequence.generated == 1:
                    sequence.first_at = now
                sequence.last_at = now
            served.append(sequence)
        for sequence in served:
            if sequence.generated >= sequence.target and sequence.state is State.RUNNING:
                self._stop(sequence)
        self._decode_at = now + self.pace.itl + self.pace.itl_growth * max(0, len(served) - 1)
        self.admit(now)
        return served

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence wherever it is; its blocks and its slot are free at once."""
        if sequence.state is State.RUNNING:
            self._stop(sequence)
        elif sequence.state is State.WAITING:
            self.waiting.remove(sequence)
            sequence.state = State.OVER
        self.admit(now)

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.state = State.OVER

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.hashes, sequence.private)
        sequence.private = sequence.room = 0

    def _grow(self, sequence: Sequence) -> bool:
        """A block for the next token, at the expense of the youngest sequence. False if that is this one."""
        while not self.pool.acquire((), 1):
            victim = self.running.pop()
            self._release(victim)
            victim.state = State.WAITING
            victim.ready_at = math.inf
            victim.preempted += 1
            self.preemptions += 1
            self.waiting.appendleft(victim)
            if victim is sequence:
                return False
        sequence.private += 1
        sequence.room = self.block_size
        return True
