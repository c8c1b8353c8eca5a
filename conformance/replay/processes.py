"""Programs that run while something is measured, and not a moment longer. (IO)

Invariant: whoever leaves `running`, by whatever way, has left no process behind. They are in sessions of their own, so
that a Ctrl-C reaches only the one who stops them.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO

import trio

READY_S = 60.0
_LEAVE_S = 0.5
_STOP_S = 5.0


class NotStarted(Exception):
    """A program ended or stayed mute instead of saying that it listens; the message has its last words."""


class Program:
    """One process whose first line says ``ready NAME=VALUE …``; ``ready`` has the values."""

    def __init__(self, command: Sequence[str], process: trio.Process, log: IO[bytes]) -> None:
        self.ready: dict[str, str] = {}
        self._command, self._process, self._log = command, process, log
        self._paused = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait_ready(self) -> None:
        """Raises NotStarted."""
        line = b""
        assert self._process.stdout is not None
        with trio.move_on_after(READY_S):
            while not line.endswith(b"\n") and (data := await self._process.stdout.receive_some()):
                line += data
        word, *values = line.decode(errors="replace").split() or [""]
        if word != "ready":
            self._log.seek(0)
            said = self._log.read()[-2000:].decode(errors="replace")
            raise NotStarted(f"{' '.join(self._command)} did not start\n{said}".rstrip())
        self.ready = dict(value.partition("=")[::2] for value in values)

    def pause(self) -> None:
        """It does nothing from now on, and its connections stay open."""
        self._paused = True
        self._process.send_signal(signal.SIGSTOP)

    async def stop(self) -> None:
        """Ask twice (a gateway drains on the first signal and leaves on the second), then kill."""
        ways = [(signal.SIGTERM, _LEAVE_S), (signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)]
        for way, patience in ways[-1:] if self._paused else ways:
            if self._process.poll() is None:
                with suppress(ProcessLookupError):
                    self._process.send_signal(way)
                with trio.move_on_after(patience):
                    await self._process.wait()
        if self._process.stdout is not None:
            await self._process.stdout.aclose()
        self._log.close()


@asynccontextmanager
async def running(*commands: Sequence[str]) -> AsyncIterator[list[Program]]:
    """All of them, started side by side and ready. Raises NotStarted."""
    programs: list[Program] = []
    try:
        for command in commands:
            log = tempfile.TemporaryFile()  # noqa: SIM115  closed by `stop`
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
            programs.append(Program(command, process, log))
        for program in programs:
            await program.wait_ready()
        yield programs
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for program in programs:
                    nursery.start_soon(program.stop)
