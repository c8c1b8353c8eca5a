"""One HTTP/2 connection to a gRPC server, shared by the calls on it. (T)

Two tasks: one reads, one writes; calls put what they send into one buffer, so that what is said in one turn of the
scheduler leaves in one send. Invariant: when the connection ends, whatever the reason, every call on it is over.
Sources: RFC 9113; grpc doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final

import trio
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import NoAvailableStreamIDError, ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from gateway.wire.grpc import Code
from protocols.grpc.client.call import Call
from protocols.grpc.client.errors import RpcError, reset
from protocols.grpc.metadata import Field

WINDOW: Final = 1024 * 1024
"""Bytes a server may send on one call before they are taken."""

_CONNECTION_WINDOW: Final = 16 * WINDOW
_HIGH_WATER: Final = 256 * 1024
_READ_SIZE: Final = 65536
_GOODBYE_S: Final = 1.0
_ANSWER_S: Final = 20.0
_LAST_ID: Final = 2**31 - 1
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)


class _Client(H2Connection):
    """h2 takes GOAWAY for the end of the connection; calls the server goes on with have to go on (RFC 9113 §6.8)."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[events.Event]]:
        gone = events.ConnectionTerminated()
        gone.error_code, gone.last_stream_id = frame.error_code, frame.last_stream_id
        gone.additional_data = frame.additional_data or None
        return [], [gone]


