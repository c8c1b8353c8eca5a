"""Listening sockets, and the loop that accepts from them. (IO)

Invariant: an accepted socket is its taker's; no client's fault and no shortage of descriptors ends the loop.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import math
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio
from trio.lowlevel import wait_readable

from gateway.net import SocketStream

_log = logging.getLogger("infer_gateway.listen")
_Socket = socket.socket
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PROBE_AFTER_S: Final = 30
_PROBES: Final = 3
_GRACE_S: Final = 5
_LONGEST_MS: Final = 2**31 - 1
"""24 days; the kernel takes no more."""
_ATTACH_FILTER: Final = 26
_ALL: Final = 0xFFFFFFFF
_NO_SYN: Final = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, _ALL))
"""For the kernel's packet filter, from a TCP header on: the flags' byte; of it SYN and ACK; SYN alone is dropped, all
else passes, whole, as connections inherit it."""


class Listener(msgspec.Struct, frozen=True):
    """A listening socket, and the TLS it speaks. ``shared``: other processes may have it, too."""

    socket: socket.socket
    ssl_context: ssl.SSLContext | None = None
    shared: bool = False

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return host, port

    def stream(self, sock: _Socket) -> trio.abc.Stream:
        """The byte stream of a client accepted here; TLS has not shaken hands."""
        raw = SocketStream(sock)
        return raw if self.ssl_context is None else trio.SSLStream(raw, self.ssl_context, server_side=True)


def probe(listeners: Iterable[Listener], patience: float = 60.0) -> None:
    """Have the kernel end connections of clients that have vanished without a word, as far as it can: those accepted
    from now on inherit it.

    One that acknowledges nothing it is sent for ``patience`` seconds (infinity: as long as the kernel likes) is gone,
    and so is one that is sent nothing and does not answer probes for about as long.
    """
    bounded = patience < math.inf
    idle = max(1, min(_PROBE_AFTER_S, int(patience / 2))) if bounded else _PROBE_AFTER_S
    options = [("TCP_KEEPIDLE", idle), ("TCP_KEEPINTVL", max(1, idle // _PROBES)), ("TCP_KEEPCNT", _PROBES)]
    if bounded:  # the moment later lets whoever keeps watch over what is sent be first, who can tell why
        milliseconds = (patience + min(patience, _GRACE_S)) * 1000
        options.append(("TCP_USER_TIMEOUT", int(min(milliseconds, _LONGEST_MS))))
    for listener in listeners:
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options:
            if hasattr(socket, name):
                listener.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


Take = Callable[[Listener, socket.socket, str], object]
"""Gets a client that was accepted, and its address without the port; owns the socket from then on. Never waits."""


async def open_listeners(
    host: str, port: int, ssl_context: ssl.SSLContext | None = None, backlog: int = 4096
) -> list[Listener]:
    """Bind ``host`` (every address it has) and listen. Port 0 picks one. Raises OSError naming the address."""
    try:
        return _bind_all(await _found(host, port), ssl_context, backlog)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}") from error


async def resolved(host: str, port: int) -> list[tuple[str, int]]:
    """What `open_listeners` would bind; nothing where it would fail."""
    try:
        return [(address[0], address[1]) for _, address in await _found(host, port)]
    except OSError:
        return []


async def _found(host: str, port: int) -> list[tuple[int, Any]]:
    """Families and addresses."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(info[0], info[4]) for info in dict.fromkeys(found)]


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


def close_listeners_after(listeners: Sequence[Listener], take: Take) -> None:
    """Stop listening once every client that the kernel has let in is taken: closing alone would reset them."""
    for listener in listeners:
        if listener.socket.fileno() >= 0:
            if not listener.shared:
                _let_nobody_in(listener.socket)
            with suppress(OSError):
                while _accept_waiting(listener, take):
                    pass
    close_listeners(listeners)


def _let_nobody_in(sock: _Socket) -> None:
    """Nobody connects between the last `accept` and the end of the socket: the kernel answers no SYN from now on, and
    whoever has sent one is refused when it tries again. That would hold for whoever shares the socket, for ever.
    """
    if sys.platform != "linux":
        return
    steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    with suppress(OSError):  # not TCP, or not allowed: a window of some microseconds stays
        sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(_NO_SYN), ctypes.addressof(steps)))


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
            if error.errno not in EXHAUSTED:
                continue  # the client left before it was accepted
            _log.error("cannot accept: %s; trying again in 0.1 s", error.strerror)
            await trio.sleep(0.1)


def _accept_waiting(listener: Listener, take: Take) -> bool:
    """Whether there may be more."""
    for _ in range(128):  # then let the connections run
        try:
            sock, address = listener.socket.accept()
        except BlockingIOError:
            return False
        take(listener, sock, str(address[0]) if address else "")
    return True
