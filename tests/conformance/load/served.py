"""Servers for the load generator's tests: the benchmarks' fake engine, and one that follows a script. (IO)"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from benchmarks import upstream

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve each connection with ``serve``; yields the port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]

    async def connection(stream: trio.abc.Stream) -> None:
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await serve(stream)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, connection, listeners)
        yield port
        nursery.cancel_scope.cancel()


def scripted(*answers: bytes | None, after: float = 0.0) -> Serve:
    """Answer the first requests of all connections in turn with these bytes, the last one for ever; None hangs up.

    ``after`` is the delay before each answer, in seconds.
    """
    left = list(answers)

    async def serve(stream: trio.abc.Stream) -> None:
        while await stream.receive_some(65536):
            answer = left.pop(0) if len(left) > 1 else left[0]
            await trio.sleep(after)
            if answer is None:
                return
            await stream.send_all(answer)
            if b"\r\n\r\n" not in answer or b"close-now" in answer:
                return

    return serve


def engine(**options: float) -> Serve:
    """The fake engine: numbered tokens, a pace."""
    canned = upstream.Engine(**options)  # type: ignore[arg-type]
    return lambda stream: upstream.serve(stream, canned)


def plain(content: bytes, status: str = "200 OK", head: str = "") -> bytes:
    """A whole answer with its length."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\n{head}\r\n".encode() + content


WHOLE = plain(upstream.WHOLE_JSON.encode())
