"""What one call has to send: initial metadata, messages, trailers, in frames as large as the windows allow. (P)

Invariant: frames come out in the order gRPC has them, whatever the windows; messages that wait together leave together
in one frame.
"""

from __future__ import annotations

from collections import deque

from gateway.types import Headers
from gateway.wire import h2

_SIMPLE = h2.block(((b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip")))
_OK = b"\x88"  # :status 200
_INITIAL = _OK + _SIMPLE
_ALL_WELL = h2.block(((b"grpc-status", b"0"),))


class Outgoing:
    """``size``: bytes of messages that wait. ``done``: the last frame has been taken."""

    __slots__ = ("_head", "_messages", "_offset", "_stream_id", "_trailers", "done", "size", "started")

    def __init__(self, stream_id: int) -> None:
        self._stream_id = stream_id
        self._head = b""
        self._messages: deque[bytes] = deque()
        self._offset = 0  # of the first message, what has been sent
        self._trailers: bytes | None = None
        self.size = 0
        self.started = False
        self.done = False

    @property
    def ended(self) -> bool:
        """Whether the trailers are in."""
        return self._trailers is not None

    def start(self, metadata: Headers = ()) -> None:
        """Initial metadata; once, before any message."""
        self.started = True
        self._head = _INITIAL + h2.block(metadata) if metadata else _INITIAL

    def add(self, message: bytes) -> None:
        """A message with its prefix."""
        self._messages.append(message)
        self.size += len(message)

    def end(self, trailers: Headers = ()) -> None:
        """Trailers: the status and what goes with it; none for plain OK. Where nothing was started they are all."""
        trailing = h2.block(trailers) if trailers else _ALL_WELL
        self._trailers = trailing if self.started else _INITIAL + trailing

    def refuse(self, status: int) -> None:
        """Answer with an HTTP status instead."""
        self._trailers = h2.block(((b":status", b"%d" % status),))

    def take(self, window: int, max_frame: int, opening: bytes = b"") -> tuple[bytes, int]:
        """The next frames, and how much of the window they use; b"" when only a larger window helps.

        ``opening`` comes first in the first block.
        """
        frames: list[bytes] = []
        if self.done:
            return b"", 0
        if self._head:
            frames.append(h2.headers(self._stream_id, opening + self._head, False, max_frame))
            self._head = opening = b""
        used = 0
        while self.size and used < window:
            part = self._cut(min(window - used, max_frame))
            frames.append(h2.data(self._stream_id, part))
            used += len(part)
        if self._trailers is not None and not self.size:
            frames.append(h2.headers(self._stream_id, opening + self._trailers, True, max_frame))
            self.done = True
        return b"".join(frames), used

    def _cut(self, most: int) -> bytes:
        if self.size <= most and not self._offset:
            whole = self._messages.popleft() if len(self._messages) == 1 else b"".join(self._messages)
            self._messages.clear()
            self.size = 0
            return whole
        parts: list[bytes] = []
        self.size -= min(most, self.size)
        while most and self._messages:
            part = self._messages[0][self._offset : self._offset + most]
            parts.append(part)
            most -= len(part)
            self._offset += len(part)
            if self._offset == len(self._messages[0]):
                self._messages.popleft()
                self._offset = 0
        return b"".join(parts)
