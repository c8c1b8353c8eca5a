"""A server that does what it should not, as long as it is told to: keeps mute, babbles, cuts. (IO)"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Way = Callable[[socket.socket, threading.Event], object]
"""What becomes of a connection until the event is set, which happens when another way is gone."""


class Crooked:
    """Goes ``way``, over TLS with ``context``. Connections of before end when it is set anew."""

    def __init__(self, way: Way, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._way, self._over = way, threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self.taken = 0
        """Connections so far."""

    def go(self, way: Way) -> None:
        over, self._over, self._way = self._over, threading.Event(), way
        over.set()
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def then(self, way: Way) -> None:
        """Connections to come go that way; those there are go on as they do."""
        self._way = way

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.taken += 1
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection, self._way, self._over), daemon=True).start()

    def _serve(self, connection: socket.socket, way: Way, over: threading.Event) -> None:
        try:
            with suppress(OSError), connection:
                connection.settimeout(10)
                if self._context is None:
                    way(connection, over)
                    return
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self._open.add(secure)
                    way(secure, over)
                    self._open.discard(secure)
        finally:
            self._open.discard(connection)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


def mute(connection: socket.socket, over: threading.Event) -> None:
    """It takes what comes, as the kernel does."""
    over.wait()


def cut(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def saying(*pieces: bytes) -> Way:
    """These, whatever it is asked, and no more."""

    def way(connection: socket.socket, over: threading.Event) -> None:
        while connection.recv(65536):
            for piece in pieces:
                connection.sendall(piece)

    return way


def endless(first: bytes, again: bytes) -> Way:
    """``again`` and again, as long as it is taken."""

    def way(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(first)
        while not over.is_set():
            connection.sendall(again)

    return way


noise = saying(os.urandom(1000))


def relay(port: int) -> Way:
    """As somebody else on this machine does."""

    def way(connection: socket.socket, over: threading.Event) -> None:
        with socket.create_connection(("127.0.0.1", port)) as other:
            back = threading.Thread(target=_pump, args=(other, connection), daemon=True)
            ahead = threading.Thread(target=_pump, args=(connection, other), daemon=True)
            back.start()
            ahead.start()
            while not over.wait(0.02) and back.is_alive():
                pass
            for each in (connection, other):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            back.join()
            ahead.join()

    return way


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        source.settimeout(None)
        while data := source.recv(65536):
            sink.sendall(data)
