"""What gRPC puts into HTTP/2: length-prefixed messages, timeouts, texts and binary fields, both ways. (P)

Invariant: however the bytes are cut over `Messages.feed` calls, the same messages come out, or the same status. A
message costs memory only up to the limit, whatever its prefix or its compressed form promises. Source: grpc
doc/PROTOCOL-HTTP2.md and doc/compression.md.
"""

from __future__ import annotations

import enum
import math
import struct
import zlib
from base64 import b64decode, b64encode
from typing import Final
from urllib.parse import quote, unquote

MAX_MESSAGE: Final = 32 * 1024 * 1024
"""Bytes of one message that are accepted unless said otherwise."""

_PREFIX: Final = struct.Struct(">BI")
_GZIP: Final = 31  # zlib's name for gzip with its largest window
_UNITS: Final = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "S": 1.0, "M": 60.0, "H": 3600.0}
_MAX_TIMEOUT: Final = 99_999_999  # eight digits
_SAFE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Code(enum.IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """A call that ends with a status other than OK. ``details``: a serialised google.rpc.Status, b"" for none."""

    def __init__(self, code: Code, message: str = "", details: bytes = b"") -> None:
        super().__init__(code, message, details)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class Messages:
    """Messages out of the bytes of DATA frames. ``limit``: bytes of one message, as sent and inflated.

    `feed` raises GrpcError; the object is then of no further use.
    """

    __slots__ = ("_inflate", "_limit", "_pending", "_wanted")

    def __init__(self, limit: int = MAX_MESSAGE, inflate: bool = False) -> None:
        self._limit = limit
        self._inflate = inflate
        self._pending = bytearray()
        self._wanted = _PREFIX.size

    @property
    def whole(self) -> bool:
        """Whether nothing of an unfinished message is held."""
        return not self._pending

    @property
    def held(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes, oldest first, inflated.

        Raises GrpcError: RESOURCE_EXHAUSTED for more than the limit; INTERNAL for a prefix or gzip that is none, and
        for a compressed message where no encoding was agreed on.
        """
        return [inflated(message, self._limit) if packed else message for packed, message in self.cut(data)]

    def cut(self, data: bytes) -> list[tuple[int, bytes]]:
        """As `feed`, but as they came: whether each is in gzip, and its bytes. A window full of them is small."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._wanted:
                return []
            data = bytes(self._pending)
            self._pending.clear()
        messages = []
        start = 0
        while len(data) - start >= _PREFIX.size:
            flag, size = _PREFIX.unpack_from(data, start)
            if flag or size > self._limit:
                self._check(flag, size)
            end = start + _PREFIX.size + size
            if end > len(data):
                break
            messages.append((flag, data[start + _PREFIX.size : end]))
            start = end
        self._keep(data, start)
        return messages

    def _keep(self, data: bytes, start: int) -> None:
        self._wanted = _PREFIX.size
        if start < len(data):
            self._pending += data[start:]
            if len(self._pending) >= _PREFIX.size:
                self._wanted += _PREFIX.unpack_from(self._pending)[1]

    def _check(self, flag: int, size: int) -> None:
        if flag > 1:
            raise GrpcError(Code.INTERNAL, f"a message begins with {flag}, neither 0 nor 1")
        if flag and not self._inflate:
            raise GrpcError(Code.INTERNAL, "a compressed message, but no grpc-encoding says how")
        if size > self._limit:
            raise _too_large(self._limit, f"{size} bytes")


def inflated(data: bytes, limit: int) -> bytes:
    """``data`` out of gzip, of one or several members. Raises GrpcError; never makes more than ``limit`` bytes."""
    parts: list[bytes] = []
    room = limit
    try:
        while data or not parts:
            stream = zlib.decompressobj(_GZIP)
            part = stream.decompress(data, room + 1)
            room -= len(part)
            if room < 0:
                raise _too_large(limit, "more when inflated")
            if not stream.eof:
                raise GrpcError(Code.INTERNAL, "a message in gzip is cut short")
            parts.append(part)
            data = stream.unused_data
    except zlib.error as error:
        raise GrpcError(Code.INTERNAL, f"a message is not gzip: {error}") from None
    return b"".join(parts)


def _too_large(limit: int, what: str) -> GrpcError:
    return GrpcError(Code.RESOURCE_EXHAUSTED, f"a message has {what}, at most {limit} are accepted")


def framed(message: bytes, gzip: bool = False) -> bytes:
    """The message with its prefix."""
    if gzip:
        stream = zlib.compressobj(wbits=_GZIP)
        message = stream.compress(message) + stream.flush()
    return _PREFIX.pack(gzip, len(message)) + message


def timeout(text: bytes | str) -> float:
    """``grpc-timeout`` in seconds. Raises ValueError."""
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    digits, unit = text[:-1], text[-1:]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 8 and unit in _UNITS):
        raise ValueError(f"not a grpc-timeout: {text[:20]!r}")
    return int(digits) * _UNITS[unit]


def as_timeout(seconds: float) -> str:
    """Seconds as ``grpc-timeout``, in the finest unit that eight digits hold, rounded up; the past is 1 ns from now."""
    for unit, size in _UNITS.items():
        if seconds <= size * _MAX_TIMEOUT:
            return f"{min(_MAX_TIMEOUT, max(1, math.ceil(seconds / size)))}{unit}"
    return f"{_MAX_TIMEOUT}H"


def encode_text(text: str) -> str:
    """A ``grpc-message``: percent-encoded UTF-8."""
    return quote(text, safe=_SAFE, errors="replace")


def decode_text(text: str) -> str:
    """The text of a ``grpc-message``; what is badly encoded is shown as U+FFFD or as it came, never an error."""
    return unquote(text, errors="replace")


def encode_binary(value: bytes) -> bytes:
    """The value of a ``-bin`` field: base64 without padding."""
    return b64encode(value).rstrip(b"=")


def decode_binary(value: bytes) -> bytes:
    """The bytes of a ``-bin`` field, padded or not. Raises ValueError."""
    return b64decode(value + b"=" * (-len(value) % 4), validate=True)
