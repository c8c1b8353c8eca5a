"""The command line's boundary: what an exception that reaches it comes to."""

from __future__ import annotations

import argparse
import signal

import pytest

from gateway import cli


def ends(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def crash(arguments: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(cli, "_version", crash)
    return cli.main(["version"])


def test_an_interrupt_is_no_crash_however_it_is_wrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, KeyboardInterrupt()) == 0
    nested = BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()])])
    assert ends(monkeypatch, nested) == 0
    assert capsys.readouterr().err == ""


def test_a_crash_beside_an_interrupt_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, BaseExceptionGroup("", [KeyboardInterrupt(), ValueError("oops")])) == 4
    assert "oops" in capsys.readouterr().err
    assert ends(monkeypatch, ValueError("oops")) == 4


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["version"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_bench_needs_a_url_and_its_replay_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--requests", "1"]) == 2
    assert "--url" in capsys.readouterr().err
    assert cli.main(["bench", "replay", "/nonexistent/trace"]) == 1
    assert "/nonexistent/trace" in capsys.readouterr().err
