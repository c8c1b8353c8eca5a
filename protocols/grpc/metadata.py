"""Metadata between header fields and what grpclib's services handle. (P)"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from multidict import MultiDict

from gateway.types import Headers
from gateway.wire.grpc import decode_binary, encode_binary

Value = str | bytes
Metadata = Mapping[str, Value] | Iterable[tuple[str, Value]]

_OURS = frozenset((b"te", b"content-type", b"user-agent"))
_NAME = re.compile(r"[0-9a-z_.\-]+")
_TEXT = re.compile(r"[ -~]*")


def decoded(headers: Headers) -> MultiDict[Value]:
    """The caller's metadata: ``-bin`` values as bytes (left out if they are none), others as text."""
    metadata: MultiDict[Value] = MultiDict()
    for name, value in headers:
        if name.startswith(b"grpc-") or name in _OURS:
            continue
        key = name.decode("latin-1")
        if not name.endswith(b"-bin"):
            metadata.add(key, value.decode("latin-1"))
            continue
        for part in value.split(b","):  # one field may carry several values
            try:
                metadata.add(key, decode_binary(part))
            except ValueError:
                continue
    return metadata


def encoded(metadata: Metadata | None) -> list[tuple[bytes, bytes]]:
    """Metadata as fields. Raises ValueError for a name or a value that cannot be sent, or that gRPC itself sends."""
    items = metadata.items() if isinstance(metadata, Mapping) else metadata or ()
    return [(_name(key), _value(key, value)) for key, value in items]


def _name(key: str) -> bytes:
    name = key.encode()
    if not _NAME.fullmatch(key) or key.startswith("grpc-") or name in _OURS:
        raise ValueError(f"{key!r} cannot be the name of metadata")
    return name


def _value(key: str, value: Value) -> bytes:
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise ValueError(f"the value of {key!r} has to be bytes")
        return encode_binary(value)
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise ValueError(f"the value of {key!r} has to be printable ASCII")
    return value.encode()
