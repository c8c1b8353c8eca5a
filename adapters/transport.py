"""The data path's only outbound I/O: one request out, one response in, on a connection of that endpoint. (IO)

Idle connections wait in one LIFO list per endpoint and are dropped before the engines' 5 s keep-alive ends them. A
reused connection that dies before any byte of the response is replaced once, silently: the engine closed it without
reading the request. Leaving `send` early (cancelled, failed, or done with the body half read) closes the connection
at once, so that the engine aborts; it is never half-closed, which engines take for a disconnect.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable
from types import TracebackType

import msgspec
import trio

from adapters.trust import Trust, Unvouched
from gateway.config.address import is_inward
from gateway.egress import RefusedAddress
from gateway.errors import Exhausted, InvalidRequest, UpstreamError, UpstreamTimeout
from gateway.listen import EXHAUSTED
from gateway.net import connect, handshake, socket_below
from gateway.request_id import HERE
from gateway.turn import turn
from gateway.types import Endpoint, Headers, UpstreamRequest, bracketed
from gateway.wire import h1

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_STALE_S = 1.0
_PIECE = 1 << 20
_VIA = h1.encode_fields([(b"via", b"1.1 " + HERE)])
_OURS = (*EXHAUSTED, errno.EADDRNOTAVAIL)
"""What is short is on our side; the last one: ports to connect from."""
Connect = Callable[[Endpoint], Awaitable[trio.abc.Stream]]


class TransportSettings(msgspec.Struct, frozen=True):
    """Times in seconds. ``idle_timeout`` stays clear of uvicorn's 5 s (a second of loop lag has been seen to lose the
    race); ``tls_idle_timeout`` is for public providers, which keep connections for a minute, and handshakes are dear.
    """

    connect_timeout: float = 5.0
    idle_timeout: float = 3.5
    tls_idle_timeout: float = 30.0
    max_idle: int = 512


class Upstream:
    """One connection to an endpoint and the response now arriving on it (ports.UpstreamResponse)."""

    __slots__ = ("_inflater", "_parser", "_socket", "_stream", "idle_since", "reused")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._socket = socket_below(stream)
        self._parser = h1.ResponseParser()
        self._inflater: _Inflater | None = None
        self.idle_since = 0.0
        self.reused = False

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def headers(self) -> Headers:
        return self._parser.headers

    @property
    def complete(self) -> bool:
        return self._parser.complete and (self._inflater is None or not self._inflater.more)

    @property
    def reusable(self) -> bool:
        """Whether the connection is between two exchanges: all answered, and all of the request taken."""
        sock = self._socket
        return self._parser.complete and self._parser.keep_alive and (sock is None or sock.stuck_since is None)

    def quiet(self) -> bool:
        """Whether nothing has come since the last answer. TLS may have: session tickets."""
        sock = self._socket
        if sock is None:
            return True
        return sock.quiet() if sock is self._stream else not sock.ended

    async def open(self, data: bytes) -> None:
        """Send a request and receive up to the end of the response's head. Raises UpstreamError, Stale included."""
        parser = self._parser
        parser.begin()
        self._inflater = None
        started = False
        try:
            if self._socket is not None and self._socket is self._stream:
                self._socket.send_soon(data)  # an engine may answer before it has read it all
            else:
                await self._stream.send_all(data)
            while not parser.head:
                received = await self._stream.receive_some()
                if not received:
                    break
                started = True
                parser.feed(bytes(received))
        except _GONE as error:
            raise self._broken(started, str(error)) from error
        except h1.ProtocolError as error:
            raise UpstreamError(f"the engine answered rubbish: {error.message}", retryable=True) from error
        if not parser.head:
            raise self._broken(started, "it closed the connection")
        if parser.coded:
            self._choose_coding()

    async def receive(self) -> bytes:
        """The body bytes of one read; b"" at the end. Raises UpstreamError if the body is cut."""
        parser = self._parser
        while True:
            data = parser.take()
            if self._inflater is not None:
                await trio.lowlevel.checkpoint()  # much may come of little, piece by piece
                data = self._inflated(self._inflater, data)
            if data or parser.complete:
                return data
            try:
                received = await self._stream.receive_some()
                if received:
                    parser.feed(bytes(received))
                else:
                    parser.feed_eof()
            except _GONE as error:
                raise UpstreamError(f"the engine's connection broke: {error}", retryable=True) from error
            except h1.ProtocolError as error:
                raise UpstreamError(f"the engine's answer broke off: {error.message}", retryable=True) from error

    def _inflated(self, inflater: _Inflater, data: bytes) -> bytes:
        try:
            piece = inflater.feed(data)
            if self._parser.complete and inflater.cut:
                raise zlib.error("it is cut short")
            return piece
        except zlib.error as error:
            raise UpstreamError(f"the engine's compressed answer is damaged: {error}", retryable=True) from error

    def _broken(self, started: bool, why: str) -> UpstreamError:
        if self.reused and not started:
            return Stale(f"an idle connection had ended: {why}", retryable=True)
        return UpstreamError(f"the engine did not answer: {why}", retryable=True)

    def _choose_coding(self) -> None:
        """Identity is asked for; some servers compress all the same (errors above all)."""
        for name, value in self._parser.headers:
            if name == b"content-encoding" and value.lower() not in (b"identity", b""):
                self._inflater = _Inflater(value.lower())
                self._parser.headers = [
                    field for field in self._parser.headers if field[0] not in (b"content-encoding", b"content-length")
                ]
                return

    def close(self) -> None:
        """At once, without a TLS farewell: the engine learns by the connection's end."""
        stream = self._stream
        self._parser.close()
        if self._socket is not None:
            self._socket.close()
        elif isinstance(stream, trio.StapledStream):  # tests' memory streams
            for half in (stream.send_stream, stream.receive_stream):
                half.close()


