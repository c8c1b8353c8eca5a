"""What a request's header fields say, and how one that no call can follow from is refused. (P)

Invariant: a field that is let in can be written down in any version of HTTP and stays one field.
Source: grpc doc/PROTOCOL-HTTP2.md; RFC 9113 §8.2 and §8.3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import msgspec

from gateway.types import Headers
from gateway.wire import grpc
from gateway.wire.grpc import Code, GrpcError

_CONTENT_TYPE = b"application/grpc"
_FIELD_COST = 32  # what HTTP/2 adds to the length of each
_NOT_IN_HTTP2 = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_BROKEN = re.compile(rb"[\0\r\n]")
"""What no value holds: written as HTTP/1, as an engine gets some, it would end the field, or the request."""
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))


class Malformed(Exception):
    """Not a request of HTTP/2: its stream is reset."""


class Unfit(Exception):
    """A request of HTTP/2 but not of gRPC: answered with an HTTP ``status``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Request(msgspec.Struct, frozen=True, gc=False):
    """``headers``: the regular fields in order; ``timeout`` in seconds; ``gzip``: messages may be compressed;
    ``size``: of all fields, as HTTP/2 counts it.
    """

    path: bytes
    headers: Headers
    timeout: float = math.inf
    gzip: bool = False
    size: int = 0


def read(fields: Iterable[tuple[bytes, bytes]], max_size: int) -> Request:
    """Raises Malformed, Unfit or GrpcError (RESOURCE_EXHAUSTED beyond ``max_size``; UNIMPLEMENTED encodings)."""
    pseudo: dict[bytes, bytes] = {}
    headers: list[tuple[bytes, bytes]] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + _FIELD_COST
        if _BROKEN.search(value) is not None:
            raise Malformed(f"the value of {name!r} is none of HTTP/2")
        if name.startswith(b":"):
            if headers or name in pseudo or name not in _PSEUDO:
                raise Malformed(f"{name!r} is out of place")
            pseudo[name] = value
        elif name in _NOT_IN_HTTP2 or _NAME.fullmatch(name) is None:
            raise Malformed(f"{name!r} is no field of HTTP/2")
        else:
            headers.append((name, value))
    if b":method" not in pseudo or not pseudo.get(b":path"):
        raise Malformed("no method or no path")
    if size > max_size:
        raise GrpcError(Code.RESOURCE_EXHAUSTED, f"the metadata takes {size} bytes, at most {max_size} are accepted")
    return _understood(pseudo, tuple(headers), size)


def _understood(pseudo: dict[bytes, bytes], headers: tuple[tuple[bytes, bytes], ...], size: int) -> Request:
    if pseudo[b":method"] != b"POST":
        raise Unfit(405)
    kind = encoding = limit = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value
        elif name == b"grpc-encoding":
            encoding = value
        elif name == b"grpc-timeout":
            limit = value
    if not kind.startswith(_CONTENT_TYPE) or kind[len(_CONTENT_TYPE) :][:1] not in (b"", b"+", b";"):
        raise Unfit(415)
    if encoding not in (b"", b"identity", b"gzip"):
        raise GrpcError(Code.UNIMPLEMENTED, f"grpc-encoding {encoding[:40].decode('latin-1')} is not supported")
    return Request(pseudo[b":path"], headers, _seconds(limit), encoding == b"gzip", size)


def _seconds(limit: bytes) -> float:
    if not limit:
        return math.inf
    try:
        return grpc.timeout(limit)
    except ValueError as error:
        raise GrpcError(Code.INTERNAL, str(error)) from None
