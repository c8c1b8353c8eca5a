"""A reverse proxy that spoils what passes: what stands for a gateway with that fault. (T)

Requests it has no `Spoil` for pass byte for byte, with all that follows on their connection. A spoiled answer is
fetched whole, changed, and sent as the only one on its connection.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import trio

from conformance.suite.wire import Address

Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class Seen:
    """A request as far as it had come; ``data``: all of its bytes."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    data: bytes


@dataclass(frozen=True)
class Whole:
    """An answer with its framing taken off."""

    status: int
    fields: Fields
    body: bytes


Change = Callable[[Whole], Whole | bytes]


@dataclass(frozen=True)
class Spoil:
    """``change``: what becomes of the answer; bytes go out as they are. ``canned``: the answer, nobody is asked.

    ``request``: what is sent on instead. ``times``: it is sent so often. ``deaf``: the client's leaving is not noticed.
    ``wait``: seconds before anything is done. ``stays``: the connection stays open behind the answer.
    """

    change: Change = lambda answer: answer
    canned: bytes | None = None
    request: Callable[[bytes], bytes] = lambda data: data
    times: int = 1
    deaf: bool = False
    wait: float = 0.0
    stays: bool = False


Spoils = Callable[[Seen], Spoil | None]


@asynccontextmanager
async def spoiled(where: Address, spoils: Spoils) -> AsyncIterator[Address]:
    """The address of a proxy before ``where``."""

    async def serve(client: trio.SocketStream) -> None:
        try:
            async with client:
                await _Passing(client, where, spoils, nursery).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1", handler_nursery=nursery))
        yield replace_port(where, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def replace_port(where: Address, port: int) -> Address:
    return msgspec.structs.replace(where, host="127.0.0.1", port=port)


@dataclass
class _Passing:
    """One connection."""

    client: trio.SocketStream
    where: Address
    spoils: Spoils
    nursery: trio.Nursery

    async def run(self) -> None:
        data = await self._request()
        if not data:
            return
        spoil = self.spoils(parsed(data))
        if spoil is None:
            await self._relay(data, deaf=False)
            return
        await trio.sleep(spoil.wait)
        data = spoil.request(data)
        if spoil.deaf:
            await self._relay(data, deaf=True)
            return
        out = spoil.canned
        if out is None:
            answer: Whole | bytes = b""
            for _ in range(spoil.times):
                answer = await self._fetched(data)
            changed = spoil.change(answer) if isinstance(answer, Whole) else answer
            out = changed if isinstance(changed, bytes) else written(changed)
        await self.client.send_all(out)
        if spoil.stays:
            while await self.client.receive_some(65536):
                pass

    async def _request(self) -> bytes:
        """One request, as far as its framing can be believed."""
        data = b""
        while not _complete(data):
            with trio.move_on_after(0.2 if b"\r\n\r\n" in data else 5.0):
                piece = await self.client.receive_some(65536)
                if not piece:
                    return data
                data += piece
                continue
            break
        return data

    async def _relay(self, data: bytes, *, deaf: bool) -> None:
        server = await trio.open_tcp_stream(self.where.host, self.where.port)
        if deaf:
            self.nursery.start_soon(self._listen, server)
            await server.send_all(data)
            while await self.client.receive_some(65536):
                pass
            return
        async with server, trio.open_nursery() as nursery:
            await server.send_all(data)
            nursery.start_soon(_end_with, nursery, self.client, server)
            await _pump(server, self.client, False)
            nursery.cancel_scope.cancel()

    async def _listen(self, server: trio.SocketStream) -> None:
        async with server:
            await _pump(server, self.client, True)

    async def _fetched(self, data: bytes) -> Whole | bytes:
        """The answer; the bytes as they came where they are none."""
        server = await trio.open_tcp_stream(self.where.host, self.where.port)
        async with server:
            await server.send_all(_closing(data))
            received = b""
            while piece := await server.receive_some(65536):
                received += piece
        return _whole(received)


async def _end_with(nursery: trio.Nursery, source: trio.SocketStream, sink: trio.SocketStream) -> None:
    await _pump(source, sink, False)
    nursery.cancel_scope.cancel()


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, on: bool) -> None:
    """``on``: even where the sink is gone."""
    try:
        while data := await source.receive_some(65536):
            try:
                await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                if not on:
                    return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def parsed(data: bytes) -> Seen:
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    method, _, rest = line.partition(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Seen(method, rest.partition(" ")[0], headers, body, data)


def _complete(data: bytes) -> bool:
    if b"\r\n\r\n" not in data:
        return False
    seen = parsed(data)
    length = seen.headers.get("content-length", "0")
    if "transfer-encoding" in seen.headers:
        return seen.body.endswith(b"0\r\n\r\n")
    return not length.isdigit() or len(seen.body) >= int(length)


def _closing(data: bytes) -> bytes:
    """The request with `connection: close`, so that the answer ends where the connection does."""
    head, mark, body = data.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"connection: close"]) + mark + body


def _whole(data: bytes) -> Whole | bytes:
    head, mark, body = data.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d{3})", head)
    if not mark or not found:
        return data
    if found[1].startswith(b"1"):
        return _whole(body)
    fields = [
        (n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    ]
    if ("transfer-encoding", "chunked") in fields:
        body = _dechunked(body)
    hidden = ("transfer-encoding", "content-length", "connection")
    return Whole(int(found[1]), [(name, value) for name, value in fields if name not in hidden], body)


def _dechunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        body, data = body + data[:length], data[length + 2 :]
    return body


def written(answer: Whole) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} X", *(f"{name}: {value}" for name, value in answer.fields)]
    return "\r\n".join([*lines, f"content-length: {len(answer.body)}", "", ""]).encode("latin-1") + answer.body


# -- ways to spoil --------------------------------------------------------------------------------------------------


def when(holds: Callable[[Seen], object], spoil: Spoil) -> Spoils:
    return lambda seen: spoil if holds(seen) else None


def always(spoil: Spoil) -> Spoils:
    return lambda seen: spoil


def on(path: str, spoil: Spoil) -> Spoils:
    return when(lambda seen: seen.path.partition("?")[0] == path, spoil)


def says(status: int, body: bytes = b"{}", *fields: str) -> Spoil:
    """This answer, whatever was asked."""
    lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}", *fields, "", ""]
    return Spoil(canned="\r\n".join(lines).encode("latin-1") + body)


def without(*names: str) -> Spoil:
    """The answer lacks these fields."""
    return Spoil(lambda answer: replace(answer, fields=[(n, v) for n, v in answer.fields if n not in names]))


def having(name: str, value: str) -> Spoil:
    """The answer has this field instead of its own."""

    def change(answer: Whole) -> Whole:
        return replace(answer, fields=[*((n, v) for n, v in answer.fields if n != name), (name, value)])

    return Spoil(change)


def status(number: int) -> Spoil:
    return Spoil(lambda answer: replace(answer, status=number))


def body(change: Callable[[bytes], bytes]) -> Spoil:
    return Spoil(lambda answer: replace(answer, body=change(answer.body)))


def document(change: Callable[[Any], Any], least: int = 0) -> Spoil:
    """The JSON of an answer of this status or above, changed in place or replaced."""

    def changed(answer: Whole) -> Whole:
        if answer.status < least:
            return answer
        value = msgspec.json.decode(answer.body)
        made = change(value)
        return replace(answer, body=msgspec.json.encode(value if made is None else made))

    return Spoil(changed)