class Stale(UpstreamError):
    """A reused connection had been closed by the engine before it read the request."""


class _Inflater:
    """A compressed body, plain again piece by piece. ``more``: there is another piece in what was fed."""

    def __init__(self, coding: bytes) -> None:
        self._unknown = "" if coding in (b"gzip", b"x-gzip", b"deflate") else coding.decode("latin-1")
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, told by the header
        self._begun = self.more = False

    @property
    def cut(self) -> bool:
        """Whether more has to come for it to be whole."""
        return self._begun and not self.more and not self._zlib.eof

    def feed(self, data: bytes) -> bytes:
        """The next piece. Raises zlib.error, UpstreamError for a coding that nobody knows: of a refusal the head says
        enough.
        """
        if data and self._unknown:
            raise UpstreamError(f"the engine answered in an unknown content coding: {self._unknown}", retryable=True)
        inflate = self._zlib
        if inflate.eof or not (data or self.more):
            self.more = False
            return b""  # zlib would keep what follows the end
        self._begun = True
        out = inflate.decompress(inflate.unconsumed_tail + data, _PIECE)
        self.more = not inflate.eof and (len(out) == _PIECE or bool(inflate.unconsumed_tail))
        return out


class HTTPTransport:
    """ports.Transport over TCP and TLS. ``connect`` is the seam for tests: an endpoint in, any Trio stream out.
    ``opened`` counts connections made, ``busy`` those with a request now.
    """

    def __init__(self, settings: TransportSettings | None = None, connect: Connect | None = None) -> None:
        self.settings = settings or TransportSettings()
        self._connect = connect or self._dial
        self._hosts: dict[Endpoint, _Host] = {}
        self._trust = Trust()
        self.opened = self.busy = 0
        self.turn = turn()

    def send(self, endpoint: Endpoint, request: UpstreamRequest) -> _Send:
        """See ports.Transport."""
        return _Send(self, endpoint, request)

    async def expire(self) -> None:
        """Close idle connections when their time is up, once a second, until cancelled."""
        try:
            while True:
                await trio.sleep(1.0)
                now = self.turn.now
                for host in self._hosts.values():
                    if host.idle:  # of thousands hardly any
                        host.expire(now)
        finally:
            self.close_idle()

    @property
    def idle(self) -> int:
        """Connections that wait for another request; a walk over the endpoints."""
        return sum(len(host.idle) for host in self._hosts.values())

    def close_idle(self) -> None:
        for host in self._hosts.values():
            host.expire(math.inf)

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint left the configuration: drop what is kept for it."""
        host = self._hosts.pop(endpoint, None)
        if host is not None:
            host.close()

    # -- called by _Send ----------------------------------------------------------------------------------------

    def host(self, endpoint: Endpoint) -> _Host:
        host = self._hosts.get(endpoint)
        if host is None:
            host = self._hosts[endpoint] = _Host(endpoint, self.settings)
        return host

    async def dial(self, endpoint: Endpoint, scope: trio.CancelScope | None = None) -> Upstream:
        """A new connection. Raises UpstreamError or UpstreamTimeout, retryable: no byte of the request was sent;
        Exhausted where it is not the engine's fault. ``scope``: cancelled by whoever has no time left for it.
        """
        stream = None
        try:
            with trio.fail_after(self.settings.connect_timeout), scope or trio.CancelScope():
                stream = await self._connect(endpoint)
        except trio.TooSlowError:
            raise UpstreamTimeout("connecting to the engine took too long", retryable=True) from None
        except (OSError, *_GONE) as error:
            if isinstance(error, OSError) and error.errno in _OURS:
                reason = f"the gateway has no room for another connection: {_reason(error)}"
                raise Exhausted(reason, retry_after=1.0) from error
            raise UpstreamError(f"the engine cannot be reached: {_reason(error)}", retryable=True) from error
        if stream is None:
            raise UpstreamError("given up while connecting")
        self.opened += 1
        return Upstream(stream)

    # -- the rest -----------------------------------------------------------------------------------------------

    async def _dial(self, endpoint: Endpoint) -> trio.abc.Stream:
        stream = await connect(endpoint.host, endpoint.port)
        if endpoint.outward and _leads_here(stream.socket):
            stream.close()
            raise _Inward("its name leads to the gateway's own machine")
        if endpoint.scheme != "https":
            return stream
        try:
            context = self._trust.context(endpoint)
            secure = trio.SSLStream(stream, context, server_hostname=endpoint.host, https_compatible=True)
            await handshake(secure)
            stream.eager = True  # as without TLS: an engine may answer before it has read it all
        except BaseException:
            stream.close()
            raise
        return secure


class _Host:
    """What is kept per endpoint: idle connections, oldest first, and the parts of requests that do not change."""

    def __init__(self, endpoint: Endpoint, settings: TransportSettings) -> None:
        self._endpoint = endpoint
        self._timeout = settings.tls_idle_timeout if endpoint.scheme == "https" else settings.idle_timeout
        self._max_idle = settings.max_idle
        self._closed = False
        self.idle: list[Upstream] = []
        self._prefixes: dict[tuple[bytes, Headers], bytes] = {}

    def encode(self, request: UpstreamRequest) -> bytes:
        """The request as bytes. Raises InvalidRequest where a field would be more than one: some come from clients, by
        whatever protocol.
        """
        key = (request.path, request.headers)
        prefix = self._prefixes.get(key)
        if prefix is None:
            if len(self._prefixes) > 256:  # paths are the adapters' own: a handful
                self._prefixes.clear()
            prefix = self._prefixes[key] = _prefix(self._endpoint, *key)
        fields = h1.encode_fields(request.extra)
        if fields.count(b"\n") + fields.count(b"\r") != 2 * len(request.extra):
            raise InvalidRequest("a header field of the request holds a line end")
        fields = fields + _VIA if b"via: " not in fields else _via(request.extra)
        if not request.body and request.method == b"GET":
            return b"GET %b%b\r\n" % (prefix, fields)
        return b"%b %b%bcontent-length: %d\r\n\r\n%b" % (
            request.method, prefix, fields, len(request.body), request.body
        )  # fmt: skip

    def take(self, now: float) -> Upstream | None:
        """The idle connection used last: the one least likely to have been closed."""
        while self.idle:
            if now - self.idle[-1].idle_since > self._timeout:
                self.expire(now)
                return None
            upstream = self.idle.pop()
            if upstream.quiet():
                upstream.reused = True
                return upstream
            upstream.close()  # the engine said something nobody asked for, or good-bye
        return None

    def keep(self, upstream: Upstream, now: float) -> None:
        if len(self.idle) >= self._max_idle or self._closed:
            upstream.close()
            return
        upstream.idle_since = now
        self.idle.append(upstream)

    def expire(self, now: float) -> None:
        keep = 0
        while keep < len(self.idle) and now - self.idle[keep].idle_since > self._timeout:
            self.idle[keep].close()
            keep += 1
        del self.idle[:keep]

    def close(self) -> None:
        """Nobody asks there any more; who is still at it keeps nothing."""
        self._closed = True
        self.expire(math.inf)


class _Send:
    """One request on one connection: `async with transport.send(…) as upstream`."""

    __slots__ = ("_aborted", "_dialing", "_endpoint", "_host", "_request", "_transport", "_upstream")

    def __init__(self, transport: HTTPTransport, endpoint: Endpoint, request: UpstreamRequest) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._request = request
        self._upstream: Upstream | None = None
        self._dialing: trio.CancelScope | None = None
        self._aborted = False

    async def __aenter__(self) -> Upstream:
        transport = self._transport
        host = self._host = transport.host(self._endpoint)
        data = host.encode(self._request)
        began = transport.turn.now
        upstream = host.take(began)
        if upstream is not None:
            try:
                return await self._open(upstream, data)
            except Stale:
                if self._aborted or transport.turn.now - began > _STALE_S:
                    raise  # it may have worked on the request for that long
        self._dialing = trio.CancelScope()
        if self._aborted:
            self._dialing.cancel()
        return await self._open(await transport.dial(self._endpoint, self._dialing), data)

    async def _open(self, upstream: Upstream, data: bytes) -> Upstream:
        self._upstream = upstream
        try:
            if self._aborted:
                raise UpstreamError("given up while connecting")
            await upstream.open(data)
        except BaseException:
            upstream.close()
            raise
        self._transport.busy += 1
        return upstream

    def abort(self) -> None:
        """See ports.Sending."""
        self._aborted = True
        if self._dialing is not None:
            self._dialing.cancel()
        if self._upstream is not None:
            self._upstream.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        self._transport.busy -= 1
        if upstream.reusable and not self._aborted:
            self._host.keep(upstream, self._transport.turn.now)
        else:
            upstream.close()


def _prefix(endpoint: Endpoint, path: bytes, headers: Headers) -> bytes:
    """Everything between the method and the request's own fields."""
    default = 443 if endpoint.scheme == "https" else 80
    name = bracketed(endpoint.host)
    host = name if endpoint.port == default else f"{name}:{endpoint.port}"
    query = f"?{endpoint.query}".encode() if endpoint.query else b""
    line = b"%b%b%b HTTP/1.1\r\n" % (endpoint.base_path.encode(), path, query)
    return line + h1.encode_fields([(b"host", host.encode()), *endpoint.headers, *headers])


def _via(extra: Headers) -> bytes:
    """The fields, with this gateway behind those that the request has passed."""
    passed = [value for name, value in extra if name == b"via"]
    others = [field for field in extra if field[0] != b"via"]
    return h1.encode_fields([*others, (b"via", b", ".join((*passed, b"1.1 " + HERE)))])


class _Inward(OSError):
    """Objects of a cluster may not name this address."""


def _leads_here(sock: socket.socket) -> bool:
    """Whether the peer is this machine, or one that only machines are to ask. A name may resolve to anything."""
    try:
        peer, own = sock.getpeername()[0], sock.getsockname()[0]
    except OSError:  # gone again: whatever is sent goes nowhere
        return False
    return peer == own or is_inward(peer.partition("%")[0])


def _reason(error: BaseException) -> str:
    """In words for the client, who is not told addresses; the whole of it is the error's cause."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        return _reason(cause) if isinstance(cause, ssl.SSLCertVerificationError) else f"TLS failed: {cause.reason}"
    if isinstance(error, RefusedAddress):
        return "its address is one that egress.allow does not name"
    if isinstance(error, (Unvouched, _Inward)):
        return str(error)
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return "its name cannot be looked up for now"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "its name has no address" if isinstance(error, OSError) else "the connection broke"
