"""How long this thread has had nothing to do: neither a processor nor waited for one. (IO)"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

_STATISTICS: Final = "/proc/thread-self/schedstat"


def rest(path: str = _STATISTICS) -> Callable[[], float]:
    """What tells seconds of rest since some moment, of the thread that asks for it here (Linux: sched-stats).

    Where the kernel does not tell, all time without a processor is taken for rest.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.pread(file, 64, 0).split()[1]
    except (OSError, IndexError):
        return lambda: time.perf_counter() - time.thread_time()

    def rested() -> float:
        ran, waited = os.pread(file, 64, 0).split()[:2]
        return time.perf_counter() - (int(ran) + int(waited)) * 1e-9

    return rested
