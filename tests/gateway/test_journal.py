"""A file of lines that is rotated, replaced, full, out of reach, or a pipe that nobody reads."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import lines
from gateway.journal import Journal
from tests.process import eventually

LOG = logging.getLogger("journal")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FLUSH_S", 0.001)


class Writing:
    """A journal that is written in this thread, when it is told to."""

    def __init__(self, path: Path | str) -> None:
        self.journal = Journal("notes", LOG, str(path))

    def write(self, *words: str) -> None:
        for word in words:
            if self.journal.lines.room():
                self.journal.lines.add(word.encode() + b"\n")
        self.journal.lines.flush()


def words(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_what_was_there_stays_and_only_owner_and_group_may_read(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    Writing(path).write("new")
    assert path.stat().st_mode & 0o777 & ~0o640 == 0
    Writing(path).write("newer")
    assert words(path) == ["new", "newer"]


@pytest.mark.parametrize("way", ["renamed", "removed", "replaced", "a directory of its own"])
def test_a_rotated_file_is_made_anew(tmp_path: Path, way: str) -> None:
    path, old = tmp_path / "in" / "notes", tmp_path / "in" / "notes.1"
    path.parent.mkdir()
    writing = Writing(path)
    writing.write("1")
    if way == "removed":
        path.unlink()
    elif way == "a directory of its own":
        path.parent.rename(tmp_path / "out")
        old = tmp_path / "out" / "notes"
        path.parent.mkdir()
    else:
        path.rename(old)
    if way == "replaced":
        path.touch()
    writing.write("2")
    assert words(path) == ["2"]
    if way != "removed":
        assert words(old) == ["1"]
    assert writing.journal.lost == 0


def test_a_rotated_file_is_made_anew_at_once_if_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    with (journal := Journal("notes", LOG, str(path))).lines:
        assert eventually(path.exists)  # before there is a line
        path.unlink()
        journal.reopen(str(path))
        assert eventually(path.exists)


def test_another_path_is_written_elsewhere_or_nowhere(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    writing = Writing(first)
    writing.write("1")
    writing.journal.reopen(str(second))
    writing.write("2")
    writing.journal.reopen("")
    writing.write("3")
    assert (words(first), words(second), writing.journal.lost) == (["1"], ["2"], 0)


def test_a_full_disk_costs_lines_that_are_counted_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writing = Writing("/dev/full")
    for number in range(3):
        writing.write(str(number))
    assert writing.journal.lost == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "No space left on device" in caplog.text
    writing.journal.reopen(str(tmp_path / "notes"))
    writing.write("3")
    assert words(tmp_path / "notes") == ["3"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    assert "3 were lost" in caplog.text


@pytest.mark.parametrize("name", ["missing/notes", "", "a\0b", "n" * 300])
def test_a_file_that_cannot_be_had_is_told_of_before_there_is_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    writing = Writing(os.path.join(tmp_path, name))
    writing.write()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    writing.write("1")
    assert writing.journal.lost == 1
    assert len(caplog.records) == 1


def test_a_file_that_became_a_directory_costs_lines_until_it_is_a_file_again(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    writing = Writing(path)
    writing.write("1")
    path.unlink()
    path.mkdir()
    writing.write("2")
    path.rmdir()
    writing.write("3")
    assert (words(path), writing.journal.lost) == (["3"], 1)


def test_a_file_that_may_no_longer_be_opened_is_written_on(tmp_path: Path) -> None:
    path = tmp_path / "in" / "notes"
    path.parent.mkdir()
    writing = Writing(path)
    writing.write("1")
    path.chmod(0)
    path.parent.chmod(0)
    writing.write("2")
    path.parent.chmod(0o700)
    path.chmod(0o600)
    assert (words(path), writing.journal.lost) == (["1", "2"], 0)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    writing = Writing(path)
    writing.write("whole")
    with files_no_larger_than(20):
        writing.write("also whole", "cut", "lost")
        writing.write("lost")
    assert writing.journal.lost == 3
    writing.write("last")
    assert words(path) == ["whole", "also whole", "cut", "last"]


def test_a_pipe_that_nobody_opens_or_reads_holds_up_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writing = Writing(path)
    writing.write("nobody")
    assert writing.journal.lost == 1
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        line = "x" * 999
        for _ in range(200):
            writing.journal.lines.add(line.encode() + b"\n")
        writing.journal.lines.flush(within=0.0)
        assert len(writing.journal.lines) >= 100_000
        taken = b""
        while len(writing.journal.lines):
            taken += os.read(reader, 1 << 16)
            writing.journal.lines.flush(within=0.0)
        taken += os.read(reader, 1 << 20)
    finally:
        os.close(reader)
    assert taken.decode() == (line + "\n") * 200
    assert writing.journal.lost == 1


def test_beyond_what_is_kept_lines_are_lost_counted_and_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lines, "MAX_BUFFER", 100)
    writing = Writing(tmp_path / "notes")
    writing.write(*["x" * 9] * 50)
    assert len(words(tmp_path / "notes")) == 10
    assert writing.journal.lost == 40
    assert "40 notes were lost" in caplog.text
