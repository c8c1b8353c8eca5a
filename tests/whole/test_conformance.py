"""The suite as people run it: against each simulated engine, against the gateway in front of each, against bad ones."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from conformance.engines.serve import ENGINES
from tests.process import ROOT, serve, simulate

KEY = "sk-conformance"
LIMIT = "180"
ROOTS = {"gemini": "/v1beta/openai"}
"""Where an API is not at its server's root."""


class Outcome:
    """A run that is over: its exit code, what it printed, its JSON report."""

    def __init__(self, done: subprocess.CompletedProcess[str], report: Path) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.log = done.stderr
        self.report: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}

    def cases(self, *kinds: str) -> dict[str, dict[str, Any]]:
        return {r["case"]: r for r in self.report["results"] if not kinds or r["kind"] in kinds}

    @property
    def wrong(self) -> str:
        """What to show of a run that should have been well."""
        return self.out[-6000:] + self.log[-2000:]


def conformance(directory: Path, *arguments: str, limit: str = LIMIT) -> Outcome:
    report = directory / "report.json"
    done = subprocess.run(command(*arguments, "--report", str(report), "--limit", limit), **QUIET)
    assert "Traceback" not in done.stderr, done.stderr
    return Outcome(done, report)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway.cli", "conformance", *arguments]


QUIET: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}


@pytest.mark.parametrize("engine", ENGINES)
def test_simulated_engines_conform(engine: str, tmp_path: Path) -> None:
    """The openai profile with the deviations that its adapter makes good, and its own without any."""
    with simulate(engine, "org/model", "--api-key", KEY, "--itl", "0.002") as simulator:
        url = simulator.url + ROOTS.get(engine, "")
        tested = conformance(tmp_path, "--engine", engine, "--url", url, "--api-key", KEY)
    assert tested.code == 0, tested.wrong
    assert not tested.cases("failed"), tested.wrong
    own = [case for case in tested.cases("passed") if case.startswith(f"{engine}.")]
    assert own, "its own profile ran"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gateway_conforms_in_front_of_each(engine: str, tmp_path: Path) -> None:
    """No must is forgiven here, whatever the engine behind it is like."""
    with (
        simulate(engine, "org/model", "--itl", "0.002") as simulator,
        serve("--backend", f"{engine}={simulator.url}{ROOTS.get(engine, '')}") as gateway,
    ):
        tested = conformance(tmp_path, "--engine", "gateway", "--url", gateway.url, "--behind", simulator.url)
    assert tested.code == 0, tested.wrong
    assert not tested.cases("deviated"), tested.wrong
    assert len(tested.cases("passed")) > 200, tested.wrong


# -- bad engines -----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def test_an_engine_that_is_down(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    reports = [word for name in ("a.xml", "a.html") for word in ("--report", str(tmp_path / name))]
    tested = conformance(tmp_path, "--engine", "vllm", "--url", url, *reports)
    assert tested.code == 1
    assert "does not answer" in tested.out
    assert not tested.cases("passed", "deviated")
    assert all("no connection" in result["message"] for result in tested.cases("failed").values())
    suites = ElementTree.fromstring((tmp_path / "a.xml").read_text())
    assert sum(int(suite.get("tests", 0)) for suite in suites) == len(tested.cases())
    assert (tmp_path / "a.html").read_text().count("<article") == len(tested.cases())


@contextmanager
def mute() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in held:
        connection.close()


def test_an_engine_that_says_nothing(tmp_path: Path) -> None:
    with mute() as url:
        arguments = ("--engine", "vllm", "--url", url, "--timeout", "0.5", "--parallel", "32", "--select", "openai.*")
        tested = conformance(tmp_path, *arguments)
    assert tested.code == 1
    assert not tested.cases("passed", "deviated")
    assert all("not done after" in result["message"] for result in tested.cases("failed").values())


def test_a_run_that_is_over_before_its_cases_are(tmp_path: Path) -> None:
    with mute() as url:
        tested = conformance(tmp_path, "--engine", "vllm", "--url", url, limit="1")
    assert tested.code == 1
    assert "the run's time was over" in tested.out
    assert len(tested.cases()) > 50


def test_a_run_that_is_stopped_has_its_report_and_no_success(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with mute() as url:
        process = subprocess.Popen(
            command("--engine", "vllm", "--url", url, "--report", str(report)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert "cases of" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "SIGTERM ended the run" in out
    assert all(result["kind"] != "passed" for result in json.loads(report.read_text())["results"])


def test_an_engine_that_is_not_what_it_claims(tmp_path: Path) -> None:
    with simulate("tgi", "org/model") as simulator:
        tested = conformance(tmp_path, "--engine", "vllm", "--url", simulator.url, "--select", "vllm.*")
    assert tested.code == 1
    assert "this looks like tgi, not vllm" in tested.out
    assert any(case.startswith("vllm.") and "metrics" in case for case in tested.cases("failed"))


@pytest.mark.parametrize(
    ("fault", "touched"),
    [
        ("refuse", "openai.stream"),
        ("503", "openai.chat"),
        ("429:7", "openai.chat"),
        ("stall:2", "openai.stream"),
        ("cut:2", "openai.stream"),
        ("error-event:1", "openai.stream"),
        ("rubbish", "openai.chat"),
        ("rubbish:sse", "openai.stream"),
        ("rubbish:http", "openai.chat"),
        ("refuse@path=/metrics", "vllm.metrics"),
        ("hang@path=/v1/models", "openai.models"),
    ],
)
def test_each_fault_is_noticed_where_it_strikes(fault: str, touched: str, tmp_path: Path) -> None:
    with simulate("vllm", "m", "--itl", "0.002", "--fail", fault) as simulator:
        arguments = (
            "--engine",
            "vllm",
            "--model",
            "m",
            "--url",
            simulator.url,
            "--timeout",
            "2",
            "--select",
            f"{touched}*",
        )
        tested = conformance(tmp_path, *arguments)
    assert tested.code == 1, tested.wrong
    failed = tested.cases("failed")
    assert any(case.startswith(touched) for case in failed), tested.wrong
    assert len(tested.cases()) == len(tested.report["results"])


# -- bad usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--url is needed"),
        (("--url", "ftp://x"), "not an http or https URL"),
        (("--url", "http://user:secret@x"), "a key is given by --api-key"),
        (("--url", "http://x", "--select", "(a"), "')' is missing"),
        (("--url", "http://x", "--engine", "nix"), "invalid choice"),
        (("--url", "http://x", "--report", "a.pdf"), "a report is a"),
        (("--url", "http://x", "--api-key-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE is not set"),
        (("--url", "http://127.0.0.1:1", "--select", "nothing-of-the-kind"), "no case is selected"),
    ],
)
def test_bad_usage_is_said(arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run(command(*arguments), **QUIET)
    assert done.returncode == 2
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_cases_are_listed_with_their_sources() -> None:
    done = subprocess.run(command("--list", "--profile", "openai"), **QUIET)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) > 50
    assert all(line.startswith("openai.") and line.endswith("]") for line in lines)
