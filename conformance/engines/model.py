"""The engine under every dialect: one loop that steps the batch on Trio's clock and wakes those it made tokens for. (T)

Invariant: what a ticket holds (slot, blocks, place in the queue) is given back the moment its block is left, whatever
the reason. Time is Trio's alone, so a virtual clock replays a run exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

import trio
from trio.lowlevel import Abort, Task

from conformance.engines.batch import Batch, QueueFull
from conformance.engines.batch import Sequence as Generation
from conformance.engines.exposition import Histogram

_TIMES = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_STEPS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)


class Bell:
    """Wakes one task; a ring nobody waits for is kept. A third of the price of an event made anew for every token."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._rung = False
        self._task: Task | None = None

    def ring(self) -> None:
        task = self._task
        if task is None:
            self._rung = True
        else:
            self._task = None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Until the next ring, or at once after one that was missed. Always a checkpoint."""
        if self._rung:
            self._rung = False
            await trio.lowlevel.checkpoint()
            return
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._forget)

    def _forget(self, _: Callable[[], object]) -> Abort:
        self._task = None
        return Abort.SUCCEEDED


class Buckets:
    """Upper bounds in seconds of the latency histograms, which differ from engine to engine."""

    def __init__(
        self, first: Sequence[float] = _TIMES, step: Sequence[float] = _STEPS, whole: Sequence[float] = _TIMES
    ) -> None:
        self.first, self.step, self.whole = first, step, whole


class Statistics:
    """What a metrics page counts. Latencies and tokens are kept apart for streams (True) and plain requests (False)."""

    def __init__(self, buckets: Buckets, sizes: Sequence[float]) -> None:
        both = (False, True)
        self.first = {kind: Histogram(buckets.first) for kind in both}
        self.whole = {kind: Histogram(buckets.whole) for kind in both}
        self.queued = Histogram(buckets.whole)
        self.step = Histogram(buckets.step)
        self.prompt_sizes = Histogram(sizes)
        self.output_sizes = Histogram(sizes)
        self.prompt = Counter[bool]()
        self.generated = Counter[bool]()
        self.finished = Counter[bool]()
        self.reasons = Counter[str]()
        self.queried = self.cached = self.aborted = self.refused = 0
        self.last_hit_rate = 0.0
        self.steps = 0


class Ticket:
    """The sequences of one request. Leaving the block drops what has not finished."""

    def __init__(self, model: Model, sequences: Sequence[Generation], bell: Bell) -> None:
        self.sequences = sequences
        self._model, self._bell = model, bell

    @property
    def over(self) -> bool:
        return all(sequence.over for sequence in self.sequences)

    async def wait(self) -> None:
        """Until tokens were made that this was not called for yet (plain requests: until a sequence is over)."""
        await self._bell.wait()

    async def wait_over(self) -> None:
        while not self.over:
            await self._bell.wait()

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.drop(self.sequences)


class Model:
    """The batch, its clock and its statistics. `run` must be running for tokens to be made."""

    def __init__(self, batch: Batch, buckets: Buckets, sizes: Sequence[float]) -> None:
        self.batch = batch
        self.statistics = Statistics(buckets, sizes)
        self._bell = Bell()
        self._last_step = 0.0

    def submit(self, sequences: Sequence[Generation]) -> Ticket:
        """Queue all of them or none. Raises QueueFull, and ValueError for one that can never fit."""
        now, bell = trio.current_time(), Bell()
        try:
            self.batch.check(len(sequences))
        except QueueFull:
            self.statistics.refused += 1
            raise
        ticket = Ticket(self, sequences, bell)
        try:
            for sequence in sequences:
                sequence.wake = bell.ring
                self.batch.submit(sequence, now)
        except ValueError:
            self.drop(sequences)
            raise
        self._bell.ring()
        return ticket

    def drop(self, sequences: Iterable[Generation]) -> None:
        """Abort what is not over. Its slot and its blocks are free before this returns."""
        open_ones = [sequence for sequence in sequences if not sequence.over]
        for sequence in open_ones:
            self.batch.abort(sequence, trio.current_time())
        if open_ones:
            self.statistics.aborted += 1
            self._bell.ring()

    async def run(self) -> None:
        """Step whenever a step is due; sleep until something comes otherwise."""
        while True:
            due = self.batch.next_at()
            if due > trio.current_time():
                if due == math.inf:
                    await self._bell.wait()
                else:
                    with trio.move_on_at(due):
                        await self._bell.wait()
                continue
            self._step()
            await trio.lowlevel.checkpoint()

    def _step(self) -> None:
        now = trio.current_time()
        served = self.batch.step(now)
        statistics = self.statistics
        statistics.steps += 1
        decoded = 0
        for sequence in served:
            if sequence.generated == 1:
                self._note_first(sequence, now)
            else:
                decoded += 1
            statistics.generated[sequence.streaming] += 1
            if sequence.over:
                self._note_over(sequence, now)
                sequence.wake()
            elif sequence.streaming:
                sequence.wake()
        if decoded:
            statistics.step.add(now - self._last_step, decoded)
        self._last_step = now

    def _note_first(self, sequence: Generation, now: float) -> None:
        statistics = self.statistics
        statistics.first[sequence.streaming].add(now - sequence.arrived)
        statistics.queued.add(sequence.admitted - sequence.arrived)
        statistics.prompt[sequence.streaming] += sequence.prompt
        statistics.queried += sequence.prompt
        statistics.cached += sequence.cached
        statistics.last_hit_rate = sequence.cached / max(1, sequence.prompt)

    def _note_over(self, sequence: Generation, now: float) -> None:
        statistics = self.statistics
        statistics.whole[sequence.streaming].add(now - sequence.arrived)
        statistics.prompt_sizes.add(sequence.prompt)
        statistics.output_sizes.add(sequence.generated)
        statistics.finished[sequence.streaming] += 1
