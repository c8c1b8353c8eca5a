"""A minimal HTTP/1.1 client on one raw socket: what a load generator needs and nothing else. (IO)

Invariant: after an exchange that returned, the connection is at a message boundary or closed; after one that raised or
was cancelled, it is closed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable

import httptools
import msgspec
import trio

Received = Callable[[bytes], None]

_STALE_AFTER_S = 1.0
_WAITS = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


class Broken(Exception):
    """The exchange failed below HTTP's meaning. ``kind`` is one of connect, tls, cut, reset, framing, timeout."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Address(msgspec.Struct, frozen=True):
    """A resolved peer; ``context`` and ``host`` are for TLS."""

    family: int
    sockaddr: tuple[str | int, ...] | tuple[int, bytes]
    host: str
    context: ssl.SSLContext | None = None


def tls_context(*, insecure: bool = False, ca_file: str | None = None) -> ssl.SSLContext:
    """Verifies the peer against the system's authorities (or ``ca_file``) unless ``insecure``."""
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def resolve(host: str, port: int, context: ssl.SSLContext | None) -> list[Address]:
    """All addresses of a host in the resolver's order; raises Broken("connect")."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Broken("connect", f"{host}: {error}") from None
    return [Address(family, sockaddr, host, context) for family, _, _, _, sockaddr in found]


class Connection:
    """One connection, opened on first use and again after the peer closed it. Not for concurrent use.

    ``buffer`` is where reads land; connections of one thread may share it, since it is emptied before the next await.
    """

    def __init__(self, address: Address, buffer: memoryview, connect_timeout_s: float = 10.0) -> None:
        self.address = address
        self.reconnects = 0
        self.started_at = 0.0  # perf_counter at the start of the exchange under way, 0 when idle
        self.timed_out = False
        self._buffer = buffer
        self._connect_timeout_s = connect_timeout_s
        self._socket: socket.socket | None = None
        self._used_at = 0.0
        self._fresh = True
        self._parts: list[bytes] = []
        self._complete = False
        self._keep_alive = False
        self._read_any = False
        self._until_close = True

    # httptools calls these.
    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the message says where it ends (RFC 9112 §6.3)."""
        if len(name) in (14, 17) and name.lower() in (b"content-length", b"transfer-encoding"):
            self._until_close = False

    def on_body(self, data: bytes) -> None:
        """Collect until the read is parsed."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """The message is whole; only now does the parser still know whether the connection outlives it."""
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()

    async def exchange(self, message: bytes, received: Received) -> int:
        """Send a request and read its answer; ``received`` gets the body bytes of each read. Returns the status.

        A reused connection that died before the first byte of the answer is replaced once. Raises Broken; when
        cancelled, closes the connection.
        """
        self.timed_out = False
        self.started_at = time.perf_counter()
        try:
            if self._socket is not None and self.started_at - self._used_at > _STALE_AFTER_S and self._stale():
                self.close()
                self.reconnects += 1
            while True:
                if self._socket is None:
                    await self._open()
                try:
                    return await self._exchange(message, received)
                except Broken:
                    if self.timed_out:
                        raise Broken("timeout") from None
                    if self._fresh or self._read_any:
                        raise
                    self.close()
                    self.reconnects += 1
        except BaseException:
            self.close()
            raise
        finally:
            self._used_at = time.perf_counter()
            self.started_at = 0.0

    async def _exchange(self, message: bytes, received: Received) -> int:
        sock = self._socket
        assert sock is not None
        self._complete = self._read_any = False
        self._until_close = True
        parts, buffer, parser = self._parts, self._buffer, self._parser
        parts.clear()
        await self._send(sock, message)
        try:
            while not self._complete:
                count = await self._receive(sock)
                if not count:
                    break
                self._read_any = True
                parser.feed_data(buffer[:count])
                if parts:
                    received(parts[0] if len(parts) == 1 else b"".join(parts))
                    parts.clear()
        except httptools.HttpParserError as error:
            raise Broken("framing", str(error)) from None
        if not self._complete and (self.timed_out or not self._read_any or not self._until_close):
            raise Broken("cut", "the connection ended inside the answer")
        status: int = parser.get_status_code()
        if not self._complete or not self._keep_alive:
            self.close()
        self._fresh = False
        return status

    async def _send(self, sock: socket.socket, message: bytes) -> None:
        view = memoryview(message)
        while True:
            try:
                sent = sock.send(view)
            except (BlockingIOError, ssl.SSLWantWriteError):
                await trio.lowlevel.wait_writable(sock)
                continue
            except OSError as error:
                raise Broken("reset", str(error)) from None
            if sent == len(view):
                return
            view = view[sent:]

    async def _receive(self, sock: socket.socket) -> int:
        """Wait for bytes and read them once; 0 at the end."""
        if self.address.context is None:
            # Nothing can be there yet so soon after the last read: waiting first saves a failed system call.
            await trio.lowlevel.wait_readable(sock)
        while True:
            try:
                return sock.recv_into(self._buffer)
            except _WAITS:
                await trio.lowlevel.wait_readable(sock)
            except ssl.SSLEOFError as error:
                raise Broken("cut", str(error)) from None
            except OSError as error:
                raise Broken("reset", str(error)) from None

    async def open(self) -> None:
        """Connect (and shake hands) now rather than on first use; raises Broken."""
        if self._socket is None:
            await self._open()

    async def _open(self) -> None:
        sock = socket.socket(self.address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with trio.move_on_after(self._connect_timeout_s) as scope:
                await self._connect(sock)
                if self.address.context is not None:
                    sock = await self._handshake(sock, self.address.context)
            if scope.cancelled_caught:
                raise Broken("connect", "timed out")
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        self._fresh = True
        self._parser = httptools.HttpResponseParser(self)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            sock.connect(self.address.sockaddr)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise Broken("connect", os.strerror(code)) from None
        except OSError as error:
            raise Broken("connect", str(error)) from None

    async def _handshake(self, sock: socket.socket, context: ssl.SSLContext) -> socket.socket:
        wrapped = context.wrap_socket(sock, server_hostname=self.address.host, do_handshake_on_connect=False)
        while True:
            try:
                wrapped.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(wrapped)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(wrapped)
            except OSError as error:
                wrapped.close()
                raise Broken("tls", str(error)) from None
            else:
                return wrapped

    def _stale(self) -> bool:
        """Whether an idle connection has been closed by the peer: any byte or end now is out of turn."""
        assert self._socket is not None
        try:
            self._socket.recv_into(self._buffer[:1])
        except _WAITS:
            return False
        except OSError:
            return True
        return True

    def expire(self) -> None:
        """End the exchange under way as timed out; its task sees the end of the stream."""
        if self._socket is not None:
            self.timed_out = True
            with contextlib.suppress(OSError):  # the peer was first
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close now; the next exchange opens a new connection."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None
