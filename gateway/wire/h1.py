"""HTTP/1.1 as bytes and values, for both sides of the gateway, over llhttp. (P)

llhttp in its strict mode is the judge of framing: bare LF, obs-fold, repeated or conflicting Content-Length, a length
beside Transfer-Encoding, malformed chunk sizes all end in `ProtocolError`. What it lets through and a gateway must
not (a coding other than chunked, no or two Host fields, HTTP/0.9) is refused here. Any split of the bytes gives the
same messages. After an error a parser is spent: the connection can only be closed.
"""

from __future__ import annotations

import http
import re
from collections import deque
from collections.abc import Iterable
from typing import Any

import httptools
import msgspec
from httptools import HttpParserError, HttpParserUpgrade

from gateway.types import Headers


class ProtocolError(Exception):
    """The peer broke HTTP. ``status`` is what a server answers before it closes."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


_PIECES = 64
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)
_RESPONSE_HEAD_MAX = 1 << 20
_CODINGS = (b"transfer-encoding", b"content-encoding")


class _Closed:
    """In the place of llhttp's parser."""

    def feed_data(self, data: bytes) -> None:
        raise HttpParserError("the connection is closed")


_CLOSED: Any = _Closed()


class Request(msgspec.Struct, frozen=True):
    """One whole request: framing is resolved, the body is complete, names are lower-case.

    ``fields`` is ``headers`` by name; of a field given twice it has the last.
    """

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool
    http10: bool
    fields: dict[bytes, bytes]

    def header(self, name: bytes) -> bytes | None:
        """A value of ``name`` (lower-case), or None."""
        return self.fields.get(name)

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]


