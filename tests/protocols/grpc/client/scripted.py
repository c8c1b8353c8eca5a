"""A server that answers as a script says, right or wrong. (IO)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import Settings

from protocols.grpc.client import Channel, connect

HEAD = ((":status", "200"), ("content-type", "application/grpc"))
OK = (("grpc-status", "0"),)

Answer = Callable[["Scripted", int], None]
"""What becomes of a request that has been read whole: frames into ``h2``, for this stream."""


class Scripted:
    """One connection. ``requests``: of all connections so far. ``resets``: codes by stream."""

    def __init__(self, stream: trio.abc.Stream, answer: Answer, requests: list[int], early: bool = False) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.stream = stream
        self.requests = requests
        self.resets: dict[int, int] = {}
        self.raw = b""
        self.closing = False
        self.mute = False
        self.settings: dict[int, int] = {}
        self._answer = answer
        self._early = early

    async def run(self) -> None:
        self.h2.local_settings = Settings(client=False, initial_values=self.settings)
        self.h2.initiate_connection()
        await self._flush()
        while not self.closing:
            data = await self.stream.receive_some(65536)
            if not data:
                break
            for event in self.h2.receive_data(bytes(data)):
                self._hear(event)
            await self._flush()
        await self.stream.aclose()

    def _hear(self, event: object) -> None:
        if isinstance(event, RequestReceived):
            self.requests.append(event.stream_id)
            if self._early:
                self._answer(self, event.stream_id)
        elif isinstance(event, StreamEnded) and not self._early:
            self._answer(self, event.stream_id)
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, PingReceived) and self.mute:
            self.h2.clear_outbound_data_buffer()
        elif isinstance(event, DataReceived) and not self._early:
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    async def _flush(self) -> None:
        data, self.raw = self.h2.data_to_send() + self.raw, b""
        await self.stream.send_all(data)


@asynccontextmanager
async def scripted(
    answer: Answer, requests: list[int], early: bool = False, settings: dict[int, int] | None = None
) -> AsyncIterator[Channel]:
    """A channel to a server whose every request gets ``answer``; ``early``: at once, and its messages are not read."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            server = Scripted(stream, answer, requests, early)
            server.settings = settings or {}
            await server.run()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            async with connect(f"127.0.0.1:{port}") as channel:
                yield channel
            nursery.cancel_scope.cancel()
