"""A replay that is stopped: what has been played is told, the exit code is not 0, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from conformance.replay import jobs
from conformance.replay.jobs import Job, Source
from conformance.replay.stop import interrupting
from tests.process import ROOT, eventually

from .tiny import scenario


def short(job: Job) -> dict[str, Any]:
    """A replay of no length; one by the policy "stop" stops everything, "die" crashes, "signals" tells."""
    if job.policy == "stop":
        os.kill(os.getpid() if job.source.path == "here" else os.getppid(), signal.SIGTERM)
        time.sleep(10)  # not to its end, where stopping works
    if job.policy == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.policy == "signals":
        return {"policy": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)]}
    return {"policy": job.policy}


def play(
    monkeypatch: pytest.MonkeyPatch, *policies: str, processes: int = 2
) -> tuple[list[dict[str, Any]], str | None]:
    monkeypatch.setattr(jobs, "play", short)
    source = Source("here" if processes == 1 else "elsewhere")
    with interrupting():
        return jobs.played([Job(source, True, scenario(), policy) for policy in policies], processes)


def test_what_was_played_before_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    rows, missing = play(monkeypatch, "a", "stop", "b", processes=1)
    assert (rows, missing) == ([{"policy": "a"}], "stopped before the end")
    rows, missing = play(monkeypatch, "a", "a", "stop", "stop")  # whoever takes the third has handed in one
    assert rows in ([{"policy": "a"}], [{"policy": "a"}] * 2)
    assert missing == "stopped before the end"
    assert active_children() == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_stops_the_parent_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = play(monkeypatch, "signals", "signals")
    assert rows == [{"policy": [signal.SIG_IGN, signal.SIG_IGN, signal.SIG_DFL]}] * 2


def test_a_process_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, missing = play(monkeypatch, "a", "a", "die")
    assert rows[:1] == [{"policy": "a"}]
    assert missing == "a process ended before what it played: killed, or out of memory"
    assert active_children() == []


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("everybody", [False, True], ids=["terminated", "ctrl-c"])
@pytest.mark.parametrize("module", ["gateway.cli bench replay", "conformance.replay"])
def test_a_signal_ends_the_workers_too(everybody: bool, module: str) -> None:
    command = [sys.executable, "-m", *module.split(), "synthetic", "--speed", "1", "2", "3", "--jobs", "2"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert eventually(lambda: len(children(process.pid)) == 2)
            workers = children(process.pid)
            if everybody:
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.terminate()
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, said.decode()) == (1, "infer-gateway bench replay: stopped before the end\n")
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
