"""A server on a free port that answers as it is told, byte by byte, by TLS too; kubeconfigs that lead there. (IO)"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import trio
import trustme


class Asked:
    def __init__(self, request: h11.Request, body: bytes, stream: trio.abc.Stream) -> None:
        self.method = request.method.decode()
        self.target = request.target.decode()
        self.headers = {name.decode(): value.decode() for name, value in request.headers}
        self.body = body
        self.stream = stream


Answer = Callable[[Asked], Awaitable[bytes]]


class Web:
    """``answer`` makes bytes of each request; all are in ``seen``, ``connections`` counts those that are open."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.seen: list[Asked] = []
        self.connections = 0
        self.accepted = 0
        self.closed = trio.Event()

    async def __call__(self, stream: trio.abc.Stream) -> None:
        if not self.connections:
            self.closed = trio.Event()
        self.connections += 1
        self.accepted += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, ssl.SSLError):
            pass
        finally:
            self.connections -= 1
            if not self.connections:
                self.closed.set()
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        while True:
            asked = await _read(stream)
            if asked is None:
                return
            self.seen.append(asked)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_left, stream, nursery.cancel_scope)
                await stream.send_all(await self.answer(asked))
                nursery.cancel_scope.cancel()


async def _left(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """A client that goes away ends what is being answered."""
    if not await stream.receive_some(1):
        scope.cancel()


async def _read(stream: trio.abc.Stream) -> Asked | None:
    connection, request, body = h11.Connection(h11.SERVER), None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some()
            if not data and request is None:
                return None
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            return Asked(request, body, stream)
        else:
            return None


def reply(status: int, body: object, *fields: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *fields, "", ""]
    return "\r\n".join(head).encode() + content


@asynccontextmanager
async def serving(web: Web, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """While entered, ``web`` is served; its URL."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            if context is None:
                await nursery.start(trio.serve_listeners, web, listeners)
            else:
                wrapped = [trio.SSLListener(listener, context, https_compatible=True) for listener in listeners]
                await nursery.start(trio.serve_listeners, web, wrapped)
            yield f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


def server_context(authority: trustme.CA, name: str = "127.0.0.1", clients: trustme.CA | None = None) -> ssl.SSLContext:
    """``clients``: the authority whose certificates are asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def kubeconfig(
    folder: Path, cluster: dict[str, Any], user: dict[str, Any], name: str = "config", context: str = "there"
) -> str:
    """The name of a file with one context, whose namespace is "team-a"."""
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "contexts": [{"name": context, "context": {"cluster": "k", "user": "u", "namespace": "team-a"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    file = folder / name
    file.write_text(json.dumps(tree))
    return str(file)


def plugin(folder: Path, body: str) -> dict[str, Any]:
    """A user whose credentials come from a program; ``body`` is what it does, in the shell."""
    file = folder / "plugin"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "args": ["get"]}}


def credential(**status: Any) -> str:
    """What a plugin prints."""
    return json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})
