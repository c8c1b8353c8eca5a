"""The file that holds the admin plane's token, read again when it changes. (IO)"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

_log = logging.getLogger("infer_gateway.admin")
_MOST: Final = 4096
_SHORT: Final = 16


class TokenFile:
    """``path`` may be set to another one. What is wrong with the file is logged, once."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._seen: tuple[object, ...] | None = None
        self._token = ""

    def token(self) -> str:
        """The token; "" if there is none, or none that can be read. Looks at the file, which takes microseconds."""
        seen = (self.path, *_version(self.path))
        if seen != self._seen:
            self._seen = seen
            self._token = self._read() if self.path else ""
        return self._token

    def _read(self) -> str:
        try:
            token = _content(self.path).decode().strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            _log.error("listeners.admin.tokenFile: cannot read %s: %s; nobody is let in", self.path, why)
            return ""
        if wrong := _wrong(token):
            _log.error("listeners.admin.tokenFile: %s %s; nobody is let in", self.path, wrong)
            return ""
        if len(token) < _SHORT:
            _log.warning("listeners.admin.tokenFile: a token of %d characters can be guessed", len(token))
        return token


def _content(path: str) -> bytes:
    """A little more than may be. Whoever opens a pipe waits for its writer: only plain files are read. Raises OSError,
    or ValueError where that cannot be a path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no plain file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST + 1)
    finally:
        os.close(descriptor)  # which a file object does not for what is a directory


def _wrong(token: str) -> str:
    """What cannot be shown in a header field is no token."""
    if not token:
        return "is empty"
    if len(token) > _MOST:
        return f"holds more than {_MOST} bytes"
    return "" if token.isascii() and token.isprintable() else "holds more than one line of printable ASCII"


def _version(path: str) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
