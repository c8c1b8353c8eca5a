"""Asking an API server: requests of bounded size in bounded time, and answers that go on. (IO)

Invariant: every failure is an `OSError`, `ApiError` where the server said no and `Unreachable` where it said nothing
of use; no text holds a credential, and a cancelled request leaves no connection behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

import msgspec
import trio

from gateway.sources.kube.messages import ApiError as ApiError
from gateway.sources.kube.messages import TooLong as TooLong
from gateway.sources.kube.messages import Unreachable as Unreachable
from gateway.sources.kube.messages import refusal, status_of
from gateway.sources.kube.wire import Stream as Stream
from gateway.sources.kube.wire import TlsFailure, Wire

if TYPE_CHECKING:
    from gateway.sources.kube.access import Access, Credentials

MAX_PAGE: Final = 64 << 20
MAX_ERROR: Final = 64 << 10
Query = Mapping[str, str | int]
"""Parameters of a request; those that are "" are left out."""


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
    """One API server; ``async with`` keeps its connections. ``timeout``: for one request, in seconds.

    Streams have a connection each; at most ``connections`` requests are under way at a time.
    """

    def __init__(self, access: Access, *, connections: int = 8, timeout: float = 30.0) -> None:
        self.access = access
        self._limit = trio.CapacityLimiter(connections)
        self._timeout = timeout
        self._wire: Wire | None = None
        self._wiring = trio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wire is not None:
            await self._wire.close()

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
        """A 2xx answer of at most ``limit`` bytes. ``body``: bytes go as they are, anything else but None as JSON.

        A 401 renews the credentials and is asked again, once. Raises ApiError and Unreachable. Cancellation closes
        the connection at once.
        """
        patience = self._timeout if timeout is None else timeout
        content = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        headers = {} if content is None else {"content-type": content_type}
        with trio.move_on_after(patience):
            async with self._limit, await self._granted(method, path + _encoded(query), headers, content) as got:
                return Reply(got.status, await got.whole(limit))
        raise self._late(method, path, patience)

    @contextlib.asynccontextmanager
    async def stream(self, path: str, query: Query | None = None) -> AsyncIterator[Stream]:
        """A GET whose answer goes on, open while entered. Raises ApiError and Unreachable for its beginning."""
        got = None
        with trio.move_on_after(self._timeout):
            got = await self._granted("GET", path + _encoded(query), {}, None)
        if got is None:
            raise self._late("GET", path, self._timeout)
        async with got:
            yield got

    def _late(self, method: str, path: str, patience: float) -> Unreachable:
        return Unreachable(f"{self.access.server} did not answer {method} {path} within {patience:g} s")

    async def _granted(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Stream:
        """A 2xx answer whose body is still to come, and for the caller to close."""
        credentials = await self.access.current()
        try:
            return await self._tried(credentials, method, target, headers, content)
        except (ApiError, TlsFailure) as error:
            refused = isinstance(error, TlsFailure) or error.status == 401
            if not refused or not await self.access.renew(credentials):
                raise
        return await self._tried(await self.access.current(), method, target, headers, content)

    async def _tried(
        self, credentials: Credentials, method: str, target: str, headers: Mapping[str, str], content: bytes | None
    ) -> Stream:
        wire = await self._wired(credentials)
        got = await wire.ask(method, self.access.server + target, {**headers, **credentials.headers()}, content)
        if 200 <= got.status < 300:
            return got
        async with got:
            body = await got.whole(MAX_ERROR, cut=True)
            raise refusal(status_of(body), got.status, got.retry_after)

    async def _wired(self, credentials: Credentials) -> Wire:
        """Connections by these certificates. Those by older ones end with what runs on them."""
        async with self._wiring:
            if self._wire is None or self._wire.tls != credentials.tls:
                new = await Wire.made(credentials.tls)
                if self._wire is not None:
                    await self._wire.retire()
                self._wire = new
            return self._wire


def _encoded(query: Query | None) -> str:
    fields = [(name, value) for name, value in (query or {}).items() if value != ""]
    return f"?{urlencode(fields)}" if fields else ""
