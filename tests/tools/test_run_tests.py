"""Whether what fails is seen to, though it may have another try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import run_tests

BROKEN = "def test_broken():\n    assert False\n"
LOST = """
from pathlib import Path

def test_lost():
    mark = Path(__file__).with_suffix(".mark")
    lost = not mark.exists()
    mark.touch()
    assert not lost
"""


def noted(directory: Path, *failed: str) -> Path:
    note = directory / "note"
    (note / "v/cache").mkdir(parents=True)
    (note / "v/cache/lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
    return note


def written(directory: Path, text: str) -> str:
    file = directory / "test_it.py"
    file.write_text(text)
    return str(file)


def test_who_fails_again_has_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, BROKEN)
    assert run_tests._again([], run_tests.FAILED, noted(tmp_path, f"{file}::test_broken")) == run_tests.FAILED
    assert "PASSED ALONE" not in capfd.readouterr().out


def test_who_passes_alone_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, LOST)
    assert run_tests._again([], run_tests.FAILED, noted(tmp_path, f"{file}::test_lost")) == run_tests.FAILED
    (tmp_path / "note/v/cache/lastfailed").write_text(json.dumps({f"{file}::test_lost": True}))
    assert run_tests._again([], run_tests.FAILED, tmp_path / "note") == 0
    assert f"FAILED BESIDE OTHERS, PASSED ALONE:\n  {file}::test_lost" in capfd.readouterr().out


def test_many_failures_and_other_troubles_stand(tmp_path: Path) -> None:
    file = written(tmp_path, "def test_fine():\n    pass\n")
    note = noted(tmp_path, *[f"{file}::test_fine[{index}]" for index in range(run_tests.AGAIN + 1)])
    assert run_tests._again([], run_tests.FAILED, note) == run_tests.FAILED
    assert run_tests._again([], 2, note) == 2
    assert run_tests._again([], 0, note) == 0
