"""What a server may send in answer to one question, however it is framed, under httpx, which has no bound. (IO)

Invariant: between two things that are written to a connection at most `BYTES` are read, a little at a time, and whoever
else has something to do goes on in between.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx
import trio

BYTES: Final = 1280 * 1024
"""A body of a MiB, and what frames it."""
_PIECE: Final = 4096
"""Of the smallest chunks, and answers before the answer (1xx), which all cost alike: 20 ms of this process at most."""


class Transport(httpx.AsyncHTTPTransport):
    """That of httpx, over bounded connections."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Backend(),
        )


class _Bounded(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._read = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises httpcore.ReadError, besides what the stream does."""
        await trio.lowlevel.checkpoint()  # which TLS does not if it has something left
        data = await self._stream.read(min(max_bytes, _PIECE), timeout)
        self._read += len(data)
        if self._read > BYTES:
            raise httpcore.ReadError(f"more than {BYTES} bytes for one answer")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._read = 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Bounded(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.AnyIOBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Bounded(await super().connect_tcp(host, port, timeout, local_address, socket_options))
