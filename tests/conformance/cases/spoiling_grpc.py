"""A gRPC proxy that spoils what passes: what stands for a server with that fault. (T)

Every call is carried on over a connection of its own to the server behind, whatever the client shares. Messages are
whole when they are changed. Invariant: without a `Spoil` nothing changes but the cuts.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

from conformance.suite.wire import Address
from tests.conformance.cases.spoiling import replace_port

Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class Seen:
    """What is known of a call: its path, fields, and the messages that have come from either side."""

    path: str
    fields: Fields
    asked: list[bytes] = field(default_factory=list)
    said: list[bytes] = field(default_factory=list)


def _same(seen: Seen, value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Spoil:
    """``requested``, ``head``, ``trailers``: fields → fields. ``asked``, ``answered``: a message → messages.

    ``at``: of calls for paths that hold this alone. ``deaf``: nobody hears that the client has left. ``held``: answers
    are told at the end. ``silent``: the call is taken and nothing comes of it. ``mute_pings``: none is answered.
    ``greedy``: windows are not heeded. ``patient``: what is no HTTP/2 is passed over. ``one_at_a_time``: calls wait
    for each other.
    """

    requested: Callable[[Seen, Fields], Fields] = _same
    head: Callable[[Seen, Fields], Fields] = _same
    trailers: Callable[[Seen, Fields], Fields] = _same
    asked: Callable[[Seen, bytes], bytes | list[bytes]] = _same
    answered: Callable[[Seen, bytes], bytes | list[bytes]] = _same
    at: str = ""
    deaf: bool = False
    held: bool = False
    silent: bool = False
    mute_pings: bool = False
    greedy: bool = False
    patient: bool = False
    one_at_a_time: bool = False


@asynccontextmanager
async def spoiled(where: Address, spoil: Spoil) -> AsyncIterator[Address]:
    """The address of a proxy before ``where``."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await _Front(stream, where, spoil, nursery).run()
            except* (*_GONE, OSError):  # from inside its nursery
                pass

    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, serve, 0, host="127.0.0.1", handler_nursery=nursery)
        listeners = await nursery.start(listen)
        yield replace_port(where, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class _Side:
    """One HTTP/2 connection, either end."""

    def __init__(self, stream: trio.SocketStream, *, client: bool) -> None:
        self.stream = stream
        self.h2 = H2Connection(
            H2Configuration(
                client_side=client, header_encoding="latin-1", validate_inbound_headers=False,
                normalize_inbound_headers=False, validate_outbound_headers=False, normalize_outbound_headers=False,
            )
        )  # fmt: skip
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 24)
        self.lock = trio.Lock()
        self.room = trio.Event()

    async def flush(self) -> None:
        async with self.lock:
            data = self.h2.data_to_send()
            if data:
                with contextlib.suppress(*_GONE):  # who reads will know
                    await self.stream.send_all(data)

    async def read(self, hear: Callable[[events.Event], Awaitable[bool]], patient: bool = False) -> None:
        """Until ``hear`` says that it was the end, or the peer goes. ``patient``: whatever it says."""
        while data := bytes(await self.stream.receive_some(65536)):
            try:
                found = self.h2.receive_data(data)
            except ProtocolError:
                if patient:
                    continue
                await self.flush()
                return
            for event in found:
                if await hear(event):
                    return
            self.room.set()
            self.room = trio.Event()
            await self.flush()

    async def send(self, number: int, data: bytes, *, end: bool = False, greedy: bool = False) -> None:
        """DATA within the peer's windows, or ``greedy``."""
        if greedy:
            self.h2.streams[number].outbound_flow_control_window = 1 << 30
            self.h2.outbound_flow_control_window = 1 << 30
        while True:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if data and room <= 0:
                await self.room.wait()
                continue
            part, data = data[:room], data[room:]
            self.h2.send_data(number, part, end_stream=end and not data)
            await self.flush()
            if not data:
                return


