"""The command as a user runs it: options, exit codes, reports."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from conformance.load import cli, plot

from .served import WHOLE, Serve, engine, listening, plain, scripted

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def served(serve: Serve) -> Iterator[str]:
    """A server in a thread of its own, since the command runs its own loop."""
    ready = threading.Event()
    state: list[tuple[int, trio.CancelScope, trio.lowlevel.TrioToken]] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with listening(serve) as port:
                state.append((port, scope, trio.lowlevel.current_trio_token()))
                ready.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    port, scope, token = state[0]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(10)


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args([*argv, "--no-progress"]))


def test_a_run_reports_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    with served(engine()) as url:
        code = run("--url", url, "--requests", "10", "--max-tokens", "5", "--check", "full", "--json", str(out))
    assert code == 0
    result = msgspec.json.decode(out.read_bytes())
    assert result["model"] == "m"  # the first of /v1/models
    assert result["requests"] == {"ok": 10, "failed": 0, "unfinished": 0}
    assert result["output_tokens"] == 50
    assert set(result["latency_s"]) == {"count", "mean", "min", "p50", "p90", "p99", "p99_9", "max"}
    text = capsys.readouterr().out
    assert "10 ok, 0 failed" in text
    assert "time to first token" in text


def test_json_can_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with served(engine()) as url:
        assert run("--url", url, "--model", "m", "--no-stream", "--requests", "2", "--json", "-") == 0
    assert msgspec.json.decode(capsys.readouterr().out)["requests"]["ok"] == 2


def test_a_failed_request_is_exit_code_1_unless_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    with served(scripted(plain(b"{}", "500 Oops"))) as url:
        arguments = ("--url", url, "--model", "m", "--no-stream", "--requests", "2")
        assert run(*arguments) == 1
        assert run(*arguments, "--allow-errors") == 0
    text = capsys.readouterr().out
    assert "http_500 2" in text
    assert "refused after" in text
    assert "time to first token" not in text  # there is nothing to put beside


def test_no_server_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--url", "http://127.0.0.1:1", "--model", "m") == 1
    assert "infer-gateway bench: no connection: connect: " in capsys.readouterr().err


def test_no_model_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    with served(scripted(WHOLE)) as url:
        assert run("--url", url) == 1
    assert "/v1/models did not list one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--url", "ftp://x"],
        ["--url", "nope"],
        ["--url", "http://x", "--connections", "0"],
        ["--url", "http://x", "--rate", "-1"],
        ["--url", "http://x", "--extra", "[]"],
        ["--url", "http://x", "--requests", "1", "--duration", "1"],
        [],
    ],
)
def test_bad_usage_is_exit_code_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*wrong)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--json", "/nonexistent/x"],
        ["--json", "/"],
        ["--plot", "/nonexistent/x.png"],
        ["--expect-numbered"],
        ["--expect-numbered", "--check", "full", "--no-stream"],
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--url", "http://127.0.0.1:1", "--model", "m", *wrong) == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_printed_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with served(engine()) as url:
        code = run("--url", url, "--model", "m", "--requests", "2", "--json", "/dev/full")
    assert code == 2
    said = capsys.readouterr()
    assert "2 ok" in said.out
    assert "cannot be written" in said.err


def test_a_rate_makes_the_loop_open() -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    plan = cli.plan_of(parser.parse_args(["--url", "http://x", "--rate", "7", "--arrival", "gamma"]))
    assert (plan.mode, plan.rate, plan.arrival, plan.duration_s) == ("open", 7.0, "gamma", 10.0)
    assert cli.plan_of(parser.parse_args(["--url", "http://x"])).mode == "closed"


def test_a_plot_without_matplotlib_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    assert run("--url", "http://127.0.0.1:1", "--plot", "x.png") == 1
    assert "pip install 'infer-gateway[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reports_what_was_measured(number: signal.Signals) -> None:
    asked = threading.Semaphore(0)

    async def silent(stream: trio.abc.Stream) -> None:
        while await stream.receive_some(65536):
            asked.release()

    with served(silent) as url:
        argv = [sys.executable, "-m", "conformance.load", "--url", url, "--model", "m", "--connections", "3"]
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert all(asked.acquire(timeout=20) for _ in range(3))
            process.send_signal(number)
            said, _ = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert "0 ok, 0 failed, 3 unfinished" in said
