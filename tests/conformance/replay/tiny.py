"""Small traces and fleets for replays."""

from __future__ import annotations

from conformance.replay.scenario import Scenario
from conformance.replay.traces import Request, Trace

BLOCK = 512


def trace(*rows: tuple[float, int, int, tuple[int, ...]]) -> Trace:
    """Of (arrival, prompt tokens, answer tokens, block ids)."""
    return Trace("tiny", BLOCK, tuple(Request(i, *row) for i, row in enumerate(rows)))


def conversations(users: int = 6, turns: int = 5, gap: float = 3.0) -> Trace:
    """Users whose every prompt begins with their last one; they come one after the other, turn by turn."""
    rows = []
    for turn in range(turns):
        for user in range(users):
            count = 4 * (turn + 1)
            blocks = tuple(1000 * user + block for block in range(count))
            rows.append((gap * turn + 0.1 * user, count * BLOCK, 20, blocks))
    return trace(*rows)


def scenario(**changes: object) -> Scenario:
    return Scenario(**{"engines": 3, "capacity": 3.0, **changes})  # type: ignore[arg-type]
