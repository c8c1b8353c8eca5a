"""A terminal for programs that want one: a pty, and enough of what a terminal does to tell what is on it. (IO)"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.process import ROOT

_TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([\x00-\x1f\x7f-\x9f])|([^\x00-\x1f\x7f-\x9f]+)")
_COMMANDS = "mKJHhl"


class Terminal:
    """`infer-gateway ARGUMENTS` as the program of a session of its own. ``keys`` False: its stdin is /dev/null."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 100,
        lines: int = 30,
        keys: bool = True,
        program: tuple[str, ...] = ("-m", "gateway.cli"),
        crashes: bool = False,
        **env: str,
    ) -> None:
        self._crashes = crashes
        self._master, slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(slave)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE, sys.executable, *program, *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm-256color", **env},
            stdin=slave if keys else subprocess.DEVNULL,
            stdout=slave,
            stderr=self._log,
            start_new_session=True,
        )
        self._slave = slave
        self.rows: dict[int, str] = {}
        self.received = ""
        self.alternate = False
        self._at = 1
        self._rest = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    @property
    def stderr(self) -> str:
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    @property
    def text(self) -> str:
        return "\n".join(self.rows[at] for at in sorted(self.rows))

    def wait(self, holds: Callable[[], bool], within_s: float = 15.0) -> None:
        """Until something is so, while what is written is read."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"{self.text}\n{self.stderr}"
            self._read(0.05)

    def shows(self, text: str) -> None:
        self.wait(lambda: text in self.text)

    def shows_not(self, text: str) -> None:
        self.wait(lambda: text not in self.text)

    def ended(self) -> int:
        self.wait(lambda: self.process.poll() is not None)
        while self._read(0):
            pass
        return self.process.returncode

    def stopped(self) -> None:
        """Until it has stopped itself."""
        self.wait(lambda: os.waitpid(self.process.pid, os.WUNTRACED | os.WNOHANG)[0] != 0)

    def _read(self, within_s: float) -> bool:
        if not select.select([self._master], [], [], within_s)[0]:
            return False
        self._rest += os.read(self._master, 65536)
        text = self._rest.decode(errors="ignore")
        whole = text[: text.rindex("\x1b")] if re.search(r"\x1b(\[[?0-9;]*)?$", text) else text
        self._rest = self._rest[len(whole.encode()) :]
        self.received += whole
        for parameters, command, control, shown in _SEQUENCE.findall(whole):
            self._do(parameters, command, control, shown)
        return True

    def _do(self, parameters: str, command: str, control: str, shown: str) -> None:
        assert not command or command in _COMMANDS, command
        if command == "H":
            self._at = int(parameters.split(";")[0] or 1)
            self.rows[self._at] = ""
        elif command == "J":
            self.rows.clear()
        elif parameters == "?1049":
            self.alternate = command == "h"
        elif control:
            assert control in "\r\n", repr(control)
            self._at += control == "\n"
            self.rows.setdefault(self._at, "")
        elif shown:
            self.rows[self._at] = self.rows.get(self._at, "") + shown

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        log = self.stderr
        self._log.close()
        os.close(self._master)
        os.close(self._slave)
        if kind is None:
            assert ("Traceback" in log) == self._crashes, log
