"""The session by which traces are sent: what a collector answers is bounded in size and time, and never unpacked. (IO)

Invariant: of one answer at most `BYTES` are read, and none after the time that requests allow for a single read; a
redirection is not followed, nor taken for an answer.

Needs requests and urllib3, as the exporter of traces does.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import TooManyRedirects
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

BYTES: Final = 64 * 1024
"""Header and all; a collector has little to say."""


class Session(requests.Session):
    """Without the environment's proxies and ~/.netrc, and without redirects, along which credentials would go.

    ``fault``: what was wrong with the last request, "" if nothing; without credentials, which URLs and fields may have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fault = ""
        self.trust_env = False
        self.headers["accept-encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Raises TooManyRedirects for one: the exporter would take it for success."""
        try:
            answer = super().request(*args, **{**kwargs, "allow_redirects": False})
        except Exception as error:
            self.fault = _fault(error)
            raise
        status = answer.status_code
        self.fault = f"it answered {status}" if status >= 300 else ""
        if 300 <= status < 400:
            self.fault += ", a redirection, which is not followed"
            raise TooManyRedirects(self.fault)
        return answer


def _fault(error: BaseException) -> str:
    """What the innermost cause says, as those around it quote URLs."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, ValueError):  # it quotes what it does not like
        return f"{type(error).__name__}: its address or a field for it cannot be sent as it is"
    return f"{type(error).__name__}: {error}"[:300]


class _Bounded(io.RawIOBase):
    """What arrives at a socket, for one answer. ``readinto`` raises OSError for more than that."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb", buffering=0)
        patience = sock.gettimeout()
        self._until = None if patience is None else time.monotonic() + patience
        self._left = BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self._until is not None and time.monotonic() > self._until:
            raise TimeoutError("its answer has no end")
        count = self._file.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OSError(f"it answered with more than {BYTES} bytes")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Bounded(sock))

    def begin(self) -> None:
        """As if nothing were packed: a gigabyte would come out of a few bytes."""
        super().begin()
        del self.headers["content-encoding"]


class _Plain(HTTPConnection):
    response_class = _Answer


class _Secure(HTTPSConnection):
    response_class = _Answer


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
