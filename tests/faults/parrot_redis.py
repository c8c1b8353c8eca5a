"""A Redis that knows its manners, and keeps nothing: it grants whatever is asked for, or says what it is told to. (IO)

It speaks RESP3 with whoever greets it, so that what is odd about an answer is all that is odd.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import BinaryIO

import msgspec

Said = Iterable[bytes]
"""Written piece by piece, as long as it is taken."""

_HELLO = b"%3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n"
_POLITE = {b"HELLO": _HELLO, b"XADD": b"$3\r\n5-1\r\n", b"EXPIRE": b":1\r\n"}


def bulk(content: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(content), content)


def granted(body: bytes, at: float = 1e9, wait: float = 0.0) -> bytes:
    """What the script answers to a batch: everything, at once."""
    return bulk(msgspec.msgpack.encode((at, [(not wait, wait, [1.0] * len(demands)) for demands in requests(body)])))


def requests(body: bytes) -> list[list[object]]:
    """What a batch wants, as `gateway/store/limits.lua` has it."""
    *_, wanted = msgspec.msgpack.decode(body)
    assert isinstance(wanted, list)
    return wanted


class ParrotRedis:
    """``odd`` says something else to a command, named first in capitals, or None; a way of `tests.faults.crooked`."""

    def __init__(self) -> None:
        self.odd: Callable[[list[bytes]], Said | None] = lambda words: None

    def __call__(self, connection: socket.socket, over: threading.Event) -> None:
        with connection.makefile("rb") as commands:
            while words := _command(commands):
                said = self.odd(words)
                for piece in (self._said(words, over),) if said is None else said:
                    connection.sendall(piece)

    def _said(self, words: list[bytes], over: threading.Event) -> bytes:
        if words[0] == b"EVALSHA":
            return granted(words[-1])
        if words[0] == b"XREAD":
            over.wait(0.1 if b"BLOCK" in words else 0.0)
            return b"_\r\n"
        return _POLITE.get(words[0], b"+OK\r\n")


def _command(commands: BinaryIO) -> list[bytes]:
    """The words of the next one; none at the end."""
    count = int(commands.readline()[1:] or 0)
    return [commands.read(int(commands.readline()[1:]) + 2)[:-2] for _ in range(count)]
