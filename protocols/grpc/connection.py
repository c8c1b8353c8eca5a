"""One client's HTTP/2 connection: a reader, a single writer, and a task for every call. (T)

Nursery: `run` holds the writer and the handlers; the reader is `run` itself. h2 keeps the state of the protocol and of
the windows; what is sent on streams is framed by `gateway.wire.h2` and leaves through the writer alone, which gathers
what all calls have to say into one send. The server's patrol, not a timer per connection, pings, drains and ends
connections.

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
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection, H2ConnectionStateMachine
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    PingReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from h2.stream import StreamInputs

from gateway.net import READ_SIZE, socket_below
from gateway.wire import h2
from gateway.wire.grpc import Code, GrpcError
from protocols.grpc.limits import Limits, Patience, Pings
from protocols.grpc.outgoing import Outgoing
from protocols.grpc.request import Malformed, Request, Unfit, read
from protocols.grpc.stream import HIGH_WATER, Stream, status_fields
from protocols.http.connection import certified_name

if TYPE_CHECKING:
    from protocols.grpc.server import Server

_log = logging.getLogger("infer_gateway.grpc")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_LINGER_S: Final = 1.0
_DRAIN_S: Final = 5.0
_BATCH: Final = 262144
_QUANTUM: Final = 65536
_ALIVE, _FAREWELL = b"alive?  ", b"farewell"
_HTTP1 = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"This port speaks gRPC, which needs HTTP/2.\n"
)
_FAREWELLS = (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY)


class _Machine(H2ConnectionStateMachine):
    """GOAWAY, theirs or ours, announces an end; h2's own machine would have nothing follow it."""

    def process_input(self, input_: ConnectionInputs) -> list[Event]:
        return [] if input_ in _FAREWELLS else super().process_input(input_)


