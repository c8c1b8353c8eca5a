"""A gRPC server of ours for clients that know nothing of Trio. (IO)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from gateway.listen import open_listeners
from protocols.grpc.server import Server, Service


@asynccontextmanager
async def served(services: Sequence[Service]) -> AsyncIterator[tuple[Server, str]]:
    """A server and its "host:port"."""
    listeners = await open_listeners("127.0.0.1", 0)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(Server(services, listeners).run)
            yield server, "{}:{}".format(*listeners[0].address)
            nursery.cancel_scope.cancel()
