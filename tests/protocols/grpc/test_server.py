"""The server to a raw HTTP/2 client: calls of every cardinality, statuses, metadata, deadlines, cancellation, drain."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence

import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from trio.testing import MockClock

from gateway.wire.grpc import Code, decode_binary, framed
from protocols.grpc.limits import Limits
from protocols.grpc.server import Server
from protocols.grpc.stream import Stream
from tests.protocols.grpc.rig import DETAILS, HEADERS, Echo, Rig, message, run


def test_every_cardinality() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        unary = await client.call("Unary", b"hello")
        assert (unary.status, unary.messages, unary.fields[":status"]) == (Code.OK, [b"hello"], "200")
        assert unary.fields["content-type"] == "application/grpc"
        many = struct.pack(">I", 1000) + b"x"
        repeated = await client.call("Repeat", many)
        assert (repeated.status, repeated.messages) == (Code.OK, [many] * 1000)
        collected = await client.call("Collect", b"abc", b"de", b"")
        assert (collected.status, collected.messages) == (Code.OK, [b"5"])
        chat = await client.call("Chat", b"a", b"b", b"c")
        assert (chat.status, chat.messages) == (Code.OK, [b"a", b"b", b"c"])
        assert rig.server.statistics().streams == 0
        assert rig.server.statistics().connections == 1

    run(scenario)


def test_replies_come_while_the_client_is_still_sending() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Chat")
        for turn in range(3):
            await client.send(stream_id, message(b"%d" % turn))
            await client.until(lambda turn=turn: len(client.answers[stream_id].messages) == turn + 1)
        await client.send(stream_id, b"", end=True)
        assert (await client.answer(stream_id)).status is Code.OK

    run(scenario)


def test_the_status_a_handler_raises_comes_with_its_text_and_details() -> None:
    async def scenario(rig: Rig) -> None:
        answer = await (await rig.client()).call("Fail", b"FAILED_PRECONDITION")
        assert (answer.status, answer.text) == (Code.FAILED_PRECONDITION, "as told: FAILED_PRECONDITION é")
        assert decode_binary(answer.fields["grpc-status-details-bin"].encode()) == DETAILS
        assert answer.fields[":status"] == "200"
        assert not answer.messages

    run(scenario)


def test_a_crash_tells_the_client_nothing_but_an_id_that_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rig: Rig) -> None:
        answer = await (await rig.client()).call("Fail", b"crash")
        assert answer.status is Code.INTERNAL
        assert "secret" not in answer.text
        assert answer.text.split()[-1] in caplog.text
        assert "a secret" in caplog.text

    with caplog.at_level(logging.ERROR):
        run(scenario)


def test_a_unary_handler_that_sends_nothing_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rig: Rig) -> None:
        answer = await (await rig.client()).call("Fail", b"nothing")
        assert answer.status is Code.INTERNAL

    with caplog.at_level(logging.CRITICAL):
        run(scenario)


@pytest.mark.parametrize(
    ("method", "fields", "code", "text"),
    [
        ("Nobody", (), Code.UNIMPLEMENTED, "unknown method /test.Echo/Nobody"),
        ("/", (), Code.UNIMPLEMENTED, "unknown method /"),
        ("Unary", (("grpc-encoding", "snappy"),), Code.UNIMPLEMENTED, "grpc-encoding snappy is not supported"),
        ("Unary", (("grpc-timeout", "soon"),), Code.INTERNAL, "not a grpc-timeout: 'soon'"),
        ("Unary", (("x", "y" * 70_000),), Code.RESOURCE_EXHAUSTED, "at most 65536 are accepted"),
    ],
)
def test_what_is_refused_before_a_handler_sees_it(
    method: str, fields: Sequence[tuple[str, str]], code: Code, text: str
) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        for _ in range(3):  # and the connection is none the worse
            answer = await client.call(method, b"x", fields=fields)
            assert answer.status is code
            assert text in answer.text
            assert answer.fields["grpc-accept-encoding"] == "identity,gzip"
        assert (await client.call("Unary", b"x")).status is Code.OK
        assert not rig.echo.entered

    run(scenario)


@pytest.mark.parametrize("kind", ["application/grpc-web", "application/json", "application/grpcx", ""])
def test_another_content_type_is_http_415(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Unary", ("content-type", kind), base=HEADERS, end=True)
        answer = await client.answer(stream_id)
        assert answer.fields == {":status": "415"}

    run(scenario)


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"])
def test_content_types_of_grpc(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Unary", ("content-type", kind), base=HEADERS)
        await client.send(stream_id, message(b"x"), end=True)
        assert (await client.answer(stream_id)).status is Code.OK

    run(scenario)


def test_another_method_than_post_is_http_405() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Unary", base=((":method", "GET"), *HEADERS[1:]), end=True)
        assert (await client.answer(stream_id)).fields == {":status": "405"}

    run(scenario)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Upper", "x"),
        ("connection", "x"),
        (":unknown", "x"),
        ("transfer-encoding", "x"),
        ("a b", "x"),
        ("a\r\nb", "x"),
        ("a:", "x"),
        ("traceparent", "x\r\ncontent-length: 0\r\n\r\nPOST /another HTTP/1.1"),
        ("traceparent", "x\ny: z"),
        ("traceparent", "x\0"),
    ],
)
def test_a_request_that_is_none_of_http2_is_reset_and_no_other(name: str, value: str) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Unary", (name, value), end=True)
        assert (await client.answer(stream_id)).reset == 1
        assert (await client.call("Unary", b"x")).status is Code.OK

    run(scenario)


BAD = {
    "more than is accepted": (b"\0\0\1\0\1", Code.RESOURCE_EXHAUSTED),
    "four gigabytes": (b"\0\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED),
    "a bomb": (framed(bytes(10**6), gzip=True), Code.RESOURCE_EXHAUSTED),
    "no gzip": (b"\1\0\0\0\3abc", Code.INTERNAL),
    "cut short": (framed(b"abc")[:-1], Code.INTERNAL),
    "a prefix cut short": (b"\0\0\0", Code.INTERNAL),
    "no flag": (b"\7\0\0\0\0", Code.INTERNAL),
    "no message": (b"", Code.INTERNAL),
    "two messages": (framed(b"abc") * 2, Code.INTERNAL),
    "no protobuf": (framed(b"\xff\xff\xff"), Code.INTERNAL),
}


@pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
def test_bad_messages_end_their_call_and_no_other(data: bytes, code: Code) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        held = client.open("Hold")
        await client.send(held, message(b"held"), end=True)
        for _ in range(2):
            stream_id = client.open("Unary", ("grpc-encoding", "gzip"))
            await client.send(stream_id, data, end=True)
            assert (await client.answer(stream_id)).status is code
        rig.echo.gate.set()
        assert (await client.answer(held)).messages == [b"held"]

    run(scenario, Limits(max_message=65536))


def test_a_call_that_has_failed_is_told_to_stop_sending() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Unary")
        await client.send(stream_id, b"\0\xff\xff\xff\xff")
        await client.until(lambda: client.answers[stream_id].reset is not None)
        assert client.answers[stream_id].status is Code.RESOURCE_EXHAUSTED
        assert client.answers[stream_id].reset == 0  # NO_ERROR

    run(scenario)


def test_gzip_is_understood() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open("Collect", ("grpc-encoding", "gzip"))
        packed = framed(BytesValue(value=bytes(100_000)).SerializeToString(), gzip=True)
        assert len(packed) < 1000
        await client.send(stream_id, packed + message(b"plain"), end=True)
        assert (await client.answer(stream_id)).messages == [b"100005"]

    run(scenario)


class Tell:
    """What a handler learns of its call, and metadata that it sends."""

    async def tell(self, stream: Stream) -> None:
        await stream.recv_message()
        seen = [stream.metadata["x"], stream.metadata["y-bin"], "z-bin" in stream.metadata, stream.user_agent]
        deadline = stream.deadline
        seen += [stream.peer_address, stream.subject, deadline is not None and deadline.time_remaining()]
        await stream.send_initial_metadata(metadata={"a": "b", "c-bin": b"\0\1"})
        stream.trailers([(b"first", b"1")])
        await stream.send_message(BytesValue(value=repr(seen).encode()))
        await stream.send_trailing_metadata(metadata=[("last-bin", b"\xff")])

    async def grpclib(self, stream: Stream) -> None:
        raise GRPCError(Status.NOT_FOUND, "not here", [ErrorInfo(reason="WHY")])

    async def unsendable(self, stream: Stream) -> None:
        with pytest.raises(ValueError, match="metadata"):
            await stream.send_initial_metadata(metadata={"grpc-status": "0"})
        with pytest.raises(ValueError, match="printable"):
            await stream.send_initial_metadata(metadata={"a": "b\r\n"})
        await stream.cancel()

    def __mapping__(self) -> dict[str, Handler]:
        rows = {"Tell": self.tell, "Grpclib": self.grpclib, "Unsendable": self.unsendable}
        kinds = Cardinality.UNARY_UNARY, BytesValue, BytesValue
        return {f"/test.Tell/{name}": Handler(func, *kinds) for name, func in rows.items()}


def test_metadata_both_ways() -> None:
    async def scenario(rig: Rig) -> None:
        fields = [("x", "1"), ("y-bin", "AAE"), ("z-bin", "?"), ("user-agent", "me"), ("grpc-timeout", "9S")]
        answer = await (await rig.memory_client()).call("/test.Tell/Tell", b"", fields=fields)
        assert answer.messages == [repr(["1", b"\0\1", False, "me", "memory", "", 9.0]).encode()]
        assert (answer.fields["a"], answer.fields["c-bin"]) == ("b", "AAE")
        assert (answer.status, answer.trailers["first"], answer.trailers["last-bin"]) == (Code.OK, "1", "/w")

    run(scenario, None, None, MockClock(autojump_threshold=0), Tell())


def test_what_grpclib_services_raise_keeps_its_details() -> None:
    async def scenario(rig: Rig) -> None:
        answer = await (await rig.client()).call("/test.Tell/Grpclib", b"")
        assert (answer.status, answer.text) == (Code.NOT_FOUND, "not here")
        details = decode_binary(answer.fields["grpc-status-details-bin"].encode())
        reason = ErrorInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(reason)
        assert reason.reason == "WHY"

    run(scenario, None, None, None, Tell())


def test_a_handler_may_reset_its_call() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        answer = await client.call("/test.Tell/Unsendable", b"")
        assert (answer.reset, answer.status) == (8, None)
        assert (await client.call("Unary", b"x")).status is Code.OK

    run(scenario, None, None, None, Tell())


def test_one_path_has_one_service() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="twice"):
            Server([Echo(), Echo()], [])

    trio.run(main)


def test_a_deadline_ends_the_call_and_its_handler() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        started = trio.current_time()
        answer = await client.call("Hold", b"x", fields=[("grpc-timeout", "2500m")])
        assert (answer.status, answer.text) == (Code.DEADLINE_EXCEEDED, "the deadline has passed")
        assert trio.current_time() - started == pytest.approx(2.5)
        assert rig.echo.left == 1

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_a_reset_cancels_the_handler_and_no_other() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        streams = [client.open("Hold") for _ in range(2)]
        for stream_id in streams:
            await client.send(stream_id, message(b"x"), end=True)
        await rig.until(lambda: rig.echo.entered == 2)
        client.h2.reset_stream(streams[0], 8)
        await client.flush()
        await rig.until(lambda: rig.echo.left == 1)
        rig.echo.gate.set()
        assert (await client.answer(streams[1])).status is Code.OK
        assert rig.server.statistics().streams == 0

    run(scenario)


@pytest.mark.parametrize("method", ["Hold", "Repeat", "Collect"])
def test_a_client_that_leaves_cancels_its_handlers(method: str) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        stream_id = client.open(method)
        await client.send(stream_id, message(b"\xff\xff\xff\xff"), end=method != "Collect")
        await rig.until(lambda: rig.server.statistics().streams == 1)
        client.stream.close()
        await rig.until(lambda: rig.server.statistics().connections == 0)
        assert rig.echo.left == rig.echo.entered

    run(scenario)


def test_drain_lets_calls_finish_and_refuses_new_ones() -> None:
    async def scenario(rig: Rig) -> None:
        client, idle = await rig.client(), await rig.client()
        held = client.open("Hold")
        await client.send(held, message(b"x"), end=True)
        assert (await idle.call("Unary", b"x")).status is Code.OK
        await rig.until(lambda: rig.echo.entered == 1)
        rig.server.drain()
        await client.until(lambda: len(client.goaways) == 2)
        assert [(goaway.last_stream_id, goaway.error_code) for goaway in client.goaways] == [(2**31 - 1, 0), (held, 0)]
        await idle.until_closed()
        late = client.open("Unary")
        await client.send(late, message(b"x"), end=True)
        assert (await client.answer(late)).reset == 7  # REFUSED_STREAM: safe to try elsewhere
        with pytest.raises(OSError, match="REFUSED"):
            await rig.raw()
        rig.echo.gate.set()
        assert (await client.answer(held)).messages == [b"x"]
        await client.until_closed()
        await rig.done.wait()

    run(scenario)


def test_a_call_that_crossed_the_request_to_leave_is_served() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        assert (await client.call("Unary", b"x")).status is Code.OK
        rig.server.drain()
        assert (await client.call("Unary", b"y")).messages == [b"y"]  # sent before anything was read
        await client.until_closed()

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_a_client_that_never_answers_the_request_to_leave_is_refused_after_a_while() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.memory_client()
        held = client.open("Hold")
        await client.send(held, message(b"x"), end=True)
        await rig.until(lambda: rig.echo.entered == 1)
        rig.server.drain()
        await trio.sleep(10)
        rig.echo.gate.set()
        assert (await client.answer(held)).status is Code.OK
        assert len(client.goaways) == 2

    run(scenario, clock=MockClock(autojump_threshold=0))


def test_a_client_that_says_goodbye_first_gets_its_answers() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        held = client.open("Hold")
        await client.send(held, message(b"x"))
        client.h2.close_connection()
        await client.send(held, b"", end=True)
        await rig.until(lambda: rig.echo.entered == 1)
        rig.echo.gate.set()
        assert (await client.answer(held)).messages == [b"x"]
        await client.until_closed()

    run(scenario)


def test_a_client_that_allows_no_table_of_fields_is_served() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        client.h2.update_settings({1: 0})
        for _ in range(3):
            assert (await client.call("Unary", b"x")).status is Code.OK
        assert client.h2.decoder.max_allowed_table_size == 0

    run(scenario)
