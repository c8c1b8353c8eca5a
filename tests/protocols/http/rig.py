"""A server on a free port, and clients that read when they are told to. (IO)"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio
import trustme

from gateway.http_refusals import HttpRefusals
from gateway.listen import Listener, open_listeners
from gateway.net import SocketStream, connect, handshake
from protocols.http.exchange import HttpExchange
from protocols.http.listener import Limits, Server

TEXT = ((b"content-type", b"text/plain"),)
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(exchange: HttpExchange) -> None:
    await exchange.respond(
        200, TEXT, exchange.request.method + b" " + exchange.request.target + b" " + exchange.request.body
    )


class Rig:
    """A server on a free port and clients on raw sockets."""

    def __init__(self, server: Server, listeners: Sequence[Listener]) -> None:
        self.server = server
        self.listeners = listeners
        self.port = listeners[0].address[1]
        self.clients: list[SocketStream] = []

    async def client(self) -> SocketStream:
        self.clients.append(await connect("127.0.0.1", self.port))
        return self.clients[-1]

    async def slow_client(self) -> SocketStream:
        """Its own buffer is small, and so is the server's for it: most of a long answer waits for its reader."""
        for listener in self.listeners:
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect(("127.0.0.1", self.port))
        self.clients.append(SocketStream(sock))
        return self.clients[-1]

    async def secure(self, trusting: ssl.SSLContext, *, slow: bool = False) -> trio.SSLStream[SocketStream]:
        """A client over TLS, its handshake done."""
        raw = await (self.slow_client() if slow else self.client())
        stream = trio.SSLStream(raw, trusting, server_hostname="127.0.0.1", https_compatible=True)
        await handshake(stream)
        return stream


def run(
    handler: Callable[[HttpExchange], Awaitable[None]],
    scenario: Callable[[Rig], Awaitable[None]],
    limits: Limits | None = None,
    context: ssl.SSLContext | None = None,
    clock: trio.abc.Clock | None = None,
    refusals: HttpRefusals | None = None,
) -> None:
    async def main() -> None:
        listeners = await open_listeners("127.0.0.1", 0, context)
        server = Server(handler, listeners, limits, refusals)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: server.run(task_status=task_status))
                rig = Rig(server, listeners)
                try:
                    await scenario(rig)
                finally:
                    for client in rig.clients:
                        client.close()
                    nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = await stream.receive_some(65536)
        if not more:
            raise AssertionError(f"closed after {data!r}")
        data += more
    return data


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    while more := await stream.receive_some(65536):
        data += more
    return data


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for 127.0.0.1 and one of a client that trusts it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return context, trusting
