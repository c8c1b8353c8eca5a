"""The OpenAI API over whatever speaks HTTP: paths to operations, errors to their shape, one request id per answer. (T)

Every answer carries ``x-request-id``. A bug in one request is a 500 in that request's answer, its traceback in the
log under the same id, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

import msgspec
import trio

from gateway.burden import Burden
from gateway.entrance import MAIN, Entrance, Entrances
from gateway.errors import GatewayError, MethodNotAllowed, ModelNotFound, NotFound, UpstreamError
from gateway.http_refusals import HttpRefusals
from gateway.httproute import Way
from gateway.meter import Record
from gateway.ports import Exchange
from gateway.request_id import HERE, RequestIds
from gateway.types import Headers, Identity, InferenceRequest, ModelCard, Operation, UpstreamRequest
from gateway.wire.h1 import Request
from protocols.openai import errors
from protocols.openai.exchange import OPERATIONS, HttpReply, OpenAIExchange, bug, id_fields, path_of
from protocols.openai.forward import Forwarder
from protocols.openai.parse import parse

_log = logging.getLogger("infer_gateway.openai")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_PATHS: Final[dict[Operation, str]] = {operation: operation.value for operation in Operation}
_MODELS: Final = (b"/v1/models", b"/models")
_OWNER: Final = "infer-gateway"


class Core(Protocol):
    """What this front end stands on. ``entrances``: None where there are no Gateways."""

    @property
    def entrances(self) -> Entrances | None: ...

    def serve(self, exchange: Exchange, /) -> Awaitable[None]:
        """Answer ``exchange``; failures too are answered through it."""

    def forward(self, exchange: Exchange, way: Way, raw: UpstreamRequest | None = None, /) -> Awaitable[None]:
        """Answer ``exchange`` from where an HTTPRoute leads; ``raw``: with what is said there to this. Raises NoBackend
        before anything is answered.
        """

    def owned(self, request: InferenceRequest, /) -> bool:
        """Whether a ModelRoute has the model, and is asked before HTTPRoutes are."""

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None:
        """Who sends a request with these headers, from that address and with that name in its certificate.

        None: `identify` has to find out. Raises Unauthorized.
        """

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        """As `known`, asking whoever has to be asked. Raises Unauthorized; Overloaded where nobody answers."""

    def models(self, identity: Identity, entrance: Entrance | None = None, /) -> Sequence[ModelCard]:
        """What ``identity`` may ask for who comes in there, in the order to list."""

    def ready(self) -> bool:
        """Whether any request could be served now."""

    def refused(
        self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, headers: Headers, /
    ) -> None:
        """Note a request that was answered before it could be served; None: it is not known whose."""


class OpenAIApp:
    """The application: call it with one request; it returns once that is answered.

    ``Cancelled`` (the client left) and a failed connection pass through; no other exception does. ``port``: a Gateway's
    that it is listened on for, or the program's own. ``burden``: what may be too much for one more request.
    ``refusals`` is told of requests that fail without being one for inference.
    """

    def __init__(
        self, core: Core, port: int = MAIN, burden: Burden | None = None, refusals: HttpRefusals | None = None
    ) -> None:
        self._core = core
        self._port = port
        self._ids = RequestIds()
        self._burden = burden or Burden()
        self._refusals = refusals
        self._forwarder = Forwarder(core, self._identity, self._burden)

    async def __call__(self, http: HttpReply) -> None:
        request = http.request
        request_id = self._ids.of(request.header(b"x-request-id"))
        if b"via" in request.fields and HERE in b",".join(v for n, v in request.headers if n == b"via"):
            await self.refuse(http, UpstreamError("the request has come back to the gateway that sent it", status=508))
            return
        entrances, entrance = self._core.entrances, None
        if entrances is not None:
            entrance = entrances.of(self._port, (request.header(b"host") or b"").decode("latin-1"))
            way = self._forwarder.way(request, entrances.http.get(self._port), entrance)
            if way is not None:
                await self._forwarder(http, way, request_id, entrance)
                return
        operation = _operation(request.target)
        if operation is None or request.method != b"POST":
            await self._look_up(http, operation, request_id, entrance)
            return
        exchange = OpenAIExchange(http, operation, request_id)
        identity: Identity | None = None
        try:
            refusal = self._burden.refusal(len(request.body))
            if refusal is not None:
                raise refusal
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
                entrance=entrance,
            )
            await self._core.serve(exchange)
        except GatewayError as error:
            self._core.refused(operation, error, request_id, identity, request.headers)
            await exchange.fail(error)
        except _GONE:
            raise
        except Exception:  # noqa: BLE001  the boundary of one request: a bug ends it alone
            _log.exception("request %s failed unexpectedly", request_id)
            await exchange.fail(bug(request_id))

    async def refuse(self, http: HttpReply, error: GatewayError) -> None:
        """Answer a request that failed before it got here."""
        operation = _operation(http.request.target)
        request_id = self._ids.of(http.request.header(b"x-request-id"))
        self._note(http.request, operation, error, request_id)
        ids = id_fields(request_id, operation)
        await http.respond(error.status, (*ids, *errors.fields(error)), errors.body(error, operation, request_id))

    # -- what is not inference ----------------------------------------------------------------------------------

    async def _look_up(
        self, http: HttpReply, operation: Operation | None, request_id: str, entrance: Entrance | None
    ) -> None:
        request = http.request
        fields: Headers = (errors.JSON,)
        try:
            if operation is not None:
                raise _not_allowed(request, "POST")
            status, body = await self._document(http, path_of(request.target).rstrip(b"/"), entrance)
        except GatewayError as error:
            self._note(request, operation, error, request_id)
            status, fields, body = error.status, errors.fields(error), errors.body(error, operation, request_id)
        except Exception:  # noqa: BLE001  the boundary of one request: a bug ends it alone
            _log.exception("request %s failed unexpectedly", request_id)
            failure = bug(request_id)
            self._note(request, operation, failure, request_id)
            status, fields = failure.status, errors.fields(failure)
            body = errors.body(failure, operation, request_id)
        await http.respond(status, (*fields, *id_fields(request_id, operation)), body)

    def _note(self, request: Request, operation: Operation | None, error: GatewayError, request_id: str) -> None:
        """Say that a request failed of which nobody asks an engine anything."""
        if self._refusals is None:
            return
        path, now = path_of(request.target), trio.current_time()
        record = Record(
            operation=_readable(path) if operation is None else operation,
            status=error.status,
            reason=error.reason,
            started=now,
            ended=now,
            id=request_id,
            why=_readable(request.method) if isinstance(error, MethodNotAllowed) else error.why,
        )
        self._refusals.note(record)

    async def _document(self, http: HttpReply, path: bytes, entrance: Entrance | None) -> tuple[int, bytes]:
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
        cards = self._core.models(await self._identity(http), entrance)
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


def _operation(target: bytes) -> Operation | None:
    return OPERATIONS.get(target) or OPERATIONS.get(path_of(target).rstrip(b"/"))


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
