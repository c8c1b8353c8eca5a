"""The HTTP/1.1 server: takes connections, patrols and drains. (IO)

Nursery: `Server.run` holds the accept loops, the patrol, the hang-up watch and one task a connection. `settle` has
every answer say that the connection closes, `drain` stops the accept loops and lets the connections finish; cancelling
`run` cuts everything.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Any

import msgspec
import trio

from gateway.burden import CONNECTIONS, DESCRIPTORS, burden
from gateway.http_refusals import HttpRefusals
from gateway.listen import Listener, accept, close_listeners, close_listeners_after, probe
from gateway.net import crowded
from gateway.turn import turn
from gateway.wire import h1
from protocols.http.connection import Connection, Phase, error_response
from protocols.http.exchange import HttpExchange

_log = logging.getLogger("infer_gateway.http")
Handler = Callable[[HttpExchange], Awaitable[None]]
_PATROL_S = 1.0
_LAST_CALL_S = 0.5
"""So long a client that was not told of the end has to come with a request."""
_RESTED_S = 1.0
_KEPT_FREE = 8
"""One place in so many is for newcomers, as long as others only idle."""


class Limits(msgspec.Struct, frozen=True):
    """What one client may take. Sizes in bytes, times in seconds.

    ``header_timeout`` runs from a request's first byte to the end of its header (and over a TLS handshake);
    ``body_timeout`` and ``write_timeout`` are times without progress; where bytes are short a body has ``body_timeout``
    in all. ``idle_timeout`` is above the 60 s that common load balancers keep connections, so that they close first.
    """

    max_header: int = 65536
    max_body: int = 32 * 1024 * 1024
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 75.0
    write_timeout: float = 60.0
    max_connections: int = 16384


class Statistics(msgspec.Struct, frozen=True):
    connections: int
    busy: int
    draining: bool


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
    """``date_field`` is the Date header, made once a second. ``leaving``: every answer says `connection: close`.
    ``refusals`` is told of requests that do not get as far as ``handler``; connections beyond limits are burdens.
    """

    def __init__(
        self,
        handler: Handler,
        listeners: Sequence[Listener],
        limits: Limits | None = None,
        refusals: HttpRefusals | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.leaving = self.draining = False
        self.turn = turn()
        self.refusals = refusals
        self.burden = burden()
        self.date_field = b""
        self._listeners = listeners
        self._connections: set[Connection] = set()
        self._id_prefix = os.urandom(4).hex().encode()
        self._refusal_ids = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self._background: trio.Nursery | None = None
        probe(listeners, self.limits.write_timeout)

    def statistics(self) -> Statistics:
        busy = sum(connection.phase is Phase.BUSY for connection in self._connections)
        return Statistics(len(self._connections), busy, self.draining)

    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        self._set_date()
        try:
            async with trio.open_nursery() as self._background:
                self._background.start_soon(self._patrol)
                async with trio.open_nursery() as self._nursery:
                    task_status.started(self)
                    await accept(self._listeners, self._take)
                self._background.cancel_scope.cancel()
        finally:
            self._nursery = self._background = None
            close_listeners(self._listeners)

    def settle(self) -> None:
        """From now on every answer is the last of its connection; whoever comes is served."""
        self.leaving = True

    def hand_over(self, *, shared: bool = True) -> None:
        """As `settle`, and nobody new is accepted here. ``shared``: from the same sockets others accept."""
        self.leaving = True
        if shared or self._nursery is None:
            close_listeners(self._listeners)
        else:
            close_listeners_after(self._listeners, self._take)

    def drain(self) -> None:
        """Take who has connected and nobody else, close what idles, finish what is under way (`connection: close`);
        then `run` returns. A client from which a request may be on its way has a moment to come with it.
        """
        self.leaving = self.draining = True
        if self._nursery is not None:
            close_listeners_after(self._listeners, self._take)
        for connection in list(self._connections):
            if connection.phase is Phase.IDLE and not connection.fresh:
                connection.leave()
        if self._background is not None:
            self._background.start_soon(self._see_off)

    async def _see_off(self) -> None:
        """Ends what comes to idle."""
        while True:
            await trio.sleep(_LAST_CALL_S / 5)
            for connection in list(self._connections):
                if connection.phase is Phase.IDLE and self.turn.now - connection.since > _LAST_CALL_S:
                    connection.leave()

    def refusal(self, error: h1.ProtocolError, started: float) -> bytes:
        """What a client is told whose request, which began then, broke HTTP; it is noted under an id of its own."""
        request_id = self._refusal_id()
        if self.refusals is not None:
            self.refusals.broke(error, request_id.decode(), started, self.turn.now)
        return self._error_response(error, request_id)

    def _refusal_id(self) -> bytes:
        return b"http-%b-%x" % (self._id_prefix, next(self._refusal_ids))

    def _error_response(self, error: h1.ProtocolError, request_id: bytes) -> bytes:
        again = b"retry-after: 1\r\n" if error.status == 503 else b""
        return error_response(error, b"%bx-request-id: %b\r\n%b" % (self.date_field, request_id, again))

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(function, *args)

    async def serve_stream(self, stream: trio.abc.Stream, peer: str) -> None:
        """One connection on any stream: how tests bring memory streams."""
        await self._serve(self._new(stream, peer))

    def _new(self, stream: trio.abc.Stream, peer: str) -> Connection:
        connection = Connection(self, stream, peer)
        self._connections.add(connection)
        return connection

    async def _serve(self, connection: Connection) -> None:
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

    def _take(self, listener: Listener, sock: socket.socket, peer: str) -> None:
        if len(self._connections) >= self.limits.max_connections:
            self._turn_away(sock, CONNECTIONS)
        elif crowded():
            self._turn_away(sock, DESCRIPTORS)
        else:
            self.start_soon(self._serve, self._new(listener.stream(sock), peer))  # counted at once: many come in a turn

    def _turn_away(self, sock: socket.socket, why: str) -> None:
        self.burden.refused[why] += 1
        with sock:
            sock.setblocking(False)
            error = h1.ProtocolError("too many connections; try again later", 503)
            with contextlib.suppress(OSError):
                sock.send(self._error_response(error, self._refusal_id()))

    # -- patrol -------------------------------------------------------------------------------------------------

    async def _patrol(self) -> None:
        while True:
            await trio.sleep(_PATROL_S)
            self._set_date()
            now = self.turn.now
            for connection in list(self._connections):
                self._inspect(connection, now)
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Where there is hardly a place for newcomers, those leave who have asked for nothing for longest."""
        there, most = len(self._connections), self.limits.max_connections
        surplus = there - most + max(1, most // _KEPT_FREE)
        if crowded():
            surplus = max(surplus, there // _KEPT_FREE)
        if surplus > 0:
            rested = (each for each in self._connections if each.phase is Phase.IDLE and now - each.since > _RESTED_S)
            for connection in heapq.nsmallest(surplus, rested, key=lambda each: each.since):
                connection.leave()

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
            long_in_coming = connection.phase is Phase.BODY and now - connection.begun > limit
            if waited > limit or (long_in_coming and self.burden.buffered.tight):
                connection.expired = True
                connection.scope.cancel()

    def _set_date(self) -> None:
        self.date_field = b"date: %b\r\n" % formatdate(usegmt=True).encode()
