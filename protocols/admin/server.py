"""The admin plane's server: hypercorn's protocols on sockets that are already listening. (IO)

Accepting and closing are this module's, the protocols hypercorn's: cancelling closes every connection at once, also one
whose client has stopped reading, and no connection's fault ends the server. hypercorn and Quart (150 ms, 16 MiB) are
imported in a thread once the sockets listen; until then the kernel keeps the connections.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from gateway.net import SocketStream

if TYPE_CHECKING:
    from protocols.admin.app import Admin

_log = logging.getLogger("infer_gateway.admin")

_MAX_CONNECTIONS = 256
_IDLE_S = 75
_CLOSED = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

_answered: ContextVar[SocketStream] = ContextVar("answered")
"""The connection that the running task serves."""

Converse = Callable[[SocketStream], Awaitable[None]]
"""Speaks HTTP on one connection until it ends."""


async def serve(
    admin: Admin,
    sockets: Sequence[socket.socket],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP on the listening ``sockets`` until cancelled; they are closed at the end.

    `started` is reported at once: connections are accepted by the kernel from then on and answered when the imports are
    done.
    """
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    connections: dict[SocketStream, None] = {}
    try:
        task_status.started()
        converse = await trio.to_thread.run_sync(_load, admin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close_when_cancelled, connections)
            await trio.serve_listeners(partial(_connection, converse, connections), listeners, handler_nursery=nursery)
    finally:
        for listener in listeners:
            listener.socket.close()


async def _connection(converse: Converse, connections: dict[SocketStream, None], accepted: trio.SocketStream) -> None:
    # Trio's own send_eof is a checkpoint. hypercorn ends a `connection: close` response in a task that is being
    # cancelled, and so would never close the connection.
    stream = SocketStream(socket.socket(fileno=accepted.socket.detach()))
    if len(connections) >= _MAX_CONNECTIONS:
        # The oldest gives way: clients that hold connections and do nothing cannot lock out a probe.
        next(iter(connections)).close()
    connections[stream] = None
    _answered.set(stream)
    try:
        await converse(stream)
    except* _CLOSED:
        pass  # by the client, or by this module
    except* Exception:  # noqa: BLE001 — the connection boundary: logged, and the other connections go on
        _log.exception("connection failed")
    finally:
        connections.pop(stream, None)
        stream.close()


async def _close_when_cancelled(connections: dict[SocketStream, None]) -> None:
    """hypercorn shields its writes from cancellation: only closing the socket ends one that waits for the client."""
    try:
        await trio.sleep_forever()
    finally:
        for stream in list(connections):
            stream.close()


def _load(admin: Admin) -> Converse:
    """Import what is heavy and bind the application to hypercorn's connection."""
    from hypercorn.config import Config
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import ConnectionState, LifespanState
    from hypercorn.utils import wrap_app

    import gateway.telemetry  # noqa: F401 — so that the first scrape need not
    from protocols.admin.app import make_app

    config = Config()
    config.accesslog = None
    config.errorlog = _log
    config.loglevel = "WARNING"
    config.include_server_header = False
    config.keep_alive_timeout = _IDLE_S
    app: Any = make_app(admin, lambda: _answered.get().close)
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)

    async def converse(stream: SocketStream) -> None:
        state: LifespanState = {}
        plain: Any = stream  # annotated as TLS only
        await TCPServer(wrapped, config, context, ConnectionState(state), plain)

    return converse
