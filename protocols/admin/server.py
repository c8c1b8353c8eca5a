"""The admin plane's server: hypercorn's protocols on sockets that are already listening. (IO)

Accepting and closing are this module's, the protocols hypercorn's: cancelling closes every connection at once, also one
whose client has stopped reading, and no connection's fault ends the server. hypercorn and Quart (150 ms, 16 MiB) are
imported in a thread once the sockets listen; until then the kernel keeps the connections.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from gateway.listen import EXHAUSTED, Listener
from gateway.net import SocketStream
from gateway.threads import in_thread
from protocols.admin.access import UNGUARDED, Rules
from protocols.admin.front import front

if TYPE_CHECKING:
    from protocols.admin.app import Admin

_log = logging.getLogger("infer_gateway.admin")

_MAX_CONNECTIONS = 256
_IDLE_S = 75
_AGAIN_S = 0.5
_CLOSED = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

_answered: ContextVar[_Connection] = ContextVar("answered")
"""The connection that the running task serves."""


Converse = Callable[[trio.abc.Stream], Awaitable[None]]
"""Speaks HTTP on one connection until it ends."""


class _Connection(SocketStream):
    """``active``: when bytes last came or went. ``stays``: it is watched by somebody who may."""

    __slots__ = ("active", "stays")

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.active = trio.current_time()
        self.stays = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        self.active = trio.current_time()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(data)
        self.active = trio.current_time()


async def serve(
    admin: Admin,
    listener: Listener,
    named: str = "",
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP on the ``listener``, with TLS if it has that, until cancelled; it is closed at the end. Closed before,
    nobody new is taken. ``named``: what its address was called.

    `started` is reported at once: connections are accepted by the kernel from then on and answered when the imports are
    done.
    """
    listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener.socket))
    rules = Rules(listener.address[0], named, tls=listener.ssl_context is not None)
    if not rules.loopback and not admin.listener.token_file:
        _log.warning("the admin listener is on %s: %s", listener.address[0], UNGUARDED)
    connections: dict[_Connection, None] = {}
    try:
        task_status.started()
        converse = await _loaded(admin, rules)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close_when_cancelled, connections)
            nursery.start_soon(_close_idle, connections)
            taken = partial(_connection, converse, connections, listener.ssl_context)
            try:
                await trio.serve_listeners(taken, [listening], handler_nursery=nursery)
            except* trio.ClosedResourceError:
                await trio.sleep_forever()  # somebody else accepts now; who is here is answered
    finally:
        listening.socket.close()


async def _loaded(admin: Admin, rules: Rules) -> Converse:
    """As `_load`, again where descriptors or threads were short: clients may have come first."""
    while True:
        try:
            return await in_thread(_load, admin, rules)
        except OSError as error:
            if error.errno not in (*EXHAUSTED, errno.EAGAIN):
                raise
            _log.error("the admin plane cannot be loaded yet: %s", error.strerror)
            await trio.sleep(_AGAIN_S)


async def _connection(
    converse: Converse,
    connections: dict[_Connection, None],
    tls: ssl.SSLContext | None,
    accepted: trio.SocketStream,
) -> None:
    # Trio's own send_eof is a checkpoint. hypercorn ends a `connection: close` response in a task that is being
    # cancelled, and so would never close the connection.
    stream = _Connection(socket.socket(fileno=accepted.socket.detach()))
    if len(connections) >= _MAX_CONNECTIONS:
        # The oldest gives way: clients that hold connections and do nothing cannot lock out a probe.
        next((each for each in connections if not each.stays), next(iter(connections))).close()
    connections[stream] = None
    _answered.set(stream)
    try:
        await converse(stream if tls is None else _secure(stream, tls))
    except* _CLOSED:
        pass  # by the client, or by this module
    except* Exception:  # noqa: BLE001 — the connection boundary: logged, and the other connections go on
        _log.exception("connection failed")
    finally:
        connections.pop(stream, None)
        stream.close()


def _secure(stream: SocketStream, tls: ssl.SSLContext) -> trio.SSLStream[SocketStream]:
    """Ended by closing, as browsers do."""
    return trio.SSLStream(stream, tls, server_side=True, https_compatible=True)


async def _close_when_cancelled(connections: dict[_Connection, None]) -> None:
    """hypercorn shields its writes from cancellation: only closing the socket ends one that waits for the client."""
    try:
        await trio.sleep_forever()
    finally:
        for stream in list(connections):
            stream.close()


async def _close_idle(connections: dict[_Connection, None]) -> None:
    """hypercorn bounds only the wait for a request: whoever watches sends none, and whoever does not read is stuck."""
    while True:
        await trio.sleep(_IDLE_S / 5)
        bar = trio.current_time() - _IDLE_S
        for stream in [stream for stream in connections if stream.active < bar]:
            stream.close()


async def _as_it_is(_: object) -> None:
    """In place of a look at what else a client would speak."""


def _load(admin: Admin, rules: Rules) -> Converse:
    """Import what is heavy and bind the application to hypercorn's connection."""
    from hypercorn.config import Config
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import ConnectionState, LifespanState
    from hypercorn.utils import wrap_app

    import gateway.telemetry  # noqa: F401 — so that the first scrape need not
    from protocols.admin.app import make_app

    class Server(TCPServer):
        """HTTP/1.1, whatever else the client offers: streams of HTTP/2 would share what is bounded by connection."""

        async def _read_data(self) -> None:
            protocol: Any = self.protocol.protocol
            protocol._check_protocol = _as_it_is
            await super()._read_data()

    config = Config()
    config.accesslog = None
    config.errorlog = _log
    config.loglevel = "WARNING"
    config.include_server_header = False
    config.read_timeout = None
    app: Any = make_app(admin, rules, _answered.get)
    asked: Any = front(app)
    wrapped = wrap_app(asked, config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)

    async def converse(stream: trio.abc.Stream) -> None:
        state: LifespanState = {}
        either: Any = stream  # annotated as TLS only
        server = Server(wrapped, config, context, ConnectionState(state), either)
        try:
            await server
        finally:
            vars(server).clear()  # it and its protocol refer to each other

    return converse
