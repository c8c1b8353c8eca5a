"""Callers at one limit: what is too much or too little is found, and the gateway's stores do neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from conformance.fairness import cost, limits
from conformance.fairness.contest import CONTESTS, Contest, Grant, Score, contend, score
from gateway.ports import Store
from gateway.store.local import Local
from gateway.types import Demand, Taken

SHORT = [msgspec.structs.replace(contest, seconds=4.0) for contest in CONTESTS]


class Lax(Local):
    """Lets in what is not due yet."""

    def take_nowait(self, demands: Sequence[Demand], now: float, /) -> Taken:
        more = [Demand(each.key, each.amount, each.rate, each.burst + 3 * each.amount) for each in demands]
        return super().take_nowait(more, now)


class Stingy(Local):
    """Keeps a part of what is allowed."""

    def take_nowait(self, demands: Sequence[Demand], now: float, /) -> Taken:
        less = [Demand(each.key, each.amount, 0.95 * each.rate, 0.9 * each.burst) for each in demands]
        return super().take_nowait(less, now)


def played(contest: Contest, store: Store, callers: int = 80) -> Score:
    async def main() -> Score:
        start = trio.current_time()
        grants = await contend(store, contest, callers, start + contest.seconds, "test")
        return score(contest, grants, start, start + contest.seconds)

    return trio.run(main, clock=MockClock(autojump_threshold=0.0))


@pytest.mark.parametrize("contest", SHORT, ids=lambda contest: contest.name)
def test_the_local_store_is_exact(contest: Contest) -> None:
    found = played(contest, Local())
    assert found.over <= limits.OVER
    assert found.under <= 0.03  # of four seconds: what runs at the end has been reserved in full


@pytest.mark.parametrize("contest", [SHORT[0], SHORT[2]], ids=lambda contest: contest.name)
def test_one_that_is_not_is_found_out(contest: Contest) -> None:
    assert played(contest, Lax()).over > limits.OVER
    assert played(contest, Stingy()).under > 0.03


def test_any_interval_counts() -> None:
    contest = Contest(name="", demand=Demand("", 1.0, 1.0, 2.0), seconds=100.0)
    late = [Grant(at, at, at) for at in (0.0, 50.0, 50.0, 50.0, 50.0)]
    assert score(contest, late, 0.0, 100.0).over == 2.0


def test_the_bench_contest_is_won_here() -> None:
    (first, *_) = CONTESTS
    found = limits.here(msgspec.structs.replace(first, seconds=3.0))
    assert found.over <= limits.OVER


@pytest.mark.skipif(limits.program() is None, reason="needs redis-server (or valkey-server)")
def test_three_processes_share_one_limit_exactly() -> None:
    with limits.redis() as url:
        found, alone = limits.together(0, url, 3, 2.0)
    assert not alone
    assert found.over <= limits.OVER
    assert found.granted > 200


def test_without_a_server_that_part_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    short = tuple(msgspec.structs.replace(contest, seconds=2.0) for contest in CONTESTS)
    monkeypatch.setattr(limits, "CONTESTS", short)
    rows = list(limits.rows(2.0, said.append))
    assert [row["where"] for row, _ in rows] == ["this process"] * 3
    assert said == ["limits kept in Redis are left out: neither redis-server nor valkey-server is installed"]


def test_what_admission_costs_is_measured() -> None:
    found = cost.costs(queued=100, rounds=20)
    assert all(value > 0 for value in found)
    rows, verdicts = cost.rows(found, 100)
    assert len(rows) == 3
    assert [verdict.bound for verdict in verdicts] == [40.0, 100.0]
