"""The file that holds the admin plane's token, read again when it changes. (IO)"""

from __future__ import annotations

import logging
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
            with Path(self.path).open("rb") as file:
                token = file.read(_MOST + 1).decode().strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            _log.error("listeners.admin.tokenFile: cannot read %s: %s; nobody is let in", self.path, why)
            return ""
        if not token or len(token) > _MOST:
            what = "is empty" if not token else f"holds more than {_MOST} bytes"
            _log.error("listeners.admin.tokenFile: %s %s; nobody is let in", self.path, what)
            return ""
        if len(token) < _SHORT:
            _log.warning("listeners.admin.tokenFile: a token of %d characters can be guessed", len(token))
        return token


def _version(path: str) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
