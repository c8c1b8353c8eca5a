"""Requests as no HTTP client would write them, and what comes of them. (IO)"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from conformance.suite.target import Target, Trace
from conformance.suite.wire import Headers, Ration, WireError, dial

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r?\n")


@dataclass
class Reply:
    """``data``: all bytes that came; ``closed``: the server ended the connection within the time."""

    data: bytearray = field(default_factory=bytearray)
    closed: bool = False
    ended: float = 0.0

    @property
    def statuses(self) -> list[int]:
        """Of all answers on the connection, interim ones too. A body that quotes a status line would count."""
        return [int(status) for status in _STATUS.findall(bytes(self.data))]

    @property
    def status(self) -> int | None:
        return self.statuses[0] if self.statuses else None

    @property
    def fields(self) -> Headers:
        head = bytes(self.data).partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head)]

    @property
    def body(self) -> bytes:
        return bytes(self.data).partition(b"\r\n\r\n")[2]

    @property
    def refused(self) -> bool:
        """4xx, 501, 505, or the connection closed without a word."""
        if self.status is None:
            return self.closed
        return 400 <= self.status < 500 or self.status in (501, 505)


async def raw(target: Target, data: bytes, *, wait: float = 2.0, answers: int = 0, eof: bool = False) -> Reply:
    """Send ``data`` on a connection of its own and read until the server closes it, or for ``wait`` seconds, or until
    ``answers`` status lines have come. ``eof``: close our side after sending.
    """
    where = target.setup.address
    peer = f"{where.host} {where.port}"
    pipe = f"openssl s_client -quiet -connect {where.host}:{where.port}" if where.tls else f"nc {peer}"
    escaped = "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data[:4000])
    trace = Trace(
        "RAW", where.origin, [], data, trio.current_time(), command=f"printf %b {shlex.quote(escaped)} | {pipe}"
    )
    target.traces.append(trace)
    reply = trace.answer = Reply()
    stream = await dial(where)
    try:
        await stream.send_all(data)
        if eof and isinstance(stream, trio.SocketStream):
            await stream.send_eof()
        with trio.move_on_after(wait):
            await _read(stream, reply, answers, target.ration)
    except (trio.BrokenResourceError, OSError) as error:
        reply.closed = True
        trace.error = str(WireError(f"the connection broke: {error}"))
    finally:
        target.heard = target.heard or bool(reply.data)
        reply.ended = trace.ended = trio.current_time()
        await trio.aclose_forcefully(stream)
    return reply


async def _read(stream: trio.abc.Stream, reply: Reply, answers: int, ration: Ration) -> None:
    while not answers or len(reply.statuses) < answers:
        data = await stream.receive_some(65536)
        if not data:
            reply.closed = True
            return
        ration.take(len(data))
        reply.data += data


def head(target: Target, line: str, *fields: str) -> bytes:
    """A request's head: ``line``, Host, the usual fields and these, which may hold any byte below 256."""
    own = [f"{name}: {value}" for name, value in target.headers()]
    return "\r\n".join([line, f"Host: {target.setup.address.authority}", *own, *fields, "", ""]).encode("latin-1")


def whole(reply: Reply, names: Sequence[str]) -> str:
    """The first of ``names`` among the answer's fields, "" if none is."""
    return next((value for name, value in reply.fields if name in names), "")
