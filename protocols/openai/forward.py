"""Requests that an HTTPRoute leads to a pool: inference by whatever path, and anything else as it is. (T)

Invariant: what the gateway itself answers (its health, the models it has) is no HTTPRoute's, nor is a request below
/v1/ for a model that a ModelRoute has. To engines goes nothing by which its client is known to the gateway.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from gateway.burden import Burden
from gateway.entrance import Entrance
from gateway.errors import GatewayError
from gateway.httproute import Changes, HttpRouteTable, Redirect, Way
from gateway.ports import Exchange
from gateway.types import ANONYMOUS, Headers, Identity, InferenceRequest, Operation, UpstreamRequest
from gateway.wire.h1 import Request
from protocols.openai import errors
from protocols.openai.exchange import OPERATIONS, HttpReply, OpenAIExchange, bug, id_fields, path_of
from protocols.openai.parse import parse

if TYPE_CHECKING:
    from protocols.openai.serve import Core

_log = logging.getLogger("infer_gateway.openai")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_HEALTH: Final = (b"/healthz/", b"/readyz/")
_MODELS: Final = (b"/v1/models/", b"/models/")
_ANY: Final = Operation.CHAT
"""What a request is noted as of which nobody knows what it asks for."""
_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"http2-settings"),
)  # fmt: skip
_OURS: Final = frozenset(
    (*_HOP, b"host", b"content-length", b"expect", b"accept-encoding", b"authorization", b"proxy-authorization",
     b"x-api-key", b"x-request-id", b"x-forwarded-for"),
)  # fmt: skip
"""Fields of clients that are not passed on; a route may set some of them itself."""
_REPLACED: Final = frozenset((*_HOP, b"date", b"x-request-id"))


class _Named(msgspec.Struct):
    model: str = ""


_NAMED: Final = msgspec.json.Decoder(_Named)


class PlainExchange:
    """`gateway.ports.Exchange` for an answer that passes as it is."""

    __slots__ = ("_http", "_request_id", "finish", "request", "send", "started")

    request: InferenceRequest

    def __init__(self, http: HttpReply, request_id: str) -> None:
        self.started = False
        self.send = http.send
        self.finish = http.finish
        self._http = http
        self._request_id = request_id

    async def start(self, status: int, headers: Headers, /) -> None:
        self.started = True
        gone = _REPLACED | _nominated(headers)
        passed = [field for field in headers if field[0] not in gone]
        self._http.start_nowait(status, (*id_fields(self._request_id, None), *passed))

    def keep_alive(self, headers: Headers = (), /) -> None:
        """Nobody knows how."""

    async def fail(self, error: GatewayError, /) -> None:
        """The error as the whole answer; one that had begun ends with its connection."""
        if self._http.finished:
            return
        if self.started:
            self._http.abort()
            return
        self.started = True
        fields = (*id_fields(self._request_id, None), *errors.fields(error))
        await self._http.respond(error.status, fields, errors.body(error))


class Changed:
    """An HttpReply whose fields are changed on their way."""

    def __init__(self, http: HttpReply, changes: Changes) -> None:
        self.request, self.peer, self.subject = http.request, http.peer, http.subject
        self.send, self.finish, self.end = http.send, http.finish, http.end
        self.send_soon, self.abort = http.send_soon, http.abort
        self.changes = changes
        self._http = http

    @property
    def started(self) -> bool:
        return self._http.started

    @property
    def finished(self) -> bool:
        return self._http.finished

    def start_nowait(self, status: int, headers: Headers) -> None:
        self._http.start_nowait(status, self.changes.applied(headers))

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> Coroutine[Any, Any, None]:
        return self._http.respond(status, self.changes.applied(headers), body)


class Forwarder:
    """Answers requests of which an HTTPRoute says where they go. ``identity``: who sends one; raises GatewayError."""

    def __init__(self, core: Core, identity: Callable[[HttpReply], Awaitable[Identity]], burden: Burden) -> None:
        self._core = core
        self._identity = identity
        self._burden = burden

    def way(self, request: Request, routes: HttpRouteTable | None, entrance: Entrance | None) -> Way | None:
        """Where the request goes, if one of these says so."""
        path = path_of(request.target)
        ended = path.rstrip(b"/") + b"/"
        if routes is None or ended in _HEALTH or (ended.startswith(_MODELS) and self._core.models(ANONYMOUS, entrance)):
            return None
        host = (request.header(b"host") or b"").decode("latin-1")
        method = request.method.decode("latin-1")
        return routes.find(host, path.decode("latin-1"), method, request.headers, _query(request))

    async def __call__(self, http: HttpReply, way: Way, request_id: str, entrance: Entrance | None = None) -> None:
        """Answer; raises what `OpenAIApp` does."""
        redirect, path = way.rule.redirect, path_of(http.request.target).decode("latin-1")
        reply = http if way.rule.response is None else Changed(http, way.rule.response)
        if redirect is not None:
            await reply.respond(redirect.status, _redirected(http.request, way, redirect, path, request_id))
            return
        post = http.request.method == b"POST"
        operation = OPERATIONS.get(way.path(path).rstrip("/").encode("latin-1")) if post else None
        exchange = (
            PlainExchange(reply, request_id) if operation is None else OpenAIExchange(reply, operation, request_id)
        )
        identity: Identity | None = None
        try:
            refusal = self._burden.refusal(len(http.request.body))
            if refusal is not None:
                raise refusal
            identity = await self._identity(http)
            if operation is None:
                await self._pass(exchange, way, http, path, request_id, identity)
            else:
                await self._infer(exchange, way, reply, operation, path, request_id, identity, entrance)
        except GatewayError as error:
            self._core.refused(operation or _ANY, error, request_id, identity, http.request.headers)
            await exchange.fail(error)
        except _GONE:
            raise
        except Exception:  # noqa: BLE001  the boundary of one request: a bug ends it alone
            _log.exception("request %s failed unexpectedly", request_id)
            await exchange.fail(bug(request_id))

    async def _infer(
        self,
        exchange: Exchange,
        way: Way,
        reply: HttpReply,
        operation: Operation,
        path: str,
        request_id: str,
        identity: Identity,
        entrance: Entrance | None,
    ) -> None:
        """One of the operations that are known, in the dialect of whatever engine answers it."""
        request = reply.request
        query = _query(request)
        parsed = parse(
            operation,
            request.body,
            request.headers,
            request_id=request_id,
            path=path,
            identity=identity,
            query=query,
            entrance=entrance,
        )
        if self._core.owned(parsed):
            if isinstance(reply, Changed):
                reply.changes = Changes()
            exchange.request = parsed
            await self._core.serve(exchange)
        else:
            exchange.request = _directed(parsed, way)
            await self._core.forward(exchange, way)

    async def _pass(
        self, exchange: Exchange, way: Way, http: HttpReply, path: str, request_id: str, identity: Identity
    ) -> None:
        """Anything else: the client's bytes to an endpoint of the pool, and its bytes back."""
        request, query = http.request, _query(http.request)
        model = _model(request.body)
        plain = InferenceRequest(
            request_id, _ANY, model, request.body, request.headers, path, identity=identity, query=query
        )
        exchange.request = directed = _directed(plain, way)
        target = way.path(path) + (f"?{query}" if query else "")
        gone = _OURS | (_nominated(request.headers) - _set(way))
        passed = [field for field in directed.headers if field[0] not in gone or field not in request.headers]
        told = ((b"accept-encoding", b"identity"), (b"x-request-id", request_id.encode()), *_forwarded(http))
        raw = UpstreamRequest(request.method, target.encode("latin-1"), (), request.body, (*passed, *told))
        await self._core.forward(exchange, way, raw)


