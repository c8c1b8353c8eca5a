"""Listening sockets, and the loop that accepts from them. (IO)

Invariant: an accepted socket is its taker's; no client's fault and no shortage of descriptors ends the loop.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import trio
from trio.lowlevel import wait_readable

from gateway.net import SocketStream

_log = logging.getLogger("infer_gateway.listen")
_Socket = socket.socket
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener(msgspec.Struct, frozen=True):
    """A listening socket, and the TLS it speaks."""

    socket: socket.socket
    ssl_context: ssl.SSLContext | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return host, port

    def stream(self, sock: _Socket) -> trio.abc.Stream:
        """The byte stream of a client accepted here; TLS has not shaken hands."""
        raw = SocketStream(sock)
        return raw if self.ssl_context is None else trio.SSLStream(raw, self.ssl_context, server_side=True)


Take = Callable[[Listener, socket.socket, str], object]
"""Gets a client that was accepted, and its address without the port; owns the socket from then on. Never waits."""


async def open_listeners(
    host: str, port: int, ssl_context: ssl.SSLContext | None = None, backlog: int = 4096
) -> list[Listener]:
    """Bind ``host`` (every address it has) and listen. Port 0 picks one. Raises OSError naming the address."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return _bind_all(((info[0], info[4]) for info in dict.fromkeys(found)), ssl_context, backlog)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _bind_all(addresses: Iterable[tuple[int, Any]], ssl_context: ssl.SSLContext | None, backlog: int) -> list[Listener]:
    """All of them, or none."""
    listeners: list[Listener] = []
    try:
        for family, address in addresses:
            listeners.append(Listener(_bind(family, address, backlog), ssl_context))
    except BaseException:
        close_listeners(listeners)
        raise
    return listeners


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


def close_listeners(listeners: Sequence[Listener]) -> None:
    """Stop listening; `accept` on them returns."""
    for listener in listeners:
        if listener.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(listener.socket)
            listener.socket.close()


async def accept(listeners: Sequence[Listener], take: Take) -> None:
    """Hand every client to ``take`` until the listeners are closed, or this is cancelled."""
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept, listener, take)


async def _accept(listener: Listener, take: Take) -> None:
    while True:
        try:
            if listener.socket.fileno() < 0:
                return
            await wait_readable(listener.socket)
            _accept_waiting(listener, take)
        except (trio.ClosedResourceError, ValueError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                continue  # the client left before it was accepted
            _log.error("cannot accept: %s; trying again in 0.1 s", error.strerror)
            await trio.sleep(0.1)


def _accept_waiting(listener: Listener, take: Take) -> None:
    for _ in range(128):  # then let the connections run
        try:
            sock, address = listener.socket.accept()
        except BlockingIOError:
            return
        take(listener, sock, str(address[0]) if address else "")
