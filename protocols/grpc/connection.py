"""One client's HTTP/2 connection: a reader, a single writer, and a task for every call. (T)

Nursery: `run` holds the writer and the handlers; the reader is `run` itself. The server's patrol, not a timer per
connection, pings, drains and ends connections.

Invariant: nothing that one call does, short of breaking HTTP/2, touches another. What a client can make us hold is
bounded by the windows, the limits and `HIGH_WATER`: while it does not read, it is not read from.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from gateway.net import READ_SIZE, handshake, socket_below
from gateway.wire import h2
from gateway.wire.grpc import Code, GrpcError
from protocols.grpc.http2 import Http2
from protocols.grpc.lifetime import Lifetime, Verdict
from protocols.grpc.limits import Limits, Patience, Pings
from protocols.grpc.outgoing import Outgoing
from protocols.grpc.request import Malformed, Request, Unfit, read
from protocols.grpc.stream import Stream, status_fields
from protocols.grpc.writer import Writer
from protocols.http.connection import certified_name

if TYPE_CHECKING:
    from protocols.grpc.server import Server

_log = logging.getLogger("infer_gateway.grpc")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_LINGER_S: Final = 1.0
_RAPID_S: Final = 1.0
_SHOWN: Final = 200
"""What is told of a path: its sender needs three bytes to have it told again."""
_ALIVE, _FAREWELL = b"alive?  ", b"farewell"
_HTTP1 = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"This port speaks gRPC, which needs HTTP/2.\n"
)


class Connection:
    """``now`` is the time of the scheduler's turn. ``lent``: what unfinished messages hold beyond the windows."""

    def __init__(self, server: Server, stream: trio.abc.Stream, peer: str) -> None:
        self.server = server
        self.limits: Limits = server.limits
        self.codec = server.codec
        self.peer = peer
        self.subject = ""
        self.scope = trio.CancelScope()
        self.socket = socket_below(stream)
        self.streams: dict[int, Stream] = {}
        self.lent = 0
        self.burden = server.burden
        self._unsent = 0
        self.draining = False
        self._turn = server.turn
        self._stream = stream
        self._nursery: trio.Nursery | None = None
        self._certificate: dict[str, Any] | None = None
        self._over = False
        self._priority: PriorityUpdated | None = None  # that has come with a request
        self._last_id: int = h2.MAX_STREAM_ID  # later streams are refused
        self._http2 = Http2(self.limits)
        self._pings = Pings(self.limits.min_ping_interval, self.limits.max_ping_strikes)
        self._patience = Patience(self.limits.max_nuisance, self.limits.nuisance_rate, self.now)
        self._lifetime = Lifetime(self.limits, self.now, random.uniform(0.9, 1.1))
        self._writer = Writer(stream, self._http2, self._pings, self._turn)
        self.ready = self._writer.ready

    @property
    def pending(self) -> int:
        """Bytes of the connection's own frames that the client has not taken."""
        return self._writer.pending

    @property
    def now(self) -> float:
        return self._turn.now

    def addr(self) -> tuple[str, int] | None:
        """The client's address and port (grpclib's Peer)."""
        if self.socket is None:
            return None
        with contextlib.suppress(OSError):
            host, port = self.socket.socket.getpeername()[:2]
            return host, port
        return None

    def cert(self) -> dict[str, Any] | None:
        """The client's verified certificate (grpclib's Peer)."""
        return self._certificate

    def next_failure(self) -> str:
        """An id that ties what a client is told to the log."""
        return self.server.next_failure()

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until it leaves, errs, or is asked to go. Returns with the stream closed."""
        try:
            with self.scope:
                if isinstance(self._stream, trio.SSLStream):
                    await handshake(self._stream)
                    self._certificate = self._stream.getpeercert()
                    self.subject = certified_name(self._certificate or {})
                first = await self._preface()
                if first:
                    await self._converse(first)
        except* _GONE:
            pass
        finally:
            for stream in self.streams.values():
                stream.release()
            self.streams.clear()  # they know the connection, as does what is to be written of them
            self._writer.close()
            self._count(0)
            self._http2.close()
            await self._close()

    async def _preface(self) -> bytes:
        """The first bytes of a client that speaks HTTP/2; others are told so, and b"" is the answer."""
        data = b""
        while len(data) < len(h2.PREFACE):
            more = await self._stream.receive_some(READ_SIZE)
            data += more
            if not more:
                return b""
            if not h2.PREFACE.startswith(data[: len(h2.PREFACE)]):
                self.scope.deadline = trio.current_time() + _LINGER_S
                if data[:1].isalpha():
                    await self._stream.send_all(_HTTP1)
                await self._say_goodbye()
                while await self._stream.receive_some(READ_SIZE):
                    pass
                return b""
        return data

    async def _converse(self, first: bytes) -> None:
        async with trio.open_nursery() as self._nursery:
            self._writer.say(self._http2.greet())
            self._take(first)
            self._nursery.start_soon(self._write)
            await self._read()
            self._nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        await self._writer.run()
        await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        """The client closes when it sees the end; what it still sends until then must not reset our last words away."""
        self.scope.deadline = trio.current_time() + _LINGER_S
        if self.socket is not None and self.socket is self._stream:
            await self.socket.send_eof()

    async def _close(self) -> None:
        if self.socket is not None and self.socket is self._stream:
            self.socket.close()
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LINGER_S), contextlib.suppress(*_GONE):
            await self._stream.aclose()
        if self.socket is not None:
            self.socket.close()

    # -- the end ------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Nothing more is to come of this connection: send what is queued, then close."""
        if not self._over:
            self._over = True
            for stream in list(self.streams.values()):
                self._abandon(stream)
            self._writer.finish()

    def _expel(self, code: int, reason: str) -> None:
        """End the connection and say why."""
        if not self._over:
            _log.info("a client at %s is sent away: %s", self.peer, reason)
            self._writer.say(h2.goaway(self._http2.last_id, code, reason.encode()))
            self.leave()

    def drain(self) -> None:
        """Ask the client to open no more streams, and leave when those it has are done."""
        if self.draining or self._over:
            return
        self.draining = True
        self._lifetime.draining(self.now)
        if self._lifetime.greeted:
            self._bid_farewell()

    def _bid_farewell(self) -> None:
        self._writer.say(h2.goaway(h2.MAX_STREAM_ID) + h2.ping(_FAREWELL))

    def _refuse_more(self) -> None:
        """What was under way to us when the client was asked to go has arrived: later streams are refused."""
        if self._last_id == h2.MAX_STREAM_ID:
            self._last_id = self._http2.last_id
            self._writer.say(h2.goaway(self._last_id))
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._last_id != h2.MAX_STREAM_ID and not self.streams:
            self.leave()

    def inspect(self) -> None:
        """What the patrol does every second."""
        now = self.now
        stuck = self.socket.stuck_since if self.socket is not None else None
        verdict = self._lifetime.verdict(now, stuck if stuck is not None else self._writer.since)
        if verdict is Verdict.CUT:
            self._cut()
        elif self._over:
            return
        elif verdict is Verdict.PING:
            self._writer.say(h2.ping(_ALIVE))
        elif verdict is Verdict.DRAIN:
            self.drain()
        elif verdict is Verdict.REFUSE:
            self._refuse_more()
        for stream in list(self.streams.values()):
            if stream.overdue(now - self.limits.message_timeout):
                stream.fail(GrpcError(Code.DEADLINE_EXCEEDED, "the rest of the request does not come"))
            if stream.stalled_since is not None and now - stream.stalled_since > self.limits.write_timeout:
                self.reset(stream, h2.CANCEL)
        self._count(sum(stream.outgoing.size for stream in self.streams.values()))

    def _count(self, unsent: int) -> None:
        """Messages that the client does not take, as of the last look at them."""
        self.burden.buffered.held += unsent - self._unsent
        self._unsent = unsent

    def _cut(self) -> None:
        self.scope.cancel()
        if self.socket is not None:
            self.socket.close()

    # -- reading ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            await self._writer.caught_up()
            if self._http2.more and not self._over:
                await trio.lowlevel.checkpoint()
                self._take(b"")
                continue
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                return
            self._lifetime.heard(self.now)
            if not self._over:
                self._take(bytes(data))

    def _take(self, data: bytes) -> None:
        try:
            events = self._http2.receive(data)
        except ProtocolError as error:
            self._expel(error.error_code, str(error))
            return
        except Exception:  # noqa: BLE001 — no bytes end more than their connection
            _log.exception("h2 failed on what %s sent", self.peer)
            self._expel(h2.INTERNAL_ERROR, "internal error")
            return
        self._writer.say()
        if events and not self._lifetime.greeted:
            self._lifetime.greeted = True
            if self.draining:
                self._bid_farewell()
        for event in events:
            react = _REACTIONS.get(event.__class__)
            if react is not None:
                react(self, event)
            if self._over:
                return

    def _on_request(self, event: RequestReceived) -> None:
        stream_id: int = event.stream_id
        self._priority = event.priority_updated
        if len(self.streams) >= self.limits.max_streams or stream_id > self._last_id:
            self._reset(stream_id, h2.REFUSED_STREAM)
            self._nuisance("streams beyond what was agreed on")
            return
        try:
            request = read(event.headers, self.limits.max_headers)
            self._begin(stream_id, request)
        except Malformed:
            self._reset(stream_id, h2.PROTOCOL_ERROR)
            self._nuisance("requests that are none")
        except Unfit as unfit:
            answer = Outgoing(stream_id)
            answer.refuse(unfit.status)
            self._answer(answer, stream_id)
        except GrpcError as error:
            answer = Outgoing(stream_id)
            answer.end(status_fields(error))
            self._answer(answer, stream_id)

    def _begin(self, stream_id: int, request: Request) -> None:
        method = self.server.methods.get(request.path)
        if method is None:
            raise GrpcError(Code.UNIMPLEMENTED, f"unknown method {request.path[:_SHOWN].decode('latin-1')}")
        stream = Stream(self, stream_id, method, request)
        self.streams[stream_id] = stream
        self._lifetime.idle(None)
        assert self._nursery is not None
        self._nursery.start_soon(stream.run)

    def _answer(self, answer: Outgoing, stream_id: int) -> None:
        """Refuse a call that no handler has seen."""
        self._writer.say(self._http2.frames(stream_id, answer, 0)[0])

    def _on_data(self, event: DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        cost: int = event.flow_controlled_length
        if stream is None or stream.closed:
            self._return(cost)
            return
        if not event.data and event.stream_ended is None:
            self._nuisance("empty frames")
        stream.received(event.data, cost)

    def _on_end(self, event: StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.ended()

    def _on_reset(self, event: StreamReset) -> None:
        """A client that resets calls it has waited for, or had something from, has lost patience with them, perhaps
        with all at once; one that does not wait costs only us. Nor does one that has us reset them, by a window that
        overflows (CVE-2025-8671).
        """
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            self._abandon(stream)
        if (event.remote_reset or stream is not None) and (
            stream is None or not (stream.outgoing.started or self.now - stream.begun > _RAPID_S)
        ):
            self._nuisance("too many resets")

    def _on_window(self, event: WindowUpdated) -> None:
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                self.ready(stream)
        else:
            self._writer.more_window()

    def _on_settings(self, _: Event) -> None:
        self._nuisance("too many settings")
        self._writer.more_window()

    def _on_ping(self, _: Event) -> None:
        if self._pings.too_many(self.now):
            self._expel(h2.ENHANCE_YOUR_CALM, "too_many_pings")

    def _on_pong(self, event: PingAckReceived) -> None:
        self._nuisance("too many answers to pings")
        if event.ping_data == _FAREWELL and self.draining:
            self._refuse_more()

    def _on_goaway(self, _: Event) -> None:
        """The client opens no more streams."""
        self._nuisance("too many farewells")
        if not self.streams:
            self.leave()
        self._last_id = self._http2.last_id

    def _on_unknown(self, _: Event) -> None:
        self._nuisance("too many frames without use")

    def _on_priority(self, event: PriorityUpdated) -> None:
        if event is not self._priority:
            self._nuisance("too many frames without use")

    def _nuisance(self, what: str) -> None:
        if self._patience.lost(self.now):
            self._expel(h2.ENHANCE_YOUR_CALM, what)

    # -- what streams ask for -----------------------------------------------------------------------------------

    def give_back(self, stream: Stream, amount: int) -> None:
        """``amount`` bytes of a stream have been consumed. Told to the client once it is worth a frame."""
        stream.owed += amount
        if stream.owed >= self.limits.window // 4:
            if not stream.incoming.ended:
                self._http2.return_stream_window(stream.id, stream.owed)
            stream.owed = 0
        self._return(amount)

    def _return(self, amount: int) -> None:
        self._http2.return_window(amount)
        self._writer.say()

    def lend(self, stream: Stream) -> None:
        """Make room for the rest of the message that ``stream`` awaits, within what unfinished messages may take."""
        lent = stream.incoming.lend()
        self.lent += lent
        if self.lent > self.limits.max_unfinished:
            stream.fail(GrpcError(Code.RESOURCE_EXHAUSTED, "too many unfinished messages on this connection"))
        if lent:
            self.give_back(stream, lent)

    def reset(self, stream: Stream, code: int) -> None:
        """End a call by a reset from our side."""
        if not stream.closed:
            self._reset(stream.id, code)
            self._abandon(stream)

    def _reset(self, stream_id: int, code: int) -> None:
        self._http2.reset(stream_id, code)
        self._writer.say()

    def _abandon(self, stream: Stream) -> None:
        stream.abandon()
        self.forget_if_done(stream)

    def forget_if_done(self, stream: Stream) -> None:
        """A stream counts until its handler is done and its last frame is out, or nobody wants it."""
        done = not stream.running and (stream.outgoing.done or stream.closed)
        if done and self.streams.pop(stream.id, None) is not None:
            self._writer.forget(stream)
            stream.release()
            self.lent -= stream.incoming.lent
            self._return(stream.incoming.release())
            if not self.streams:
                self._lifetime.idle(self.now)
                self._leave_if_done()


_REACTIONS: dict[type[Event], Callable[[Connection, Any], None]] = {
    RequestReceived: Connection._on_request,
    DataReceived: Connection._on_data,
    StreamEnded: Connection._on_end,
    StreamReset: Connection._on_reset,
    WindowUpdated: Connection._on_window,
    RemoteSettingsChanged: Connection._on_settings,
    PingReceived: Connection._on_ping,
    PingAckReceived: Connection._on_pong,
    ConnectionTerminated: Connection._on_goaway,
    UnknownFrameReceived: Connection._on_unknown,
    SettingsAcknowledged: Connection._on_unknown,
    PriorityUpdated: Connection._on_priority,
}