class _Front:
    """The client's connection."""

    def __init__(self, stream: trio.SocketStream, where: Address, spoil: Spoil, outer: trio.Nursery) -> None:
        self.side = _Side(stream, client=False)
        self.where, self.spoil, self.outer = where, spoil, outer
        self.calls: dict[int, _Carried] = {}
        self.turn = trio.Lock()
        if spoil.mute_pings:
            self._mute()

    def _mute(self) -> None:
        prepare = self.side.h2._prepare_for_sending
        self.side.h2._prepare_for_sending = lambda frames: prepare([f for f in frames if f.type != 6])  # type: ignore[method-assign]

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await self.side.flush()
            self.nursery = self.outer if self.spoil.deaf else nursery
            await self.side.read(self._hear, self.spoil.patient)
            nursery.cancel_scope.cancel()

    async def _hear(self, event: events.Event) -> bool:
        number = getattr(event, "stream_id", 0) or 0
        if isinstance(event, events.RequestReceived):
            call = self.calls[number] = _Carried(self, number, [(str(n), str(v)) for n, v in event.headers])
            self.nursery.start_soon(call.run)
        elif isinstance(event, events.DataReceived):
            self.side.h2.acknowledge_received_data(event.flow_controlled_length, number)
            if number in self.calls:
                self.calls[number].up.send_nowait(event.data)
        if isinstance(event, events.StreamEnded) and number in self.calls:
            self.calls[number].up.send_nowait(None)
        if isinstance(event, events.StreamReset) and number in self.calls and not self.spoil.deaf:
            self.calls[number].scope.cancel()
        return False


class _Carried:
    """One call on its way."""

    def __init__(self, front: _Front, number: int, fields: Fields) -> None:
        self.front, self.number = front, number
        self.seen = Seen(dict(fields)[":path"], fields)
        self.spoil = front.spoil if front.spoil.at in self.seen.path else Spoil()
        self.up, self.uploads = trio.open_memory_channel[bytes | None](math.inf)
        self.scope = trio.CancelScope()
        self.rests = {"up": b"", "down": b""}
        self.late: list[bytes] = []

    async def run(self) -> None:
        gone = (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError, KeyError, OSError)
        with self.scope, contextlib.suppress(*gone):
            if self.spoil.one_at_a_time:
                async with self.front.turn:
                    await self._carry()
            else:
                await self._carry()

    async def _carry(self) -> None:
        if self.spoil.silent:
            await trio.sleep_forever()
        async with await trio.open_tcp_stream(self.front.where.host, self.front.where.port) as stream:
            self.back = _Side(stream, client=True)
            self.back.h2.send_headers(1, self.spoil.requested(self.seen, self.seen.fields))
            await self.back.flush()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._upload)
                with contextlib.suppress(trio.BrokenResourceError, ProtocolError):
                    await self.back.read(self._answer)
                nursery.cancel_scope.cancel()

    async def _upload(self) -> None:
        async for data in self.uploads:
            try:
                if data is None:
                    rest, self.rests["up"] = self.rests["up"], b""
                    await self.back.send(1, rest, end=True)
                else:
                    out = self._messages("up", data, self.seen.asked, self.spoil.asked)
                    await self.back.send(1, out)
            except (ProtocolError, KeyError, trio.BrokenResourceError):
                return

    def _messages(self, side: str, data: bytes, log: list[bytes], change: Callable[[Seen, bytes], Any]) -> bytes:
        """The frames of what ``data`` completes, changed."""
        if change is _same and side == "up":
            log.append(data)
            return data
        rest = self.rests[side] + data
        out = b""
        while len(rest) >= 5 and len(rest) >= (size := 5 + int.from_bytes(rest[1:5], "big")):
            message, rest = rest[5:size], rest[size:]
            changed = change(self.seen, message)
            log.append(message)
            for each in changed if isinstance(changed, list) else [changed]:
                out += b"\0" + len(each).to_bytes(4, "big") + each
        self.rests[side] = rest
        return out

    async def _answer(self, event: events.Event) -> bool:
        """Whether that was the end."""
        side, number, spoil = self.front.side, self.number, self.spoil
        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            fields = [(str(n), str(v)) for n, v in event.headers]
            last = isinstance(event, events.TrailersReceived) or event.stream_ended is not None
            await self._fields(fields, last, isinstance(event, events.TrailersReceived))
            return last
        if isinstance(event, events.DataReceived):
            self.back.h2.acknowledge_received_data(event.flow_controlled_length, 1)
            out = self._messages("down", event.data, self.seen.said, spoil.answered)
            if spoil.held:
                self.late.append(out)
            elif out:
                await side.send(number, out, greedy=spoil.greedy)
        if isinstance(event, events.StreamReset):
            side.h2.reset_stream(number, event.error_code)
            await side.flush()
            return True
        return isinstance(event, events.StreamEnded)

    async def _fields(self, fields: Fields, last: bool, trailing: bool) -> None:
        side, number = self.front.side, self.number
        if not last:
            side.h2.send_headers(number, self.spoil.head(self.seen, fields))
        else:
            if self.late:
                await side.send(number, b"".join(self.late))
            changed = self.spoil.trailers(self.seen, fields)
            if not trailing and not any(name == ":status" for name, _ in changed):
                changed = [(":status", "200"), *changed]
            side.h2.send_headers(number, changed, end_stream=True)
        await side.flush()
