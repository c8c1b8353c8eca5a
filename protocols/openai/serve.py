"""The OpenAI API over whatever speaks HTTP: paths to operations, errors to their shape, one request id per answer. (T)

Every answer carries ``x-request-id``. A bug in one request is a 500 in that request's answer, its traceback in the
log under the same id, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

import msgspec
import trio

from gateway.errors import GatewayError, MethodNotAllowed, ModelNotFound, NotFound
from gateway.ports import Exchange
from gateway.request_id import RequestIds
from gateway.types import Headers, Identity, InferenceRequest, ModelCard, Operation
from gateway.wire.h1 import Request
from protocols.openai import errors
from protocols.openai.parse import parse

_log = logging.getLogger("infer_gateway.openai")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_OPERATIONS: Final[dict[bytes, Operation]] = {operation.value.encode(): operation for operation in Operation}
_PATHS: Final[dict[Operation, str]] = {operation: operation.value for operation in Operation}
_MODELS: Final = (b"/v1/models", b"/models")
_EVENTS: Final = (b"content-type", b"text/event-stream")
_UNHELD: Final = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
_OWNER: Final = "infer-gateway"


class Core(Protocol):
    """What this front end stands on."""

    def serve(self, exchange: Exchange, /) -> Awaitable[None]:
        """Answer ``exchange``; failures too are answered through it."""

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None:
        """Who sends a request with these headers, from that address and with that name in its certificate.

        None: `identify` has to find out. Raises Unauthorized.
        """

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        """As `known`, asking whoever has to be asked. Raises Unauthorized; Overloaded where nobody answers."""

    def models(self, identity: Identity, /) -> Sequence[ModelCard]:
        """What ``identity`` may ask for, in the order to list."""

    def ready(self) -> bool:
        """Whether any request could be served now."""

    def refused(self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, /) -> None:
        """Note a request that was answered before it could be served; None: it is not known whose."""


class HttpReply(Protocol):
    """One HTTP request and the way back, as the listener or an ASGI server gives it (`protocols.http.exchange`).

    ``peer`` is the address it comes from, ``subject`` the name in a certificate that was verified ("" for none).
    """

    request: Request
    peer: str
    subject: str
    started: bool
    finished: bool

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
        self._id_fields = _id_fields(request_id, operation)
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


class OpenAIApp:
    """The application: call it with one request; it returns once that is answered.

    ``Cancelled`` (the client left) and a failed connection pass through; no other exception does.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ids = RequestIds()

    async def __call__(self, http: HttpReply) -> None:
        request = http.request
        request_id = self._ids.of(request.header(b"x-request-id"))
        operation = _operation(request.target)
        if operation is None or request.method != b"POST":
            await self._look_up(http, operation, request_id)
            return
        exchange = OpenAIExchange(http, operation, request_id)
        identity: Identity | None = None
        try:
            identity = self._core.known(request.headers, http.peer, http.subject)
            if identity is None:
                identity = await self._core.identify(request.headers, http.peer, http.subject)
            exchange.request = parse(
                operation,
                request.body,
                request.headers,
                request_id=request_id,
                path=_PATHS[operation],
                identity=identity,
                query=request.target.partition(b"?")[2].decode("latin-1") if b"?" in request.target else "",
            )
            await self._core.serve(exchange)
        except GatewayError as error:
            self._core.refused(operation, error, request_id, identity)
            await exchange.fail(error)
        except _GONE:
            raise
        except Exception:  # noqa: BLE001  the boundary of one request: a bug ends it alone
            _log.exception("request %s failed unexpectedly", request_id)
            await exchange.fail(_bug(request_id))

    async def refuse(self, http: HttpReply, error: GatewayError) -> None:
        """Answer a request that failed before it got here."""
        operation = _operation(http.request.target)
        request_id = self._ids.of(http.request.header(b"x-request-id"))
        ids = _id_fields(request_id, operation)
        await http.respond(error.status, (*ids, *errors.fields(error)), errors.body(error, operation, request_id))

    # -- what is not inference ----------------------------------------------------------------------------------

    async def _look_up(self, http: HttpReply, operation: Operation | None, request_id: str) -> None:
        request = http.request
        fields: Headers = (errors.JSON,)
        try:
            if operation is not None:
                raise _not_allowed(request, "POST")
            status, body = await self._document(http, _path(request.target))
        except GatewayError as error:
            status, fields, body = error.status, errors.fields(error), errors.body(error, operation, request_id)
        except Exception:  # noqa: BLE001  the boundary of one request: a bug ends it alone
            _log.exception("request %s failed unexpectedly", request_id)
            bug = _bug(request_id)
            status, fields, body = bug.status, errors.fields(bug), errors.body(bug, operation, request_id)
        await http.respond(status, (*fields, *_id_fields(request_id, operation)), body)

    async def _document(self, http: HttpReply, path: bytes) -> tuple[int, bytes]:
        """Status and body of what a GET asks for."""
        model, request = _model_id(path), http.request
        if model is None and path not in _MODELS and path not in (b"/healthz", b"/readyz"):
            raise NotFound(f"Unknown request URL: {_readable(request.method)} {_readable(request.path)}.")
        if request.method not in (b"GET", b"HEAD"):
            raise _not_allowed(request, "GET, HEAD")
        if path == b"/healthz":
            return 200, b'{"status":"ok"}'
        if path == b"/readyz":
            return (200, b'{"status":"ready"}') if self._core.ready() else (503, b'{"status":"not ready"}')
        cards = self._core.models(await self._identity(http))
        if model is None:
            return 200, msgspec.json.encode({"object": "list", "data": [_listed(card) for card in cards]})
        for card in cards:
            if card.id == model:
                return 200, msgspec.json.encode(_listed(card))
        raise ModelNotFound(f"The model '{_readable(model.encode())}' does not exist.", param="model")

    async def _identity(self, http: HttpReply) -> Identity:
        headers = http.request.headers
        known = self._core.known(headers, http.peer, http.subject)
        return known if known is not None else await self._core.identify(headers, http.peer, http.subject)


