"""The HTTP/1.1 server: accepts, patrols and drains. (IO)

Nursery: `Server.run` holds the accept loops, the patrol, the hang-up watch and one task a connection. `drain` stops
the accept loops and lets the connections finish; cancelling `run` cuts everything.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Any

import msgspec
import trio
from trio.lowlevel import wait_readable

from gateway.net import SocketStream
from gateway.turn import turn
from gateway.wire import h1
from protocols.http.connection import Connection, Phase, error_response
from protocols.http.exchange import HttpExchange

_log = logging.getLogger("infer_gateway.http")
Handler = Callable[[HttpExchange], Awaitable[None]]
_PATROL_S = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Limits(msgspec.Struct, frozen=True):
    """What one client may take. Sizes in bytes, times in seconds.

    ``header_timeout`` runs from a request's first byte to the end of its header (and over a TLS handshake);
    ``body_timeout`` and ``write_timeout`` are times without progress. ``idle_timeout`` is above the 60 s that common
    load balancers keep connections, so that they close first.
    """

    max_header: int = 65536
    max_body: int = 32 * 1024 * 1024
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 75.0
    write_timeout: float = 60.0
    max_connections: int = 16384


class Listener(msgspec.Struct, frozen=True):
    """A listening socket, and the TLS it speaks."""

    socket: socket.socket
    ssl_context: ssl.SSLContext | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return host, port


class Statistics(msgspec.Struct, frozen=True):
    connections: int
    busy: int
    draining: bool


async def open_listeners(
    host: str, port: int, ssl_context: ssl.SSLContext | None = None, backlog: int = 4096
) -> list[Listener]:
    """Bind ``host`` (every address it has) and listen. Port 0 picks one. Raises OSError naming the address."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [Listener(_bind(info[0], info[4], backlog), ssl_context) for info in dict.fromkeys(found)]
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _bind(family: int, address: Any, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


async def serve(
    handler: Handler,
    listeners: Sequence[Listener],
    limits: Limits | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, or until the server handed to ``task_status`` has drained."""
    await Server(handler, listeners, limits).run(task_status=task_status)


class Server:
    """``date_field`` is the Date header, made once a second."""

    def __init__(self, handler: Handler, listeners: Sequence[Listener], limits: Limits | None = None) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.draining = False
        self.turn = turn()
        self.date_field = b""
        self._listeners = listeners
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()
        self._id_prefix = os.urandom(4).hex().encode()
        self._refusals = itertools.count(1)
        self._nursery: trio.Nursery | None = None

    def statistics(self) -> Statistics:
        busy = sum(connection.phase is Phase.BUSY for connection in self._connections)
        return Statistics(len(self._connections), busy, self.draining)

    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        self._set_date()
        try:
            async with trio.open_nursery() as background:
                background.start_soon(self._patrol)
                async with trio.open_nursery() as self._nursery:
                    task_status.started(self)
                    with self._accepting:
                        async with trio.open_nursery() as accepting:
                            for listener in self._listeners:
                                accepting.start_soon(self._accept, listener)
                background.cancel_scope.cancel()
        finally:
            for listener in self._listeners:
                listener.socket.close()

    def drain(self) -> None:
        """Stop accepting, close what idles, finish what is under way (`connection: close`); then `run` returns."""
        self.draining = True
        self._accepting.cancel()
        for listener in self._listeners:
            trio.lowlevel.notify_closing(listener.socket)
            listener.socket.close()
        for connection in list(self._connections):
            if connection.phase is Phase.IDLE:
                connection.leave()

    def error_response(self, error: h1.ProtocolError) -> bytes:
        """What a client that broke HTTP is told, under an id of its own."""
        request_id = b"x-request-id: http-%b-%x\r\n" % (self._id_prefix, next(self._refusals))
        return error_response(error, self.date_field + request_id)

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(function, *args)

    async def serve_stream(self, stream: trio.abc.Stream, peer: str) -> None:
        """One connection on any stream: what the accept loop starts, and how tests bring memory streams."""
        connection = Connection(self, stream, peer)
        self._connections.add(connection)
        raw = connection.socket
        if raw is not None:
            raw.on_hangup = connection.scope.cancel
            if raw.ended:  # before anybody listened
                connection.scope.cancel()
        try:
            await connection.run()
        except Exception:  # noqa: BLE001 — no client ends the server, whatever it finds to do
            _log.exception("a connection failed")
        finally:
            self._connections.discard(connection)

    # -- accepting ----------------------------------------------------------------------------------------------

    async def _accept(self, listener: Listener) -> None:
        while True:
            try:
                if listener.socket.fileno() < 0:
                    return  # drained
                await wait_readable(listener.socket)
                self._accept_waiting(listener)
            except (trio.ClosedResourceError, ValueError):
                return  # drained
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # the client left before it was accepted
                _log.error("cannot accept: %s; trying again in 0.1 s", error.strerror)
                await trio.sleep(0.1)

    def _accept_waiting(self, listener: Listener) -> None:
        for _ in range(128):  # then let the connections run
            try:
                sock, address = listener.socket.accept()
            except BlockingIOError:
                return
            if len(self._connections) >= self.limits.max_connections:
                self._turn_away(sock)
                continue
            stream: trio.abc.Stream = SocketStream(sock)
            if listener.ssl_context is not None:
                stream = trio.SSLStream(stream, listener.ssl_context, server_side=True)
            self.start_soon(self.serve_stream, stream, str(address[0]) if address else "")

    def _turn_away(self, sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            error = h1.ProtocolError("too many connections; try again later", 503)
            with contextlib.suppress(OSError):
                sock.send(self.error_response(error))

    # -- patrol -------------------------------------------------------------------------------------------------

    async def _patrol(self) -> None:
        while True:
            await trio.sleep(_PATROL_S)
            self._set_date()
            now = self.turn.now
            for connection in list(self._connections):
                self._inspect(connection, now)

    def _inspect(self, connection: Connection, now: float) -> None:
        limits, waited = self.limits, now - connection.since
        if connection.stalled is not None:
            if now - connection.stalled > limits.write_timeout:
                connection.abort()
        elif connection.phase is Phase.IDLE:
            if waited > limits.idle_timeout:
                connection.scope.cancel()
        elif connection.phase is not Phase.BUSY:
            limit = limits.header_timeout if connection.phase is Phase.HEADER else limits.body_timeout
            if waited > limit:
                connection.expired = True
                connection.scope.cancel()

    def _set_date(self) -> None:
        self.date_field = b"date: %b\r\n" % formatdate(usegmt=True).encode()
