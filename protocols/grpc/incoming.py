"""What one call has received: messages in order, and how much of the window its handler has earned back. (P)

Invariant: a byte is given back once, and not before its message was taken or is the very next one that is awaited; what
is given back for an awaited message that is not whole yet is on loan (`lent`), so that its owner can bound it. What was
compressed is so until it is taken: a window full of gzip holds a thousand times its size. What comes behind a message
that nobody has taken stays as it came: cut into the smallest messages, a window full holds twenty times its size.
"""

from __future__ import annotations

from collections import deque

from gateway.wire.grpc import Code, GrpcError, Messages, inflated

_PREFIX = 5
_PIECE = 16384


class Incoming:
    """``error``: why bytes were refused; later ones are dropped. ``ended``: the client has said everything."""

    __slots__ = ("_behind", "_held", "_limit", "_messages", "_parser", "_size", "ended", "error", "lent")

    def __init__(self, limit: int, gzip: bool) -> None:
        self._limit = limit
        self._parser = Messages(limit, gzip)
        self._messages: deque[tuple[int, bytes]] = deque()
        self._behind = bytearray()
        self._size = 0
        self._held = 0
        self.lent = 0
        self.ended = False
        self.error: GrpcError | None = None

    @property
    def ready(self) -> bool:
        """Whether `take` answers without waiting: a message, the end or an error."""
        return bool(self._messages) or self.ended or self.error is not None

    @property
    def more(self) -> bool:
        """Whether a message waits to be taken."""
        return bool(self._messages)

    @property
    def size(self) -> int:
        """Bytes of messages that are here, as they came."""
        return self._size

    @property
    def torn(self) -> bool:
        """Whether a message has begun and not ended."""
        return not self._parser.whole

    def feed(self, data: bytes, cost: int) -> None:
        """Bytes of a DATA frame that took ``cost`` of the window."""
        self._held += cost
        if self.error is None:
            self._size += len(data)
            if self._messages:
                self._behind += data
            else:
                self._cut(data)

    def _cut(self, data: bytes) -> None:
        try:
            self._messages.extend(self._parser.cut(data))
        except GrpcError as error:
            self.error = error
            self._behind.clear()

    def end(self) -> None:
        self.ended = True
        self._check_end()

    def _check_end(self) -> None:
        if self.ended and self.error is None and self.torn and not self._behind:
            self.error = GrpcError(Code.INTERNAL, "the request ends within a message")

    def take(self) -> tuple[bytes | None, int]:
        """The next message, None after the last, and what it gives back. Raises GrpcError. Only when ``ready``."""
        if not self._messages:
            if self.error is not None:
                raise self.error
            return None, self.release()
        packed, message = self._messages.popleft()
        self._size -= len(message) + _PREFIX
        if self._behind and not self._messages:
            self._cut_behind()
        earned = max(0, min(self._held, len(message) + _PREFIX - self.lent))
        if packed:
            message = self._inflated(message)
        self._held -= earned
        self.lent = 0
        return message, earned

    def _cut_behind(self) -> None:
        while self._behind and not self._messages:
            piece = bytes(self._behind[:_PIECE])
            del self._behind[:_PIECE]
            self._cut(piece)
        self._check_end()

    def _inflated(self, message: bytes) -> bytes:
        try:
            return inflated(message, self._limit)
        except GrpcError as error:
            self.error = error
            self._messages.clear()
            self._behind.clear()
            raise

    def lend(self) -> int:
        """What the awaited message has taken so far: given back although it is not whole."""
        lent = self.release()
        self.lent += lent
        return lent

    def release(self) -> int:
        """All that is held, given back."""
        held, self._held = self._held, 0
        return held
