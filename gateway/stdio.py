"""The process's own stdout and stderr, which may be closed, full or read by nobody. (IO)

Invariant: nothing written here waits for a reader, or fails. What goes to stderr keeps its order: messages are written
at once as long as somebody reads, together with the lines noted before; what nobody takes is kept up to a bound, then
lost and counted.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.lines import Lines

_PIECE: Final = 4096
"""What a descriptor takes without waiting once it says that it takes something (POSIX's PIPE_BUF on Linux)."""


class Stderr:
    """Descriptor 2, or another one of those, as a text stream that never waits. ``lost`` counts lines that it did not
    take; ``notice`` is the line that tells of so many once it takes some again.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self.lines = Lines(self._take, self._missed)
        self.notice: Callable[[int], str] = "{} lines were lost, as nobody took them\n".format
        self._descriptor = descriptor
        self._lost = self._untold = 0

    @property
    def lost(self) -> int:
        return self._lost + self.lines.dropped

    def write(self, text: str) -> None:
        if self.lines.room():
            self.lines.add(text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        self.lines.push()

    def _take(self, lines: bytes, wait: float) -> bytes:
        rest = memoryview(lines)
        try:
            while rest and select.select([], [self._descriptor], [], wait)[1]:
                rest = rest[os.write(self._descriptor, rest[:_PIECE]) :]
        except BlockingIOError:  # whoever shares it has made it so, and was faster
            pass
        except (OSError, ValueError):
            self._lose(bytes(rest).count(b"\n"))
            return b""
        if self._untold and len(rest) < len(lines):
            self.lines.add(self._tell())
        return bytes(rest)

    def _missed(self, dropped: int) -> bytes:
        self._untold += dropped
        return self._tell()

    def _lose(self, lines: int) -> None:
        self._lost += lines
        self._untold += lines

    def _tell(self) -> bytes:
        untold, self._untold = self._untold, 0
        return self.notice(untold).encode()


stderr: Final = Stderr()
_stdout: Final = Stderr(1)
_stdout.notice = lambda lost: ""  # who reads it waits for one line, and for no other


def mend() -> None:
    """Have closed standard descriptors lead nowhere: the next socket opened would be taken for one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def announce(line: str) -> None:
    """Tell whoever started the process, if they still listen: once they take it, where there is no room for it yet."""
    _stdout.write(f"{line}\n")
    _stdout.flush()
    if len(_stdout.lines) and not _stdout.lines.started:
        with suppress(RuntimeError):  # no thread is to be had; they are told with the next line
            _stdout.lines.start()
