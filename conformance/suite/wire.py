"""One connection to a server under test: HTTP/1.1 by h11 over TCP or TLS. (IO)

Invariant: an answer that is not HTTP, ends early or never comes is a `WireError` that says which; cancelling any method
leaves a connection that can only be closed.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from types import TracebackType
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from conformance.suite.check import Failure

_READ = 65536
_LARGEST_HEAD = 256 * 1024
_LARGEST_CASE = 32 * 1024 * 1024
_MOST_INTERIM = 100
_DIALLED = re.compile(r"^Error connecting to \(.*?\): ")

Headers = list[tuple[str, str]]
"""Names are lower-case."""


class WireError(Failure):
    """Something below HTTP's meaning went wrong: refused, cut, not HTTP."""


class Ration:
    """Bytes that servers may still send in one case: without a bound, an answer that never ends fills the memory."""

    def __init__(self, most: int = _LARGEST_CASE) -> None:
        self.most = self.left = most

    def take(self, count: int) -> None:
        """Raises WireError once there are too many. A negative count gives back what nobody holds any more."""
        self.left -= count
        if self.left < 0:
            raise WireError(f"more than {self.most} bytes came: nothing that is asked for is that long")


class Address(msgspec.Struct, frozen=True):
    """Where a server is. ``root`` is the path of its URL without a trailing slash."""

    host: str
    port: int
    tls: bool = False
    root: str = ""
    insecure: bool = False
    ca: str = ""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def address(url: str, *, insecure: bool = False, ca: str = "") -> Address:
    """Raises ValueError for what is not an HTTP URL."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a URL of scheme, host, port and path is needed; a key is given by --api-key")
    tls = parts.scheme == "https"
    return Address(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"), insecure, ca)


async def dial(where: Address, protocols: Sequence[str] = ()) -> trio.abc.Stream:
    """A connected stream; over TLS one of ``protocols`` is agreed on. Raises WireError."""
    try:
        stream: trio.abc.Stream = await trio.open_tcp_stream(where.host, where.port)
        if where.tls:
            context = ssl.create_default_context(cafile=where.ca or None)
            if protocols:
                context.set_alpn_protocols(list(protocols))
            if where.insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            stream = trio.SSLStream(stream, context, server_hostname=where.host, https_compatible=True)
            await stream.do_handshake()
    except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
        raise WireError(f"no connection to {where.authority}: {_reason(error)}") from None
    return stream


class Connection:
    """Requests one after the other; entered it is open, left it is closed at once, whatever is still to come."""

    def __init__(self, where: Address, ration: Ration | None = None) -> None:
        self.where = where
        self.ration = ration or Ration()
        self.requests = 0
        self.answered = False  # a byte of the current answer has come
        self._stream: trio.abc.Stream | None = None
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEAD)

    async def __aenter__(self) -> Connection:
        self._stream = await dial(self.where)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close at once, so that the server sees its client go."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)

    @property
    def stream(self) -> trio.abc.Stream:
        if self._stream is None:
            raise WireError("the connection is closed")
        return self._stream

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> None:
        """One request, whole."""
        await self.send_raw(self._head(method, path, headers) + self._body(body, True))

    async def begin(self, method: str, path: str, headers: Headers) -> None:
        """The head of a request whose body `pour` sends: chunked if ``headers`` say so."""
        await self.send_raw(self._head(method, path, headers))

    async def pour(self, data: bytes, last: bool = False) -> None:
        await self.send_raw(self._body(data, last))

    def _head(self, method: str, path: str, headers: Headers) -> bytes:
        if self.requests and self._h11.our_state is not h11.IDLE:
            try:
                self._h11.start_next_cycle()
            except h11.LocalProtocolError:
                raise WireError("the server did not keep the connection open for another request") from None
        self.requests += 1
        self.answered = False
        head = h11.Request(method=method, target=path, headers=[("host", self.where.authority), *headers])
        return self._h11.send(head) or b""

    def _body(self, data: bytes, last: bool) -> bytes:
        framed = self._h11.send(h11.Data(data=data)) if data else b""
        return (framed or b"") + ((self._h11.send(h11.EndOfMessage()) or b"") if last else b"")

    async def send_raw(self, data: bytes) -> None:
        """Bytes as they are, for requests that h11 would not write."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, OSError) as error:
            raise WireError(f"the connection broke while the request was being sent: {_reason(error)}") from None

    async def head(self) -> tuple[int, Headers]:
        """Status and fields of the final answer; interim ones are read over."""
        for _ in range(_MOST_INTERIM):
            event = await self._next()
            if isinstance(event, h11.Response):
                return event.status_code, [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers]
            if not isinstance(event, h11.InformationalResponse):
                raise WireError("the server closed the connection without an answer")
        raise WireError(f"{_MOST_INTERIM} interim answers, and none that is final")

    async def chunk(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises WireError for one that ends early."""
        event = await self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return b""
        raise WireError("the connection ended inside the answer")

    async def silence(self) -> None:
        """Wait until the server closes the connection."""
        try:
            while await self.stream.receive_some(_READ):
                pass
        except (trio.BrokenResourceError, OSError):
            pass

    @property
    def reusable(self) -> bool:
        """Whether the server lets another request follow on this connection."""
        return self._h11.their_state is h11.DONE and self._h11.our_state is h11.DONE

    async def _next(self) -> h11.Event:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                if "event type ConnectionClosed" in str(error):
                    raise WireError("the server closed the connection without an answer") from None
                if "closed connection" in str(error) or "incomplete" in str(error):
                    raise WireError(f"the connection ended inside the answer: {error}") from None
                raise WireError(f"the answer is not valid HTTP/1.1: {error}") from None
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                raise WireError("the connection serves one request after the other")
            self._h11.receive_data(await self._receive())

    async def _receive(self) -> bytes:
        try:
            data = bytes(await self.stream.receive_some(_READ))
        except (trio.BrokenResourceError, OSError) as error:
            raise WireError(f"the connection broke: {_reason(error)}") from None
        self.answered = self.answered or bool(data)
        self.ration.take(len(data))
        return data


def _reason(error: BaseException) -> str:
    """What happened, in the words of the system; Trio's wrappers say less than what they wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return _DIALLED.sub("", getattr(error, "strerror", None) or str(error)) or type(error).__name__
