"""Lines appended to a file that may be moved away, replaced, full or out of reach at any time. (IO)

A thread writes. What cannot be written costs lines, which are counted and told of once, and nothing else. A file that
was moved away or removed is made anew before the next line.
"""

from __future__ import annotations

import logging
import os
import select
from typing import Final

from gateway.lines import Lines

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # the last is for pipes
_MODE: Final = 0o640


class Journal:
    """``what`` is in it, in words; ``path`` "" writes nothing. ``lost`` counts lines that were not written.

    While ``lines`` is entered, a thread writes.
    """

    def __init__(self, what: str, log: logging.Logger, path: str = "") -> None:
        self.lines = Lines(self._write, self._missed)
        self.path = path
        self._what = what
        self._log = log
        self._lost = 0
        self._file: _File | None = None
        self._failing: str | None = None
        self.lines.wake()  # a file that cannot be had is told of at the start

    @property
    def lost(self) -> int:
        return self._lost + self.lines.dropped

    def reopen(self, path: str) -> None:
        """From now on there; if it is the same file that was moved away, a new one is made at once. Never waits."""
        self.path = path
        self.lines.wake()

    def _missed(self, dropped: int) -> bytes:
        self._log.warning("%d %s were lost: they came faster than they could be written", dropped, self._what)
        return b""

    def _write(self, lines: bytes, wait: float) -> bytes:
        """In a thread. What cannot be written is lost: kept, it would only be lost later."""
        path, rest = self.path, lines
        try:
            self._open(path)
            rest = b"" if self._file is None else self._file.write(lines, wait)
        except _Cut as cut:
            return self._fail(path, cut.rest, cut.why)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            return self._fail(path, lines, getattr(error, "strerror", None) or str(error))
        if self._failing is not None and len(rest) < len(lines):
            self._failing = None
            self._log.warning("%s are written to %r again; %d were lost so far", self._what, path, self.lost)
        return rest

    def _fail(self, path: str, lines: bytes, why: str) -> bytes:
        self._lost += lines.count(b"\n")
        if self._failing != path:
            self._failing = path
            self._log.error("cannot write %s to %r, they are lost: %s", self._what, path, why)
        return b""

    def _open(self, path: str) -> None:
        if self._file is not None and not self._file.stands_at(path):
            self._file.close()
            self._file = None
        if path and self._file is None:
            self._file = _File(path)


class _Cut(Exception):
    """``rest`` was not written."""

    def __init__(self, rest: bytes, why: str) -> None:
        self.rest = rest
        self.why = why


class _File:
    """An open file that lines are appended to. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, _FLAGS, _MODE)
        self._partly = self._cut = False

    def stands_at(self, path: str) -> bool:
        """Whether this is the file that has the name now, as far as can be seen."""
        try:
            there = os.stat(path)
        except PermissionError:
            return True
        except (OSError, ValueError):
            return False
        return os.path.samestat(os.fstat(self._descriptor), there)

    def write(self, lines: bytes, wait: float) -> bytes:
        """What a pipe's reader has not taken after ``wait``. A line that a full disk cut short is ended before the
        next one. Raises _Cut.
        """
        rest = lines
        try:
            if self._cut and rest:
                os.write(self._descriptor, b"\n")
                self._cut = False
            while rest:
                done = os.write(self._descriptor, rest)
                self._partly = rest[done - 1 : done] != b"\n"
                rest = rest[done:]
        except BlockingIOError:
            self._wait(wait)
        except OSError as error:
            self._cut = self._partly
            raise _Cut(rest, error.strerror or str(error)) from None
        return rest

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll(seconds * 1000)

    def close(self) -> None:
        os.close(self._descriptor)
