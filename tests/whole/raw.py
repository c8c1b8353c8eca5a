"""HTTP/1.1 by hand over a blocking socket, for what no well-behaved client does. (IO)

Strict where the gateway's own parser might be lenient: it shares no code with it.
"""

from __future__ import annotations

import json
import re
import socket
from io import BytesIO
from typing import NamedTuple, Self

DEADLINE_S = 10.0
"""A read that takes longer is a hang."""


def connect(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, timeout=DEADLINE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def refuses(address: tuple[str, int]) -> bool:
    """Whether nobody listens there any more."""
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    return False


def post(path: str, body: object, *headers: str) -> bytes:
    """A whole request; ``body`` is JSON unless bytes already."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = ["host: localhost", "content-type: application/json", f"content-length: {len(payload)}", *headers]
    lines = [f"POST {path} HTTP/1.1", *fields, "", ""]
    return "\r\n".join(lines).encode() + payload


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: localhost", *headers, "", ""]).encode()


class Answer(NamedTuple):
    """One response. ``whole`` is False where the connection ended inside the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


class Reader:
    """Responses from one connection, or from bytes that were received, in order."""

    def __init__(self, source: socket.socket | BytesIO) -> None:
        self._file = source.makefile("rb") if isinstance(source, socket.socket) else source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def head(self) -> tuple[int, dict[str, str]] | None:
        """Status and headers, None if the connection ends instead."""
        line = self._file.readline(65536)
        if not line:
            return None
        found = re.fullmatch(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*\r\n", line)
        assert found, f"not a status line: {line!r}"
        headers: dict[str, str] = {}
        while (line := self._file.readline(65536)) != b"\r\n":
            field = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*\r\n", line)
            assert field, f"not a header field: {line!r}"
            name = field[1].decode().lower()
            assert name not in ("content-length", "transfer-encoding") or name not in headers, f"{name} twice"
            headers[name] = field[2].decode("latin-1")
        return int(found[1]), headers

    def chunk(self) -> bytes | None:
        """The next chunk of a chunked body; b"" is the last one, None a connection that ended."""
        line = self._file.readline(65536)
        if not line:
            return None
        assert re.fullmatch(rb"[0-9A-Fa-f]{1,8}\r\n", line), f"not a chunk size: {line!r}"
        size = int(line, 16)
        data = self._file.read(size + 2)
        if len(data) < size + 2:
            return None
        assert data.endswith(b"\r\n")
        return data[:-2]

    def answer(self, *, head_only: bool = False) -> Answer | None:
        """The next final response, interim ones passed over; None if the connection ends instead."""
        head = self.head()
        while head is not None and head[0] < 200:
            head = self.head()
        if head is None:
            return None
        status, headers = head
        if head_only or status in (204, 304):
            return Answer(status, headers, b"", whole=True)
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            return self._chunked(status, headers)
        if "content-length" in headers:
            size = int(headers["content-length"])
            body = self._file.read(size)
            return Answer(status, headers, body, whole=len(body) == size)
        return Answer(status, headers, self._file.read(), whole=headers.get("connection") == "close")

    def _chunked(self, status: int, headers: dict[str, str]) -> Answer:
        body = b""
        while chunk := self.chunk():
            body += chunk
        return Answer(status, headers, body, whole=chunk is not None)

    def rest(self) -> bytes:
        """Everything until the connection ends."""
        return self._file.read()


def exchange(address: tuple[str, int], request: bytes, *, head_only: bool = False) -> Answer | None:
    """One request on a connection of its own."""
    with connect(address) as connection, Reader(connection) as reader:
        connection.sendall(request)
        return reader.answer(head_only=head_only)


def events(body: bytes) -> list[str]:
    """The data of each server-sent event in a whole stream."""
    return [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event.startswith("data: ")]
