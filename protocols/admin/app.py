"""What operators and Kubernetes ask: metrics, health, readiness, the fleet as JSON, an overview page. (IO)

A Quart-Trio application; nothing here decides or counts, everything comes from an `Admin`. Quart takes 100 ms and
11 MiB to import: import this module from `protocols.admin.server`, which does so beside the traffic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

Event = tuple[str, bytes]
_EVENTS = "text/event-stream"
_RETRY_MS = 2000
_HEARTBEAT_S = 10.0
_MAX_BODY = 65536
_CODES = {403: "forbidden", 404: "not_found", 405: "method_not_allowed", 500: "internal_error"}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


class Feed(Protocol):
    """What is going on, as events."""

    def watch(self, cut: Callable[[], object], /) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        """(name, JSON) from now on. ``cut`` is called when whoever watches falls behind. Raises where too many do."""


class Admin(Protocol):
    """What the admin plane shows and does. Everything but `metrics` answers at once, from memory, in plain values."""

    @property
    def draining(self) -> bool:
        """True from the moment the process was asked to stop."""

    def ready(self) -> bool:
        """Whether at least one endpoint is usable."""

    def config(self) -> object:
        """The configuration in force, without secrets."""

    def routes(self) -> object: ...
    def pools(self) -> object: ...
    def endpoints(self) -> object: ...
    def flows(self) -> object:
        """Who waits where, and what they have had lately."""

    def decisions(self, limit: int, request: str, /) -> object:
        """Why requests went where they did, the last ones first; with ``request``, of the request with that id."""

    async def metrics(self) -> tuple[bytes, str]:
        """(exposition, content type)."""

    @property
    def live(self) -> Feed: ...

    def drain(self, endpoint_id: str, /) -> bool:
        """Place no new requests on the endpoint; those in flight finish. False if there is none of that id."""


def make_app(admin: Admin, cut: Callable[[], Callable[[], object]]) -> QuartTrio:
    """``cut`` tells how to end the connection that the running task answers."""
    app = QuartTrio(__name__, static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY
    app.register_error_handler(HTTPException, _http_error)
    app.before_request(_refuse_foreign_pages)
    _add_health(app, admin)
    _add_views(app, admin)
    _add_live(app, admin, cut)
    _add_actions(app, admin)
    return app


def _add_health(app: QuartTrio, admin: Admin) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("ok\n", content_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        if admin.draining:
            return Response("draining\n", 503, content_type="text/plain")
        if not admin.ready():
            return Response("no usable endpoint\n", 503, content_type="text/plain")
        return Response("ok\n", content_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        text, content_type = await admin.metrics()
        return Response(text, content_type=content_type)


def _add_views(app: QuartTrio, admin: Admin) -> None:
    views: dict[str, Callable[[], object]] = {
        "config": admin.config,
        "routes": admin.routes,
        "pools": admin.pools,
        "endpoints": admin.endpoints,
        "flows": admin.flows,
    }

    def add(name: str, view: Callable[[], object]) -> None:
        async def show() -> Response:
            return _json(view())

        app.add_url_rule(f"/api/{name}", name, show)

    for name, view in views.items():
        add(name, view)

    @app.get("/api/decisions")
    async def decisions() -> Response:
        limit = request.args.get("limit", 50, type=int)
        return _json(admin.decisions(max(0, limit), request.args.get("id", "")))

    @app.get("/")
    async def overview() -> Response:
        page = Path(__file__).with_name("overview.html").read_bytes()
        return Response(page, content_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)


def _add_live(app: QuartTrio, admin: Admin, cut: Callable[[], Callable[[], object]]) -> None:
    @app.get("/api/live")
    async def live() -> Response:
        if request.method == "HEAD":
            return Response(b"", content_type=_EVENTS)
        response = Response(_told(admin.live, cut()), content_type=_EVENTS, headers={"cache-control": "no-store"})
        response.timeout = None
        return response


async def _told(feed: Feed, cut: Callable[[], object]) -> AsyncIterator[bytes]:
    with feed.watch(cut) as events:
        yield b"retry: %d\n\n" % _RETRY_MS
        while True:
            line = b": still here\n\n"
            with trio.move_on_after(_HEARTBEAT_S):
                try:
                    name, data = await events.receive()
                except trio.EndOfChannel:
                    return
                line = b"event: %s\ndata: %s\n\n" % (name.encode(), data)
            yield line


def _add_actions(app: QuartTrio, admin: Admin) -> None:
    @app.post("/api/endpoints/<path:endpoint_id>/drain")
    async def drain(endpoint_id: str) -> Response:
        if not admin.drain(endpoint_id):
            return _error(404, f"there is no endpoint '{endpoint_id}'")
        return _json({"endpoint": endpoint_id, "draining": True})


async def _refuse_foreign_pages() -> Response | None:
    """A page of another site open in an operator's browser can post here, and must not change anything.

    Browsers name the page's origin with every POST (Fetch standard, §3.1); other clients send none.
    """
    origin = request.headers.get("origin")
    if request.method in ("GET", "HEAD", "OPTIONS") or origin is None:
        return None
    if urlsplit(origin).netloc == request.host:
        return None
    return _error(403, "requests from pages of other origins are refused")


async def _http_error(error: HTTPException) -> Response:
    unknown = error.code == 404
    message = f"there is nothing at {request.path}" if unknown else error.description or error.name
    response = _error(error.code or 500, message)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["allow"] = ", ".join(sorted(allowed))
    return response


def _error(status: int, message: str) -> Response:
    """In the shape that the OpenAI front end's errors have."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _json({"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}}, status)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")
