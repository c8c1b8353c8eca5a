"""One inference call's way back: what the core sends becomes messages, a failure the call's status. (T)

Invariant: `failure` is set at most once and then nothing more is sent; a reply has its initial metadata from the first
message on. Nothing here waits but for a client that does not read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from gateway.errors import GatewayError
from gateway.types import Headers, InferenceRequest
from gateway.wire.grpc import GrpcError
from protocols.grpc import answers, errors

if TYPE_CHECKING:
    from collections.abc import Iterable

_OF_HTTP: Final = frozenset((b"content-type", b"cache-control", b"www-authenticate", b"allow"))


class Stream(Protocol):
    """What is needed of a call (`protocols.grpc.stream`)."""

    headers: Headers
    deadline_at: float

    @property
    def peer_address(self) -> str: ...
    @property
    def subject(self) -> str: ...
    async def recv_message(self) -> object: ...
    async def send_initial_metadata(
        self, *, metadata: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] | None = None
    ) -> None: ...
    def send_soon(self, payload: bytes, /) -> bool: ...
    def room(self) -> Awaitable[None]: ...
    def trailers(self, fields: Headers, /) -> None: ...


class GrpcExchange:
    """`gateway.ports.Exchange` over a call. ``tell`` makes a message of a whole answer or, of a stream, of an event; it
    is known once the request is.

    ``failure`` is what the call has to end with, None while all is well.
    """

    __slots__ = ("_parts", "_sent", "_stream", "failure", "id", "request", "started", "tell")

    request: InferenceRequest

    def __init__(self, stream: Stream, request_id: str) -> None:
        self.started = False
        self.failure: GrpcError | None = None
        self._stream = stream
        self.tell: Callable[[bytes], bytes] = bytes
        self.id = request_id
        self._parts: list[bytes] = []
        self._sent = False

    async def start(self, status: int, headers: Headers, /) -> None:
        """Initial metadata: the request id and what the core has to say beside the answer; not what is HTTP's own."""
        self.started = True
        said = [(name.decode(), value.decode("latin-1")) for name, value in headers if name not in _OF_HTTP]
        await self._stream.send_initial_metadata(metadata=[("x-request-id", self.id), *said])

    async def send(self, chunk: bytes, /) -> None:
        """Raises UpstreamError for an answer that no message can tell."""
        if not self.request.stream:
            self._parts.append(chunk)
            return
        full = False
        for message in answers.events(chunk, self.tell):
            self._sent = True
            full = self._stream.send_soon(message)
        if full:
            await self._stream.room()

    async def finish(self, chunk: bytes = b"", /) -> None:
        """The last event, or the whole answer. Raises UpstreamError as `send`."""
        if self.request.stream:
            await self.send(chunk)
        elif self._stream.send_soon(self.tell(b"".join((*self._parts, chunk)))):
            await self._stream.room()

    def keep_alive(self, headers: Headers = (), /) -> None:
        """Nothing: HTTP/2 has pings of its own."""

    async def fail(self, error: GatewayError, /) -> None:
        """The call ends with the error's status; what has been sent stays sent."""
        if self.failure is None:
            fields = [field for field in error.headers if field[0] not in _OF_HTTP]
            if not self.started:  # a call without initial metadata is one that clients may try again
                fields.append((b"x-request-id", self.id.encode()))
            self._stream.trailers(fields)
            self.failure = errors.status(error, self.id, partial=self._sent)
