"""Programs of a benchmark: compiled or found, pinned to a core, started, measured and stopped by process id. (IO)

Invariant: leaving a `Program`'s block ends its process, whatever happened inside.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CORES = os.cpu_count() or 1
FRONT_CORE, ENGINE_CORE, LOAD_CORE = 0, min(1, CORES - 1), min(2, CORES - 1)
_READY_S = 30.0
_STOP_S = 10.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A program did not start, or said something that cannot be read."""


def pin(core: int, argv: Sequence[str]) -> list[str]:
    """The command bound to one core; as it is where there is one core or no taskset."""
    if CORES < 2 or shutil.which("taskset") is None:
        return list(argv)
    return ["taskset", "-c", str(core), *argv]


def free_port() -> int:
    """A port nobody listens on now, below the range that outgoing connections are given."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def core_busy_s(core: int) -> float:
    """Seconds that a core has run programs since boot; 0 where /proc is not there."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith(f"cpu{core} "):
                return sum(map(int, line.split()[1:4])) / _TICKS_PER_S
    return 0.0


def compiled(name: str, folder: Path) -> Path | None:
    """Compile benchmarks/NAME.c into ``folder``; None where there is no compiler."""
    compiler = next((path for each in ("cc", "gcc", "clang") if (path := shutil.which(each))), None)
    if compiler is None or sys.platform != "linux":
        return None
    binary = folder / name
    if not binary.exists():
        subprocess.run([compiler, "-O2", "-o", str(binary), str(HERE / f"{name}.c")], check=True)
    return binary


class Program:
    """One process whose first line on stdout, if ``ready`` is set, says that it listens. stderr goes to a file."""

    def __init__(self, name: str, argv: Sequence[str], core: int, *, ready: bool = True) -> None:
        self.name = name
        self.argv = pin(core, argv)
        self.words: list[str] = []
        self.started_in_s = 0.0
        self._ready = ready
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        started = time.perf_counter()
        output = subprocess.PIPE if self._ready else subprocess.DEVNULL
        self._process = subprocess.Popen(self.argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=self._log)
        try:
            if self._ready:
                self.words = self._first_line().split()
                self.started_in_s = time.perf_counter() - started
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _first_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_READY_S):
                raise Failed(f"{self.name} said nothing in {_READY_S:.0f} s\n{self.said()}")
        line = self._process.stdout.readline().decode()
        if not line.startswith("ready "):
            raise Failed(f"{self.name} did not start: {line.strip()}\n{self.said()}")
        return line

    def said(self) -> str:
        """The end of its stderr."""
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace")

    def word(self, name: str) -> str:
        """The value of ``name=value`` in the ready line."""
        for word in self.words:
            key, _, value = word.partition("=")
            if key == name:
                return value
        raise Failed(f"{self.name}: no {name}= in {' '.join(self.words)}")

    def stop(self) -> None:
        """Terminate, then kill; nothing when it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        # A gateway drains on the first signal and leaves at once on the second.
        for sign, patience in ((signal.SIGTERM, 0.5), (signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
            if process.poll() is not None:
                break
            process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        if process.stdout is not None:
            process.stdout.close()
        self._log.close()

    @property
    def alive(self) -> bool:
        """It has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def _family(self) -> list[int]:
        """Its process id and those of its children, nginx's worker for one."""
        assert self._process is not None
        pid = self._process.pid
        with contextlib.suppress(OSError):
            return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        return [pid]

    def cpu_s(self) -> float:
        """Processor seconds used so far, children included; 0 where /proc is not there."""
        used = 0.0
        for pid in self._family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                used += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        return used

    def resident_mib(self) -> float:
        """Resident memory (VmRSS), children included, in MiB; 0 where /proc is not there."""
        total = 0
        for pid in self._family():
            with contextlib.suppress(OSError):
                found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                total += int(found[1]) if found else 0
        return total / 1024


def wait_listening(program: Program, port: int) -> None:
    """Until something accepts on the port; for programs that print no ready line."""
    deadline = time.monotonic() + _READY_S
    while program.alive and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise Failed(f"{program.name} does not listen on {port}\n{program.said()}")
