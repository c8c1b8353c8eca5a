"""A request of the OpenAI API and where its reply goes, over whatever speaks HTTP. (T)"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, Protocol

from gateway.errors import GatewayError
from gateway.types import Headers, InferenceRequest, Operation
from gateway.wire.h1 import Request
from protocols.openai import errors

OPERATIONS: Final[dict[bytes, Operation]] = {operation.value.encode(): operation for operation in Operation}
"""By the path that they arrive on."""
_EVENTS: Final = (b"content-type", b"text/event-stream")
_UNHELD: Final = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class HttpReply(Protocol):
    """One HTTP request and the way back, as the listener or an ASGI server gives it (`protocols.http.exchange`).

    ``peer`` is the address it comes from, ``subject`` the name in a certificate that was verified ("" for none).
    """

    request: Request
    peer: str
    subject: str

    @property
    def started(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    def start_nowait(self, status: int, headers: Headers) -> None: ...
    def send(self, chunk: bytes) -> Coroutine[Any, Any, None]: ...
    def finish(self, chunk: bytes = b"") -> Coroutine[Any, Any, None]: ...
    def respond(self, status: int, headers: Headers, body: bytes = b"") -> Coroutine[Any, Any, None]: ...
    def end(self, chunk: bytes) -> Coroutine[Any, Any, None]: ...
    def send_soon(self, chunk: bytes) -> None: ...
    def abort(self) -> None: ...


class OpenAIExchange:
    """A parsed request and where its reply goes: `gateway.ports.Exchange` over HTTP.

    `send` and `finish` are the transport's own: nothing stands between a chunk and the socket.
    """

    __slots__ = (
        "_http", "_id_fields", "_operation", "_request_id", "_streaming", "finish", "request", "send", "started",
    )  # fmt: skip

    request: InferenceRequest

    def __init__(self, http: HttpReply, operation: Operation, request_id: str) -> None:
        self.started = False
        self.send = http.send
        self.finish = http.finish
        self._http = http
        self._operation = operation
        self._request_id = request_id
        self._id_fields = id_fields(request_id, operation)
        self._streaming = False

    async def start(self, status: int, headers: Headers, /) -> None:
        """Adds the request id, the content type if none is given, and to event streams what stops proxies holding them.

        Does nothing if `keep_alive` had to start the reply.
        """
        if self.started:
            return
        self.started = True
        for name, value in headers:
            if name == b"content-type":
                if value.startswith(b"text/event-stream"):
                    self._streaming = True
                    self._http.start_nowait(status, (*self._id_fields, *headers, *_UNHELD))
                else:
                    self._http.start_nowait(status, (*self._id_fields, *headers))
                return
        self._http.start_nowait(status, (*self._id_fields, errors.JSON, *headers))

    def keep_alive(self, headers: Headers = (), /) -> None:
        """A comment in an event stream (SDKs skip it), which it starts with status 200 if the client asked for one."""
        if not self.started and self.request.stream:
            self.started = self._streaming = True
            self._http.start_nowait(200, (*self._id_fields, _EVENTS, *headers, *_UNHELD))
        if self._streaming:
            self._http.send_soon(b": keep-alive\n\n")

    async def fail(self, error: GatewayError, /) -> None:
        """The error as the whole answer, or as an event stream's last event. A reply cut short ends its connection."""
        http = self._http
        if http.finished:
            return
        if not self.started:
            self.started = True
            fields = (*self._id_fields, *errors.fields(error))
            await http.respond(error.status, fields, errors.body(error, self._operation, self._request_id))
            return
        if self._streaming:
            await http.end(errors.event(error, self._operation, self._request_id))
        else:
            http.abort()


def id_fields(request_id: str, operation: Operation | None) -> Headers:
    """The id by the name that the operation's SDKs look for; Anthropic's has one of its own."""
    value = request_id.encode()
    if operation in errors.ANTHROPICS:
        return ((b"x-request-id", value), (b"request-id", value))
    return ((b"x-request-id", value),)


def path_of(target: bytes) -> bytes:
    """The target's path without query; absolute-form targets too (RFC 9112 §3.2.2)."""
    path = target.partition(b"?")[0]
    return path if path.startswith(b"/") else b"/" + path.partition(b"://")[2].partition(b"/")[2]


def bug(request_id: str) -> GatewayError:
    """What a client is told of a failure of ours; the log has the rest under the same id."""
    return GatewayError(f"The gateway failed unexpectedly on request {request_id}.")
