"""gRPC's framing: messages, and what stands in fields. (P)

Property: any split of the bytes gives the same messages or the same status; no message is larger than the limit, not
even inflated, and no more is held than one of them; what was framed is read again. Only GrpcError, and for a field
ValueError, is raised.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterable
from contextlib import suppress

from gateway.wire import grpc
from tests.fuzz.pieces import cut

_LIMIT = 1000


def target(data: bytes) -> None:
    """First byte: which part, whether gzip is agreed on, how the bytes are cut; the rest is that part."""
    if not data:
        return
    choice, rest = data[0], data[1:]
    if choice & 1:
        _fields(rest)
    elif choice & 2:
        _round(rest, choice >> 2)
    else:
        _messages(rest, choice >> 3, inflate=bool(choice & 4))


def _messages(data: bytes, seed: int, *, inflate: bool) -> None:
    whole, pieces = _taken([data], inflate), _taken(cut(data, seed), inflate)
    if whole[1] is None or whole[1] is grpc.Code.INTERNAL:
        assert whole[1] == pieces[1], (whole, pieces)
    assert whole[1] is not None or whole == pieces, (whole, pieces)
    size = 0
    for message in whole[0]:
        assert len(message) <= _LIMIT, len(message)
        size += len(message)
    assert inflate or size <= len(data), size


def _taken(pieces: Iterable[bytes], inflate: bool) -> tuple[list[bytes], grpc.Code | None]:
    parser, found = grpc.Messages(_LIMIT, inflate), []
    try:
        for piece in pieces:
            found += parser.feed(piece)
            assert len(parser._pending) <= _LIMIT + 5
    except grpc.GrpcError as error:
        return found, error.code
    return found, None


def _round(data: bytes, seed: int) -> None:
    """What is framed, packed or not, comes out again; so does gzip of several members, as anybody else makes it."""
    parts = [data[: len(data) // 2], data[len(data) // 2 :]]
    stream = b"".join(grpc.framed(part, gzip=bool(seed >> index & 1)) for index, part in enumerate(parts))
    parser = grpc.Messages(inflate=True)
    assert [found for piece in cut(stream, seed) for found in parser.feed(piece)] == parts
    assert parser.whole
    members = b"".join(gzip.compress(part, 1, mtime=0) for part in parts)
    assert grpc.inflated(members, len(data)) == data
    with suppress(grpc.GrpcError):
        assert len(grpc.inflated(struct.pack(">I", seed) + data, 100)) <= 100
    with suppress(grpc.GrpcError):
        assert len(grpc.inflated(data, 100)) <= 100


def _fields(data: bytes) -> None:
    text = data.decode("latin-1")
    grpc.decode_text(text)
    unicode = data.decode("utf-8", "replace")
    assert grpc.decode_text(grpc.encode_text(unicode)) == unicode
    assert grpc.encode_text(unicode).isprintable()
    assert grpc.encode_text(unicode).isascii()
    assert grpc.decode_binary(grpc.encode_binary(data)) == data
    with suppress(ValueError):
        grpc.decode_binary(data)
    with suppress(ValueError):
        seconds = grpc.timeout(data)
        assert 0 <= seconds < math.inf
        assert grpc.timeout(grpc.as_timeout(seconds)) >= seconds * (1 - 1e-9)
