"""Connections to an API server by httpx, for certificates that are plain values. (IO)

Invariant: what was opened is closed by whoever leaves it, and an answer that is left early takes its connection along.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec
import trio

from gateway import __version__
from gateway.sources.kube.messages import TooLong, Unreachable

if TYPE_CHECKING:
    import httpx

USER_AGENT: Final = f"infer-gateway/{__version__}"
_REUSE_S: Final = 20.0
_CONNECT_S: Final = 10.0


class Tls(msgspec.Struct, frozen=True):
    """How a server is reached. ``authorities``, ``certificate`` and ``key`` are PEM, "" where there are none.

    ``server_name``: the name in its certificate, where that is not the URL's. ``proxy``: a URL, or "".
    """

    authorities: str = ""
    certificate: str = ""
    key: str = ""
    insecure: bool = False
    server_name: str = ""
    proxy: str = ""

    def __repr__(self) -> str:
        return "Tls(…)"


class TlsFailure(Unreachable):
    """Certificates that do not fit: ours or theirs may have been replaced."""


class Stream:
    """The body of an answer. Closing it before its end closes its connection."""

    def __init__(self, response: httpx.Response, wire: Wire) -> None:
        self.status = response.status_code
        self._response = response
        self._wire = wire
        self._chunks = response.aiter_raw()

    @property
    def retry_after(self) -> float | None:
        """In seconds. API servers send no dates."""
        said = self._response.headers.get("retry-after", "")
        return float(said) if said.isdecimal() and len(said) < 10 else None

    async def receive(self) -> bytes:
        """The next bytes as they come, b"" at the end. Raises Unreachable. A cancelled one ends the stream."""
        import httpx

        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except httpx.HTTPError as error:
            raise Unreachable(_reason(error)) from None
        return b""

    async def whole(self, limit: int, *, cut: bool = False) -> bytes:
        """All of it; what is longer is cut or not taken. Raises Unreachable."""
        chunks, size = [], 0
        while chunk := await self.receive():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit and not cut:
                raise TooLong(f"an answer of more than {limit} bytes")
            if size > limit:
                break
        return b"".join(chunks)[:limit]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import httpx

        try:
            with trio.CancelScope(shield=True) as scope, contextlib.suppress(httpx.HTTPError, httpx.StreamError):
                scope.cancel()  # httpx's generators end well by cancellation, and not by being left
                async for _ in self._chunks:
                    pass
            await self._response.aclose()
        finally:
            await self._wire.leave()


class Wire:
    """Connections that share certificates. ``users``: answers that are open on them."""

    def __init__(self, tls: Tls, client: httpx.AsyncClient) -> None:
        self.tls = tls
        self._client = client
        self._users = 0
        self._retired = False

    @classmethod
    async def made(cls, tls: Tls) -> Self:
        """Raises Unreachable for certificates that cannot be used."""
        try:
            return cls(tls, await trio.to_thread.run_sync(_client, tls, abandon_on_cancel=True))
        except (OSError, ValueError) as error:
            raise Unreachable(f"its certificates or its proxy cannot be used: {error}") from None

    async def ask(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> Stream:
        """The beginning of an answer. Raises Unreachable."""
        import httpx

        extensions = {"sni_hostname": self.tls.server_name} if self.tls.server_name else {}
        self._users += 1
        try:
            asked = self._client.build_request(method, url, headers=headers, content=content, extensions=extensions)
            return Stream(await self._client.send(asked, stream=True), self)
        except BaseException as error:
            await self.leave()
            if isinstance(error, (httpx.HTTPError, httpx.InvalidURL)):
                raise self._failure(error, f"{method} {url.partition('?')[0]}") from None
            raise

    def _failure(self, error: Exception, what: str) -> Unreachable:
        import httpx

        cause: BaseException | None = error
        words = f"{what}: {_reason(error)}"
        # a certificate of ours that is not liked shows, in TLS 1.3, as a connection that ends without an answer
        tls = bool(self.tls.certificate) and isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))
        while cause is not None:
            tls = tls or isinstance(cause, ssl.SSLError)
            cause = _cause(cause)
        return TlsFailure(words) if tls else Unreachable(words)

    async def leave(self) -> None:
        self._users -= 1
        if self._retired and not self._users:
            await self.close()

    async def retire(self) -> None:
        """Close when nothing is open any more."""
        self._retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        await self._client.aclose()


def _client(tls: Tls) -> httpx.AsyncClient:
    """Raises OSError and ValueError for values that cannot be used. Blocks: the first import takes 0.2 s."""
    import httpx

    transport = httpx.AsyncHTTPTransport(
        verify=context_of(tls),
        trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=4, keepalive_expiry=_REUSE_S),
        proxy=tls.proxy or None,
        socket_options=_socket_options(),
    )
    headers = {"user-agent": USER_AGENT, "accept": "application/json", "accept-encoding": "identity"}
    patience = httpx.Timeout(None, connect=_CONNECT_S)
    return httpx.AsyncClient(transport=transport, headers=headers, timeout=patience, trust_env=False)


def context_of(tls: Tls) -> ssl.SSLContext:
    """Raises OSError and ValueError for certificates that cannot be used. Reads and writes files."""
    context = ssl.create_default_context(cadata=tls.authorities or None)
    # authorities of clusters seldom carry the extensions that RFC 5280 asks for, and Go does not ask for them
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate:
        with _named(tls.certificate + "\n" + tls.key) as name:
            context.load_cert_chain(name)
    return context


@contextlib.contextmanager
def _named(content: str) -> Iterator[str]:
    """A file for as long as it takes OpenSSL to read it; in memory, where there are such files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem")
        name = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, name = tempfile.mkstemp()
    try:
        with open(descriptor, "w") as file:
            file.write(content)
            file.flush()
            yield name
    finally:
        if not name.startswith("/proc/"):
            os.unlink(name)


def _socket_options() -> list[tuple[int, int, int]]:
    """A peer that has vanished is noticed within a minute."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _reason(error: BaseException) -> str:
    """What the innermost cause says, httpx leaves failures of TLS without a word; not what was sent."""
    import httpx

    if isinstance(error, httpx.LocalProtocolError):  # it quotes the header
        return "the request cannot be sent over HTTP"
    said, cause = f"{type(error).__name__}: {error}", _cause(error)
    while cause is not None:
        said, cause = str(cause) or said, _cause(cause)
    return said


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):  # one for each address of a name
        return error.exceptions[0]
    return error.__cause__ or error.__context__
