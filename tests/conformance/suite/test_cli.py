"""Bad usage is told before anything is asked."""

import argparse
from pathlib import Path

import pytest

from conformance import cases
from conformance.record import cli as record
from conformance.suite import cli
from conformance.suite.case import EXTRAS
from conformance.suite.target import Setup
from tests.process import simulate

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


def test_recordings_are_listed_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    record.add_arguments(parser)
    assert record.run(parser.parse_args(["--list"])) == 0
    assert "POST /v1/chat/completions" in capsys.readouterr().out
    assert record.run(parser.parse_args(["--url", "http://127.0.0.1:1"])) == 2
    assert "--url and --out are needed" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("model", "profiles"), [("gpt-5.1", "openai, engine/openai"), ("llama", "openai")], ids=("itself", "alike")
)
def test_who_only_speaks_like_openai_is_not_asked_what_openai_itself_does(
    model: str, profiles: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with simulate("openai", model) as engine:
        code("--url", engine.url, "--select", "models or request-id")
    assert f"cases of {profiles} against openai" in capsys.readouterr().out


def test_what_is_asked_over_grpc_alone_is_no_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("--grpc", "127.0.0.1:1", "--select", "grpc.models*") == 1
    assert "gateway does not conform" in capsys.readouterr().out
