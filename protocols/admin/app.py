"""What operators and Kubernetes ask: metrics, health, readiness, the fleet as JSON and as it changes, a page. (IO)

A Quart-Trio application; nothing here decides or counts, everything comes from an `Admin`. Quart takes 100 ms and
11 MiB to import: import this module from `protocols.admin.server`, which does so beside the traffic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, Protocol

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from gateway.config.settings import AdminListener
from gateway.live import Crowded, Event
from protocols.admin.access import Rules
from protocols.admin.answers import HEADERS, as_json, error, http_error, page
from protocols.admin.debug import add_debug
from protocols.admin.guard import Guard

_MAX_BODY: Final = 65536
_EVENTS: Final = "text/event-stream"
_RETRY_MS: Final = 2000
_HEARTBEAT_S: Final = 10.0


class Connection(Protocol):
    """A client's. ``stays``: where there are too many, others give way first."""

    stays: bool

    def close(self) -> None:
        """End it at once."""


class Feed(Protocol):
    """What is going on, as events."""

    def watch(self, cut: Callable[[], object], /) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        """From now on. ``cut`` is called when whoever watches falls behind. Raises Crowded where too many do."""


class Admin(Protocol):
    """What the admin plane shows and does. Everything but `metrics` answers at once, from memory, in plain values."""

    @property
    def draining(self) -> bool:
        """True from the moment the process was asked to stop."""

    @property
    def listener(self) -> AdminListener:
        """The section in force."""

    @property
    def live(self) -> Feed: ...

    def ready(self) -> bool:
        """Whether at least one endpoint is usable."""

    def config(self) -> object:
        """The configuration in force, without secrets."""

    def routes(self) -> object: ...
    def pools(self) -> object: ...
    def endpoints(self) -> object: ...
    def flows(self) -> object:
        """Who waits where, and what they have had lately."""

    def statistics(self) -> object:
        """What is held for requests and clients, as numbers."""

    def decisions(self, limit: int, request: str, /) -> object:
        """Why requests went where they did, the last ones first; with ``request``, of the request with that id."""

    async def metrics(self, accept: str, /) -> tuple[bytes, str]:
        """(exposition, content type), as an Accept field asks."""

    def drain(self, endpoint_id: str, draining: bool, /) -> bool:
        """Place no new requests on the endpoint, or some again; those in flight finish. False if there is none of that
        id.
        """


def make_app(admin: Admin, rules: Rules, answered: Callable[[], Connection]) -> QuartTrio:
    """``rules``: how the listener was opened. ``answered``: the connection that the running task answers."""
    app = QuartTrio(__name__, static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.register_error_handler(HTTPException, http_error)
    app.after_request(_protect)
    guard = Guard(lambda: admin.listener, rules)
    guard.install(app)
    _add_health(app, admin)
    _add_views(app, admin)
    _add_pages(app)
    _add_live(app, admin.live, guard, answered)
    _add_actions(app, admin)
    add_debug(app, admin.statistics)
    return app


async def _protect(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


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
        text, content_type = await admin.metrics(request.headers.get("accept", ""))
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
            return as_json(view())

        app.add_url_rule(f"/api/{name}", name, show)

    for name, view in views.items():
        add(name, view)

    @app.get("/api/decisions")
    async def decisions() -> Response:
        limit = request.args.get("limit", 50, type=int)
        return as_json(admin.decisions(max(0, limit), request.args.get("id", "")))


def _add_pages(app: QuartTrio) -> None:
    @app.get("/")
    async def dashboard() -> Response:
        return page("index.html")

    @app.get("/static/<name>")
    async def static_file(name: str) -> Response:
        return page(name)


def _add_live(app: QuartTrio, feed: Feed, guard: Guard, answered: Callable[[], Connection]) -> None:
    @app.get("/api/live")
    async def live() -> Response:
        if request.method == "HEAD":
            return Response(b"", content_type=_EVENTS)
        stack, connection = ExitStack(), answered()
        try:
            events = stack.enter_context(feed.watch(connection.close))
        except Crowded:
            refused = error(503, "as many watch as may; try again later")
            refused.headers["retry-after"] = "5"
            return refused
        stack.enter_context(_staying(connection))
        asked = guard.asked()
        told = _told(stack, events, lambda: guard.refusal(asked) is None)
        response = Response(told, content_type=_EVENTS, headers={"cache-control": "no-store"})
        response.timeout = None
        return response


@contextmanager
def _staying(connection: Connection) -> Iterator[None]:
    """Of one who was let in, and only while it watches: those that are refused would crowd out who is answered."""
    connection.stays = True
    try:
        yield
    finally:
        connection.stays = False


async def _told(
    stack: ExitStack, events: trio.MemoryReceiveChannel[Event], allowed: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Server-sent events, until there are no more or whoever watches may not any longer."""
    with stack:
        yield b"retry: %d\n\n" % _RETRY_MS
        while allowed():
            line = b": still here\n\n"
            with trio.move_on_after(_HEARTBEAT_S):
                try:
                    name, data = await events.receive()
                except trio.EndOfChannel:
                    return
                line = b"event: %s\ndata: %s\n\n" % (name.encode(), data)
            yield line


def _add_actions(app: QuartTrio, admin: Admin) -> None:
    @app.route("/api/endpoints/<path:endpoint_id>/drain", methods=["POST", "DELETE"])
    async def drain(endpoint_id: str) -> Response:
        draining = request.method == "POST"
        if not admin.drain(endpoint_id, draining):
            return error(404, f"there is no endpoint '{endpoint_id}'")
        return as_json({"endpoint": endpoint_id, "draining": draining})
