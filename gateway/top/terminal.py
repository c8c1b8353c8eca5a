"""The terminal: how it is taken, painted and given back. (IO)

Invariant: whoever leaves the block, or calls `leave`, has given back the modes, the screen and the cursor, unless
somebody else has the terminal by then.
"""

from __future__ import annotations

import io
import os
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.control import Control
from rich.text import Text

_GONE = (OSError, termios.error)


class Terminal:
    """Standard output's, and standard input's if that is one; otherwise there are no keys."""

    def __init__(self) -> None:
        self.keys = 0 if os.isatty(0) else None
        self.inside = False
        self._out = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._console = Console(file=io.StringIO(), force_terminal=True, width=10_000, height=1000)
        self._before: list[Any] = []
        self._painted: list[str] = []

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines)"""
        try:
            width, height = os.get_terminal_size(self._out)
        except OSError:
            width = height = 0
        return (width or 80), (height or 24)

    def foreground(self) -> bool:
        """Whether it is ours to read and to set."""
        try:
            return os.tcgetpgrp(self._out) == os.getpgrp()
        except OSError:
            return True  # not the terminal that controls us: nobody stops us

    def enter(self) -> None:
        """Take it; does nothing in the background, where the attempt would stop the process."""
        if self.inside or not self.foreground():
            return
        self.inside = True
        if self.keys is not None:
            self._before = termios.tcgetattr(self.keys)
            tty.setcbreak(self.keys, termios.TCSANOW)
        self._write(self._controls(Control.alt_screen(True), Control.show_cursor(False), Control.clear()))
        self.forget()

    def leave(self) -> None:
        if not self.inside:
            return
        self.inside = False
        if not self.foreground():
            return  # the shell has set it as it wants it
        with suppress(*_GONE):
            self._write(self._controls(Control.show_cursor(True), Control.alt_screen(False)))
        if self.keys is not None and self._before:
            with suppress(*_GONE):
                termios.tcsetattr(self.keys, termios.TCSANOW, self._before)

    def forget(self) -> None:
        """Paint everything next time: the screen is not what it was."""
        self._painted = []

    def paint(self, lines: Sequence[Text]) -> None:
        """What differs from the last time. Each line has its place: one that a terminal takes for wider than it is
        spoils no other.
        """
        if not self.inside or not self.foreground():
            return
        drawn = [self._rendered(line) for line in lines]
        before = [*self._painted, *[None] * len(drawn)]
        changed = [
            self._controls(Control.move_to(0, at)) + line + "\x1b[K"
            for at, (line, then) in enumerate(zip(drawn, before, strict=False))
            if line != then
        ]
        if not self._painted:
            changed.insert(0, self._controls(Control.home(), Control.clear()))
        self._painted = drawn
        self._write("".join(changed))

    def _rendered(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, crop=False, overflow="ignore")
        return capture.get()

    def _controls(self, *controls: Control) -> str:
        with self._console.capture() as capture:
            self._console.control(*controls)
        return capture.get()

    def _write(self, text: str) -> None:
        write(self._out, text.encode(self._encoding, "replace"))


def print_lines(lines: Sequence[Text], coloured: bool) -> None:
    """On standard output as it is."""
    if coloured:
        console = Console(file=io.StringIO(), force_terminal=True, width=10_000)
        with console.capture() as capture:
            for line in lines:
                console.print(line, end="\n", no_wrap=True, crop=False, overflow="ignore")
        text = capture.get()
    else:
        text = "".join(f"{line.plain}\n" for line in lines)
    write(sys.stdout.fileno(), text.encode(sys.stdout.encoding or "utf-8", "replace"))


def write(out: int, data: bytes) -> None:
    """All of it. Nothing stays in a buffer that would be flushed into a closed pipe at the end."""
    while data:
        data = data[os.write(out, data) :]
