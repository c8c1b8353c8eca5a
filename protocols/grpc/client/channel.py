"""A way to a gRPC server: connects when a call needs it, again when the server has gone, and makes calls. (IO)

Invariant: a call lives inside a block of its caller's; leaving the block ends the call, and the server is told.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

import trio

import gateway
from gateway.wire.grpc import MAX_MESSAGE, Code, as_timeout
from protocols.grpc.client.call import Call
from protocols.grpc.client.codec import decoder
from protocols.grpc.client.errors import RpcError
from protocols.grpc.client.session import Session
from protocols.grpc.metadata import Field, Sent, fields

_R = TypeVar("_R")
CONNECT_S: Final = 20.0
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.01
_AGENT: Final = f"infer-gateway-python/{gateway.__version__}".encode()


class Channel:
    """Calls to the server at ``host``:``port``. Made by `connect`; any number of tasks may share it.

    Methods are named by their path, ``/package.Service/Method``. Requests are messages of betterproto2 or protobuf, or
    bytes; answers are of the type that is asked for. ``timeout``, in seconds, and the deadlines of the cancel scopes
    around a call are sent along as its deadline: the first raises RpcError, DEADLINE_EXCEEDED, the others cancel as
    they always do. No compression is offered.
    """

    def __init__(
        self, nursery: trio.Nursery, host: str, port: int, tls: ssl.SSLContext | None, max_message: int, silence: float
    ) -> None:
        self.host = host
        self.port = port
        self._nursery = nursery
        self._tls = tls
        self._max_message = max_message
        self._silence = silence
        self._session: Session | None = None
        self._connecting = trio.Lock()
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._authority = authority.encode()

    async def unary_unary(
        self, path: str, request: Any, reply: type[_R], *, metadata: Sent = (), timeout: float = math.inf
    ) -> _R:
        """One message there, one back. Raises RpcError.

        A call that the server says it has not looked at, because it goes away or has too many, is made again, up to
        four times.
        """
        deadline = trio.current_time() + timeout
        for attempt in range(_ATTEMPTS):
            try:
                return await self._once(path, request, reply, metadata, deadline - trio.current_time())
            except RpcError as error:
                if not error.unprocessed or attempt + 1 == _ATTEMPTS:
                    raise
            await trio.sleep(_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    async def _once(self, path: str, request: Any, reply: type[_R], metadata: Sent, timeout: float) -> _R:
        async with self.unary_stream(path, request, reply, metadata=metadata, timeout=timeout) as call:
            message = await call.receive()
            if message is None or await call.receive() is not None:
                raise RpcError(Code.INTERNAL, f"{'no' if message is None else 'more than one'} message came back")
            return message

    @asynccontextmanager
    async def unary_stream(
        self, path: str, request: Any, reply: type[_R], *, metadata: Sent = (), timeout: float = math.inf
    ) -> AsyncIterator[Call[_R]]:
        """One message there; iterate over the call for those that come back."""
        async with self.stream_stream(path, reply, metadata=metadata, timeout=timeout) as call:
            await call.send(request, end=True)
            yield call

    @asynccontextmanager
    async def stream_stream(
        self, path: str, reply: type[_R], *, metadata: Sent = (), timeout: float = math.inf
    ) -> AsyncIterator[Call[_R]]:
        """Messages both ways: `Call.send`, `Call.end`, and iterate over the call.

        Nothing is waited for but the connection. Leaving the block before the server's status cancels the call.
        """
        decode, extra = decoder(reply), fields(metadata)
        with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
            call = await self._begin(decode, lambda: self._head(path, extra))
            call.scope = scope
            try:
                yield call
            finally:
                call.cancel()
        if scope.cancelled_caught:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"{path} took longer than {timeout:g} s")

    async def _begin(self, decode: Callable[[bytes], _R], head: Callable[[], list[Field]]) -> Call[_R]:
        """A call whose head has been sent. A connection that ends meanwhile is no failure of the call's."""
        for attempt in range(_ATTEMPTS):
            session = await self._connected()
            call = Call(session, decode, self._max_message)
            try:
                await session.open(call, head)
                return call
            except RpcError as error:
                if not error.unprocessed or attempt + 1 == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _head(self, path: str, extra: list[Field]) -> list[Field]:
        left = max(0.0, trio.current_effective_deadline() - trio.current_time())  # -inf where it is cancelled
        return [
            (b":method", b"POST"),
            (b":scheme", b"http" if self._tls is None else b"https"),
            (b":path", path.encode()),
            (b":authority", self._authority),
            *([(b"grpc-timeout", as_timeout(left).encode())] if left < math.inf else ()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", _AGENT),
            *extra,
        ]

    # -- connecting ---------------------------------------------------------------------------------------------

    async def _connected(self) -> Session:
        async with self._connecting:
            if self._session is None or self._session.leaving:
                self._session = await self._open()
            return self._session

    async def _open(self) -> Session:
        """A new connection on which the server has said its settings. Raises RpcError, UNAVAILABLE."""
        where = self._authority.decode()
        with trio.move_on_after(CONNECT_S):
            try:
                stream = await self._stream()
            except (OSError, trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as error:
                raise RpcError(Code.UNAVAILABLE, f"cannot connect to {where}: {_reason(error)}") from error
            session = Session(stream, self._silence)
            self._nursery.start_soon(session.run)
            try:
                await session.greeted.wait()
            except trio.Cancelled:
                session.close("nobody waits for it")
                raise
            if session.failure is None:
                return session
            raise RpcError(Code.UNAVAILABLE, f"{where}: {session.failure.message}")
        raise RpcError(Code.UNAVAILABLE, f"{where} did not answer within {CONNECT_S:g} s")

    async def _stream(self) -> trio.abc.Stream:
        plain = await trio.open_tcp_stream(self.host, self.port)
        if self._tls is None:
            return plain
        stream = trio.SSLStream(plain, self._tls, server_hostname=self.host, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if stream.selected_alpn_protocol() != "h2":
            await trio.aclose_forcefully(stream)
            raise OSError("the server does not speak HTTP/2 there")
        return stream


def _reason(error: Exception) -> str:
    """The innermost cause: Trio wraps what TLS says, and gathers what each address said."""
    if isinstance(error, trio.BrokenResourceError) and error.__cause__ is not None:
        return str(error.__cause__)
    return str(error)


def _split(target: str) -> tuple[str, int]:
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit() or not host or (":" in host and not host.startswith("[")):
        raise ValueError(f"not host:port: {target!r}")
    return host.strip("[]"), int(port)


def connect(
    target: str,
    ssl_context: ssl.SSLContext | None = None,
    *,
    max_message: int = MAX_MESSAGE,
    keepalive: float = math.inf,
) -> AbstractAsyncContextManager[Channel]:
    """A channel to ``target``, "host:port" ("[::1]:50051"), over TLS with ``ssl_context``, else in the clear.

    Connects when the first call is made: until then, and in between, a server may be away. ``max_message``: bytes of
    one answer that are accepted. ``keepalive``: seconds of silence during calls after which the server is asked for a
    sign of life; servers forbid it below what they say (grpcio's: 300 s). Leaving the block ends what is under way.
    Raises ValueError for a target that is none.
    """
    host, port = _split(target)
    if ssl_context is not None:
        ssl_context.set_alpn_protocols(["h2"])
    return _channel(lambda nursery: Channel(nursery, host, port, ssl_context, max_message, keepalive))


@asynccontextmanager
async def _channel(make: Callable[[trio.Nursery], Channel]) -> AsyncIterator[Channel]:
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield make(nursery)
        except BaseException as error:  # noqa: BLE001 — leaves the block as it is, not wrapped in the nursery's group
            failure = error
        nursery.cancel_scope.shield = True  # a cancellation from outside must not take the failure's place
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
