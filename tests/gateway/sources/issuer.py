"""A real HTTPS server on a free port that answers as it is told, and the authority that vouches for it. (IO)"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trustme

from gateway.listen import open_listeners
from gateway.wire.h1 import Request
from protocols.http.exchange import HttpExchange
from protocols.http.listener import serve

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class Web:
    """``answer`` makes an answer of each request; all requests are in ``seen``."""

    def __init__(self, answer: Callable[[Request], Answer | Awaitable[Answer]]) -> None:
        self.answer = answer
        self.seen: list[Request] = []
        self.port = 0

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    async def __call__(self, exchange: HttpExchange) -> None:
        self.seen.append(exchange.request)
        answer = self.answer(exchange.request)
        await exchange.respond(*(answer if isinstance(answer, tuple) else await answer))


@asynccontextmanager
async def serving(web: Web, folder: Path) -> AsyncIterator[str]:
    """While entered, ``web`` is served; the name of the file with its authority."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    listeners = await open_listeners("127.0.0.1", 0, context)
    web.port = listeners[0].address[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, web, listeners)
        with trio.fail_after(20):
            yield str(ca_file)
        nursery.cancel_scope.cancel()
