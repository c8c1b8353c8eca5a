"""What stands before the application: plain HTTP/1.1 requests for paths here, or none at all. (T)

Invariant: the application is asked only by the name in Host and for the path in the request line; no connection turns
into another protocol, which its guard would not see; a connection that ends after an answer is said to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from protocols.admin.access import hostname

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""ASGI 3.0."""
_WRONG: Final = b"expected a path and a host\n"
_FIELDS: Final = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_WRONG)), (b"connection", b"close")]


def front(application: Application) -> Application:
    """400 for targets that are no path (RFC 9112, §3.2: another host might stand there) and for hosts that are none;
    403 for WebSockets. An answer to a request of which not all has been read is the connection's last, and says so.
    """

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] != "http":
            await application(scope, receive, send)
        elif _is_plain(scope):
            await application(scope, *(_last_unless_read(receive, send) if _has_body(scope) else (receive, send)))
        else:
            await send({"type": "http.response.start", "status": 400, "headers": _FIELDS})
            await send({"type": "http.response.body", "body": _WRONG})

    return asked


def _is_plain(scope: Scope) -> bool:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return scope["path"].startswith("/") and all(host == "" or hostname(host) for host in hosts)


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _last_unless_read(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """hypercorn closes such a connection without a word: who sends its next request by then learns nothing of it."""
    whole = False

    async def received() -> Any:
        nonlocal whole
        event = await receive()
        whole = whole or (event["type"] == "http.request" and not event.get("more_body", False))
        return event

    async def sent(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start" and not whole:
            event = {**event, "headers": [*event.get("headers", ()), (b"connection", b"close")]}
        await send(event)

    return received, sent