class _Http2(H2Connection):
    """h2 that leaves counting streams to us: it ends the connection over one too many, and looks at all for each."""

    def __init__(self) -> None:
        super().__init__(
            H2Configuration(
                client_side=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self.state_machine = _Machine()

    @property
    def open_inbound_streams(self) -> int:
        if len(self.streams) & 63 == 63:
            _ = super().open_inbound_streams  # forgets those that are closed
        return 0


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
        self.draining = False
        self._turn = server.turn
        self._stream = stream
        self._h2 = _Http2()
        self._nursery: trio.Nursery | None = None
        self._control = bytearray()  # frames of the connection itself
        self._ready: dict[Stream, None] = {}
        self._opening = h2.NO_TABLE
        self._owed = 0
        self._bell = trio.lowlevel.ParkingLot()
        self._relief = trio.lowlevel.ParkingLot()
        self._over = False
        now = self.now
        self._heard = now
        self._begun = now
        self._idle_since = now
        self._greeted = False
        self._pinged: float | None = None
        self._writing_since: float | None = None
        self._drain_since = 0.0
        self._last_id: int | None = None
        self._age = self.limits.max_age * random.uniform(0.9, 1.1)
        self._pings = Pings(self.limits.min_ping_interval, self.limits.max_ping_strikes)
        self._patience = Patience(self.limits.max_nuisance, self.limits.nuisance_rate, now)

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
        return self._stream.getpeercert() if isinstance(self._stream, trio.SSLStream) else None

    def next_failure(self) -> str:
        """An id that ties what a client is told to the log."""
        return self.server.next_failure()

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until it leaves, errs, or is asked to go. Returns with the stream closed."""
        try:
            with self.scope:
                if isinstance(self._stream, trio.SSLStream):
                    await self._stream.do_handshake()
                    self.subject = certified_name(self._stream.getpeercert() or {})
                first = await self._preface()
                if first:
                    await self._converse(first)
        except* _GONE:
            pass
        finally:
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
            self._greet()
            self._take(first)
            self._nursery.start_soon(self._write)
            await self._read()
            self._nursery.cancel_scope.cancel()

    def _greet(self) -> None:
        limits = self.limits
        self._h2.initiate_connection()
        self._h2.local_settings.initial_window_size = limits.window
        self._h2.local_settings.acknowledge()
        self._h2.clear_outbound_data_buffer()
        self._h2.decoder.max_header_list_size = 4 * limits.max_headers
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: limits.window,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_headers,
        }
        self._control += h2.settings({code.value: value for code, value in settings.items()})
        if limits.connection_window > 65535:
            self._h2.increment_flow_control_window(limits.connection_window - 65535)

    async def _close(self) -> None:
        if self.socket is not None and self.socket is self._stream:
            self.socket.close()
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LINGER_S), contextlib.suppress(*_GONE):
            await self._stream.aclose()
        if self.socket is not None:
            self.socket.close()

    def leave(self) -> None:
        """Nothing more is to come of this connection: send what is queued, then close."""
        if not self._over:
            self._over = True
            self.scope.deadline = trio.current_time() + _LINGER_S
            for stream in list(self.streams.values()):
                stream.abandon()
            self._wake()

    def _expel(self, code: int, reason: str) -> None:
        """End the connection and say why."""
        if not self._over:
            _log.info("a client at %s is sent away: %s", self.peer, reason)
            self._control += self._h2.data_to_send() + h2.goaway(
                self._h2.highest_inbound_stream_id, code, reason.encode()
            )
            self.leave()

    def drain(self) -> None:
        """Ask the client to open no more streams, and leave when those it has are done."""
        if self.draining or self._over:
            return
        self.draining = True
        self._drain_since = self.now
        if not self._greeted:
            self.scope.cancel()
            return
        self._control += h2.goaway(h2.MAX_STREAM_ID) + h2.ping(_FAREWELL)
        self._wake()

    def _drain_rest(self) -> None:
        """What was under way to us when the client was asked has arrived: later streams are refused."""
        if self._last_id is None:
            self._last_id = self._h2.highest_inbound_stream_id
            self._control += h2.goaway(self._last_id)
            self._wake()
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._last_id is not None and not self.streams:
            self.leave()

    def inspect(self) -> None:
        """What the patrol does every second."""
        now, limits = self.now, self.limits
        if self._cut_if_dead(now) or self._over:
            return
        if self._pinged is None and now - self._heard > limits.ping_after:
            self._pinged = now
            self._control += h2.ping(_ALIVE)
            self._wake()
        if now - self._begun > self._age or (not self.streams and now - self._idle_since > limits.idle_timeout):
            self.drain()
        if self.draining and now - self._drain_since > _DRAIN_S:
            self._drain_rest()
        for stream in list(self.streams.values()):
            if stream.stalled_since is not None and now - stream.stalled_since > limits.write_timeout:
                self.reset(stream, h2.CANCEL)

    def _cut_if_dead(self, now: float) -> bool:
        limits = self.limits
        stuck = self.socket.stuck_since if self.socket is not None else None
        stuck = stuck if stuck is not None else self._writing_since
        dead = (
            (not self._greeted and now - self._begun > limits.handshake_timeout)
            or (stuck is not None and now - stuck > limits.write_timeout)
            or (self._pinged is not None and now - self._pinged > limits.ping_timeout)
            or now - self._begun > self._age + limits.age_grace
        )
        if dead:
            self.scope.cancel()
            if self.socket is not None:
                self.socket.close()
        return dead

    # -- reading ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            while len(self._control) > HIGH_WATER and not self._over:
                await self._relief.park()  # who does not read our frames makes us write no more of them
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                return
            self._heard, self._pinged = self.now, None
            if not self._over:
                self._take(bytes(data))

    def _take(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as error:
            self._h2.clear_outbound_data_buffer()
            self._expel(error.error_code, str(error))
            return
        except Exception:  # noqa: BLE001 — no bytes end more than their connection
            _log.exception("h2 failed on what %s sent", self.peer)
            self._expel(h2.INTERNAL_ERROR, "internal error")
            return
        self._greeted = True
        self._collect()
        for event in events:
            react = _REACTIONS.get(event.__class__)
            if react is not None:
                react(self, event)
            if self._over:
                return

    def _collect(self) -> None:
        """Take over what h2 wants sent."""
        frames = self._h2.data_to_send()
        if frames:
            self._control += frames
            self._wake()

    def _on_request(self, event: RequestReceived) -> None:
        stream_id: int = event.stream_id
        if len(self.streams) >= self.limits.max_streams or (self._last_id is not None and stream_id > self._last_id):
            self._reset(stream_id, h2.REFUSED_STREAM)
            self._nuisance("streams beyond what was agreed on")
            return
        try:
            request = read(event.headers, self.limits.max_headers)
            self._begin(stream_id, request)
        except Malformed:
            self._reset(stream_id, h2.PROTOCOL_ERROR)
        except Unfit as unfit:
            answer = Outgoing(stream_id)
            answer.refuse(unfit.status)
            self._answer(stream_id, answer)
        except GrpcError as error:
            answer = Outgoing(stream_id)
            answer.end(status_fields(error))
            self._answer(stream_id, answer)

    def _begin(self, stream_id: int, request: Request) -> None:
        method = self.server.methods.get(request.path)
        if method is None:
            raise GrpcError(Code.UNIMPLEMENTED, f"unknown method {request.path.decode('latin-1')}")
        stream = Stream(self, stream_id, method, request)
        self.streams[stream_id] = stream
        assert self._nursery is not None
        self._nursery.start_soon(stream.run)

    def _answer(self, stream_id: int, answer: Outgoing) -> None:
        """Refuse a call that no handler has seen."""
        state = self._h2.streams.get(stream_id)
        if state is not None and not state.closed:
            self._control += answer.take(0, self._h2.max_outbound_frame_size, self._opened())[0] + self._end(stream_id)
            self._wake()

    def _opened(self) -> bytes:
        opening, self._opening = self._opening, b""
        return opening

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
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            self._abandon(stream)
        if event.remote_reset:
            self._nuisance("too many resets")

    def _on_window(self, event: WindowUpdated) -> None:
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                self.ready(stream)
        else:
            self._on_more_window()

    def _on_more_window(self) -> None:
        self._ready.update((stream, None) for stream in self.streams.values() if stream.outgoing.size)
        self._wake()

    def _on_settings(self, _: Event) -> None:
        self._nuisance("too many settings")
        self._on_more_window()

    def _on_ping(self, _: Event) -> None:
        if self._pings.too_many(self.now):
            self._expel(h2.ENHANCE_YOUR_CALM, "too_many_pings")

    def _on_pong(self, event: PingAckReceived) -> None:
        if event.ping_data == _FAREWELL and self.draining:
            self._drain_rest()

    def _on_goaway(self, _: Event) -> None:
        """The client opens no more streams."""
        if not self.streams:
            self.leave()
        self._last_id = self._h2.highest_inbound_stream_id

    def _on_unknown(self, _: Event) -> None:
        self._nuisance("too many unknown frames")

    def _nuisance(self, what: str) -> None:
        if self._patience.lost(self.now):
            self._expel(h2.ENHANCE_YOUR_CALM, what)

    # -- windows ------------------------------------------------------------------------------------------------

    def give_back(self, stream: Stream, amount: int) -> None:
        """``amount`` bytes of a stream have been consumed. Told to the client once it is worth a frame."""
        self._return(amount)
        stream.owed += amount
        if stream.owed >= self.limits.window // 4:
            state = self._h2.streams.get(stream.id)
            if state is not None and not state.closed and not stream.incoming.ended:
                self._h2.increment_flow_control_window(stream.owed, stream.id)
                self._collect()
            stream.owed = 0

    def _return(self, amount: int) -> None:
        self._owed += amount
        if self._owed >= self.limits.connection_window // 4:
            self._h2.increment_flow_control_window(self._owed)
            self._owed = 0
            self._collect()

    def lend(self, stream: Stream) -> None:
        """Make room for the rest of the message that ``stream`` awaits, within what unfinished messages may take."""
        lent = stream.incoming.lend()
        self.lent += lent
        if self.lent > self.limits.max_unfinished:
            stream.fail(GrpcError(Code.RESOURCE_EXHAUSTED, "too many unfinished messages on this connection"))
        elif lent:
            self.give_back(stream, lent)

    # -- writing ------------------------------------------------------------------------------------------------

    def ready(self, stream: Stream) -> None:
        """``stream`` may have something to send."""
        self._ready[stream] = None
        self._wake()

    def _wake(self) -> None:
        if self._bell:
            self._bell.unpark_all()

    async def _write(self) -> None:
        """The single writer."""
        while True:
            batch = self._gather()
            if batch:
                self._writing_since = self.now
                await self._stream.send_all(batch)
                self._writing_since = None
                if self._relief:
                    self._relief.unpark_all()
            elif self._over:
                await self._say_goodbye()
                return
            else:
                await self._bell.park()

    async def _say_goodbye(self) -> None:
        """The client closes when it sees the end; what it still sends until then must not reset our last words away."""
        if self.socket is not None and self.socket is self._stream:
            await self.socket.send_eof()

    def _gather(self) -> bytes:
        """What all have to say now, the connection's own frames first."""
        parts = [bytes(self._control)]
        self._control.clear()
        size = 0
        while self._ready and size < _BATCH and not self._over:
            stream = next(iter(self._ready))
            del self._ready[stream]
            frames = self._frames(stream)
            size += len(frames)
            parts.append(frames)
        if size:
            self._pings.sent()
        return b"".join(parts)

    def _frames(self, stream: Stream) -> bytes:
        """The next frames of one stream, as far as its windows and its turn go."""
        state = self._h2.streams.get(stream.id)
        outgoing = stream.outgoing
        if state is None or stream.closed or outgoing.done:
            return b""
        window = min(self._h2.outbound_flow_control_window, state.outbound_flow_control_window)
        frames, used = outgoing.take(min(window, _QUANTUM), self._h2.max_outbound_frame_size, self._opened())
        state.outbound_flow_control_window -= used
        self._h2.outbound_flow_control_window -= used
        if outgoing.size and used < window:
            self._ready[stream] = None  # its next turn
        if used or not outgoing.size:
            stream.stalled_since = None
        if outgoing.size and used >= window and stream.stalled_since is None:
            stream.stalled_since = self.now
        stream.sent()
        if outgoing.done:
            frames += self._end(stream.id)
            self._forget_if_done(stream)
        return frames

    # -- the ends of streams --------------------------------------------------------------------------------------

    def _end(self, stream_id: int) -> bytes:
        """Our side of a stream has ended: what a client is told that has not ended its own."""
        state = self._h2.streams[stream_id]
        state.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        if state.closed:
            return b""
        self._h2.reset_stream(stream_id, h2.NO_ERROR)
        return self._h2.data_to_send()

    def reset(self, stream: Stream, code: int) -> None:
        """End a call by a reset from our side."""
        if not stream.closed:
            self._reset(stream.id, code)
            self._abandon(stream)

    def _reset(self, stream_id: int, code: int) -> None:
        with contextlib.suppress(ProtocolError):  # closed already
            self._h2.reset_stream(stream_id, code)
            self._collect()

    def _abandon(self, stream: Stream) -> None:
        self._ready.pop(stream, None)
        stream.abandon()
        self._forget_if_done(stream)

    def handled(self, stream: Stream) -> None:
        """The handler of ``stream`` is done."""
        self._forget_if_done(stream)

    def _forget_if_done(self, stream: Stream) -> None:
        if (
            not stream.running
            and (stream.outgoing.done or stream.closed)
            and self.streams.pop(stream.id, None) is not None
        ):
            self.lent -= stream.incoming.lent
            self._return(stream.incoming.release())
            if not self.streams:
                self._idle_since = self.now
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
}
