"""Replays as jobs that processes share: which trace, in which scenario, by which policy, and the row each makes. (IO)

Invariant: a job's row does not depend on who plays it, nor on what was played before; no process outlives `played`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import msgspec

from conformance.replay import policies, synthetic
from conformance.replay.fleet import Fleet
from conformance.replay.outcome import Outcome
from conformance.replay.published import paced
from conformance.replay.quiet import quiet
from conformance.replay.scenario import Scenario
from conformance.replay.stop import STOPPED, held, leave_to_parent
from conformance.replay.traces import Trace, read
from conformance.replay.virtual import Replay


class Source(msgspec.Struct, frozen=True):
    """Where a trace comes from: a file, or ``synthetic`` or ``synthetic:SEED``. ``block``: tokens of a block id,
    where they are others than the trace's kind has. ``requests``: only so many, the first ones."""

    path: str
    block: int | None = None
    requests: int | None = None

    def trace(self) -> Trace:
        """Raises OSError, and ValueError for what is no trace."""
        name, _, seed = self.path.partition(":")
        if name == synthetic.NAME:
            trace = synthetic.conversations(int(seed or 0))
        else:
            trace = read(Path(self.path).name, Path(self.path).read_bytes(), self.block)
        return trace if self.requests is None else trace.first(self.requests)


class Job(msgspec.Struct, frozen=True):
    """One run; without ``reuse`` no two prompts share anything. ``profile``: the policy's own configuration."""

    source: Source
    reuse: bool
    scenario: Scenario
    policy: str
    profile: bytes | None = None


def play(job: Job) -> dict[str, Any]:
    """Run it; the row it makes."""
    trace = job.source.trace()
    if not job.reuse:
        trace = trace.without_reuse()
    fleet = Fleet(trace, paced(job.policy, job.scenario), shared=job.policy == policies.ORACLE)
    with quiet():
        outcome = Replay(fleet, policies.policy(job.policy, job.profile)).play()
    return row(job.policy, trace, job.scenario, outcome)


def row(policy: str, trace: Trace, scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """What a run came to, as JSON-able values."""
    return {
        "policy": policy,
        "trace": trace.name,
        "scenario": msgspec.to_builtins(scenario),
        **outcome.summary(trace, scenario),
        "ttft_curve_s": outcome.curve(),
    }


def played(jobs: Sequence[Job], processes: int) -> tuple[list[dict[str, Any]], str | None]:
    """The rows in the order of the jobs; and why there are no more of them, if not all were played.

    Stopped by KeyboardInterrupt, which comes from a signal: see `stop.interrupting`.
    """
    if processes > 1 and len(jobs) > 1:
        return _shared(jobs, min(processes, len(jobs)))
    rows: list[dict[str, Any]] = []
    try:
        rows.extend(map(play, jobs))  # what was played until then stays
    except KeyboardInterrupt:
        return rows, STOPPED
    return rows, None


def _shared(jobs: Sequence[Job], processes: int) -> tuple[list[dict[str, Any]], str | None]:
    futures: Sequence[Future[dict[str, Any]]] = ()
    missing = None
    try:
        with _workers(processes) as executor:
            with held():  # who is born in between would be nobody's
                futures = [executor.submit(play, job) for job in jobs]
            for future in futures:
                future.result()
    except KeyboardInterrupt:
        missing = STOPPED
    except BrokenProcessPool:
        missing = "a process ended before what it played: killed, or out of memory"
    return [f.result() for f in futures if f.done() and not f.cancelled() and f.exception() is None], missing


@contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block: at once where it is left by an exception."""
    others = set(active_children())
    executor = ProcessPoolExecutor(count, initializer=leave_to_parent)
    try:
        yield executor
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
