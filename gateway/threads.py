"""Work in threads, of which there may be none left to be had: `pids.max`, `ulimit -u`, no memory for another one. (IO)

Invariant: who cannot get one learns so as an OSError, as of any other shortage. Names are looked up in threads of their
own: servers that do not answer about them hold up nothing else.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

NONE: Final = "can't start new thread"
"""What Python says in a RuntimeError."""
_WHY: Final = "no thread can be started; raise the limit of processes (pids.max, TasksMax, ulimit -u)"
_LOOKUPS: Final = 64


async def in_thread(
    fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """As `trio.to_thread.run_sync`. Raises OSError where there is no thread."""
    try:
        return await trio.to_thread.run_sync(fn, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except RuntimeError as error:
        if str(error) != NONE:
            raise
        raise OSError(errno.EAGAIN, _WHY) from None


def need_thread() -> None:
    """Raises OSError where none could be started: for libraries that abort the process then."""
    try:
        threading.Thread(target=lambda: None).start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, _WHY) from None


class Names(trio.abc.HostnameResolver):
    """The system's resolver, for `trio.socket.set_custom_hostname_resolver`."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(_LOOKUPS)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        return await in_thread(
            socket.getaddrinfo, host, port, family, type, proto, flags, abandon_on_cancel=True, limiter=self._threads
        )

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        return await in_thread(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True, limiter=self._threads)
