"""stderr with nobody at its other end, somebody slow, or no room; and a process that was started without one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gateway import lines
from gateway.stdio import Stderr
from tests.process import ROOT

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """(reader, writer); whoever closes one says -1."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        with suppress(OSError):
            os.close(end)


def read(reader: int) -> bytes:
    return os.read(reader, 1 << 20)


def fill(writer: int) -> int:
    """Leave no room in a pipe; the bytes that are in it now."""
    written = 0
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            written += os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return written


def test_a_message_is_there_when_it_was_flushed_in_its_place(pipe: Pipe) -> None:
    reader, writer = pipe
    stderr = Stderr(writer)
    stderr.lines.add(b"line\n")
    stderr.write("message\n")
    stderr.flush()
    assert read(reader) == b"line\nmessage\n"


def test_text_that_is_no_text_is_written_all_the_same(pipe: Pipe) -> None:
    reader, writer = pipe
    stderr = Stderr(writer)
    stderr.write("é \ud800\n")
    stderr.flush()
    assert read(reader) == "é \\ud800\n".encode()


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_stalls_is_not_waited_for_and_told_what_it_missed(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    monkeypatch.setattr(lines, "MAX_BUFFER", 100_000)
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    stderr = Stderr(writer)
    for number in range(4_000):
        stderr.write(f"{number:099}\n")
        stderr.flush()
    assert len(stderr.lines) <= 100_100
    assert stderr.lost > 1_000
    taken = b""
    while len(stderr.lines):
        taken += read(reader)
        stderr.flush()
    taken += read(reader)
    *whole, notice = taken.decode().splitlines()
    assert [int(line) for line in whole] == list(range(len(whole)))
    assert notice == f"{4_000 - len(whole)} lines were lost, as nobody took them"
    assert stderr.lost == 4_000 - len(whole)


def test_a_reader_that_is_gone_costs_lines_that_are_counted(pipe: Pipe) -> None:
    reader, writer = pipe
    os.close(reader)
    stderr = Stderr(writer)
    for _ in range(3):
        stderr.write("message\n")
        stderr.flush()
    assert (stderr.lost, len(stderr.lines)) == (3, 0)


def test_what_was_lost_is_told_once_there_is_room_again(pipe: Pipe) -> None:
    reader, writer = pipe
    full = os.open("/dev/full", os.O_WRONLY)
    stderr = Stderr(full)
    for _ in range(3):
        stderr.write("lost\n")
        stderr.flush()
    os.dup2(writer, full)
    stderr.write("message\n")
    stderr.flush()
    stderr.flush()
    os.close(full)
    assert read(reader) == b"message\n3 lines were lost, as nobody took them\n"


def python(code: str, *closed: int) -> subprocess.CompletedProcess[bytes]:
    """Run it with these descriptors closed, all that are not go to stdout."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, env=environment, preexec_fn=close
    )


@pytest.mark.parametrize("closed", [(2,), (0, 2), (0, 1, 2)])
def test_what_is_opened_in_place_of_a_closed_descriptor_gets_no_logs(closed: tuple[int, ...]) -> None:
    code = (
        "import os, sys, tempfile\n"
        "from gateway import logs, stdio\n"
        "stdio.mend()\n"
        "file = tempfile.TemporaryFile()\n"
        "logs.configure()\n"
        "import logging; logging.getLogger('infer_gateway').error('oops')\n"
        "print('x', file=sys.stderr)\n"
        "stdio.announce('ready')\n"
        "os._exit(0 if file.fileno() > 2 and not os.fstat(file.fileno()).st_size else 1)\n"
    )
    done = python(code, *closed)
    assert done.returncode == 0
    assert done.stdout == (b"" if 1 in closed else b"ready\n")


def test_who_waits_for_the_ready_line_is_not_waited_for_and_gets_it_whenever_it_looks(pipe: Pipe) -> None:
    reader, writer = pipe
    filled = fill(writer)
    code = "import sys; from gateway import stdio; stdio.announce('ready'); sys.stderr.write('on'); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stderr is not None
            assert process.stderr.read(2) == b"on"
            received = b""
            while not received.endswith(b"ready\n"):
                received += os.read(reader, 65536)
            assert len(received) == filled + len(b"ready\n")
            process.stdin.close()
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_the_last_words_are_written_before_the_process_ends() -> None:
    code = (
        "from gateway import logs, stdio\n"
        "logs.configure()\n"
        "stdio.stderr.lines.add(b'last words\\n')\n"
        "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()\n"
        "stdio.stderr.lines.add(b'very last words\\n')\n"
    )
    first, told, *trace, last = python(code).stdout.decode().splitlines()
    assert (first, last) == ("last words", "very last words")
    assert "ERROR infer_gateway: a thread failed" in told
    assert all(row.startswith("    ") for row in trace)
