"""The suite: which runs there are, that each figure is the ratio it says, and a made-up trace to play them on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance.replay import cli, suite
from conformance.replay.jobs import Source
from conformance.replay.policies import NAMES
from conformance.replay.suite import Key, Suite, Verdict
from conformance.replay.synthetic import conversations

from .tiny import conversations as tiny
from .tiny import scenario


def row(ttft: float, good: float = 0.9, itl: float = 0.02, lost: float = 0.0) -> dict[str, Any]:
    return {"ttft_s": {"mean": ttft}, "itl_s": {"mean": itl}, "good": good, "lost_s": lost}


def test_runs_that_are_compared_differ_in_one_thing() -> None:
    runs = dict(Suite(scenario(engines=8)).runs(tiny()))
    assert len(runs) == 6 * len(suite.GRID) + 3 * 3 + 3 * 5
    assert {key.policy for key in runs} <= set(NAMES)
    for key, run in runs.items():
        assert (run.scenario.speed, run.scenario.capacity) == (key.speed, key.capacity)
        assert run.reuse == (key.kind != "fresh")
    half, even = (runs[Key(kind, 2.0, 0.4)].scenario for kind in ("slow", "even"))
    work = [sum(1 / given.slow.get(engine, 1.0) for engine in range(8)) for given in (half, even)]
    assert work == pytest.approx([7.5, 7.5])
    hung = runs[Key("hung", 2.0, 0.4)].scenario
    assert 0 < hung.hang[4] < tiny().requests[-1].at / 2
    assert runs[Key("shared", 2.0, 0.4)].scenario.gateways == 3
    told = runs[Key("told", 2.0, 0.4)].scenario
    assert (told.gateways, told.sharing) == (3, 0.2)


def test_figures_are_ratios_to_the_better_of_each_pair() -> None:
    asked = suite.quick(scenario(engines=8))
    rows = {key: row(2.0, good=0.5) for key, _ in asked.runs(tiny())}
    rows[Key("reuse", 2.0, 0.4)] = row(1.1, good=1.0)
    rows[Key("reuse", 2.0, 0.4, "oracle")] = row(1.0)
    rows[Key("reuse", 2.0, 0.4, "epp-published")] = row(1.76, good=0.9)
    rows[Key("fresh", 2.0, 0.4)] = row(2.1, itl=0.03)
    rows[Key("even", 2.0, 0.4)] = row(1.6)
    rows[Key("shared", 2.0, 0.4)] = row(1.452)
    rows[Key("told", 2.0, 0.4)] = row(1.21)
    rows[Key("hung", 2.0, 0.4)] = row(2.0, lost=30.0 + 1e-8)
    told = [(round(each.figure, 3), each.met) for each in asked.verdicts(rows)]
    assert told == [
        (1.1, True),
        (0.625, True), (1.111, True),
        (0.55, True), (2.0, True),
        (1.05, False), (1.5, False),
        (1.25, True), (1.32, False), (1.1, True), (30.0, True),
    ]  # fmt: skip


def test_without_reuse_nothing_is_to_be_gained_by_it() -> None:
    asked = suite.quick(scenario(engines=8))
    rows = {key: row(2.0) for key, _ in asked.runs(tiny().without_reuse())}
    found, less = (list(asked.verdicts(rows, reuse)) for reuse in (True, False))
    assert [each for each in found if "published" not in each.measure] == less
    assert len(found) == len(less) + 4


def test_a_bound_is_kept_from_its_side() -> None:
    assert [Verdict("x", 1.0, 1.1, least).met for least in (False, True)] == [True, False]
    assert "x" in (said := suite.text([Verdict("x", 1.0, 1.1, least=True)]))
    assert "≥ 1.1  NOT MET" in said


def test_made_up_conversations_go_on_from_what_was_said() -> None:
    trace = conversations(seed=3, requests=300)
    assert trace == conversations(seed=3, requests=300) != conversations(seed=4, requests=300)
    assert len(trace.requests) == 300
    assert [r.at for r in trace.requests] == sorted(r.at for r in trace.requests)
    assert all(len(r.blocks) == -(-r.prompt // trace.block) for r in trace.requests)
    owner: dict[int, tuple[int, ...]] = {}
    for request in trace.requests:
        for i in range(request.prompt // trace.block):
            assert owner.setdefault(request.blocks[i], request.blocks[:i]) == request.blocks[:i]
    whole = conversations()
    full = sum(r.prompt // whole.block for r in whole.requests)
    assert 0.4 < 1 - whole.full_blocks() / full < 0.6


def test_a_source_is_cut_to_so_many_requests() -> None:
    assert Source("synthetic", requests=7).trace() == conversations().first(7)
    assert Source("synthetic:5", requests=7).trace() == conversations(5).first(7)
    with pytest.raises(ValueError, match="x"):
        Source("synthetic:x").trace()


def test_the_command_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    argv = ["synthetic", "--suite", "--quick", "--requests", "60", "--jobs", "1"]
    assert cli.main(parser.parse_args(argv)) == 0
    said = capsys.readouterr().out
    assert "synthetic: 60 requests at 2×, 8 engines, capacity 0.4, all slow 1.07" in said
    assert said.count("target") == 1
    assert cli.main(parser.parse_args([*argv, "--json", "-"])) == 0
    written = msgspec.json.decode(capsys.readouterr().out)
    assert len(written["verdicts"]) == 11
    assert len(written["rows"]) == len(suite.FEW) + len(suite.FRESH) + 5


def test_a_trace_without_contents_is_not_judged_by_reuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time,input_tokens,output_tokens\n" + "".join(f"{at},1500,10\n" for at in range(9)))
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert cli.main(parser.parse_args([str(path), "--suite", "--quick", "--jobs", "1", "--json", "-"])) == 0
    assert len(msgspec.json.decode(capsys.readouterr().out)["verdicts"]) == 7
