"""A small service of every cardinality on a free port, and a client that writes HTTP/2 frame by frame. (IO)"""

from __future__ import annotations

import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import trio
import trio.testing
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc.status_pb2 import Status
from grpclib.const import Cardinality, Handler

from gateway.listen import Listener, open_listeners
from gateway.net import SocketStream, connect
from gateway.wire.grpc import Code, GrpcError, Messages, decode_text, framed
from protocols.grpc.limits import Limits
from protocols.grpc.server import Server
from protocols.grpc.stream import Stream

HEADERS = ((":method", "POST"), (":scheme", "http"), (":authority", "x"), ("te", "trailers"))
TYPE = (("content-type", "application/grpc"),)


DETAILS = Status(code=9, message="details").SerializeToString()


class Echo:
    """``entered`` and ``left`` count handlers, ``taken`` what `Collect` has; ``gate`` lets `Hold` go."""

    def __init__(self) -> None:
        self.entered = 0
        self.left = 0
        self.taken = 0
        self.gate = trio.Event()
        self.news = trio.Condition()
        self.seen: list[Stream] = []

    async def unary(self, stream: Stream) -> None:
        message = await stream.recv_message()
        self.seen.append(stream)
        await stream.send_message(message)

    async def repeat(self, stream: Stream) -> None:
        """The message as often as its first four bytes say, or for ever."""
        message = await stream.recv_message()
        count = struct.unpack(">I", message.value[:4])[0]
        self.entered += 1
        try:
            for _ in range(count):
                await stream.send_message(message)
        finally:
            self.left += 1

    async def collect(self, stream: Stream) -> None:
        size = 0
        async for message in stream:
            size += len(message.value)
            self.taken += 1
        await stream.send_message(BytesValue(value=str(size).encode()))

    async def chat(self, stream: Stream) -> None:
        async for message in stream:
            await stream.send_message(message)

    async def hold(self, stream: Stream) -> None:
        """Answer when the gate is opened."""
        self.entered += 1
        try:
            await self.gate.wait()
            await stream.send_message(await stream.recv_message())
        finally:
            self.left += 1

    async def fail(self, stream: Stream) -> None:
        """End as the message says: a code's name, "crash" or "nothing"."""
        message = (await stream.recv_message()).value.decode()
        if message == "crash":
            raise KeyError("a secret")
        if message != "nothing":
            raise GrpcError(Code[message], f"as told: {message} é", DETAILS)

    def __mapping__(self) -> Mapping[str, Handler]:
        rows = {
            "Unary": (self.unary, Cardinality.UNARY_UNARY),
            "Repeat": (self.repeat, Cardinality.UNARY_STREAM),
            "Collect": (self.collect, Cardinality.STREAM_UNARY),
            "Chat": (self.chat, Cardinality.STREAM_STREAM),
            "Hold": (self.hold, Cardinality.UNARY_UNARY),
            "Fail": (self.fail, Cardinality.UNARY_UNARY),
        }
        return {f"/test.Echo/{name}": Handler(*row, BytesValue, BytesValue) for name, row in rows.items()}


def message(value: bytes) -> bytes:
    return framed(BytesValue(value=value).SerializeToString())


class Answer:
    """What came back on one stream. ``fields``: of the initial headers; ``trailers``: of the last."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.messages: list[bytes] = []
        self.data = 0
        self.reset: int | None = None
        self.ended = False
        self._parser = Messages()

    def feed(self, data: bytes) -> None:
        self.data += len(data)
        self.messages += [BytesValue.FromString(part).value for part in self._parser.feed(data)]

    @property
    def status(self) -> Code | None:
        code = self.trailers.get("grpc-status", self.fields.get("grpc-status"))
        return None if code is None else Code(int(code))

    @property
    def text(self) -> str:
        return decode_text(self.trailers.get("grpc-message", self.fields.get("grpc-message", "")))


class _GoesOn(h2.connection.H2ConnectionStateMachine):
    """h2's own ends with the first GOAWAY."""

    def process_input(self, input_: h2.connection.ConnectionInputs) -> list[h2.events.Event]:
        goaway = h2.connection.ConnectionInputs.SEND_GOAWAY, h2.connection.ConnectionInputs.RECV_GOAWAY
        return [] if input_ in goaway else super().process_input(input_)


