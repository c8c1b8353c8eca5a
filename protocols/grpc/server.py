"""The gRPC server: takes connections, patrols and drains. (IO)

Nursery: `Server.run` holds the accept loops, the patrol and one task a connection. `drain` stops the accept loops and
asks clients to leave when what they have under way is done; cancelling `run` cuts everything. Who is accepted with the
last ones, or has not said anything yet, is served first.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import trio

from gateway.burden import CONNECTIONS, DESCRIPTORS, burden
from gateway.listen import Listener, accept, close_listeners, close_listeners_after, probe
from gateway.net import crowded
from gateway.turn import turn
from protocols.grpc.codec import Codec, Protobuf
from protocols.grpc.connection import Connection
from protocols.grpc.limits import Limits
from protocols.grpc.stream import Method

_log = logging.getLogger("infer_gateway.grpc")
_PATROL_S = 1.0


class Service(Protocol):
    """What generated service bases are: a table of grpclib's Handlers by path. One with ``max_message`` takes no larger
    ones than that, whatever the server does.
    """

    def __mapping__(self) -> Mapping[str, Any]: ...


class Statistics(msgspec.Struct, frozen=True):
    connections: int
    streams: int
    draining: bool

    @property
    def busy(self) -> int:
        """Calls under way."""
        return self.streams


class Server:
    """Serves ``services`` on ``listeners``; those with TLS offer h2 from then on. ``connections`` are those there are.

    Raises ValueError if two services have the same method.
    """

    def __init__(
        self,
        services: Sequence[Service],
        listeners: Sequence[Listener],
        limits: Limits | None = None,
        *,
        codec: Codec | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.codec = codec or Protobuf()
        self.methods = _methods(services)
        self.turn = turn()
        self.burden = burden()
        self.draining = False
        self._listeners = listeners
        self.connections: set[Connection] = set()
        self._failures = itertools.count(1)
        self._id_prefix = os.urandom(4).hex()
        self._nursery: trio.Nursery | None = None
        probe(listeners, self.limits.write_timeout)
        for listener in listeners:
            if listener.ssl_context is not None:
                listener.ssl_context.set_alpn_protocols(["h2"])

    def statistics(self) -> Statistics:
        streams = sum(len(connection.streams) for connection in self.connections)
        return Statistics(len(self.connections), streams, self.draining)

    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or drained."""
        try:
            async with trio.open_nursery() as background:
                background.start_soon(self._patrol)
                async with trio.open_nursery() as self._nursery:
                    task_status.started(self)
                    await accept(self._listeners, self._take)
                background.cancel_scope.cancel()
        finally:
            self._nursery = None
            close_listeners(self._listeners)

    def drain(self, *, handed_over: bool = False) -> None:
        """Take who has connected and nobody else, and ask every client to leave when its calls are done; then `run`
        returns. ``handed_over``: others accept from the same sockets.
        """
        self.draining = True
        if handed_over or self._nursery is None:
            close_listeners(self._listeners)
        else:
            close_listeners_after(self._listeners, self._take)
        for connection in list(self.connections):
            connection.drain()

    def next_failure(self) -> str:
        """An id that ties what a client is told of a failure to the log."""
        return f"grpc-{self._id_prefix}-{next(self._failures):x}"

    def converse(self, stream: trio.abc.Stream, peer: str) -> None:
        """Serve one connection on any stream: what the accept loop does, and how tests bring memory streams."""
        assert self._nursery is not None
        self._nursery.start_soon(self._converse, stream, peer)

    async def _converse(self, stream: trio.abc.Stream, peer: str) -> None:
        connection = Connection(self, stream, peer)
        self.connections.add(connection)
        if self.draining:
            connection.drain()
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
            self.connections.discard(connection)

    def _take(self, listener: Listener, sock: socket.socket, peer: str) -> None:
        if len(self.connections) >= self.limits.max_connections:
            self._turn_away(sock, CONNECTIONS)
        elif crowded():
            self._turn_away(sock, DESCRIPTORS)
        else:
            self.converse(listener.stream(sock), peer)

    def _turn_away(self, sock: socket.socket, why: str) -> None:
        self.burden.refused[why] += 1
        sock.close()

    async def _patrol(self) -> None:
        while True:
            await trio.sleep(_PATROL_S)
            for connection in list(self.connections):
                connection.inspect()


def _methods(services: Sequence[Service]) -> dict[bytes, Method]:
    methods: dict[bytes, Method] = {}
    for service in services:
        most: int = getattr(service, "max_message", sys.maxsize)
        for path, handler in service.__mapping__().items():
            if path.encode() in methods:
                raise ValueError(f"{path} is served twice")
            streams_in, streams_out = handler.cardinality.value
            methods[path.encode()] = Method(handler.func, streams_in, streams_out, handler.request_type, most)
    return methods
