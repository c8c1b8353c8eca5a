"""Bad usage is told before anything is asked."""

import argparse
from pathlib import Path

import pytest

from conformance import cases
from conformance.suite import cli
from conformance.suite.target import EXTRAS, Setup

URL = ["--url", "http://127.0.0.1:1"]


def code(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    try:
        return cli.run(parser.parse_args(words))
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--url is needed"),
        ([*URL, "--set", "full=3"], "no case asks for 'full'"),
        ([*URL, "--set", "full_at=x"], "'x' is not a number"),
        ([*URL, "--timeout", "x"], "x is not a time in seconds"),
        ([*URL, "--limit", "nan"], "nan is not a time in seconds"),
        ([*URL, "--parallel", "many"], "many is not a whole number"),
        ([*URL, "--api-key", "sk-ä"], "characters that a header cannot carry"),
        ([*URL, "--api-key", "sk\nx: y"], "characters that a header cannot carry"),
        ([*URL, "--api-key-env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set"),
        ([*URL, "--ca-file", "/nowhere.pem"], "--ca-file /nowhere.pem: No such file"),
        ([*URL, "--report", "/dev/null/x.json"], "/dev/null/x.json cannot be written"),
        ([*URL, "--select", "("], "a word is missing"),
    ],
)
def test_bad_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(*words) == 2
    assert said in capsys.readouterr().err


def test_a_server_that_is_not_there_has_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "new" / "a.json"
    words = ["--engine", "openai", "--select", "openai.models.list*", "--report", str(report)]
    assert code(*URL, *words, "--api-key", " sk-trimmed\n") == 1
    assert "does not answer" in capsys.readouterr().out
    assert report.exists()


def test_what_cases_need_can_be_given() -> None:
    known = {*Setup.__struct_fields__, *EXTRAS}
    needed = {name for module in cases.MODULES for case in cases.profile(module) for name in case.needs}
    assert needed <= known
