"""What the gRPC server alone does on one core: unary calls and streamed messages a second. (IO)

The server is a process of its own, the client (grpcio, C) another; the server's CPU is what is counted, so the client
may be slower than it.

    python benchmarks/grpc_server.py [SECONDS [CONCURRENCY]]
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection
from threading import Semaphore
from typing import Any

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

    async def chat(self, stream: Any) -> None:
        async for message in stream:
            await stream.send_message(message)

    def __mapping__(self) -> dict[str, Any]:
        from google.protobuf.wrappers_pb2 import BytesValue
        from grpclib.const import Cardinality, Handler

        return {
            "/bench.Echo/Unary": Handler(self.unary, Cardinality.UNARY_UNARY, BytesValue, BytesValue),
            "/bench.Echo/Repeat": Handler(self.repeat, Cardinality.UNARY_STREAM, BytesValue, BytesValue),
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


def _streamed(channel: Any, body: bytes, until: float, concurrency: int) -> int:
    call, received = channel.unary_stream("/bench.Echo/Repeat"), 0
    while time.perf_counter() < until:
        for answer in [call(body) for _ in range(min(concurrency, 4))]:
            received += sum(1 for _ in answer)
    return received


def _chatted(channel: Any, body: bytes, until: float, concurrency: int) -> int:
    call = channel.stream_stream("/bench.Echo/Chat")
    received = 0
    while time.perf_counter() < until:
        received += sum(1 for _ in call(iter([body] * _PER_STREAM)))
    return received


def main() -> None:
    import grpc

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    concurrency = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    from google.protobuf.wrappers_pb2 import BytesValue

    body = BytesValue(value=struct.pack(">I", _PER_STREAM).ljust(_BODY, b"x")).SerializeToString()
    with _server() as (port, pid), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name, measure in (("unary calls", _unary), ("streamed messages", _streamed), ("echoed messages", _chatted)):
            measure(channel, body, time.perf_counter() + 0.3, concurrency)
            started, used = time.perf_counter(), _cpu(pid)
            count = measure(channel, body, started + seconds, concurrency)
            took, cpu = time.perf_counter() - started, _cpu(pid) - used
            print(
                f"{name:18} {count / took:9.0f} /s   {count / cpu:9.0f} a second of the server's CPU ({cpu / took:.0%})"
            )


if __name__ == "__main__":
    main()