class Client:
    """h2 on one stream of bytes. ``reading`` False: windows are not given back."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.state_machine = _GoesOn()
        self.answers: dict[int, Answer] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.pongs: list[bytes] = []
        self.pings = 0
        self.reading = True
        self.closed = False

    async def start(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    def open(self, method: str, *fields: tuple[str, str], end: bool = False, base: Sequence = HEADERS + TYPE) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, _ordered(base, method, fields), end_stream=end)
        self.answers[stream_id] = Answer()
        return stream_id

    async def call(self, method: str, *values: bytes, fields: Sequence[tuple[str, str]] = ()) -> Answer:
        """A whole call: its answer when it has ended."""
        stream_id = self.open(method, *fields)
        for value in values:
            await self.send(stream_id, message(value))
        self.h2.end_stream(stream_id)
        return await self.answer(stream_id)

    async def send(self, stream_id: int, data: bytes, end: bool = False) -> None:
        while data:
            window = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            if not window:
                await self.read()
                continue
            self.h2.send_data(stream_id, data[:window])
            data = data[window:]
        if end:
            self.h2.end_stream(stream_id)
        await self.flush()

    async def answer(self, stream_id: int) -> Answer:
        await self.until(lambda: self.answers[stream_id].ended or self.answers[stream_id].reset is not None)
        return self.answers[stream_id]

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert not self.closed, "the server has closed the connection"
            await self.read()

    async def until_closed(self) -> None:
        while not self.closed:
            await self.read()

    async def read(self) -> None:
        await self.flush()
        data = await self.stream.receive_some(65536)
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(bytes(data)):
            self.on(event)
        await self.flush()

    def on(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        match event:
            case h2.events.ConnectionTerminated():
                self.goaways.append(event)
            case h2.events.PingAckReceived():
                self.pongs.append(event.ping_data)
            case h2.events.PingReceived():
                self.pings += 1
            case h2.events.ResponseReceived() if answer:
                answer.fields = dict(event.headers)
            case h2.events.TrailersReceived() if answer:
                answer.trailers = dict(event.headers)
            case h2.events.DataReceived() if answer:
                answer.feed(event.data)
                if self.reading:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamReset() if answer:
                answer.reset = event.error_code
            case h2.events.StreamEnded() if answer:
                answer.ended = True


def _ordered(base: Sequence[tuple[str, str]], method: str, fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    path = method if method.startswith("/") else f"/test.Echo/{method}"
    return [*base[:3], (":path", path), *base[3:], *fields]


class Rig:
    """A server on a free port, its service, and clients."""

    def __init__(self, server: Server, listeners: Sequence[Listener], echo: Echo, nursery: trio.Nursery) -> None:
        self.server = server
        self.listeners = listeners
        self.echo = echo
        self.nursery = nursery
        self.port = listeners[0].address[1]
        self.done = trio.Event()
        self._sockets: list[SocketStream] = []

    async def until(self, done: Callable[[], bool], *, moving: bool = False) -> None:
        """Until the server has come so far; everything else runs meanwhile. ``moving``: the clock, too."""
        while True:
            if done():
                return
            await trio.sleep(moving)

    async def raw(self) -> SocketStream:
        self._sockets.append(await connect("127.0.0.1", self.port))
        return self._sockets[-1]

    async def client(self) -> Client:
        client = Client(await self.raw())
        await client.start()
        return client

    async def memory_client(self) -> Client:
        """Without the kernel: for tests under a clock of their own."""
        client = Client(self.memory_stream())
        await client.start()
        return client

    def memory_stream(self) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self.server.converse(theirs, "memory")
        return ours

    async def serve(self, task_status: trio.TaskStatus[Any]) -> None:
        await self.server.run(task_status=task_status)
        self.done.set()

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def run(
    scenario: Callable[[Rig], Awaitable[None]],
    limits: Limits | None = None,
    context: ssl.SSLContext | None = None,
    clock: trio.abc.Clock | None = None,
    *services: Any,
) -> None:
    async def main() -> None:
        listeners = await open_listeners("127.0.0.1", 0, context)
        echo = Echo()
        server = Server([echo, *services], listeners, limits)
        with trio.fail_after(20 if clock is None else 100_000):
            async with trio.open_nursery() as nursery:
                rig = Rig(server, listeners, echo, nursery)
                await nursery.start(rig.serve)
                try:
                    await scenario(rig)
                finally:
                    rig.close()
                    nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
