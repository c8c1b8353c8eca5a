"""What a server of Redis may answer at once: a bound under coredis, which has none and keeps all that comes. (IO)

Invariant: between two things that are said to a server, at most `BYTES` and `LINES` are heard; then the connection
fails, at once, and with it whatever waits for its answer.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from anyio.abc import ByteStream

BYTES: Final = 8 * 1024 * 1024
"""Far above what is asked for: 16 messages of replicas have 6.4 MiB at most, as far as names in them are short."""
LINES: Final = 100_000
"""Each may become an object of 200 bytes, though it has but four."""


class Oversized(OSError):
    """More than any answer that was asked for."""


class Bounded(ByteStream):
    """Another stream, whose peer is not believed to come to an end."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._bytes = self._lines = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Raises Oversized, besides what the other stream does."""
        data = await self._stream.receive(max_bytes)
        self._bytes += len(data)
        self._lines += data.count(b"\n")
        if self._bytes > BYTES:
            raise Oversized(f"an answer of more than {BYTES >> 20} MiB")
        if self._lines > LINES:
            raise Oversized(f"an answer of more than {LINES} parts")
        return data

    async def send(self, item: bytes) -> None:
        self._bytes = self._lines = 0
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@functools.cache
def bound() -> None:
    """From now on each connection of coredis is `Bounded`, of whatever client: those that clusters and sentinels open
    for themselves let nobody say how.
    """
    from coredis.connection import TCPConnection, UnixDomainSocketConnection

    kinds: tuple[Any, ...] = (TCPConnection, UnixDomainSocketConnection)
    for kind in kinds:
        kind._connect = _bounded(kind._connect)


def _bounded(connect: Callable[[Any], Awaitable[ByteStream]]) -> Callable[[Any], Awaitable[ByteStream]]:
    @functools.wraps(connect)
    async def connected(connection: Any) -> ByteStream:
        return Bounded(await connect(connection))

    return connected
