"""h2 as a gRPC server uses it: the state of the connection and its windows; what is sent on streams is framed here. (P)

h2's own framing and its HPACK encoder are left out on the way back: they are two thirds of a small call's CPU. On the
way in, what calls mostly consist of is read here, at a tenth of what h2 takes for it: unpadded DATA frames of open
streams within their windows. Everything else is h2's. Counting streams is left to the caller: h2 ends a connection over
one too many, and looks at all of them for each.
"""

from __future__ import annotations

import contextlib
import logging
import re
from typing import TYPE_CHECKING

from h2 import connection
from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection, H2ConnectionStateMachine
from h2.events import DataReceived, Event, StreamEnded
from h2.exceptions import DenialOfServiceError, FrameTooLargeError, ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes
from h2.stream import H2Stream, StreamInputs, StreamState

from gateway.wire import h2
from protocols.grpc.limits import Limits
from protocols.grpc.outgoing import Outgoing

if TYPE_CHECKING:
    from hyperframe.frame import Frame, HeadersFrame, SettingsFrame

_FAREWELLS = (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY)
_DEFAULT_WINDOW = 65535
_TURN = 64
_HEAD, _FRAME_MAX, _END_STREAM = 9, 16384, 1
_OPEN = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)
_SETTINGS = frozenset(code.value for code in SettingCodes)
_UPDATES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*.){3}", re.DOTALL)  # RFC 7541 §4.2 has at most two

vars(connection)["repr"] = object.__repr__  # h2 spells out every frame it gets, for a log that nobody reads
logging.getLogger("hpack").setLevel(logging.WARNING)  # below that it writes down every field, credentials too


class _Machine(H2ConnectionStateMachine):
    """GOAWAY, theirs or ours, announces an end; h2's own machine would have nothing follow it."""

    def process_input(self, input_: ConnectionInputs) -> list[Event]:
        return [] if input_ in _FAREWELLS else super().process_input(input_)


class _Frames(FrameBuffer):
    """Blocks of fields end at ``most`` bytes: h2's own limit is a megabyte, which takes it a second."""

    def __init__(self, most: int) -> None:
        super().__init__(server=True)
        self._most = most

    @property
    def within_block(self) -> bool:
        """Whether nothing but the rest of a block may follow."""
        return bool(self._headers_buffer)

    def _update_header_buffer(self, f: Frame | None) -> Frame | None:
        if self._headers_buffer and sum(len(part.data) for part in self._headers_buffer) > self._most:
            raise DenialOfServiceError("a block of fields without end")
        return super()._update_header_buffer(f)


class _Connection(H2Connection):
    MAX_CLOSED_STREAMS = 8192
    """Of which it is known how they ended; h2's own 65,536 take 11 MB a connection."""

    @property
    def open_inbound_streams(self) -> int:
        if len(self.streams) & 63 == 63:
            _ = super().open_inbound_streams  # forgets those that are closed
        return 0

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        if _UPDATES.match(frame.data):
            raise ProtocolError("more changes of the table than can be meant")
        return super()._receive_headers_frame(frame)

    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[list[Frame], list[Event]]:
        """Settings that nobody knows are ignored: h2 keeps a deque for each of 65,536 names, 56 MB."""
        frame.settings = {code: value for code, value in frame.settings.items() if code in _SETTINGS}
        return super()._receive_settings_frame(frame)

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        vars(stream)["_initialize_content_length"] = _unread  # gRPC has no use for it; for h2 a wrong one ends them all
        return stream


def _unread(_: object) -> None: ...


