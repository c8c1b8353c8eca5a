"""Messages to bytes and back: the seam between the server and whatever generated the messages. (P)"""

from __future__ import annotations

from typing import Any, Protocol


class Codec(Protocol):
    """Either may raise anything; the call then ends with INTERNAL."""

    def encode(self, message: Any) -> bytes: ...

    def decode(self, data: bytes, kind: Any) -> Any: ...


class Protobuf:
    """betterproto2's messages and protobuf's own: both have these two."""

    def encode(self, message: Any) -> bytes:
        encoded: bytes = message.SerializeToString()
        return encoded

    def decode(self, data: bytes, kind: Any) -> Any:
        return kind.FromString(data)
