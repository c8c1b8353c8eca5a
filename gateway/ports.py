"""The seams: what the core is written against, and what protocols, adapters and sources implement. (P)"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from gateway.errors import GatewayError, UpstreamError
from gateway.types import Endpoint, Headers, InferenceRequest, ModelCard, UpstreamRequest, Usage


class Exchange(Protocol):
    """One request and the place its reply goes. HTTP/1.1, ASGI, gRPC and tests implement it.

    `start` and `send` may hold bytes until the next call or `finish`, never longer than that. `send` waits while the
    client does not read (back-pressure); cancelled, it leaves the connection fit only for closing. Errors of the
    client's connection raise trio.BrokenResourceError.
    """

    request: InferenceRequest
    started: bool

    async def start(self, status: int, headers: Headers, /) -> None: ...
    async def send(self, chunk: bytes, /) -> None: ...
    async def finish(self, chunk: bytes = b"", /) -> None: ...
    async def fail(self, error: GatewayError, /) -> None:
        """Answer with the protocol's error; once started, its in-stream error, and then close."""

    def keep_alive(self) -> None:
        """Let whoever waits on a silent stream see life (SSE: a comment); nothing where the protocol has no such thing.

        Called between two `send`s, from another task, at most every few seconds; starts the reply if need be.
        """


class Decoder(Protocol):
    """One upstream answer on its way to the client: pure bytes in, bytes out.

    For streams `feed` returns whole events only; an event still incomplete is kept until its end arrives.
    ``error`` is set when the engine reports a failure inside its answer: bytes already returned stay valid, nothing
    after the error is returned. ``progress`` is 0 before any event, 1 after events without a token (role, comment),
    2 from the first token on. ``tokens`` counts what was streamed, for answers that end without usage. ``ended``: the
    answer is whole, whether or not the body goes on.
    """

    usage: Usage | None
    error: GatewayError | None
    progress: int
    tokens: int
    ended: bool
    content_type: bytes

    def feed(self, data: bytes, /) -> bytes: ...
    def finish(self) -> bytes:
        """At the end of the upstream body: what is still due to the client. Sets ``error`` if it is not whole."""


class Adapter(Protocol):
    """One engine kind's dialect. Pure and stateless: one instance serves every endpoint of its kind."""

    name: str

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        """The request in the engine's dialect, naming ``model``; the client's bytes where nothing has to change.

        Raises Unsupported for what the engine would silently drop, NotFound for an operation it does not offer.
        """

    def decoder(self, request: InferenceRequest, status: int, headers: Headers, /) -> Decoder:
        """For a 2xx answer."""

    def error(self, status: int, headers: Headers, body: bytes, /) -> UpstreamError:
        """For any other answer: the engine's own message, normalised, and whether another endpoint may be tried."""

    def models_path(self) -> bytes:
        """GET this to learn what an endpoint serves."""

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        """Raises ValueError for a body that is not a model listing."""


class UpstreamResponse(Protocol):
    """A response's head, and its body as it arrives."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def complete(self) -> bool:
        """True once the whole body has been received: the last `receive` says so without another read."""

    async def receive(self) -> bytes:
        """The body bytes of one read, b"" at the end. Cancellation loses nothing. Raises UpstreamError when cut."""


class Sending(Protocol):
    """One request under way: entered, it has been sent and the response's head received.

    Left, the connection is kept for reuse if the body is complete and closed at once otherwise.
    """

    async def __aenter__(self) -> UpstreamResponse: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def abort(self) -> None:
        """Close the connection under whoever waits on it; they get UpstreamError."""


class Transport(Protocol):
    """The only outbound I/O of the data path."""

    def send(self, endpoint: Endpoint, request: UpstreamRequest, /) -> Sending: ...
