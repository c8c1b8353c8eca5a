"""One HTTP/2 connection to a gRPC server, for calls well done and for what is done wrong on purpose. (IO)

Every call is recorded with the grpcurl that repeats it. Invariant: leaving the connection's block closes it at once,
whatever is still to come; when it ends by itself, so do its calls. Source: RFC 9113.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio
from google.protobuf.message import Message
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from conformance.suite.rpc import Call, grpcurl
from conformance.suite.target import Target, Trace
from conformance.suite.wire import Address, WireError, dial


class Link:
    """A connection. ``goaway``: the code the server took leave with; ``ended``: why there is no connection any more."""

    def __init__(self, target: Target, where: Address, stream: trio.abc.Stream, window: int) -> None:
        self.target, self.where, self.stream = target, where, stream
        self.calls: dict[int, Call] = {}
        self.goaway: int | None = None
        self.ended = ""
        self.closed = trio.Event()
        self.pongs: list[bytes] = []
        self.ponged = trio.Event()
        self.acknowledging = True
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        self.h2.local_settings = Settings(
            client=True, initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 24)
        self._news = trio.Event()
        self._writing = trio.Lock()

    async def open(
        self, path: str, reply: Any, *, timeout: str = "", key: str | None = None, also: Sequence[tuple[str, str]] = ()
    ) -> Call:
        """Begin a call. ``timeout`` as grpc-timeout has it; ``also``: further fields, replacing those of the name."""
        key = self.target.setup.key if key is None else key
        fields = {
            ":method": "POST", ":scheme": "https" if self.where.tls else "http", ":path": path,
            ":authority": self.where.authority, "te": "trailers", "content-type": "application/grpc",
            "user-agent": "infer-gateway-conformance",
        }  # fmt: skip
        fields |= {"grpc-timeout": timeout} if timeout else {}
        fields |= {"authorization": f"Bearer {key}"} if key else {}
        fields |= dict(also)
        trace = Trace("GRPC", f"grpc://{self.where.authority}{path}", list(fields.items()), b"", trio.current_time())
        trace.command = grpcurl(trace, self.where)
        self.target.traces.append(trace)
        number = self.h2.get_next_available_stream_id()
        call = trace.answer = self.calls[number] = Call(self, number, reply, trace)
        self._do(lambda: self.h2.send_headers(number, [(n, v) for n, v in fields.items() if v]))
        await self.flush()
        return call

    async def unary(self, path: str, message: Message | bytes, reply: Any, **how: Any) -> Call:
        """A call of one message, to its end."""
        call = await self.open(path, reply, **how)
        await call.send(message, end=True)
        return await call.finish()

    async def send(self, number: int, data: bytes, end: bool) -> None:
        """DATA as the server's windows allow; what is left when the call is over is not sent."""
        rest = memoryview(data)
        call = self.calls[number]
        while not call.over.is_set():
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if rest and room <= 0:
                news = self._news
                await news.wait()
                continue
            part, rest = rest[:room], rest[room:]
            self._do(partial(self.h2.send_data, number, bytes(part), end_stream=end and not rest))
            await self.flush()
            if not rest:
                return

    async def flush(self) -> None:
        async with self._writing:
            data = self.h2.data_to_send()
            if data:
                await self._write(data)

    async def send_raw(self, data: bytes) -> None:
        """Frames as they are."""
        async with self._writing:
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the reader will tell
            await self.stream.send_all(data)

    async def ping(self, data: bytes) -> None:
        self.h2.ping(data)
        await self.flush()

    async def acknowledge(self, call: Call, size: int) -> None:
        """Give ``size`` bytes of the call's window back."""
        with suppress(ProtocolError):
            self.h2.increment_flow_control_window(size, call.number)
        await self.flush()

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except ProtocolError as error:
            raise WireError(f"the connection is of no use: {self.ended or error}") from None

    async def read(self) -> None:
        """Until the connection ends."""
        try:
            while data := bytes(await self.stream.receive_some(65536)):
                self.target.heard = True
                self.target.ration.take(len(data))
                for event in self.h2.receive_data(data):
                    self._hear(event)
                self._news.set()
                self._news = trio.Event()
                await self.flush()
            self.ended = self.ended or "the server closed the connection"
        except ProtocolError as error:
            self.ended = f"the server broke HTTP/2: {error}"
        except WireError as error:
            self.ended = error.message
        except (trio.BrokenResourceError, OSError):
            self.ended = "the connection broke"
        finally:
            self.closed.set()
            self._news.set()
            for call in self.calls.values():
                call.end(self.ended)

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.PingAckReceived):
            self.pongs.append(event.ping_data)
            self.ponged.set()
        if isinstance(event, events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
        call = self.calls.get(getattr(event, "stream_id", None) or 0)
        if call is None:
            return
        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            last = isinstance(event, events.TrailersReceived) or event.stream_ended is not None
            call.head([(str(name), str(value)) for name, value in event.headers], last=last)
        elif isinstance(event, events.DataReceived):
            call.feed(event.data)
            if self.acknowledging and event.flow_controlled_length and not event.stream_ended:
                with suppress(ProtocolError):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, call.number)
        elif isinstance(event, events.StreamReset):
            if call.status is None:
                call.reset = int(event.error_code)
            call.end()
        elif isinstance(event, events.StreamEnded):
            call.end()


@asynccontextmanager
async def connect(target: Target, where: Address, *, window: int = 1 << 20) -> AsyncIterator[Link]:
    """A connection of its own. ``window``: bytes the server may send on a call before they are acknowledged."""
    stream = await dial(where, ("h2",))
    try:
        link = Link(target, where, stream, window)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.read)
            await link.flush()
            yield link
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)