class Session:
    """A connection over ``stream``. ``leaving``: it takes no new calls. ``silence`` seconds: see `Channel`."""

    def __init__(self, stream: trio.abc.Stream, silence: float) -> None:
        self.leaving = False
        self.greeted = trio.Event()
        self._stream = stream
        self._silence = silence
        self._calls: dict[int, Call[Any]] = {}
        self._ended: RpcError | None = None
        self._farewell = ""
        self._torn = False
        self._scope = trio.CancelScope()
        self._outgoing = bytearray()
        self._woken = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._unreturned = 0
        self._heard = trio.current_time()
        self._h2 = _Client(H2Configuration(client_side=True, header_encoding=None))
        self._h2.local_settings = Settings(
            client=True, initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - 65535)

    # -- the tasks ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the connection ends. Never raises but Cancelled; the stream is closed on return."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    if self._silence < float("inf"):
                        nursery.start_soon(self._watch)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self.close("the channel was closed", Code.CANCELLED)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_S):
                await self._take_leave()

    async def _take_leave(self) -> None:
        with contextlib.suppress(*_BROKEN, ProtocolError):
            self._h2.close_connection()
            self._collect()
            if not self._torn:
                await self._stream.send_all(self._outgoing)
        await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        try:
            while True:
                data = await self._stream.receive_some(_READ_SIZE)
                if not data:
                    raise trio.BrokenResourceError("the server closed the connection")
                self._heard = trio.current_time()
                for event in self._h2.receive_data(bytes(data)):
                    self._hear(event)
                self._flush()
        except ProtocolError as error:
            self.close(f"the server broke HTTP/2: {error}", Code.INTERNAL)
        except _BROKEN as error:
            self.close(f"the connection was lost: {error}")

    async def _write(self) -> None:
        self._flush()
        try:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                data, self._outgoing = self._outgoing, bytearray()
                self._torn = True
                await self._stream.send_all(data)
                self._torn = False
                self._room.unpark_all()
        except _BROKEN as error:
            self.close(f"the connection was lost: {error}")

    async def _watch(self) -> None:
        """A connection with calls on which nothing is heard is asked for a sign of life, then given up."""
        while self._ended is None:
            await trio.sleep_until(self._heard + self._silence)
            quiet_since = self._heard
            if trio.current_time() < quiet_since + self._silence or not self._calls:
                if not self._calls:
                    self._heard = trio.current_time()
                continue
            self._h2.ping(b"keepaliv")
            self._flush()
            await trio.sleep(min(self._silence, _ANSWER_S))
            if self._heard == quiet_since:
                self.close("the server no longer answers")

    # -- what is heard ------------------------------------------------------------------------------------------

    def _hear(self, event: events.Event) -> None:
        kind = _KINDS.get(type(event))
        if kind is not None:
            kind(self, event)

    def _settled(self, event: events.RemoteSettingsChanged) -> None:
        self.greeted.set()
        self._room.unpark_all()

    def _opened(self, event: events.WindowUpdated) -> None:
        self._room.unpark_all()

    def _headed(self, event: events.ResponseReceived) -> None:
        self._of(event.stream_id, lambda call: call.headed(_plain(event.headers)))

    def _fed(self, event: events.DataReceived) -> None:
        self._unreturned += event.flow_controlled_length
        if self._unreturned >= _CONNECTION_WINDOW // 2:  # each call bounds itself; none of them holds up the others
            self._h2.increment_flow_control_window(self._unreturned)
            self._unreturned = 0
        self._of(event.stream_id, lambda call: call.fed(event.data, event.flow_controlled_length))

    def _trailed(self, event: events.TrailersReceived) -> None:
        self._of(event.stream_id, lambda call: call.trailed(_plain(event.headers)))

    def _cut(self, event: events.StreamEnded) -> None:
        self._of(event.stream_id, Call.cut)

    def _reset(self, event: events.StreamReset) -> None:
        self._of(event.stream_id, lambda call: call.finish(reset(event.error_code)))

    def _told_to_go(self, event: events.ConnectionTerminated) -> None:
        """GOAWAY: calls the server has taken go on, others were not looked at; new ones need a new connection."""
        self.leaving = True
        self._room.unpark_all()
        last = event.last_stream_id if event.last_stream_id is not None else _LAST_ID
        reason = (event.additional_data or b"").decode("utf-8", "replace")
        self._farewell = f"the server is going away{': ' + reason if reason else ''}"
        for number in [number for number in self._calls if number > last]:
            self._calls[number].finish(RpcError(Code.UNAVAILABLE, self._farewell, unprocessed=True))
        self._leave()

    def _of(self, number: int | None, act: Callable[[Call[Any]], None]) -> None:
        call = self._calls.get(number or 0)
        if call is not None:
            act(call)

    # -- what calls do ------------------------------------------------------------------------------------------

    async def open(self, call: Call[Any], fields: Callable[[], list[Field]]) -> None:
        """Begin ``call``; waits while the server takes no more calls on one connection.

        Raises RpcError, unprocessed, where this connection has become of no use meanwhile.
        """
        while not self.leaving and self._h2.open_outbound_streams >= self._h2.remote_settings.max_concurrent_streams:
            await self._room.park()
        if self.leaving:
            raise self._ended or RpcError(Code.UNAVAILABLE, "the server is going away", unprocessed=True)
        try:
            call.id = self._h2.get_next_available_stream_id()
        except NoAvailableStreamIDError:
            self.leaving = True
            raise RpcError(Code.UNAVAILABLE, "the connection is used up", unprocessed=True) from None
        self._h2.send_headers(call.id, fields())
        self._calls[call.id] = call
        self._flush()

    async def send(self, call: Call[Any], data: bytes, end: bool) -> None:
        """Send all of ``data``, as the server's windows allow; returns early where the call is over."""
        rest = memoryview(data)
        while not call.over:
            room = await self._wait_room(call) if rest else 0
            if room is None:
                return
            part, rest = rest[:room], rest[room:]
            if not part and not end:
                return
            self._h2.send_data(call.id, bytes(part), end_stream=end and not rest)
            self._flush()
            if not rest:
                break
        await trio.lowlevel.checkpoint()

    async def _wait_room(self, call: Call[Any]) -> int | None:
        while not call.over:
            room = min(self._h2.local_flow_control_window(call.id), self._h2.max_outbound_frame_size)
            if room > 0 and len(self._outgoing) < _HIGH_WATER:
                return room
            await self._room.park()
        return None

    def credit(self, call: Call[Any], size: int) -> bool:
        """Give the server ``size`` bytes of the call's window back; False while it is not worth a frame."""
        if size < WINDOW // 2:
            return False
        with contextlib.suppress(ProtocolError):  # h2 already knows that the stream has ended
            self._h2.increment_flow_control_window(size, call.id)
        self._flush()
        return True

    def reset(self, call: Call[Any]) -> None:
        """Tell the server that nobody waits for the call."""
        with contextlib.suppress(ProtocolError):  # the stream has ended by itself
            self._h2.reset_stream(call.id, ErrorCodes.CANCEL)
        self._flush()

    def forget(self, call: Call[Any]) -> None:
        """The call is over: another may begin, and a connection that is leaving may end with its last one."""
        self._calls.pop(call.id, None)
        self._room.unpark_all()
        self._leave()

    def _leave(self) -> None:
        if self.leaving and not self._calls:
            self._scope.cancel()

    # -- ending -------------------------------------------------------------------------------------------------

    def close(self, reason: str, code: Code = Code.UNAVAILABLE) -> None:
        """The connection is of no more use: every call on it fails with ``code``."""
        self.leaving = True
        self._ended = self._ended or RpcError(code, "; ".join(filter(None, (reason, self._farewell))))
        self.greeted.set()
        for call in list(self._calls.values()):
            call.finish(RpcError(self._ended.code, self._ended.message))
        self._room.unpark_all()
        self._leave()

    @property
    def failure(self) -> RpcError | None:
        """Why the connection has ended, or None."""
        return self._ended

    def _flush(self) -> None:
        self._collect()
        if self._outgoing:
            self._woken.set()

    def _collect(self) -> None:
        self._outgoing += self._h2.data_to_send()


_KINDS: Final[dict[type[events.Event], Callable[[Session, Any], None]]] = {
    events.RemoteSettingsChanged: Session._settled,
    events.WindowUpdated: Session._opened,
    events.ResponseReceived: Session._headed,
    events.DataReceived: Session._fed,
    events.TrailersReceived: Session._trailed,
    events.StreamEnded: Session._cut,
    events.StreamReset: Session._reset,
    events.ConnectionTerminated: Session._told_to_go,
}


def _plain(headers: Any) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in headers]
