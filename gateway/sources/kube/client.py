"""Asking an API server: requests of bounded size in bounded time, and answers that go on. (IO)

Invariant: every failure is an `OSError`, `ApiError` where the server said no and `Unreachable` where it said nothing
of use; no text holds a credential, and a cancelled request leaves no connection behind.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

import msgspec
import trio

from gateway import __version__
from gateway.sources.kube.messages import Details, status_of

if TYPE_CHECKING:
    import httpx

    from gateway.sources.kube.access import Access

MAX_PAGE: Final = 64 << 20
MAX_ERROR: Final = 64 << 10
USER_AGENT: Final = f"infer-gateway/{__version__}"
Query = Mapping[str, str | int]
"""Parameters of a request; those that are "" are left out."""


class ApiError(OSError):
    """The server's refusal. ``retry_after`` is in seconds, None where it names no time.

    ``reason`` is the Status object's ("NotFound", "Expired", "Conflict", "Forbidden", …), "" where there is none.
    """

    def __init__(
        self,
        status: int,
        reason: str = "",
        message: str = "",
        retry_after: float | None = None,
        details: Details | None = None,
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if message else f"{status} {reason}".rstrip())
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.details = details


class Unreachable(OSError):
    """No answer, or none that can be read: sockets, TLS, timeouts, credentials, HTTP that is broken."""


class Reply(msgspec.Struct, frozen=True):
    """A 2xx answer, whole."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Raises `Unreachable` where it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except ValueError:
            raise Unreachable("the answer is not JSON") from None


class Client:
    """One API server; ``async with`` keeps its connections. ``timeout`` bounds one request, in seconds.

    Streams have a connection each; requests share at most ``connections``.
    """

    def __init__(self, access: Access, *, connections: int = 8, timeout: float = 30.0) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str = "application/json",
        timeout: float | None = None,
        limit: int = MAX_PAGE,
    ) -> Reply:
        """A 2xx answer. ``body``: bytes are sent as they are, anything else as JSON.

        A 401 renews the credentials and is asked again, once. Raises ApiError and Unreachable. Cancellation closes
        the connection at once.
        """
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def stream(self, path: str, query: Query | None = None) -> AsyncIterator[Stream]:
        """A GET whose answer goes on, open while entered. Raises ApiError and Unreachable for its beginning."""
        raise NotImplementedError
        yield


class Stream:
    """The body of an answer that goes on."""

    async def receive(self) -> bytes:
        """The next bytes as they come, b"" at the end. Raises Unreachable. A cancelled one ends the stream."""
        raise NotImplementedError
