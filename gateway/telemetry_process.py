"""Metrics of the process itself, under the names that Prometheus' own clients give them. (IO)

A part of `gateway.telemetry`; where there is no /proc, those read from there have no sample.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.families import Family
from gateway.telemetry_requests import Metrics

_PROC: Final = Path("/proc")

CPU: Final = Family("process_cpu_seconds_total", "counter", "User and system time of the CPUs.")
VIRTUAL: Final = Family("process_virtual_memory_bytes", "gauge", "Virtual memory.")
RESIDENT: Final = Family("process_resident_memory_bytes", "gauge", "Resident memory.")
OPEN: Final = Family("process_open_fds", "gauge", "Open file descriptors.")
MOST: Final = Family("process_max_fds", "gauge", "File descriptors that may be open.")
STARTED: Final = Family("process_start_time_seconds", "gauge", "When the process began, in seconds of the epoch.")


def process(proc: Path = _PROC) -> Metrics:
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield CPU, [((), used.ru_utime + used.ru_stime)]
    for family, figure in (
        (VIRTUAL, lambda: _pages(proc, 0)),
        (RESIDENT, lambda: _pages(proc, 1)),
        (OPEN, lambda: len(os.listdir(proc / "self" / "fd"))),
        (STARTED, lambda: _started(proc)),
    ):
        value = _known(figure)
        yield family, [] if value is None else [((), value)]
    yield MOST, [((), resource.getrlimit(resource.RLIMIT_NOFILE)[0])]


def _known(figure: Callable[[], float]) -> float | None:
    try:
        return figure()
    except (OSError, ValueError, IndexError):
        return None


def _pages(proc: Path, column: int) -> int:
    return int((proc / "self" / "statm").read_text().split()[column]) * resource.getpagesize()


def _started(proc: Path) -> float:
    """proc(5): ``starttime`` is the 22nd field of stat, in ticks since boot; the second one may hold spaces."""
    ticks = int((proc / "self" / "stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
