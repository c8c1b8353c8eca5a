"""What the gRPC server alone does on one core: unary calls and streamed messages a second. (IO)

The server is a process of its own. Unary calls and echoed messages come from grpcio, streamed ones go to a client that
counts frames, as no Python client keeps up. Messages "as they come" leave one by one, on many streams at once, as
tokens do; "at once" they are all there. The figures a second of the server's CPU leave out what the client costs.

    python benchmarks/grpc_server.py [SECONDS [CONCURRENCY]]
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from threading import Semaphore
from typing import Any

from gateway.wire import h2
from gateway.wire.grpc import framed

_BODY = 64
_PER_STREAM = 2000


class _Echo:
    """A unary method and one that streams."""

    async def unary(self, stream: Any) -> None:
        await stream.send_message(await stream.recv_message())

    async def repeat(self, stream: Any) -> None:
        message = await stream.recv_message()
        for _ in range(struct.unpack(">I", message.value[:4])[0]):
            await stream.send_message(message)

    async def drip(self, stream: Any) -> None:
        import trio

        message = await stream.recv_message()
        for _ in range(struct.unpack(">I", message.value[:4])[0]):
            await stream.send_message(message)
            await trio.lowlevel.checkpoint()

    async def chat(self, stream: Any) -> None:
        async for message in stream:
            await stream.send_message(message)

    def __mapping__(self) -> dict[str, Any]:
        from google.protobuf.wrappers_pb2 import BytesValue
        from grpclib.const import Cardinality, Handler

        return {
            "/bench.Echo/Unary": Handler(self.unary, Cardinality.UNARY_UNARY, BytesValue, BytesValue),
            "/bench.Echo/Repeat": Handler(self.repeat, Cardinality.UNARY_STREAM, BytesValue, BytesValue),
            "/bench.Echo/Drip": Handler(self.drip, Cardinality.UNARY_STREAM, BytesValue, BytesValue),
            "/bench.Echo/Chat": Handler(self.chat, Cardinality.STREAM_STREAM, BytesValue, BytesValue),
        }


def _serve(ready: Connection) -> None:
    import trio

    from gateway.listen import open_listeners
    from protocols.grpc.server import Server

    async def main() -> None:
        listeners = await open_listeners("127.0.0.1", 0)
        ready.send(listeners[0].address[1])
        await Server([_Echo()], listeners).run()

    with contextlib.suppress(KeyboardInterrupt):
        trio.run(main)


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _server() -> Iterator[tuple[int, int]]:
    """(port, process id)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv(), process.pid or 0
    finally:
        process.terminate()
        process.join()


def _unary(channel: Any, body: bytes, until: float, concurrency: int) -> int:
    call = channel.unary_unary("/bench.Echo/Unary")
    slots, done = Semaphore(concurrency), 0

    def finished(future: Future[bytes]) -> None:
        slots.release()

    while time.perf_counter() < until:
        slots.acquire()
        call.future(body).add_done_callback(finished)
        done += 1
    for _ in range(concurrency):
        slots.acquire()
    return done


def _streamed(method: bytes, port: int, body: bytes, until: float, concurrency: int) -> int:
    """Messages received on as many streams at once, frames counted and no more."""
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", method), (b":authority", b"x"))
    block = h2.block((*fields, (b"content-type", b"application/grpc")))
    received, stream_id = 0, 1
    with socket.create_connection(("127.0.0.1", port)) as sock:
        windows = h2.settings({4: 2**31 - 1}) + h2.frame(8, 0, 0, (2**31 - 65536).to_bytes(4, "big"))
        sock.sendall(h2.PREFACE + windows)
        while time.perf_counter() < until:
            calls = b""
            for _ in range(concurrency):
                calls += h2.headers(stream_id, block, False, 16384) + h2.frame(0, 1, stream_id, framed(body))
                stream_id += 2
            sock.sendall(calls)
            _await_ends(sock, concurrency)
            received += concurrency * _PER_STREAM
    return received


def _await_ends(sock: socket.socket, count: int) -> None:
    """Read frames until so many streams have ended."""
    data = b""
    while count:
        data += sock.recv(1 << 20)
        start = 0
        while len(data) - start >= 9:
            end = start + 9 + int.from_bytes(data[start : start + 3], "big")
            if end > len(data):
                break
            count -= data[start + 3] == 1 and data[start + 4] & 1  # HEADERS that end a stream
            start = end
        data = data[start:]


def _chatted(channel: Any, body: bytes, until: float, concurrency: int) -> int:
    call = channel.stream_stream("/bench.Echo/Chat")
    received = 0
    while time.perf_counter() < until:
        received += sum(1 for _ in call(iter([body] * _PER_STREAM)))
    return received


def main() -> None:
    import grpc
    from google.protobuf.wrappers_pb2 import BytesValue

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    concurrency = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    body = BytesValue(value=struct.pack(">I", _PER_STREAM).ljust(_BODY, b"x")).SerializeToString()
    with _server() as (port, pid), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        measures: dict[str, Callable[[bytes, float, int], int]] = {
            "unary calls": partial(_unary, channel),
            "streamed as they come": partial(_streamed, b"/bench.Echo/Drip", port),
            "streamed at once": partial(_streamed, b"/bench.Echo/Repeat", port),
            "echoed messages": partial(_chatted, channel),
        }
        for name, measure in measures.items():
            measure(body, time.perf_counter() + 0.3, concurrency)
            started, used = time.perf_counter(), _cpu(pid)
            count = measure(body, started + seconds, concurrency)
            took, cpu = time.perf_counter() - started, _cpu(pid) - used
            rates = f"{count / took:9.0f} /s  {count / cpu:9.0f} a second of the server's CPU"
            print(f"{name:22} {rates} ({cpu / took:.0%})")


if __name__ == "__main__":
    main()
