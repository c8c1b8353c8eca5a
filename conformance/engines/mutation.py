"""An engine broken on purpose: one answer changed between the engine and its client, request by request. (T)

Invariant: a request without a mutation passes untouched, at the engine's own pace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import trio

if TYPE_CHECKING:
    from protocols.http.exchange import HttpExchange

Fields = tuple[tuple[bytes, bytes], ...]
Handler = Callable[["HttpExchange"], Awaitable[None]]
_STREAMS = {b"text/event-stream": b"\n\n", b"application/x-ndjson": b"\n"}


class Seen(msgspec.Struct, frozen=True):
    """What a mutation decides on. ``path`` is without the query; names of ``headers`` are lower-case."""

    method: str
    path: str
    headers: Fields
    body: bytes


class Mutation(msgspec.Struct, frozen=True):
    """What is different about one exchange; None leaves that part as it is.

    ``request`` makes the body the engine sees of the one that came. The answer is held until the engine has finished
    it, then changed: ``events`` gets the events of a stream (lines of NDJSON), each with the blank line that ends it,
    and ``body`` the whole body after that, stream or not. ``headers`` gets all fields but the framing and may add
    any. With ``deaf`` the engine does not notice that its client is gone.
    """

    status: int | None = None
    headers: Callable[[Fields], Fields] | None = None
    body: Callable[[bytes], bytes] | None = None
    events: Callable[[list[bytes]], list[bytes]] | None = None
    request: Callable[[bytes], bytes] | None = None
    deaf: bool = False


Mutate = Callable[[Seen], Mutation | None]


def mutated(handler: Handler, mutate: Mutate) -> Handler:
    """A handler that answers as ``handler`` does but for what ``mutate`` says of each request."""

    async def handle(exchange: HttpExchange) -> None:
        request = exchange.request
        path = request.path.decode("latin-1")
        mutation = mutate(Seen(request.method.decode("latin-1"), path, tuple(request.headers), request.body))
        if mutation is None:
            await handler(exchange)
            return
        held = HeldExchange(exchange, mutation)
        with trio.CancelScope(shield=mutation.deaf):
            await handler(held)  # type: ignore[arg-type]
        await held.release()

    return handle


class HeldExchange:
    """Stands in for an exchange: keeps the answer, and sends it changed when it is complete or breaks off."""

    def __init__(self, exchange: HttpExchange, mutation: Mutation) -> None:
        self.request = exchange.request
        if mutation.request is not None:
            self.request = msgspec.structs.replace(exchange.request, body=mutation.request(exchange.request.body))
        self.started = self.finished = False
        self._exchange, self._mutation = exchange, mutation
        self._status, self._headers = 200, Fields()
        self._chunks: list[bytes] = []
        self._aborted = self._closing = False

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.started, self._status, self._headers = True, status, tuple(headers)

    async def send(self, chunk: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._chunks.append(chunk)

    async def finish(self, chunk: bytes = b"") -> None:
        await self.send(chunk)
        self.finished = True

    async def respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> None:
        await self.start(status, headers)
        await self.finish(body)

    async def end(self, chunk: bytes) -> None:
        self._closing = True
        await self.finish(chunk)

    def abort(self) -> None:
        self.finished = self._aborted = True

    async def release(self) -> None:
        """Send what the engine answered, changed. An answer it broke off breaks off here too."""
        exchange = self._exchange
        if self.started:
            parts = self._changed()
            await exchange.start(self._mutation.status or self._status, self._fields())
            for part in parts[:-1]:
                await exchange.send(part)
            last = exchange.end if self._closing else exchange.finish
            await (exchange.send if self._aborted else last)(parts[-1])
        if self._aborted:
            exchange.abort()

    def _fields(self) -> Fields:
        change = self._mutation.headers
        fields = tuple(field for field in self._headers if self._aborted or field[0] != b"content-length")
        return fields if change is None else change(fields)

    def _changed(self) -> list[bytes]:
        """The body in the parts it is sent in: the events of a stream, everything else at once."""
        body, separator = b"".join(self._chunks), self._separator()
        parts = [body]
        if separator:
            parts = split(body, separator)
            parts = parts if self._mutation.events is None else self._mutation.events(parts)
        if self._mutation.body is not None:
            body = self._mutation.body(b"".join(parts))
            parts = split(body, separator) if separator else [body]
        return parts or [b""]

    def _separator(self) -> bytes:
        kind = dict(self._headers).get(b"content-type", b"")
        return _STREAMS.get(kind.partition(b";")[0].strip(), b"")


def split(stream: bytes, separator: bytes = b"\n\n") -> list[bytes]:
    """The events of a stream, each with its end; what follows the last end is a part of its own."""
    parts = [part + separator for part in stream.split(separator)]
    parts[-1] = parts[-1].removesuffix(separator)
    return parts if parts[-1] else parts[:-1]
