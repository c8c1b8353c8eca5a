"""Servers for the client to call: grpcio's, in threads, with handlers that echo, stream, stall and fail. (IO)"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status


class Echo:
    """/test.Echo/…: what each method does is in its name. ``cancelled`` is set when a call of `stall` ends early."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.release = threading.Event()
        self.started = threading.Semaphore(0)
        self.calls = 0

    def say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        return request

    def metadata(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        received = sorted((pair.key, pair.value) for pair in context.invocation_metadata())
        context.send_initial_metadata((("x-first", "a"), ("x-raw-bin", b"\0\xff")))
        context.set_trailing_metadata((("x-last", "z"),))
        return repr(received).encode()

    def remaining(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        left = context.time_remaining()
        return str(round(left)).encode()

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        info, retry, strange = any_pb2.Any(), any_pb2.Any(), any_pb2.Any(type_url="type.example/x.Y", value=b"1")
        info.Pack(error_details_pb2.ErrorInfo(reason="RATE_LIMITED", domain="example"))
        retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=3)))
        rich = status_pb2.Status(
            code=code_pb2.RESOURCE_EXHAUSTED, message="zu viel: ü%", details=[info, retry, strange]
        )
        status = rpc_status.to_status(rich)
        context.abort_with_status(status._replace(trailing_metadata=(*status.trailing_metadata, ("x-last", "z"))))

    def count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """As many messages as the request says, of the size it says."""
        number, size = map(int, request.split())
        for index in range(number):
            yield str(index).encode().ljust(size, b".")

    def break_off(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"one"
        context.abort(grpc.StatusCode.UNAVAILABLE, "the engine has gone")

    def stall(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """One message, then nothing until `release`."""
        context.add_callback(self.cancelled.set)
        yield b"one"
        self.started.release()
        self.release.wait(20)
        yield b"two"

    def mirror(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request[::-1]

    def early(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Ends with OK after the first message, whatever else comes."""
        yield next(requests)

    def handlers(self) -> grpc.GenericRpcHandler:
        unary = {name: grpc.unary_unary_rpc_method_handler(getattr(self, name)) for name in UNARY}
        stream = {name: grpc.unary_stream_rpc_method_handler(getattr(self, name)) for name in STREAM}
        both = {name: grpc.stream_stream_rpc_method_handler(getattr(self, name)) for name in BOTH}
        return grpc.method_handlers_generic_handler("test.Echo", unary | stream | both)


UNARY = ("say", "metadata", "remaining", "fail")
STREAM = ("count", "break_off", "stall")
BOTH = ("mirror", "early")


@contextmanager
def serving(
    echo: Echo,
    *,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    options: tuple[tuple[str, object], ...] = (),
) -> Iterator[tuple[grpc.Server, int]]:
    """A grpcio server with ``echo`` and its port."""
    limits = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0))
    server = grpc.server(futures.ThreadPoolExecutor(8), options=limits + options)
    server.add_generic_rpc_handlers((echo.handlers(),))
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield server, bound
    finally:
        echo.release.set()
        server.stop(None).wait()
