"""What counts as good, and what a replay's figures are made of."""

from __future__ import annotations

import math

import pytest

from conformance.load.histogram import Histogram
from conformance.replay.choosers import RoundRobin
from conformance.replay.fleet import Fleet
from conformance.replay.outcome import Fate, Outcome, spread_of
from conformance.replay.report import text
from conformance.replay.virtual import Replay

from .tiny import BLOCK, scenario, trace

PROMPT = 12_000


def fate(ttft: float, itl: float = 0.02, *, failed: bool = False) -> Fate:
    made = Fate()
    made.ttft, made.itl, made.failed = ttft, itl, failed
    return made


@pytest.mark.parametrize(
    ("made", "good"),
    [
        (fate(3.5), 1.0),  # two seconds, and one and a half times the second that its own prefill takes
        (fate(3.51), 0.0),
        (fate(1.0, 0.1), 1.0),
        (fate(1.0, 0.101), 0.0),
        (fate(1.0, failed=True), 0.0),
        (fate(math.nan, failed=True), 0.0),
    ],
)
def test_goodput(made: Fate, good: float) -> None:
    played = trace((0.0, PROMPT, 10, tuple(range(24))))
    assert Outcome([made], Histogram(), [0, 0], 1.0).summary(played, scenario())["good"] == good


def test_spreads() -> None:
    found = spread_of([float(value) for value in range(100, -1, -1)])
    assert found == {"mean": 50.0, "p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    assert all(math.isnan(value) for value in spread_of([]).values())


def test_a_curve_rises_from_the_first_to_the_last() -> None:
    outcome = Outcome([fate(value) for value in (3.0, 1.0, 2.0, math.nan)], Histogram(), [0], 1.0)
    assert outcome.curve(2) == [1.0, 2.0, 3.0]
    assert Outcome([], Histogram(), [0], 1.0).curve() == []


def test_the_table_compares_with_the_oracle() -> None:
    row = {
        "trace": "t", "requests": 1000, "failed": 2, "good": 0.5, "hit": 0.25, "spread": 1.5,
        "scenario": {"speed": 2.0, "engines": 8, "capacity": 0.4, "gateways": 1, "slow": {}, "hang": {}},
        "itl_s": {"mean": 0.0104, "p99": 0.1}, "ttft_s": {"mean": 1.5, "p50": 0.5, "p90": 2.0, "p99": 3.0},
    }  # fmt: skip
    oracle = {**row, "policy": "oracle", "ttft_s": {**row["ttft_s"], "mean": 1.0}}  # type: ignore[dict-item]
    lines = text([{**row, "policy": "one"}, oracle]).splitlines()
    assert lines[0] == "t: 1,000 requests at 2×, 8 engines, capacity 0.4"
    assert " ".join(lines[2].split()) == "one 1.50 s 0.500 s 2.00 s 3.00 s 1.50 10.4 ms 100 ms 0.500 0.250 1.50 2"
    assert len(lines[1]) == len(lines[2]) == len(lines[3])
    assert " 1.00  " in lines[3]


def test_an_engine_has_its_share_of_the_cache_and_room_for_answers() -> None:
    played = trace(*((float(at), 512 * 100, 1000, tuple(range(100 * at, 100 * at + 100))) for at in range(40)))
    given = scenario(capacity=0.5, engines=4, max_running=10)
    assert given.blocks(played) == 4000 // 2 // 4 + 10 * 3
    assert scenario(capacity=0.001, max_running=1).blocks(played) == 102 + 3, "the longest request fits"


def test_an_engine_counts_what_its_page_shows() -> None:
    played = trace((0.0, 2 * BLOCK, 5, (0, 1)))
    given = scenario(engines=1)
    fleet = Fleet(played, given)
    outcome = Replay(fleet, RoundRobin).play()
    load = fleet.engines[0].load(outcome.ended)
    assert (load.prompt_tokens, load.generated_tokens, load.queried_tokens, load.hit_tokens) == (1024, 5, 1024, 0)
    assert (load.ttft_count, load.tpot_count) == (1, 4)
    assert load.ttft_sum == pytest.approx(outcome.fates[0].ttft)
    assert load.tpot_sum == pytest.approx(4 * outcome.fates[0].itl)
    assert outcome.gaps.mean == pytest.approx(outcome.fates[0].itl)
    assert (load.kv_usage, load.block_size, load.blocks) == (0.0, BLOCK, given.blocks(played))
