"""Listening and accepting: addresses in errors, an end when closed, no end for want of descriptors."""

from __future__ import annotations

import errno
import logging
import math
import socket
import ssl
import sys
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.listen import Listener, accept, close_listeners, open_listeners, probe
from gateway.net import SocketStream


def test_clients_are_handed_over_with_their_address_until_the_listeners_close() -> None:
    taken: list[tuple[Listener, socket.socket, str]] = []

    async def main() -> None:
        listeners = await open_listeners("127.0.0.1", 0)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, listeners, lambda *client: taken.append(client))
                clients = [await trio.open_tcp_stream(*listeners[0].address) for _ in range(3)]
                while len(taken) < 3:
                    await trio.lowlevel.checkpoint()
                close_listeners(listeners)
                close_listeners(listeners)
        for client in clients:
            await client.aclose()

    trio.run(main)
    assert [peer for _, _, peer in taken] == ["127.0.0.1"] * 3
    for _, sock, _ in taken:
        sock.close()


def test_an_address_that_is_taken_is_named() -> None:
    async def main() -> None:
        (listener,) = await open_listeners("127.0.0.1", 0)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{listener.address[1]}: ") as refused:
            await open_listeners(*listener.address)
        assert refused.value.errno == errno.EADDRINUSE
        listener.socket.close()

    trio.run(main)


class Both(trio.abc.HostnameResolver):
    """A name with an address of ours and one of nobody's."""

    async def getaddrinfo(self, host: object, port: object, *rest: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, port)) for at in ("127.0.0.1", "192.0.2.1")]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


def test_of_addresses_that_cannot_all_be_had_none_is_kept() -> None:
    async def main() -> None:
        (listener,) = await open_listeners("127.0.0.1", 0)
        port = listener.address[1]
        listener.socket.close()
        trio.socket.set_custom_hostname_resolver(Both())
        with pytest.raises(OSError, match="cannot listen on both"):
            await open_listeners("both", port)
        (listener,) = await open_listeners("127.0.0.1", port)
        listener.socket.close()

    trio.run(main)


class Exhausted(socket.socket):
    """A listening socket whose process has no descriptors left, twice."""

    refusals = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals < 2:
            self.refusals += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_want_of_descriptors_is_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[socket.socket] = []

    async def main() -> None:
        came = trio.Event()

        def take(_: Listener, client: socket.socket, __: str) -> None:
            taken.append(client)
            came.set()

        sock = Exhausted()
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        listener = Listener(sock)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, [listener], take)
                client = await trio.open_tcp_stream(*listener.address)
                await came.wait()
                close_listeners([listener])
        await client.aclose()
        taken[0].close()

    with caplog.at_level(logging.ERROR):
        trio.run(main, clock=MockClock(autojump_threshold=0.01))
    assert caplog.text.count("cannot accept: Too many open files") == 2


def test_what_a_listener_speaks() -> None:
    async def main() -> None:
        for context, kind in ((None, SocketStream), (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), trio.SSLStream)):
            ours, theirs = socket.socketpair()
            with ours, theirs, socket.socket() as listening:
                stream = Listener(listening, context).stream(ours)
                assert isinstance(stream, kind)
                raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
                raw.close()

    trio.run(main)


@pytest.mark.parametrize(
    ("patience", "idle", "lost_ms"), [(60.0, 30, 65_000), (1.0, 1, 2_000), (1e10, 30, 2**31 - 1), (math.inf, 30, 0)]
)
def test_the_kernel_looks_whether_clients_are_still_there(patience: float, idle: int, lost_ms: int) -> None:
    async def main() -> None:
        (listener,) = await open_listeners("127.0.0.1", 0)
        probe([listener], patience)
        with listener.socket, socket.create_connection(listener.address):
            accepted, _ = listener.socket.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if sys.platform == "linux":
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == lost_ms

    trio.run(main)
