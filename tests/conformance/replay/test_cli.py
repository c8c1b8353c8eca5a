"""The command: what it prints and writes, what it refuses, and that its result is the same bytes every time."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from conformance.load import plot as load_plot
from conformance.replay import cli
from conformance.replay.policies import NAMES

ROOT = Path(__file__).resolve().parents[3]
REUSING = "".join(
    f'{{"timestamp": {1000 * at}, "input_length": {512 * n}, "output_length": 9, "hash_ids": {list(range(n))}}}\n'
    for at, n in enumerate([4, 8, 12, 4, 8, 12, 16])
)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "small.jsonl"
    path.write_text(REUSING)
    return str(path)


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args([*argv, "--jobs", "1"]))


def test_all_policies_side_by_side(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(trace, "--speed", "1", "2", "--capacity", "1.2", "3") == 0
    said = capsys.readouterr().out
    titles = [line for line in said.splitlines() if line and not line.startswith(" ")]
    assert titles == [
        "small.jsonl: 7 requests at 1×, 8 engines, capacity 1.2",
        "small.jsonl: 7 requests at 2×, 8 engines, capacity 1.2",
        "small.jsonl: 7 requests at 1×, 8 engines, capacity 3",
        "small.jsonl: 7 requests at 2×, 8 engines, capacity 3",
        "small.jsonl, no reuse: 7 requests at 1×, 8 engines, capacity 1.2",
        "small.jsonl, no reuse: 7 requests at 2×, 8 engines, capacity 1.2",
    ]
    assert [line.split()[0] for line in said.splitlines() if line.startswith("  ")] == ["policy", *NAMES] * 6


def test_json_has_what_the_table_has_and_more(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    faults = ("--slow", "1=2", "--hang", "0@3", "--gateways", "2")
    assert run(trace, "--reuse", "--policy", "oracle", "--policy", "ours", *faults, "--json", str(out)) == 0
    ours, oracle = msgspec.json.decode(out.read_bytes())
    assert (ours["policy"], oracle["policy"]) == ("ours", "oracle")
    assert ours["scenario"]["timeout"] == 30.0
    assert len(ours["ttft_curve_s"]) == 201
    assert oracle["hit"] >= ours["hit"] > 0
    assert "2 gateways, engine 1 slow 2, engine 0 hung from 3" in capsys.readouterr().out
    assert run(trace, "--no-reuse", "--policy", "ours", "--json", "-") == 0
    assert [row["trace"] for row in msgspec.json.decode(capsys.readouterr().out)] == ["small.jsonl, no reuse"]


def test_a_trace_without_reuse_is_played_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,600,10\n")
    assert run(str(path), "--policy", "random") == 0
    assert capsys.readouterr().out.count("t.csv") == 1


def test_any_scheduler_configuration_is_a_policy(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "apiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\n"
        "scheduler: {plugins: {Score: {enabled: [random]}}}\n"
    )
    assert run(trace, "--reuse", "--profile", str(path), "--policy", "oracle") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["policy", "mine.yaml", "oracle"]
    path.write_text(path.read_text().replace("random", "rondom"))
    assert run(trace, "--profile", str(path)) == 1
    assert 'no plugin "rondom"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "code", "what"),
    [
        (["--policy", "nobody"], 2, "no policy 'nobody'"),
        (["--slow", "8=2"], 2, "there is no engine 8"),
        (["--hang", "3@1", "--engines", "2"], 2, "there is no engine 3"),
        (["--profile", "/nonexistent"], 1, "/nonexistent"),
        (["--json", "/nonexistent/x"], 2, "--json: there is no directory /nonexistent"),
        (["--policy", "random", "--json", "/dev/full"], 2, "cannot be written"),
        (["--plot", "x.txt"], 2, "--plot: x.txt does not end in one of .eps, "),
        (["--plot", "x"], 2, "--plot: x does not end in one of"),
        (["--suite", "--live"], 2, "--suite is for virtual time only"),
    ],
)
def test_what_cannot_work_is_said(
    wrong: list[str], code: int, what: str, trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(trace, *wrong) == code
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--speed", "0"], ["--slow", "x"], ["--hang", "1=2"], ["--engines", "0"], ["--slow"]]
)
def test_bad_usage_is_exit_code_2(wrong: list[str], trace: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(trace, *wrong)
    assert caught.value.code == 2


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for name, code, what in (
        (empty, 2, "empty.jsonl is empty"),
        (tmp_path, 1, f"cannot read {tmp_path}: Is a directory"),
        (tmp_path / "none", 1, f"cannot read {tmp_path}/none: No such file or directory"),
    ):
        assert run(str(name)) == code
        assert capsys.readouterr().err == f"infer-gateway bench replay: {what}\n"


def test_a_plot_without_matplotlib_says_what_to_install(
    trace: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load_plot.importlib.util, "find_spec", lambda name: None)
    assert run(trace, "--plot", "x.png") == 1
    assert "pip install 'infer-gateway[plot]'" in capsys.readouterr().err


def test_the_same_bytes_in_every_process(trace: str) -> None:
    said = {
        subprocess.run(
            [sys.executable, "-m", "conformance.replay", trace, "--reuse", "--json", "-", "--jobs", jobs],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for seed, jobs in (("1", "1"), ("2", "2"))
    }
    assert len(said) == 1