class RequestParser:
    """Bytes of one client connection in, whole requests out (several, if the client pipelines).

    ``max_header`` bounds request line and fields together (431), ``max_body`` the decoded body (413); both in bytes.
    Trailer fields are checked for syntax and dropped.
    """

    def __init__(self, max_header: int = 65536, max_body: int = 32 * 1024 * 1024) -> None:
        self.ready: deque[Request] = deque()
        self.error: ProtocolError | None = None
        self.continue_wanted = False
        self.idle = True
        self._max_header = max_header
        self._max_body = max_body
        self._host = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._fields: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._crumbs: bytearray | None = None
        self._size = self._read = self._fed = self._before = 0
        self._reset()
        self._parser = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Let go of everything; nothing is to be fed any more. Parser and llhttp hold each other: left alone, both stay
        until the garbage collector looks at what is old.
        """
        self._parser = _CLOSED
        self.ready.clear()
        self._reset()

    def feed(self, data: bytes) -> None:
        """Take what one read brought. Requests complete so far are in ``ready``; a violation is in ``error``."""
        while data and self.error is None:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """What is to be fed again, because an offer in it was declined."""
        done, had = len(self.ready), self._size
        rest = b""
        self._read = len(data)
        self._fed += self._read
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = self._without_upgrade(data[upgrade.args[0] :])
        except HttpParserError as error:
            self._fail(error)
        if self.idle:
            self._fed = self._before = 0
        elif done == len(self.ready):
            self._bound(len(data) - (self._size - had))
        return rest

    @property
    def declared(self) -> int:
        """How long the body that is coming says it will be; 0 where it does not say."""
        return int(self._fields.get(b"content-length", 0))

    @property
    def held(self) -> int:
        """Bytes of bodies that are here."""
        return self._size + sum(len(request.body) for request in self.ready)

    # -- called by llhttp ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.idle = False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_body:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.in_body = True
        version = self._parser.get_http_version()
        self._http10 = version == "1.0"
        if version != "1.1" and not self._http10:
            raise ProtocolError(f"HTTP/{version} is not spoken here; use HTTP/1.1", 505)
        self._fields.update(self._headers)
        self._check_fields()

    def on_body(self, data: bytes) -> None:
        if self._crumbs is not None:
            self._crumbs += data
        else:
            self._body.append(data)
            if len(self._body) > _PIECES:  # kept apart, bytes in twos would take twenty times their size
                self._crumbs = bytearray(b"".join(self._body))
                self._body.clear()
        self._size += len(data)
        if self._size > self._max_body:
            raise ProtocolError(f"the request's body exceeds {self._max_body} bytes", 413)

    def on_message_complete(self) -> None:
        parser, body = self._parser, self._body if self._crumbs is None else [bytes(self._crumbs)]
        self.ready.append(
            Request(
                parser.get_method(),
                self._target,
                self._headers,
                body[0] if len(body) == 1 else b"".join(body),
                parser.should_keep_alive(),
                self._http10,
                self._fields,
            )
        )
        self._reset()

    # -- the rest -----------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._target = b""
        self._headers = []
        self._fields = {}
        self._body = []
        self._crumbs = None
        self._size = 0
        self._fed = self._before = self._read  # that much at most of what was read is the next message's
        self._overhead = 0
        self.in_body = False
        self._http10 = False
        self.continue_wanted = False
        self.idle = True

    def _bound(self, besides: int) -> None:
        """Whatever trickles in ends somewhere: a header, and what surrounds a body (chunk sizes, trailers)."""
        if self.in_body:
            self._overhead += besides
            if self._overhead > self._max_header + 16 * self._size and self.error is None:
                self.error = ProtocolError("the request's body is wrapped in more than it holds", 413)
        elif self._fed - self._before > self._max_header and self.error is None:
            self.error = ProtocolError(f"the request's header exceeds {self._max_header} bytes", 431)

    def _check_fields(self) -> None:
        headers, fields = self._headers, self._fields
        if self._fed > self._max_header:  # of the message so far, so that small ones need no addition
            size = sum(len(name) + len(value) + 4 for name, value in headers) + len(self._target)
            if size > self._max_header:
                raise ProtocolError(f"the request's header exceeds {self._max_header} bytes", 431)
        host = fields.get(b"host")
        if host != self._host or self._target[:1] != b"/":
            self._check_host(host)
        if len(fields) != len(headers):
            self._check_repeated([name for name, _ in headers])
        length = fields.get(b"content-length")
        if length is not None and (len(length) > 18 or int(length) > self._max_body):
            raise ProtocolError(f"the request's body exceeds {self._max_body} bytes", 413)
        coding = fields.get(b"transfer-encoding")
        if coding is not None and (self._http10 or coding.lower() != b"chunked"):
            raise ProtocolError("the only transfer coding understood is chunked, in HTTP/1.1", 501)
        expectation = fields.get(b"expect")
        if expectation is not None:
            if expectation.lower() != b"100-continue":
                raise ProtocolError("the only expectation understood is 100-continue", 417)
            self.continue_wanted = not self._http10

    def _check_host(self, host: bytes | None) -> None:
        """One name for the server, whoever reads it: the Host field's, which an absolute target has to repeat (RFC 9112
        §3.2).
        """
        if host is None and not self._http10:
            raise ProtocolError("a request needs a Host field")
        self._host = host or b""
        if not _AUTHORITY.fullmatch(self._host):
            raise ProtocolError("the Host field is none")
        absolute = _ABSOLUTE.match(self._target)
        if absolute is not None and absolute[1].lower() != self._host.lower():
            raise ProtocolError("the target names another host than the Host field")

    def _check_repeated(self, names: list[bytes]) -> None:
        if names.count(b"host") > 1:
            raise ProtocolError("a request needs exactly one Host field")
        if names.count(b"transfer-encoding") > 1:
            raise ProtocolError("the only transfer coding understood is chunked, said once", 501)

    def _fail(self, error: HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, ProtocolError):
            self.error = cause
        elif isinstance(cause, MemoryError):  # in one of our callbacks: the client is not at fault
            self.error = ProtocolError("no memory is left for this request", 503)
        elif self.ready and not self.ready[-1].keep_alive:
            return  # bytes after `connection: close`: the client was told nobody reads them
        else:
            self.error = ProtocolError(f"malformed HTTP request: {_reason(error)}")

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The message again, without the offer to upgrade: it is answered as if there were none (RFC 9110 §7.8).

        llhttp leaves the body of such a request unread; clients that offer h2c (curl, Java) do send one.
        """
        request = self.ready.pop() if self.ready else None
        if request is None or request.method == b"CONNECT":
            self.error = ProtocolError("CONNECT is not served here", 405)
            return b""
        self._parser = httptools.HttpRequestParser(self)
        fields = [(n, v) for n, v in request.headers if n not in (b"upgrade", b"http2-settings", b"connection")]
        if not request.keep_alive:
            fields.append((b"connection", b"close"))
        version = b"1.0" if request.http10 else b"1.1"
        return b"%b %b HTTP/%b\r\n%b\r\n" % (request.method, request.target, version, encode_fields(fields)) + rest