class Http2:
    """``collect`` hands out what h2 itself wants sent since it was last asked; it has to go out before later frames.
    ``more``: whether bytes that were received say more: `receive` nothing else before.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owed = 0
        self._opening = h2.NO_TABLE
        self._rest = b""
        self._greeted = False
        self.more = False
        self._h2 = _Connection(
            H2Configuration(client_side=False, validate_inbound_headers=False, normalize_inbound_headers=False)
        )
        self._h2.state_machine = _Machine()
        self._frames = self._h2.incoming_buffer = _Frames(4 * limits.max_headers)
        self.collect = self._h2.data_to_send

    def close(self) -> None:
        """Nothing is received any more: what h2 has refers to itself no longer, and needs no garbage collector."""
        self._h2._frame_dispatch_table.clear()

    @property
    def last_id(self) -> int:
        """The latest stream that the client has opened."""
        return self._h2.highest_inbound_stream_id

    def greet(self) -> bytes:
        """Our settings. They hold for h2 at once: a client that has not seen them yet takes less."""
        limits, state = self._limits, self._h2
        state.initiate_connection()
        state.local_settings.initial_window_size = limits.window
        state.local_settings.acknowledge()
        state.clear_outbound_data_buffer()
        state.decoder.max_header_list_size = 4 * limits.max_headers
        if limits.connection_window > _DEFAULT_WINDOW:
            state.increment_flow_control_window(limits.connection_window - _DEFAULT_WINDOW)
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS.value: limits.max_streams,
            SettingCodes.INITIAL_WINDOW_SIZE.value: limits.window,
            SettingCodes.MAX_HEADER_LIST_SIZE.value: limits.max_headers,
        }
        return h2.settings(settings) + self.collect()

    def receive(self, data: bytes) -> list[Event]:
        """What the client's bytes say, as far as one turn goes: a read full of the smallest frames takes a second. The
        preface comes whole. Raises h2's ProtocolError: it has broken HTTP/2 and nothing can follow.
        """
        data = self._rest + data if self._rest else data
        try:
            return self._received(data)
        except ProtocolError:
            self._h2.clear_outbound_data_buffer()  # h2's GOAWAY says less than ours
            raise

    def _received(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        at, size, turn = 0, len(data), _TURN
        if not self._greeted:
            self._greeted, at = True, len(h2.PREFACE)
            self._h2.receive_data(data[:at])
        while size - at >= _HEAD and turn:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > _FRAME_MAX:
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = at + _HEAD + length
            if end > size:
                break
            if data[at + 3] or data[at + 4] > _END_STREAM or not self._data(data, at, end, events):
                events += self._h2.receive_data(data[at:end])
            at, turn = end, turn - 1
        self._rest, self.more = data[at:], not turn
        return events

    def _data(self, data: bytes, at: int, end: int, events: list[Event]) -> bool:
        """Read the DATA frame there, if it may come now; h2 knows what to say of any other."""
        stream_id, length = int.from_bytes(data[at + 5 : at + _HEAD], "big"), end - at - _HEAD
        stream, window = self._h2.streams.get(stream_id), self._h2._inbound_flow_control_window_manager
        if stream is None or stream.state_machine.state not in _OPEN or self._frames.within_block:
            return False
        own = stream._inbound_window_manager
        if length > own.current_window_size or length > window.current_window_size:
            return False
        own.current_window_size -= length
        window.current_window_size -= length
        ended = None
        if data[at + 4]:
            stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)
            ended = StreamEnded(stream_id=stream_id)
        piece = data[at + _HEAD : end]
        events.append(DataReceived(stream_id=stream_id, data=piece, flow_controlled_length=length, stream_ended=ended))
        if ended is not None:
            events.append(ended)
        return True

    def frames(self, stream_id: int, outgoing: Outgoing, most: int) -> tuple[bytes, bool]:
        """The next frames of a stream with ``most`` bytes of messages, and whether the client's window holds up more.

        b"" for a stream that h2 knows to be closed.
        """
        state = self._h2.streams.get(stream_id)
        if state is None or state.closed:
            return b"", True
        window = max(0, min(self._h2.outbound_flow_control_window, state.outbound_flow_control_window))
        data, used = outgoing.take(min(window, most), self._h2.max_outbound_frame_size, self._opening)
        if data:
            self._opening = b""
            state.outbound_flow_control_window -= used
            self._h2.outbound_flow_control_window -= used
            if outgoing.done:
                data += self._end(stream_id)
        return data, used >= window

    def _end(self, stream_id: int) -> bytes:
        """Our side of a stream has ended: what a client is told that has not ended its own."""
        state = self._h2.streams[stream_id]
        state.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        if state.closed:
            return b""
        self._h2.reset_stream(stream_id, h2.NO_ERROR)
        return self.collect()

    def reset(self, stream_id: int, code: int) -> None:
        with contextlib.suppress(ProtocolError):  # closed already
            self._h2.reset_stream(stream_id, code)

    def return_window(self, amount: int) -> None:
        """Bytes of the connection's window have been consumed. The client is told once it is worth a frame."""
        self._owed += amount
        if self._owed >= self._limits.connection_window // 4:
            self._h2.increment_flow_control_window(self._owed)
            self._owed = 0

    def return_stream_window(self, stream_id: int, amount: int) -> None:
        state = self._h2.streams.get(stream_id)
        if state is not None and not state.closed:
            self._h2.increment_flow_control_window(amount, stream_id)
