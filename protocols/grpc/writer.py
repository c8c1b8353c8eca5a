"""The single writer of a connection: gathers what all calls have to say into one send. (T)

Invariant: a connection's own frames leave before those of its calls; calls take turns of `_QUANTUM` bytes, of `_SHARE`
where windows are short, and who has waited longest for a window is first to have of it. Nothing is taken from a call
before the client has taken what was sent before, so that what waits, waits where it is bounded.
"""

from __future__ import annotations

from typing import Final

import trio

from gateway.turn import Turn
from protocols.grpc.http2 import Http2
from protocols.grpc.limits import Pings
from protocols.grpc.stream import HIGH_WATER, Stream

_BATCH: Final = 262144
_QUANTUM: Final = 65536
_SHARE: Final = 16384


class Writer:
    """``since``: when the send that is under way began. `finish` lets `run` return once everything is sent."""

    def __init__(self, stream: trio.abc.Stream, http2: Http2, pings: Pings, turn: Turn) -> None:
        self.since: float | None = None
        self._stream = stream
        self._http2 = http2
        self._pings = pings
        self._turn = turn
        self._control = bytearray()
        self._ready: dict[Stream, None] = {}
        self._held_up: dict[Stream, None] = {}  # by a window; who had something last is last
        self._more_window = False
        self._bell = trio.lowlevel.ParkingLot()
        self._relief = trio.lowlevel.ParkingLot()
        self._finishing = False

    @property
    def pending(self) -> int:
        return len(self._control)

    def say(self, frames: bytes = b"") -> None:
        """Send what h2 wants sent, then ``frames`` of the connection itself."""
        data = self._http2.collect() + frames
        if data:
            self._control += data
            self._wake()

    def ready(self, stream: Stream) -> None:
        """``stream`` may have something to send."""
        self._ready[stream] = None
        self._wake()

    def more_window(self) -> None:
        """Any call may go on that waits for a window."""
        if self._held_up:
            self._more_window = True
            self._wake()

    def forget(self, stream: Stream) -> None:
        """``stream`` has nothing to send any more."""
        self._held_up.pop(stream, None)

    def close(self) -> None:
        """Nothing is to be written any more."""
        self._ready.clear()
        self._held_up.clear()

    def finish(self) -> None:
        self._finishing = True
        self._wake()
        self._relief.unpark_all()

    async def caught_up(self) -> None:
        """Until the client has read most of the connection's own frames: who does not, makes us write no more."""
        while len(self._control) > HIGH_WATER and not self._finishing:
            await self._relief.park()

    def _wake(self) -> None:
        if self._bell:
            self._bell.unpark_all()

    async def run(self) -> None:
        """Write until `finish` and everything is sent, or cancelled. Raises what the stream does."""
        while True:
            batch = self._gather()
            if batch:
                self.since = self._turn.now
                await self._stream.send_all(batch)
                self.since = None
                if self._relief:
                    self._relief.unpark_all()
            elif self._finishing:
                return
            else:
                await self._bell.park()

    def _gather(self) -> bytes:
        parts = [bytes(self._control)]
        self._control.clear()
        size = 0
        if self._more_window:
            self._ready = self._held_up | self._ready
            self._more_window = False
        while self._ready and size < _BATCH:
            stream = next(iter(self._ready))
            del self._ready[stream]
            if not stream.closed:
                parts.append(self._frames(stream))
                size += len(parts[-1])
        if size:
            self._pings.sent()
        return b"".join(parts)

    def _frames(self, stream: Stream) -> bytes:
        most = _SHARE if self._held_up else _QUANTUM
        frames, blocked = self._http2.frames(stream.id, stream.outgoing, most)
        waiting = stream.outgoing.size
        if frames:
            self.forget(stream)
        if waiting and blocked:
            self._held_up.setdefault(stream)
        elif waiting:
            self._ready[stream] = None  # its next turn
        if frames or not waiting:
            stream.stalled_since = self._turn.now if waiting else None
        elif stream.stalled_since is None:
            stream.stalled_since = self._turn.now
        if frames:
            stream.sent()
        return frames
