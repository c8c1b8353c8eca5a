"""Simulated engines as a replay sees them: batches on explicit time, and what their metrics pages would show. (P)

Invariant: what an engine tells is what it has counted up to that moment; a hung one counts nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from conformance.engines.batch import Sequence as Generation
from conformance.engines.blocks import BlockPool
from conformance.engines.chunked import Chunked
from conformance.replay.scenario import Scenario
from conformance.replay.traces import Request, Trace
from gateway.types import Load


class Flight(Generation):
    """One attempt at a request: where it was sent, by which gateway, and when."""

    __slots__ = ("at", "engine", "gateway", "request")

    def __init__(self, request: Request, hashes: list[int], gateway: int, engine: int, at: float) -> None:
        super().__init__(hashes, request.prompt, request.output, streaming=True)
        self.request, self.gateway, self.engine, self.at = request, gateway, engine, at


class Engine:
    """A batch and its counters; ``first`` and ``ended`` are the batch's. ``stepped``: when its last step ended."""

    def __init__(self, index: int, pool: BlockPool, block: int, scenario: Scenario) -> None:
        self.index = index
        self.batch = Chunked(pool, block, scenario.max_running, None, scenario.pace(index))
        self.first: list[Flight] = []
        self.ended: list[Flight] = []
        self.slow = scenario.slow.get(index, 1.0)
        self.hung = False
        self.scheduled = False
        self.stepped = 0.0
        self.ttft_sum = self.tpot_sum = 0.0
        self.finished = self.ttft_count = self.tpot_count = self.prompt_tokens = self.hit_tokens = 0

    @property
    def computed(self) -> int:
        """Prompt tokens that were not in the cache."""
        return self.prompt_tokens - self.hit_tokens

    def step(self, now: float) -> int:
        """End a step and begin the next; how many requests got another token than their first."""
        batch = self.batch
        decoded = len(batch.decoding)
        batch.step(now)
        self.tpot_sum += decoded * (now - self.stepped)
        self.tpot_count += decoded
        self.stepped = now
        self.first = cast("list[Flight]", batch.first)
        self.ended = cast("list[Flight]", batch.ended)
        self.finished += len(self.ended)
        for flight in self.first:
            self.ttft_sum += now - flight.arrived
            self.ttft_count += 1
            self.prompt_tokens += flight.prompt
            self.hit_tokens += flight.cached
        return decoded

    def load(self, now: float) -> Load:
        """What a scrape at this moment shows."""
        batch, pool = self.batch, self.batch.pool
        return Load(
            at=now,
            waiting=float(len(batch.waiting)),
            running=float(len(batch.running)),
            kv_usage=pool.used / pool.capacity,
            block_size=batch.block_size,
            blocks=pool.capacity,
            ttft_sum=self.ttft_sum,
            ttft_count=float(self.ttft_count),
            tpot_sum=self.tpot_sum,
            tpot_count=float(self.tpot_count),
            prompt_tokens=float(self.prompt_tokens),
            generated_tokens=float(self.tpot_count + self.ttft_count),
            queried_tokens=float(self.prompt_tokens),
            hit_tokens=float(self.hit_tokens),
            finished=float(self.finished),
            started=1.0,
        )


class Fleet:
    """All engines of a replay. ``shared``: they have one cache together, as large as all of theirs."""

    def __init__(self, trace: Trace, scenario: Scenario, *, shared: bool = False) -> None:
        self.trace, self.scenario = trace, scenario
        blocks, count = scenario.blocks(trace), scenario.engines
        pools = [BlockPool(blocks * count)] * count if shared else [BlockPool(blocks) for _ in range(count)]
        self.engines: Sequence[Engine] = [Engine(i, pools[i], trace.block, scenario) for i in range(count)]
        self.shared = shared

    def hashes(self, request: Request) -> list[int]:
        """The blocks that a prompt fills: a block id stands for all before it too, as the traces have it."""
        return list(request.blocks[: request.prompt // self.trace.block])
