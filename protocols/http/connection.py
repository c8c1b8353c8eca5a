"""One client's connection: requests in turn, each handed to the handler, until either side has had enough. (T)

One task a connection. Requests that arrive early wait in the parser; a client that hangs up cancels whatever is being
done for it. The listener's patrol, not a timer per request, ends connections that idle, trickle or stall.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from gateway.net import SocketStream, handshake, socket_below
from gateway.wire import h1
from protocols.http.exchange import HttpExchange

if TYPE_CHECKING:
    from protocols.http.listener import Server

_log = logging.getLogger("infer_gateway.http")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_LINGER_S = 1.0
_LINGER_BYTES = 64 * 1024 * 1024


class Phase(enum.Enum):
    """What a connection waits for; the patrol has a limit for each but BUSY."""

    IDLE = "idle"
    HEADER = "header"
    BODY = "body"
    BUSY = "busy"


class Connection:
    """``phase`` since ``since``. ``subject`` is the name in the client's certificate, "" if it has shown none.
    ``fresh``: no request has come yet.
    """

    def __init__(self, server: Server, stream: trio.abc.Stream, peer: str) -> None:
        self.server = server
        self.stream = stream
        self.peer = peer
        self.subject = ""
        self.scope = trio.CancelScope()
        self._turn = server.turn
        self.phase = Phase.IDLE if isinstance(stream, SocketStream) else Phase.HEADER  # TLS shakes hands first
        self.since = self._turn.now
        self.closing = False
        self.fresh = True
        self.expired = False
        self._raw = stream if isinstance(stream, SocketStream) else None
        self.socket = socket_below(stream)
        self._lock = trio.Lock() if self._raw is None else None
        self._writing_since: float | None = None
        self._parser = h1.RequestParser(server.limits.max_header, server.limits.max_body)
        self._buffered = server.burden.buffered
        self._counted = 0
        self.begun = self.since

    async def run(self) -> None:
        """Serve the client until it leaves, errs, or is asked to go. Returns with the stream closed."""
        try:
            with self.scope:
                if isinstance(self.stream, trio.SSLStream):
                    await self._shake_hands(self.stream)
                    self.subject = certified_name(self.stream.getpeercert() or {})
                    self.phase = Phase.IDLE
                await self._serve()
                if self.socket is not None:
                    self.socket.flush_last()
                    await self.socket.wait_sent()
                    if self.closing and self.server.leaving:
                        await self._see_out()
            if self.expired:
                await self._refuse(h1.ProtocolError("the request did not arrive in time", 408))
        except _GONE:
            pass
        finally:
            self._forget()
            await self._close()

    async def _shake_hands(self, stream: trio.SSLStream[SocketStream]) -> None:
        try:
            await handshake(stream)
        except trio.BrokenResourceError as error:
            cause, refusals = error.__cause__, self.server.refusals
            if refusals is not None and isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
                refusals.failed_handshake()
            raise

    async def _serve(self) -> None:
        while not self.closing:
            request = await self._next_request()
            if request is None:
                return
            self.phase, self.fresh = Phase.BUSY, False
            exchange = HttpExchange(self, request)
            await self._handle(exchange)
            self._count(0 if self._parser.idle and not self._parser.ready else self._parser.held)
            if not exchange.finished:
                return
            if self.socket is not None and self.socket.stuck_since is not None:
                await self.socket.wait_sent()  # busy until the client has the answer
            self._wait_on()
            if self._parser.ready:  # thousands may be: others have their turn in between
                await trio.lowlevel.checkpoint()

    async def _handle(self, exchange: HttpExchange) -> None:
        """The boundary of one request: whatever a handler raises ends this request and nothing else."""
        try:
            await self.server.handler(exchange)
        except _GONE:
            raise
        except Exception:  # noqa: BLE001 — the boundary
            _log.exception("a handler failed: %s %s", exchange.request.method, exchange.request.target)
            if not exchange.started:
                await exchange.respond(500, _JSON, _error_body(500, "internal error"))
            else:
                self.abort()

    async def _next_request(self) -> h1.Request | None:
        """The next request, or None when there will not be one (the peer has been told why, if it erred)."""
        parser = self._parser
        while not parser.ready:
            if parser.error is not None:
                await self._refuse(parser.error)
                return None
            if self._counted and not self._has_room():
                await self._refuse(h1.ProtocolError(self.server.burden.no_room().message, 503))
                return None
            if parser.continue_wanted:
                parser.continue_wanted = False
                await self.write(bytes, h1.CONTINUE)
            data = await self.stream.receive_some()
            if not data:
                return None
            parser.feed(bytes(data))
            self._counted += len(data)
            self._buffered.held += len(data)
            self._note_progress()
        return parser.ready.popleft()

    def _wait_on(self) -> None:
        """A request is done; some of the next one may be here."""
        parser, self.since = self._parser, self._turn.now
        self.phase = Phase.IDLE if parser.idle else Phase.BODY if parser.in_body else Phase.HEADER
        if self.phase is Phase.BODY:
            self.begun = self.since

    def _note_progress(self) -> None:
        """A header has one limit from its first byte; a body may take as long as it keeps coming."""
        if self._parser.idle:
            if not self._parser.ready:  # an empty line between requests
                self._count(0)
            return
        if self._parser.in_body:
            if self.phase is not Phase.BODY:
                self.begun = self._turn.now
            self.phase, self.since = Phase.BODY, self._turn.now
        elif self.phase is not Phase.HEADER:
            self.phase, self.since = Phase.HEADER, self._turn.now

    def _has_room(self) -> bool:
        """Whether the rest of the request may come: of a body that says how long it will be, all of it."""
        size = max(self._counted, self._parser.declared if self._parser.in_body else 0)
        return self._buffered.room(size - self._counted, size)

    def _count(self, held: int) -> None:
        """So many bytes of requests are held for this client from now on."""
        self._buffered.held += held - self._counted
        self._counted = held

    def _forget(self) -> None:
        """What has come of requests."""
        self._parser.close()
        self._count(0)

    # -- writing ------------------------------------------------------------------------------------------------

    async def write(self, framed: Callable[[bytes], bytes], chunk: bytes) -> None:
        """Hand ``framed(chunk)`` to the client; waits only while the client does not read what it is sent.

        Framing and queueing are one step, so that writers in other tasks come before or after, never between.
        """
        if self._raw is None:
            await self._write_locked(framed, chunk)
            return
        data = framed(chunk)
        if data and self._raw.send_soon(data):
            await self._raw.give_way()

    async def _write_locked(self, framed: Callable[[bytes], bytes], chunk: bytes) -> None:
        assert self._lock is not None
        async with self._lock:
            data = framed(chunk)
            self._writing_since = self._turn.now
            try:
                if data:
                    await self.stream.send_all(data)
            finally:
                self._writing_since = None

    @property
    def stalled(self) -> float | None:
        """Since when the client has not read what it is being sent; None if it keeps up."""
        return (self.socket.stuck_since if self.socket is not None else None) or self._writing_since

    def write_soon(self, framed: Callable[[bytes], bytes], chunk: bytes) -> None:
        """Write from another task; skipped while the client is behind."""
        if self.stalled is not None:
            return
        if self._raw is None:
            self.server.start_soon(self._write_quietly, framed, chunk)
            return
        with contextlib.suppress(*_GONE):  # the handler's own task learns of it
            self._raw.send_soon(framed(chunk))

    async def _write_quietly(self, framed: Callable[[bytes], bytes], chunk: bytes) -> None:
        try:
            await self._write_locked(framed, chunk)
        except _GONE:
            self.scope.cancel()

    # -- ending -------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Close at once, unfinished."""
        self.closing = True
        if self.socket is not None:
            self.socket.close()
        else:
            self.scope.cancel()

    def leave(self) -> None:
        """End an idle connection, after the client has what was said; not if a request has come by now."""
        if self.socket is not None and self.socket.waiting():
            return
        self.closing = True
        if self.socket is not None:
            self.socket.flush()
            if self.socket.stuck_since is not None:
                self.phase = Phase.BUSY
                self.server.start_soon(self._leave_when_sent, self.socket)
                return
        self.scope.cancel()

    async def _leave_when_sent(self, sock: SocketStream) -> None:
        with contextlib.suppress(*_GONE):
            await sock.wait_sent()
        self.scope.cancel()

    async def _refuse(self, error: h1.ProtocolError) -> None:
        """Tell the peer what is wrong and close; read on for a moment, lest the kernel reset the answer away."""
        self.closing = True
        self._forget()
        answer = self.server.refusal(error, self.begun if self.phase is Phase.BODY else self.since)
        with trio.move_on_after(_LINGER_S):
            await self.write(bytes, answer)
            if self._raw is not None:
                await self._raw.send_eof()
            await self._discard()

    async def _see_out(self) -> None:
        """Close when the client has: the answer to its last request must not be reset away by what it still sends."""
        if self._raw is not None:
            with trio.move_on_after(_LINGER_S):
                await self._raw.send_eof()
                await self._discard()

    async def _discard(self) -> None:
        unread = _LINGER_BYTES
        while unread > 0:
            data = await self.stream.receive_some()
            if not data:
                return
            unread -= len(data)

    async def _close(self) -> None:
        if self._raw is not None:
            self._raw.close()
            return
        with trio.CancelScope(shield=True, deadline=self._turn.now + _LINGER_S), contextlib.suppress(*_GONE):
            await self.stream.aclose()  # TLS says good-bye, so that the client can tell an end from a cut
        if self.socket is not None:
            self.socket.close()


def certified_name(certificate: Mapping[str, Any]) -> str:
    """The one name to know a verified certificate by: its first URI (SPIFFE), else its first DNS name, else its CN.

    ``certificate`` is as `ssl.SSLSocket.getpeercert` gives it.
    """
    others: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    for wanted in ("URI", "DNS"):
        for kind, name in others:
            if kind == wanted:
                return name
    relative = (pair for names in certificate.get("subject", ()) for pair in names)
    return next((name for kind, name in relative if kind == "commonName"), "")


_JSON = ((b"content-type", b"application/json"),)


def error_response(error: h1.ProtocolError, fields: bytes) -> bytes:
    """The whole answer to a client that broke HTTP; the connection closes after it."""
    body = _error_body(error.status, error.message)
    head = h1.response_head(error.status, _JSON) + fields
    return head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _error_body(status: int, message: str) -> bytes:
    code = {408: "request_timeout", 413: "request_too_large", 431: "header_too_large", 503: "overloaded"}.get(status)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code or kind}})
