"""One HTTP/1.1 request and the reply to it: framing, and as few writes as the reply allows. (T)

The head is held until the first bytes of the body, so that a small answer is one write with a Content-Length. A reply
of unknown length is chunked (HTTP/1.1) or ends with the connection (HTTP/1.0).
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from gateway.types import Headers
from gateway.wire import h1

if TYPE_CHECKING:
    from protocols.http.connection import Connection

_BODILESS = (204, 304)


class HttpExchange:
    """Where a handler answers. Every coroutine here waits only while the client does not read (back-pressure).

    ``peer`` is the client's address, ``subject`` the name in the certificate it has shown.

    A client that is gone cancels the handler. Raises trio.BrokenResourceError when the connection fails under a write.
    """

    __slots__ = (
        "_chunked", "_connection", "_held", "_silent", "_sized", "finished", "peer", "request", "started", "subject",
    )  # fmt: skip

    def __init__(self, connection: Connection, request: h1.Request) -> None:
        self.request = request
        self.peer = connection.peer
        self.subject = connection.subject
        self.started = False
        self.finished = False
        self._connection = connection
        self._held = b""
        self._sized = self._chunked = False
        self._silent = request.method == b"HEAD"

    async def start(self, status: int, headers: Headers) -> None:
        """Set status and fields. Nothing is written before the next `send` or `finish`."""
        self.start_nowait(status, headers)

    def start_nowait(self, status: int, headers: Headers) -> None:
        self.started = True
        for name, _ in headers:
            if name == b"content-length":
                self._sized = True
                break
        if status in _BODILESS:
            self._silent = self._sized = True
        self._held = h1.response_head(status, headers) + self._connection.server.date_field

    def send(self, chunk: bytes) -> Coroutine[Any, Any, None]:
        """Body bytes, written at once. ``b""`` writes the head alone."""
        return self._connection.write(self._framed, chunk)

    def finish(self, chunk: bytes = b"") -> Coroutine[Any, Any, None]:
        """The last body bytes (maybe none) and the end of the message, in one write."""
        return self._connection.write(self._framed_last, chunk)

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """A whole answer at once."""
        await self.start(status, headers)
        await self.finish(body)

    def send_soon(self, chunk: bytes) -> None:
        """Write from outside the handler's task, if no write is under way: for keep-alive comments in a silent stream.

        What the kernel does not take at once goes out before the next write.
        """
        if self.started and not self.finished:
            self._connection.write_soon(self._framed_between, chunk)

    async def end(self, chunk: bytes) -> None:
        """As `finish`, and the connection closes after it: the reply is in order, but something else is not."""
        self._connection.closing = True
        await self.finish(chunk)

    def abort(self) -> None:
        """Cut the connection in mid-message, so that the client can tell a broken reply from a whole one."""
        self.finished = True
        self._connection.abort()

    def _framed_last(self, chunk: bytes) -> bytes:
        self.finished = True
        if self._held and not self._sized:  # the whole body is here: say how long it is
            self._sized = True
            self._held += b"content-length: %d\r\n" % len(chunk)
        data = self._framed(chunk)
        return data + h1.LAST_CHUNK if self._chunked else data

    def _framed_between(self, chunk: bytes) -> bytes:
        return b"" if self.finished else self._framed(chunk)

    def _framed(self, chunk: bytes) -> bytes:
        held = self._held
        if held:
            self._held = b""
            held += self._framing_fields()
        if not chunk or self._silent:
            return held
        if self._chunked:
            return b"%b%x\r\n%b\r\n" % (held, len(chunk), chunk)
        return held + chunk

    def _framing_fields(self) -> bytes:
        """How the body ends, whether the connection does too, and the end of the head.

        A body whose length is not known when it begins is chunked; HTTP/1.0 has but the end of the connection for it.
        """
        connection, fields = self._connection, b""
        if not self._sized:
            if self.request.http10:
                connection.closing = True
            else:
                self._chunked = not self._silent
                fields = b"transfer-encoding: chunked\r\n"
        if connection.closing or connection.server.leaving or not self.request.keep_alive:
            connection.closing = True
            return fields + b"connection: close\r\n\r\n"
        return fields + (b"connection: keep-alive\r\n\r\n" if self.request.http10 else b"\r\n")
