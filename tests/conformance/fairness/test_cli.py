"""`bench fairness` and `bench limits`: what they print and write, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from conformance.fairness import cli
from conformance.fairness import experiments as known
from gateway.cli import main


def test_one_experiment_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert main(["bench", "fairness", "--quick", "--only", "weights", "--report", str(path)]) == 0
    said = capsys.readouterr().out
    assert "weights 4:1: off by" in said
    (part,) = msgspec.json.decode(path.read_bytes())
    assert part["verdicts"][0]["target"] == "<= 0.05"
    assert part["rows"]


def test_all_experiments_have_names() -> None:
    assert tuple(known.EXPERIMENTS) == cli.EXPERIMENTS


def test_strict_fails_where_a_figure_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    missed = known.Part("", [], [known.Verdict("a figure", 2.0, 1.0)])
    monkeypatch.setattr(known, "EXPERIMENTS", {"weights": lambda extent: missed})
    words = ["bench", "fairness", "--only", "weights"]
    assert main(words) == 0
    assert main([*words, "--strict"]) == 1


def test_a_trace_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("a,b\n1,2\n")
    assert main(["bench", "fairness", "--trace", str(path)]) == 2
    assert "trace.csv" in capsys.readouterr().err
    assert main(["bench", "fairness", "--trace", str(tmp_path / "none.csv")]) == 1


def test_a_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nowhere" / "report.json"
    assert main(["bench", "fairness", "--quick", "--only", "weights", "--report", str(path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_cost_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "limits", "--only", "cost"]) == 0
    assert "µs of CPU" in capsys.readouterr().out


def test_contests_have_a_sensible_length(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "limits", "--seconds", "0"])
    assert "not from 2 to 3600" in capsys.readouterr().err
