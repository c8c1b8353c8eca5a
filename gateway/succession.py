"""One process after another on the same listening sockets, without a moment in which nobody listens. (IO)

The process that goes starts its successor with the sockets and one end of a pair. The successor says there that it
could serve now, and accepts from the moment the other end is closed: the one that goes has let go of the sockets by
then, or has died. Who connects in between waits in the kernel.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from gateway.inherit import NAMES, SOCKETS

READY_S: Final = 60.0
PREDECESSOR: Final = "INFER_GATEWAY_PREDECESSOR"
"""The descriptor of the pair's other end, and whether the predecessor could serve, by a comma."""
_READY: Final = b"ready"
_LOOK_S: Final = 0.05


class NoSuccessor(Exception):
    """Why there is none."""


class Predecessor:
    """Who serves until we can. ``could_serve``: whether it had an engine that answered."""

    def __init__(self, end: socket.socket, *, could_serve: bool) -> None:
        self._end = trio.socket.from_stdlib_socket(end)
        self.could_serve = could_serve

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Predecessor | None:
        """The one that ``environment`` tells of, which does not any more from then on."""
        told = environment.pop(PREDECESSOR, "")
        if not told:
            return None
        descriptor, _, could_serve = told.partition(",")
        os.set_inheritable(int(descriptor), False)
        return cls(socket.socket(fileno=int(descriptor)), could_serve=could_serve == "1")

    async def succeed(self, ready: Callable[[], bool]) -> None:
        """Say that we are ready, once we are, unless it was not either; returns when it is our turn.

        That may be never: who waits for us in vain ends us. If it dies meanwhile it is our turn, ready or not.
        """
        with self._end, suppress(OSError):
            while self.could_serve and not ready():
                with trio.move_on_after(_LOOK_S):
                    await self._end.recv(1)
                    return
            await self._end.send(_READY)
            await self._end.recv(1)


@asynccontextmanager
async def successor(
    sockets: Iterable[tuple[str, socket.socket]],
    *,
    could_serve: bool,
    command: Sequence[str] | None = None,
    within_s: float = READY_S,
) -> AsyncIterator[trio.Process]:
    """One that could serve, and does when the block is left. ``sockets`` by listener; ``command``:
    by default the one that started this process.

    Raises NoSuccessor; nothing has come of it then. So it is if the block raises.
    """
    ours, theirs = _pair()
    with ours:
        with theirs:
            process = await _start(sockets, theirs.fileno(), could_serve, command or _command())
        try:
            await _ready(ours, process, within_s)
            yield process
        except BaseException:
            await _end(process)
            raise


def _pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    try:
        return trio.socket.socketpair()
    except OSError as error:
        raise NoSuccessor(f"nothing to talk to it by: {error.strerror or error}") from error


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


async def _start(
    sockets: Iterable[tuple[str, socket.socket]], end: int, could_serve: bool, command: Sequence[str]
) -> trio.Process:
    named = [(NAMES.get(name, name), sock.fileno()) for name, sock in sockets]
    environment = {
        **os.environ,
        SOCKETS: ",".join(f"{name}:{descriptor}" for name, descriptor in named),
        PREDECESSOR: f"{end},{could_serve:d}",
    }
    descriptors = [end, *(descriptor for _, descriptor in named)]
    try:
        return await trio.lowlevel.open_process(command, env=environment, pass_fds=descriptors)
    except (OSError, RuntimeError) as error:  # the latter: no thread to start it from
        raise NoSuccessor(f"cannot run {command[0]}: {getattr(error, 'strerror', None) or error}") from error


async def _ready(end: trio.socket.SocketType, process: trio.Process, within_s: float) -> None:
    with trio.move_on_after(within_s):
        try:
            said = await end.recv(len(_READY))
        except OSError:
            said = b""
        if not said:
            raise NoSuccessor(f"process {process.pid} ended with exit code {await process.wait()}")
        return
    raise NoSuccessor(f"process {process.pid} could not serve within {within_s:g} s")


async def _end(process: trio.Process) -> None:
    """It has served nobody."""
    with trio.CancelScope(shield=True):
        process.kill()
        await process.wait()