class ResponseParser:
    """Bytes of one upstream connection in, one response after another out; reused over a kept-alive connection.

    After `feed`: ``status`` and ``headers`` once ``head`` is true, body bytes in `take`, ``complete`` at the end.
    ``coded``: there is a Content-Encoding field. Interim (1xx) responses are skipped. `feed_eof` ends a body that is
    delimited by the closing of the connection. What surrounds a body (extensions of chunks, trailers) is bounded as
    heads are, if `take` is called after each `feed`.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # straight from llhttp into the list: no Python frame per chunk
        self._parser = httptools.HttpResponseParser(self)
        self.begin()

    def close(self) -> None:
        """As `RequestParser.close`, but what has come can be read still."""
        self._parser = _CLOSED

    def begin(self) -> None:
        """Forget the last response; the next bytes belong to a new one."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.coded = False
        self.head = False
        self.complete = False
        self.keep_alive = False
        self._version_seen = False
        self._fed = 0
        self._void = 0
        self._parts.clear()

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError for anything that is not an HTTP/1.x response, and for bytes after its end."""
        if self.complete:
            raise ProtocolError("bytes after the end of the response")
        if not self.head:
            if not self._fed:
                self._version_seen = data[:7] == b"HTTP/1."
            self._fed += len(data)
            if self._fed > _RESPONSE_HEAD_MAX:
                raise ProtocolError(f"the response's header exceeds {_RESPONSE_HEAD_MAX} bytes")
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if self._whole():  # llhttp refuses bytes after `connection: close`; the response itself is in order
                self.keep_alive = False
                return
            if isinstance(error.__context__, MemoryError):
                raise error.__context__ from None
            raise ProtocolError(f"malformed HTTP response: {_reason(error)}") from None
        except HttpParserUpgrade:
            raise ProtocolError("the upstream switched protocols unasked") from None
        if not self._parts and self.head and not self.complete:
            self._void += len(data)
            if self._void > _RESPONSE_HEAD_MAX:
                raise ProtocolError(f"the response's body is wrapped in more than {_RESPONSE_HEAD_MAX} bytes")

    def _whole(self) -> bool:
        return self.complete

    def feed_eof(self) -> None:
        """The connection ended. Raises ProtocolError if the response is not whole."""
        if self.complete:
            return
        if not self.head or any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            raise ProtocolError("the connection closed before the response was complete")
        self.complete = True
        self.keep_alive = False

    def take(self) -> bytes:
        """The body bytes received since the last call."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._void = 0
        return data

    # -- called by llhttp ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:  # a second response in the same read: nobody asked for it
            raise ProtocolError("bytes after the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head:
            self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        for name, _ in self.headers:
            if name in _CODINGS:
                self._check_codings()
                break
        self.status = self._parser.get_status_code()
        if not self._version_seen or not 100 <= self.status < 600:
            self._check_status()
        if self.status >= 200:
            self.head = True
        else:
            self._version_seen = False

    def _check_codings(self) -> None:
        self.coded = any(name == b"content-encoding" for name, _ in self.headers)
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and codings != [b"chunked"]:
            raise ProtocolError("the only transfer coding understood is chunked")

    def _check_status(self) -> None:
        """Also by llhttp's word for the version, which takes longer than a look at the first bytes."""
        version = self._parser.get_http_version()
        if not 100 <= self.status < 600 or version not in ("1.0", "1.1"):
            raise ProtocolError(f"the status {self.status} of HTTP/{version} is none")

    def on_message_complete(self) -> None:
        if self.head:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()
        else:
            self.headers.clear()


def _reason(error: HttpParserError) -> str:
    """llhttp's own words, which httptools hands on as the repr of a string."""
    return str(error).strip("'\"")


def encode_fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in headers])


_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}


def response_head(status: int, headers: Headers) -> bytes:
    """Status line and fields, without the empty line that ends them."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status
    return line + b"".join([b"%b: %b\r\n" % field for field in headers])


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding; ``data`` must not be empty (that would end the message)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
