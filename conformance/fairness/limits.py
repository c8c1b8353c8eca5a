"""Contests at a limit: in this process under virtual time, and by several processes before a real Redis. (IO)

Invariant: whoever leaves `redis` has left no process behind.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from conformance.fairness.contender import Orders, Report
from conformance.fairness.contest import CALLERS, CONTESTS, Contest, Grant, Score, contend, score
from conformance.replay.suite import Verdict
from gateway.store.local import Local

PROCESSES = 3
_SERVERS = ("redis-server", "valkey-server")
_READY_S = 20.0
_LAUNCH_S = 3.0
OVER, UNDER = 1.0, 0.01


class NoRedis(Exception):
    """There is none to be started, or it does not start."""


def program() -> str | None:
    """The server to start, if there is one."""
    return next((found for name in _SERVERS if (found := shutil.which(name))), None)


# --- one process -----------------------------------------------------------------------------------------------------


def here(contest: Contest) -> Score:
    """All callers in this process, under virtual time."""
    start, grants = trio.run(_here, contest, clock=MockClock(autojump_threshold=0.0))
    return score(contest, grants, start, start + contest.seconds)


async def _here(contest: Contest) -> tuple[float, list[Grant]]:
    start = trio.current_time()
    return start, await contend(Local(), contest, CALLERS, start + contest.seconds, "0")


# --- several, and a Redis --------------------------------------------------------------------------------------------


@contextmanager
def redis() -> Iterator[str]:
    """The URL of a server of our own that keeps nothing. Raises NoRedis."""
    found = program()
    if found is None:
        raise NoRedis(f"neither {' nor '.join(_SERVERS)} is installed")
    with tempfile.TemporaryDirectory(prefix="limits-") as folder:
        port = _free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        server = subprocess.Popen(
            [found, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait_ready(server, port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_ready(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise NoRedis("the server does not start")


def together(number: int, url: str, processes: int, seconds: float | None = None) -> tuple[Score, int]:
    """Contest ``number`` by so many processes; and how many requests Redis did not decide."""
    contest = CONTESTS[number]
    if seconds is not None:
        contest = msgspec.structs.replace(contest, seconds=seconds)
    begin = time.monotonic() + _LAUNCH_S
    reports = trio.run(_together, number, contest, url, processes, begin)
    grants = [grant for report in reports for grant in report.grants]
    return score(contest, grants, begin, begin + contest.seconds), sum(report.alone for report in reports)


async def _together(number: int, contest: Contest, url: str, processes: int, begin: float) -> list[Report]:
    reports: list[Report] = []

    async def take_part(process: int) -> None:
        callers = CALLERS // processes + (process < CALLERS % processes)
        orders = Orders(number, contest.seconds, url, f"bench-{processes}", callers, begin, str(process))
        command = [sys.executable, "-m", "conformance.fairness.contender", msgspec.json.encode(orders).decode()]
        done = await trio.run_process(command, capture_stdout=True)
        reports.append(msgspec.json.decode(done.stdout, type=Report))

    async with trio.open_nursery() as nursery:
        for process in range(processes):
            nursery.start_soon(take_part, process)
    return reports


# --- what it comes to ------------------------------------------------------------------------------------------------


def rows(seconds: float | None, say: Callable[[str], object]) -> Iterator[tuple[dict[str, Any], list[Verdict]]]:
    """Each contest, in this process and, where there is a server, before a Redis. ``say`` is told what is left out."""
    for contest in CONTESTS:
        yield _row("this process", contest, here(contest), 0)
    try:
        with redis() as url:
            for processes in (1, PROCESSES):
                for number, contest in enumerate(CONTESTS):
                    found, alone = together(number, url, processes, seconds)
                    yield _row(f"Redis, {processes} process{'es' if processes > 1 else ''}", contest, found, alone)
    except NoRedis as error:
        say(f"limits kept in Redis are left out: {error}")


def _row(where: str, contest: Contest, found: Score, alone: int) -> tuple[dict[str, Any], list[Verdict]]:
    values = {
        "where": where,
        "limit": contest.name,
        "granted": found.granted,
        "over": found.over,
        "unused": found.under,
    }
    verdicts = [
        Verdict(f"{where}: {contest.name}, over by", found.over, OVER),
        Verdict(f"{where}: {contest.name}, unused part", found.under, UNDER),
    ]
    return {**values, "decided alone": alone}, verdicts