def _nominated(headers: Headers) -> set[bytes]:
    """Fields that are for this connection alone, as its sender says (RFC 9110 §7.6.1)."""
    said = [value for name, value in headers if name == b"connection"]
    return {name.strip().lower() for name in b",".join(said).split(b",")} if said else set()


def _set(way: Way) -> set[bytes]:
    """Fields that are the route's own, whatever a client sends or would have left out."""
    changes = way.rule.request
    return set() if changes is None else {name for name, _ in (*changes.set, *changes.add)}


def _directed(request: InferenceRequest, way: Way) -> InferenceRequest:
    """The request as its route wants it: its fields changed, its time limited."""
    changes, timeout = way.rule.request, way.rule.timeout
    if changes is not None:
        request = msgspec.structs.replace(request, headers=changes.applied(request.headers))
    if timeout < math.inf:
        request = msgspec.structs.replace(request, deadline=trio.current_time() + timeout)
    return request


def _redirected(request: Request, way: Way, redirect: Redirect, path: str, request_id: str) -> Headers:
    host = (request.header(b"host") or b"").decode("latin-1")
    scheme = "https" if request.header(b"x-forwarded-proto") == b"https" else "http"
    location = way.location(redirect, scheme, host, path, _query(request))
    return (*id_fields(request_id, None), (b"location", location.encode("latin-1")))


def _forwarded(http: HttpReply) -> Headers:
    """Whom the request comes from and what it was sent to, where nobody has said."""
    before, host = http.request.header(b"x-forwarded-for"), http.request.header(b"host") or b""
    through = http.peer.encode("latin-1", "replace")
    told = [(b"x-forwarded-for", b"%b, %b" % (before, through) if before else through)]
    return told if http.request.header(b"x-forwarded-host") else [*told, (b"x-forwarded-host", host)]


def _model(body: bytes) -> str:
    """The model that a body names, if it is JSON that does; "" else."""
    if not body:
        return ""
    try:
        return _NAMED.decode(body).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _query(request: Request) -> str:
    return request.target.partition(b"?")[2].decode("latin-1") if b"?" in request.target else ""
