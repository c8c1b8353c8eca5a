"""One gRPC call as a case sees it, its statuses, and the grpcurl that repeats it. (T)

Invariant: a call ends with a status, or with words that say what came instead.
Sources: grpc doc/PROTOCOL-HTTP2.md, doc/statuscodes.md, doc/http-grpc-status-mapping.md.
"""

from __future__ import annotations

import base64
import gzip
import math
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import trio
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from conformance.suite.check import Failure
from conformance.suite.target import Trace
from conformance.suite.wire import Address, Headers

if TYPE_CHECKING:
    from conformance.suite.h2client import Link

_LARGE = 20_000
_MOST_NOTED = 60_000
"""Bytes of one message, and of all that a call has sent, beyond which they are not written down."""
OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 2, 3, 4, 5
PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, INTERNAL = 7, 8, 9, 12, 13
UNAVAILABLE, UNAUTHENTICATED = 14, 16
_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_OF_RESET = {7: UNAVAILABLE, 8: CANCELLED, 11: RESOURCE_EXHAUSTED, 12: PERMISSION_DENIED}
_OF_HTTP = {400: INTERNAL, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: UNIMPLEMENTED,
            429: UNAVAILABLE, 502: UNAVAILABLE, 503: UNAVAILABLE, 504: UNAVAILABLE}  # fmt: skip


def framed(message: Message | bytes, *, compressed: bool = False) -> bytes:
    """A message with gRPC's five bytes before it."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    data = gzip.compress(data, 1) if compressed else data
    return bytes((compressed,)) + len(data).to_bytes(4, "big") + data


class Call:
    """A call under way. ``initial`` and ``trailers`` are its metadata as they have come; ``body`` is for reports.

    ``status``: what the server said, None if it did not; ``reset``: the code it broke the call off with.
    """

    def __init__(self, link: Link, number: int, reply: Any, trace: Trace) -> None:
        self.link, self.number, self.reply, self.trace = link, number, reply, trace
        self.initial: Headers = []
        self.trailers: Headers = []
        self.status: int | None = None
        self.reset: int | None = None
        self.broken = ""
        self.body = bytearray()
        self.ended = 0.0
        self.over = trio.Event()
        self.received: list[Any] = []
        self._said: list[bytes] = []
        self._noted = 0
        self._rest = b""
        self._news, self._inbox = trio.open_memory_channel[Any](math.inf)

    @property
    def fields(self) -> Headers:
        return [*self.initial, *self.trailers]

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.fields)

    @property
    def message(self) -> str:
        """What the status says, decoded."""
        return unquote(self.metadata.get("grpc-message", ""))

    @property
    def code(self) -> int:
        """The status, or what its absence stands for. Raises Failure while the call goes on."""
        if not self.over.is_set():
            raise Failure("the call has not ended", "a status", self.fields)
        if self.status is not None:
            return self.status
        if self.reset is not None:
            return _OF_RESET.get(self.reset, INTERNAL)
        http = int(self.metadata.get(":status", "0"))
        return _OF_HTTP.get(http, UNKNOWN) if http and http != 200 else UNAVAILABLE if self.broken else INTERNAL

    def expect(self, *codes: int) -> Call:
        """Itself, ended with one of these."""
        if self.code not in codes:
            got = f"{_named(self.code)}: {self.message or self.broken or self.reset or ''}"
            raise Failure("the status of the call differs", " or ".join(map(_named, codes)), got)
        return self

    async def send(self, message: Message | bytes, *, end: bool = False, compressed: bool = False) -> None:
        """A message, or bytes in place of one."""
        self._note(message if isinstance(message, bytes) else self._shown(message))
        await self.link.send(self.number, framed(message, compressed=compressed), end)

    async def send_raw(self, data: bytes, *, end: bool = False) -> None:
        """Bytes of DATA, whatever they are to mean."""
        self._note(data)
        await self.link.send(self.number, data, end)

    def _note(self, data: bytes) -> None:
        if self._noted < _MOST_NOTED:
            self._said.append(data)
        self._noted += len(data)
        if self.over.is_set():
            self._write_down()

    def _write_down(self) -> None:
        self.trace.body = b"".join(self._said)
        self.trace.command = grpcurl(self.trace, self.link.where)

    async def next(self) -> Any:
        """The next message, None after the last. Raises Failure for bytes that are none."""
        try:
            data = await self._inbox.receive()
        except trio.EndOfChannel:
            return None
        try:
            message = self.reply.FromString(data)
        except DecodeError as error:
            raise Failure(f"an answer is no {self.reply.DESCRIPTOR.full_name}: {error}", None, data) from None
        if len(self.body) < _MOST_NOTED:
            self.body += self._shown(message)
        self.received.append(message)
        return message

    def _shown(self, message: Message) -> bytes:
        """As reports have it. JSON writes bytes in base64, in which nobody would look for a key."""
        if message.ByteSize() > _LARGE:
            return f'{{"…": "{message.ByteSize()} bytes"}}\n'.encode()
        text = MessageToJson(message, indent=None)
        key = self.link.target.setup.key
        for secret in (key, f"Bearer {key}") if key else ():
            text = text.replace(base64.b64encode(secret.encode()).decode(), "$API_KEY")
        return text.encode() + b"\n"

    async def finish(self) -> Call:
        """Read to the end."""
        while await self.next() is not None:
            pass
        await self.over.wait()
        return self

    async def cancel(self, code: int = ErrorCodes.CANCEL) -> None:
        """Break it off, as a client does that waits no more."""
        with suppress(ProtocolError):
            self.link.h2.reset_stream(self.number, code)
        self.end("cancelled")
        await self.link.flush()

    def feed(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 5 and len(self._rest) >= (size := 5 + int.from_bytes(self._rest[1:5], "big")):
            payload, packed = self._rest[5:size], self._rest[0] & 1
            self._rest = self._rest[size:]
            self._news.send_nowait(gzip.decompress(payload) if packed else payload)

    def head(self, fields: Headers, *, last: bool) -> None:
        (self.trailers if last else self.initial).extend(fields)
        status = dict(fields).get("grpc-status")
        if status is not None:
            self.status = int(status)

    def end(self, broken: str = "") -> None:
        if not self.over.is_set():
            self.broken = broken or ("the answer ended inside a message" if self._rest else "")
            self.ended = self.trace.ended = trio.current_time()
            self.trace.error = self.broken
            self._write_down()
            self._news.close()
            self.over.set()


def _named(code: int) -> str:
    return f"{code} {_NAMES[code]}" if 0 <= code < len(_NAMES) else str(code)


def grpcurl(trace: Trace, where: Address) -> str:
    """The command line; messages are JSON, bytes that are none stand as they are."""
    words = ["grpcurl", "-insecure" if where.tls and where.insecure else "" if where.tls else "-plaintext"]
    for name, value in trace.headers:
        if name in ("authorization", "x-api-key"):
            words += ["-H", f'"{name}: {"Bearer " if value.startswith("Bearer ") else ""}$API_KEY"']
        elif not name.startswith(":") and name not in ("te", "content-type", "user-agent"):
            words += ["-H", shlex.quote(f"{name}: {value}")]
    if trace.body:
        words += ["-d", shlex.quote(bytes(trace.body).decode("utf-8", "backslashreplace").strip())]
    path = trace.url.removeprefix(f"grpc://{where.authority}/")
    return " ".join(filter(None, [*words, f"{where.host}:{where.port}", path]))
