"""Messages to bytes and back, whichever library their types come from. (P)

Messages of betterproto2 and of protobuf have ``SerializeToString`` and ``FromString``; `bytes` stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from gateway.wire.grpc import Code
from protocols.grpc.client.errors import RpcError

_M = TypeVar("_M")


def encoded(message: Any) -> bytes:
    """``message`` as bytes. Raises TypeError for what is no message."""
    if isinstance(message, bytes):
        return message
    serialize = getattr(message, "SerializeToString", None)
    if serialize is None:
        raise TypeError(f"not a message: {type(message).__name__}")
    data: bytes = serialize()
    return data


def decoder(kind: type[_M]) -> Callable[[bytes], _M]:
    """What makes a ``kind`` out of bytes; it raises RpcError, INTERNAL, where it cannot."""
    if kind is bytes:
        return lambda data: data  # type: ignore[return-value]  # a _M is bytes here
    parse = getattr(kind, "FromString", None)
    if parse is None:
        raise TypeError(f"not a type of messages: {kind.__name__}")

    def decode(data: bytes) -> _M:
        try:
            message: _M = parse(data)
        except Exception as error:  # noqa: BLE001 — each library has its own
            raise RpcError(Code.INTERNAL, f"the answer is no {kind.__name__}: {error}") from None
        return message

    return decode
