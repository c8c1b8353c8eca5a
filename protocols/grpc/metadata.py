"""Metadata of a call, between names with values and header fields. (P)

Invariant: nothing that HTTP/2 or gRPC keeps for itself gets out as metadata, and none of it comes in as such.
Source: grpc doc/PROTOCOL-HTTP2.md, Custom-Metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from gateway.wire.grpc import decode_binary, encode_binary

Value: TypeAlias = str | bytes
Metadata: TypeAlias = tuple[tuple[str, Value], ...]
"""Names in lower case with their values, in order. Values of names that end in ``-bin`` are bytes, others text."""

Sent: TypeAlias = Mapping[str, Value] | Sequence[tuple[str, Value]]
"""Metadata as a caller gives it."""

Field: TypeAlias = tuple[bytes, bytes]

_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[ -~]*")
_OURS: Final = frozenset({"content-type", "te", "user-agent", "host", "connection", "transfer-encoding"})


def fields(metadata: Sent) -> list[Field]:
    """Header fields for ``metadata``. Raises ValueError naming what cannot be sent, never its value."""
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    return [(name.encode(), _encoded(name, value)) for name, value in pairs]


def _encoded(name: str, value: Value) -> bytes:
    if name in _OURS or name.startswith("grpc-") or not _NAME.fullmatch(name):
        raise ValueError(f"not a name of metadata: {name!r}")
    if name.endswith("-bin") is isinstance(value, str):
        raise ValueError(f"{name} takes {'bytes' if name.endswith('-bin') else 'text'}")
    if isinstance(value, bytes):
        return encode_binary(value)
    if not _TEXT.fullmatch(value):
        raise ValueError(f"the value of {name} is not printable ASCII")
    return value.encode()


def metadata(received: Iterable[Field]) -> Metadata:
    """What of ``received`` is metadata. A binary value that is none is left out."""
    pairs: list[tuple[str, Value]] = []
    for field, value in received:
        name = field.decode("ascii", "replace")
        if name.startswith((":", "grpc-")) or name in _OURS:
            continue
        if not name.endswith("-bin"):
            pairs.append((name, value.decode("latin-1")))
            continue
        try:  # several values may share a field (commas are no base64)
            pairs += [(name, decode_binary(part.strip())) for part in value.split(b",")]
        except ValueError:
            continue
    return tuple(pairs)