def _id_fields(request_id: str, operation: Operation | None) -> Headers:
    """The id by the name that the operation's SDKs look for; Anthropic's has one of its own."""
    value = request_id.encode()
    if operation in errors.ANTHROPICS:
        return ((b"x-request-id", value), (b"request-id", value))
    return ((b"x-request-id", value),)


def _operation(target: bytes) -> Operation | None:
    return _OPERATIONS.get(target) or _OPERATIONS.get(_path(target))


def _path(target: bytes) -> bytes:
    """The target's path without query and trailing slashes; absolute-form targets too (RFC 9112 §3.2.2)."""
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return path.rstrip(b"/")


def _model_id(path: bytes) -> str | None:
    """The model that a path below a listing names: it may hold slashes, escaped or not."""
    for listing in _MODELS:
        if path.startswith(listing + b"/"):
            return unquote_to_bytes(path[len(listing) + 1 :]).decode(errors="replace")
    return None


def _listed(card: ModelCard) -> dict[str, object]:
    listed: dict[str, object] = {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by or _OWNER,
    }
    if card.parent is not None:
        listed["parent"] = card.parent
    if card.max_model_len is not None:
        listed["max_model_len"] = card.max_model_len
    return listed


def _not_allowed(request: Request, allow: str) -> MethodNotAllowed:
    text = f"Not allowed: {_readable(request.method)} {_readable(request.path)}. Use {allow}."
    return MethodNotAllowed(text, allow)


def _readable(name: bytes) -> str:
    return name[:200].decode(errors="replace")


def _bug(request_id: str) -> GatewayError:
    return GatewayError(f"The gateway failed unexpectedly on request {request_id}.")
