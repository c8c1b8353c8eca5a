"""What stands before the application: plain HTTP/1.1 requests for paths here, or none at all. (T)

Invariant: the application is asked only by the name in Host and for the path in the request line; no connection turns
into another protocol, which its guard would not see.
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
    403 for WebSockets.
    """

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] != "http" or _is_plain(scope):
            await application(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 400, "headers": _FIELDS})
            await send({"type": "http.response.body", "body": _WRONG})

    return asked


def _is_plain(scope: Scope) -> bool:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return scope["path"].startswith("/") and all(host == "" or hostname(host) for host in hosts)
