"""The clients that people use: grpcio (sync and aio) and grpclib, each cardinality; TLS, mTLS; betterproto2's bases."""

from __future__ import annotations

import asyncio
import gc
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import grpclib.client
import pytest
import trio
import trustme
from betterproto2.grpclib.grpclib_server import ServiceBase
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import status_pb2
from grpc_status import rpc_status
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from gateway.wire.grpc import Code, GrpcError
from protocols.grpc.stream import Stream
from tests.protocols.grpc.rig import DETAILS, Rig, run

MANY = BytesValue(value=struct.pack(">I", 2000) + b"x" * 100)
CODEC = {"request_serializer": BytesValue.SerializeToString, "response_deserializer": BytesValue.FromString}


def value(data: bytes) -> BytesValue:
    return BytesValue(value=data)


def in_thread(client: Callable[[int], object], *services: object, context: ssl.SSLContext | None = None) -> None:
    """Run a blocking client against the server."""

    async def scenario(rig: Rig) -> None:
        await trio.to_thread.run_sync(client, rig.port)

    run(scenario, None, context, None, *services)


def in_asyncio(client: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    def main(port: int) -> None:
        asyncio.run(client(port))
        gc.collect()

    in_thread(main)


def test_grpcio() -> None:
    def client(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            unary = channel.unary_unary("/test.Echo/Unary", **CODEC)
            assert unary(value(b"hello"), timeout=10).value == b"hello"
            assert unary(value(bytes(2_000_000)), timeout=10).value == bytes(2_000_000)
            repeat = channel.unary_stream("/test.Echo/Repeat", **CODEC)
            assert list(repeat(MANY, timeout=10)) == [MANY] * 2000
            collect = channel.stream_unary("/test.Echo/Collect", **CODEC)
            assert collect(iter([value(b"abc")] * 500), timeout=10).value == b"1500"
            chat = channel.stream_stream("/test.Echo/Chat", **CODEC)
            assert list(chat(iter([value(b"%d" % n) for n in range(500)]), timeout=10)) == [
                value(b"%d" % n) for n in range(500)
            ]

    in_thread(client)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
def test_grpcio_compression(compression: grpc.Compression) -> None:
    def client(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", compression=compression) as channel:
            unary = channel.unary_unary("/test.Echo/Unary", **CODEC)
            assert unary(value(bytes(100_000)), timeout=10).value == bytes(100_000)

    in_thread(client)


def test_grpcio_deflate_is_refused_as_one_can_tell() -> None:
    def client(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", compression=grpc.Compression.Deflate) as channel:
            unary = channel.unary_unary("/test.Echo/Unary", **CODEC)
            with pytest.raises(grpc.RpcError) as refused:
                unary(value(bytes(100_000)), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

    in_thread(client)


def test_grpcio_statuses() -> None:
    def client(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            fail = channel.unary_unary("/test.Echo/Fail", **CODEC)
            for code in list(Code)[1:]:
                with pytest.raises(grpc.RpcError) as failed:
                    fail(value(code.name.encode()), timeout=10)
                assert failed.value.code().name == code.name
                assert failed.value.details() == f"as told: {code.name} é"
                details = dict(failed.value.trailing_metadata())["grpc-status-details-bin"]
                assert details == DETAILS
            with pytest.raises(grpc.RpcError) as unknown:
                channel.unary_unary("/test.Echo/Nobody", **CODEC)(value(b""), timeout=10)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED

    in_thread(client)


def test_grpcio_status_details() -> None:
    detailed = status_pb2.Status(code=5, message="gone")

    class Detailed:
        async def fail(self, stream: Stream) -> None:
            raise GrpcError(Code.NOT_FOUND, "gone", detailed.SerializeToString())

        def __mapping__(self) -> dict[str, Handler]:
            return {"/test.Detailed/Fail": Handler(self.fail, Cardinality.UNARY_UNARY, BytesValue, BytesValue)}

    def client(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary("/test.Detailed/Fail", **CODEC)(value(b""), timeout=10)
            assert rpc_status.from_call(failed.value) == detailed

    in_thread(client, Detailed())


def test_grpcio_deadline_and_cancellation_reach_the_handler() -> None:
    async def scenario(rig: Rig) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{rig.port}")
        hold = channel.unary_unary("/test.Echo/Hold", **CODEC)
        late = hold.future(value(b""), timeout=0.2)
        await rig.until(lambda: rig.echo.left == 1)
        assert await trio.to_thread.run_sync(late.code) is grpc.StatusCode.DEADLINE_EXCEEDED
        cancelled = hold.future(value(b""))
        await rig.until(lambda: rig.echo.entered == 2)
        cancelled.cancel()
        await rig.until(lambda: rig.echo.left == 2)
        hold.future(value(b""))
        await rig.until(lambda: rig.echo.entered == 3)
        channel.close()
        await rig.until(lambda: rig.echo.left == 3)

    run(scenario)


def test_grpcio_goes_on_elsewhere_when_the_server_drains() -> None:
    async def scenario(rig: Rig) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{rig.port}")
        hold = channel.unary_unary("/test.Echo/Hold", **CODEC)
        held = hold.future(value(b"x"), timeout=20)
        await rig.until(lambda: rig.echo.entered == 1)
        rig.server.drain()
        rig.echo.gate.set()
        assert (await trio.to_thread.run_sync(held.result)).value == b"x"
        await rig.done.wait()
        channel.close()

    run(scenario)


def test_grpcio_aio() -> None:
    async def client(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            unary = channel.unary_unary("/test.Echo/Unary", **CODEC)
            answers = await asyncio.gather(*(unary(value(b"%d" % n)) for n in range(200)))
            assert [answer.value for answer in answers] == [b"%d" % n for n in range(200)]
            repeat = channel.unary_stream("/test.Echo/Repeat", **CODEC)
            assert [part async for part in repeat(MANY)] == [MANY] * 2000
            collect = channel.stream_unary("/test.Echo/Collect", **CODEC)
            assert (await collect(iter([value(b"ab")] * 100))).value == b"200"
            call = channel.stream_stream("/test.Echo/Chat", **CODEC)()
            for turn in range(20):
                await call.write(value(b"%d" % turn))
                assert (await call.read()).value == b"%d" % turn
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

    in_asyncio(client)


def test_grpclib_client() -> None:
    async def client(port: int) -> None:
        channel = grpclib.client.Channel("127.0.0.1", port)

        def method(kind: Any, name: str) -> Any:
            return kind(channel, f"/test.Echo/{name}", BytesValue, BytesValue)

        try:
            assert (await method(grpclib.client.UnaryUnaryMethod, "Unary")(value(b"hello"))).value == b"hello"
            assert await method(grpclib.client.UnaryStreamMethod, "Repeat")(MANY) == [MANY] * 2000
            assert (await method(grpclib.client.StreamUnaryMethod, "Collect")([value(b"ab")] * 99)).value == b"198"
            chat = [value(b"%d" % n) for n in range(99)]
            assert await method(grpclib.client.StreamStreamMethod, "Chat")(chat) == chat
            with pytest.raises(GRPCError) as failed:
                await method(grpclib.client.UnaryUnaryMethod, "Fail")(value(b"ABORTED"))
            assert (failed.value.status, failed.value.message) == (Status.ABORTED, "as told: ABORTED é")
        finally:
            channel.close()
            await asyncio.sleep(0)

    in_asyncio(client)


class Generated(ServiceBase):
    """What betterproto2 generates for a service of two methods."""

    async def unary(self, message: BytesValue) -> BytesValue:
        return BytesValue(value=message.value[::-1])

    async def count(self, message: BytesValue) -> AsyncIterator[BytesValue]:
        for n in range(int(message.value)):
            yield BytesValue(value=b"%d" % n)

    async def __rpc_unary(self, stream: Any) -> None:
        await stream.send_message(await self.unary(await stream.recv_message()))

    async def __rpc_count(self, stream: Any) -> None:
        await self._call_rpc_handler_server_stream(self.count, stream, await stream.recv_message())

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/test.Generated/Unary": Handler(self.__rpc_unary, Cardinality.UNARY_UNARY, BytesValue, BytesValue),
            "/test.Generated/Count": Handler(self.__rpc_count, Cardinality.UNARY_STREAM, BytesValue, BytesValue),
        }


def test_generated_bases_plug_in() -> None:
    def client(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert channel.unary_unary("/test.Generated/Unary", **CODEC)(value(b"abc"), timeout=10).value == b"cba"
            count = channel.unary_stream("/test.Generated/Count", **CODEC)
            assert [part.value for part in count(value(b"300"), timeout=10)] == [b"%d" % n for n in range(300)]

    in_thread(client, Generated())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    if mutual:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("mutual", [False, True])
def test_grpcio_over_tls(authority: trustme.CA, mutual: bool) -> None:
    ours = authority.issue_cert("client.example", common_name="client.example")
    key = ours.private_key_pem.bytes() if mutual else None
    chain = b"".join(blob.bytes() for blob in ours.cert_chain_pems) if mutual else None
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)

    def client(port: int) -> None:
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            unary = channel.unary_unary("/test.Echo/Unary", **CODEC)
            assert unary(value(bytes(500_000)), timeout=10).value == bytes(500_000)
            repeat = channel.unary_stream("/test.Echo/Repeat", **CODEC)
            assert list(repeat(MANY, timeout=10)) == [MANY] * 2000

    async def scenario(rig: Rig) -> None:
        await trio.to_thread.run_sync(client, rig.port)
        assert rig.echo.seen[0].subject == ("client.example" if mutual else "")
        certificate = rig.echo.seen[0].peer.cert()
        assert bool(certificate) is mutual
        await rig.until(lambda: not rig.server.connections)

    run(scenario, None, server_context(authority, mutual=mutual))


def test_without_a_certificate_mutual_tls_refuses(authority: trustme.CA) -> None:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())

    def client(port: int) -> None:
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/test.Echo/Unary", **CODEC)(value(b""), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    in_thread(client, context=server_context(authority, mutual=True))


def test_tls_drains(authority: trustme.CA) -> None:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())

    async def scenario(rig: Rig) -> None:
        channel = grpc.secure_channel(f"localhost:{rig.port}", credentials)
        held = channel.unary_unary("/test.Echo/Hold", **CODEC).future(value(b"x"), timeout=20)
        await rig.until(lambda: rig.echo.entered == 1)
        rig.server.drain()
        rig.echo.gate.set()
        assert (await trio.to_thread.run_sync(held.result)).value == b"x"
        await rig.done.wait()
        channel.close()

    run(scenario, None, server_context(authority, mutual=False))
