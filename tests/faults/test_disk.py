"""Where the gateway writes there is no room, nobody who reads, or something else: requests go on, lines are lost and
counted.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole.fleet import pool, settings, written

KINDS = ("access_log_lines", "usage_events")


class Stage(NamedTuple):
    gateway: InferGateway
    directory: Path
    engine: InferGateway

    def lost(self, kind: str) -> float:
        page = httpx.get(f"http://{self.gateway.ready['admin']}/metrics").text
        (row,) = (row for row in page.splitlines() if row.startswith(f"infer_gateway_{kind}_lost_total "))
        return float(row.split()[1])

    def loses(self) -> bool:
        """Whether each is lost from now on."""
        before = [self.lost(kind) for kind in KINDS]
        return all(
            eventually(lambda at=at, kind=kind: self.lost(kind) > at) for at, kind in zip(before, KINDS, strict=True)
        )

    def write(self, access: Path, usage: Path) -> None:
        """There, from now on."""
        before = self.gateway.stderr.count("configuration reloaded")
        log = {"requests": "all", "file": str(access)}
        written(self.directory, pool(CALM, [self.engine]), settings(accessLog=log, usage={"file": str(usage)}))
        self.gateway.signal(signal.SIGHUP)
        assert eventually(lambda: self.gateway.stderr.count("configuration reloaded") > before)

    def grows(self) -> bool:
        """Whether both files are written again."""
        files = self.directory / "access.jsonl", self.directory / "usage.jsonl"
        before = [size(file) for file in files]
        return all(eventually(lambda at=at, file=file: size(file) > at) for at, file in zip(before, files, strict=True))


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("disk")
    with simulate("vllm", "m") as engine:
        config = written(directory, pool(CALM, [engine]))
        with serve("-c", config, "--log-level", "debug") as gateway:
            made = Stage(gateway, directory, engine)
            made.write(directory / "access.jsonl", directory / "usage.jsonl")
            yield made


def full(directory: Path) -> Path:
    return Path("/dev/full")


def pipe(directory: Path) -> Path:
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


def folder(directory: Path) -> Path:
    (directory / "folder").mkdir()
    return directory / "folder"


def nowhere(directory: Path) -> Path:
    return directory / "no" / "where"


def loop(directory: Path) -> Path:
    (directory / "loop").symlink_to(directory / "loop")
    return directory / "loop"


def door(directory: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(directory / "door"))
    return directory / "door"


def unnamed(directory: Path) -> Path:
    return directory / ("x" * 300)


@pytest.mark.parametrize("place", [full, pipe, folder, nowhere, loop, door, unnamed])
def test_where_nothing_can_be_written(stage: Stage, place: Callable[[Path], Path], tmp_path: Path) -> None:
    at = place(tmp_path)
    with unharmed(stage.gateway):
        stage.write(at, at)
        assert stage.loses()
        stage.write(stage.directory / "access.jsonl", stage.directory / "usage.jsonl")
        assert stage.grows()


def test_a_disk_that_is_full_and_is_made_room_on(stage: Stage) -> None:
    """For all that it writes, its own log included."""
    pid = stage.gateway.process.pid
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    with unharmed(stage.gateway):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        assert stage.loses()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert stage.grows()
    assert eventually(lambda: "are written to" in stage.gateway.stderr)


def test_files_that_are_moved_and_removed_again_and_again(stage: Stage) -> None:
    """With their directory, in the end: lines are written where it comes to be again."""
    home = stage.directory / "logs"
    home.mkdir()
    access, usage = home / "access", home / "usage"
    with unharmed(stage.gateway):
        stage.write(access, usage)
        for _ in range(5):
            for file in (access, usage):
                assert eventually(lambda file=file: size(file) > 0)
                file.replace(home / "moved")
        shutil.rmtree(home)
        assert stage.loses()
        home.mkdir()
        assert eventually(lambda: size(access) > 0 and size(usage) > 0)
        stage.write(stage.directory / "access.jsonl", stage.directory / "usage.jsonl")
