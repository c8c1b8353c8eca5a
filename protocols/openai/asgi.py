"""The OpenAI API as an ASGI 3 application, for servers on Trio: hypercorn (HTTP/2), or mounted in a Quart-Trio app. (T)

One nursery a request: the handler, and a watcher that cancels it as soon as the server reports the client gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio

from gateway.errors import BodyTooLarge
from gateway.types import Headers
from gateway.wire.h1 import Request
from protocols.openai.serve import OpenAIApp

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_TOO_LARGE = b"\0"  # by identity


class AsgiExchange:
    """`protocols.openai.exchange.HttpReply` over one ASGI HTTP connection: a response's start is held as HTTP/1.1's is.

    ``peer`` and ``subject`` are what the server says of the connection (the TLS extension's name of the client).
    ASGI cannot cut a connection. `abort` leaves the message unfinished where the server then closes for us (HTTP/1.1)
    and ends it early elsewhere, since a stream that nobody ends would keep its HTTP/2 client waiting.
    """

    def __init__(self, request: Request, scope: Message, send: Send, nursery: trio.Nursery) -> None:
        self.request = request
        self.peer = (scope.get("client") or ("",))[0]
        self.subject = _subject(scope)
        self.started = False
        self.finished = False
        self.aborted = False
        self._held: Message | None = None
        self._http_version: str = scope.get("http_version", "1.1")
        self._asgi_send = send
        self._nursery = nursery
        self._lock = trio.Lock()

    def start_nowait(self, status: int, headers: Headers) -> None:
        self.started = True
        self._held = {"type": "http.response.start", "status": status, "headers": list(headers)}

    async def send(self, chunk: bytes) -> None:
        async with self._lock:
            await self._write(chunk, more=True)

    async def finish(self, chunk: bytes = b"") -> None:
        self.finished = True
        async with self._lock:
            if self._held is not None and self.request.method != b"HEAD":
                self._declare(chunk)
            await self._write(chunk, more=False)

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self.start_nowait(status, headers)
        self._declare(body)
        await self.finish(body)

    async def end(self, chunk: bytes) -> None:
        await self.finish(chunk)  # whether the connection closes after it is the server's business

    def send_soon(self, chunk: bytes) -> None:
        if self.started and not self.finished and not self._lock.locked():
            self._nursery.start_soon(self._send_quietly, chunk)

    def abort(self) -> None:
        self.finished = self.aborted = True

    async def close(self) -> None:
        """After the handler: what ASGI needs to end an aborted message."""
        if self.aborted and not self._http_version.startswith("1"):
            await self._write(b"", more=False)

    async def _send_quietly(self, chunk: bytes) -> None:
        async with self._lock:
            if not self.finished:
                await self._write(chunk, more=True)

    async def _write(self, chunk: bytes, *, more: bool) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            await self._asgi_send(held)
        body = b"" if self.request.method == b"HEAD" else chunk
        await self._asgi_send({"type": "http.response.body", "body": body, "more_body": more})

    def _declare(self, body: bytes) -> None:
        """Say how long the whole body is, unless that has been said."""
        assert self._held is not None
        headers = self._held["headers"]
        if not any(name == b"content-length" for name, _ in headers):
            headers.append((b"content-length", b"%d" % len(body)))


class AsgiApp:
    """``max_body`` bounds a request's body in bytes; a larger one is answered with 413 and not kept."""

    def __init__(self, app: OpenAIApp, max_body: int = 32 * 1024 * 1024) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await self._read(receive)
        if body is None:
            return
        async with trio.open_nursery() as nursery:
            request = _request(scope, b"" if body is _TOO_LARGE else body)
            exchange = AsgiExchange(request, scope, send, nursery)
            nursery.start_soon(_watch, receive, exchange, nursery.cancel_scope)
            if body is _TOO_LARGE:
                await self._app.refuse(exchange, BodyTooLarge(f"The request's body exceeds {self._max_body} bytes."))
            else:
                await self._app(exchange)
            await exchange.close()
            nursery.cancel_scope.cancel()

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, ``_TOO_LARGE``, or None if the client left first.

        What exceeds the bound is dropped but read to its end before anything is answered: hypercorn 0.18 crashes on
        HTTP/2 data that arrives after its stream's answer.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size <= self._max_body:
                parts.append(part)
            else:
                parts.clear()
            if not message.get("more_body", False):
                return b"".join(parts) if size <= self._max_body else _TOO_LARGE


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing starts or stops here: the core's life is the host's to arrange."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _watch(receive: Receive, exchange: AsgiExchange, scope: trio.CancelScope) -> None:
    """Cancel the request when its client leaves.

    Servers also report a disconnect once the response is complete, from inside the very `send` that completes it:
    that one is left to end in peace.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    if not exchange.finished:
        scope.cancel()


def _subject(scope: Message) -> str:
    """Of a client certificate that the server has verified, as far as it supports ASGI's TLS extension."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return "" if tls.get("client_cert_error") else tls.get("client_cert_name") or ""


def _request(scope: Message, body: bytes) -> Request:
    """The request below the point where this application is mounted (``root_path``)."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    root = scope.get("root_path", "").encode()
    if root and path.startswith(root):
        path = path[len(root) :]
    query = scope.get("query_string", b"")
    target = b"%b?%b" % (path, query) if query else path
    headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
    return Request(scope["method"].encode(), target, headers, body, True, False, dict(headers))
