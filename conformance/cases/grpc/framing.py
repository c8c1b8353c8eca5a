"""Messages and frames: in any cuts, packed or not, too large, broken off, or none at all. (T)"""

from __future__ import annotations

import trio

from conformance.cases.grpc.calls import chat, linked, path, streamed
from conformance.cases.grpc.messages import api
from conformance.cases.grpc.profile import HTTP2, NEEDS, PROFILE
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.h2client import Link
from conformance.suite.rpc import Call, framed
from conformance.suite.target import Target
from conformance.suite.wire import WireError

_REFUSALS = (rpc.INTERNAL, rpc.INVALID_ARGUMENT, rpc.UNKNOWN)
_LIST = "ListModels"


async def _sent(link: Link, data: bytes, *, end: bool = True, method: str = _LIST, **how: object) -> Call:
    """A call whose DATA is this."""
    call = await link.open(path(method), getattr(api, f"{method}Response"), **how)  # type: ignore[arg-type]
    await call.send_raw(data, end=end)
    with trio.move_on_after(5) as scope:
        await call.finish()
    check.true(not scope.cancelled_caught, "the call does not end", "a status within 5 s", call.fields)
    return call


async def _served(target: Target) -> None:
    async with linked(target) as link:
        (await _sent(link, framed(b""))).expect(rpc.OK)


@PROFILE.case(
    "frame.cuts",
    "A message in single bytes is a message",
    source=f"{HTTP2}: DATA frame boundaries have no relation",
    needs=NEEDS,
)
async def cuts(target: Target) -> None:
    async with linked(target) as link:
        call = await link.open(path("GetModel"), api.GetModelResponse)
        data = framed(api.GetModelRequest(model=target.setup.model))
        for at in range(len(data)):
            await call.send_raw(data[at : at + 1], end=at == len(data) - 1)
        (await call.finish()).expect(rpc.OK)


@PROFILE.case(
    "frame.end-later",
    "The end of the request may come by itself",
    source=f"{HTTP2}: END_STREAM on an empty DATA frame",
    needs=NEEDS,
)
async def end_later(target: Target) -> None:
    async with linked(target) as link:
        call = await link.open(path(_LIST), api.ListModelsResponse)
        await call.send(api.ListModelsRequest())
        await trio.sleep(0.05)
        await call.send_raw(b"", end=True)
        (await call.finish()).expect(rpc.OK)


@PROFILE.case(
    "frame.no-message",
    "A unary call without a message is refused",
    source="grpc doc/statuscodes.md: cardinality",
    needs=NEEDS,
)
async def no_message(target: Target) -> None:
    async with linked(target) as link:
        (await _sent(link, b"")).expect(*_REFUSALS, rpc.UNIMPLEMENTED)


@PROFILE.case(
    "frame.two-messages",
    "A unary call with two messages is refused",
    source="grpc doc/statuscodes.md: cardinality",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def two_messages(target: Target) -> None:
    async with linked(target) as link:
        (await _sent(link, framed(b"") * 2)).expect(*_REFUSALS, rpc.UNIMPLEMENTED)


@PROFILE.case("frame.truncated", "A message that ends early is refused", source=HTTP2, needs=NEEDS)
async def truncated(target: Target) -> None:
    async with linked(target) as link:
        for data in (b"\0", b"\0\0\0\0", b"\0\0\0\0\x0aabc"):
            (await _sent(link, data)).expect(*_REFUSALS, rpc.UNIMPLEMENTED, rpc.UNAVAILABLE, rpc.CANCELLED)
    await _served(target)


@PROFILE.case(
    "frame.no-protobuf",
    "Bytes that are no message: INTERNAL or INVALID_ARGUMENT, and the connection serves on",
    source="grpc doc/statuscodes.md: error parsing request proto",
    needs=NEEDS,
)
async def no_protobuf(target: Target) -> None:
    async with linked(target) as link:
        for data in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"):
            (await _sent(link, framed(data), method="CreateChatCompletion")).expect(*_REFUSALS)
        (await _sent(link, framed(b""))).expect(rpc.OK)


@PROFILE.case(
    "frame.unknown-fields", "Fields of a later version are passed over", source="protobuf: unknown fields", needs=NEEDS
)
async def unknown_fields(target: Target) -> None:
    async with linked(target) as link:
        (await _sent(link, framed(b"\xa2\xf4\x03\x03abc\x98\x75\x01"))).expect(rpc.OK)


@PROFILE.case(
    "frame.large",
    "A message of four megabytes is read",
    source="images come as base64; grpc-go's own default is 4 MiB",
    needs=NEEDS,
)
async def large(target: Target) -> None:
    async with linked(target) as link:
        message = chat(target, "word " * 800_000, model="no-such-model")
        call = await link.open(path("CreateChatCompletion"), api.CreateChatCompletionResponse)
        await call.send(message, end=True)
        (await call.finish()).expect(rpc.NOT_FOUND)


@PROFILE.case(
    "frame.too-large",
    "A message beyond all limits: RESOURCE_EXHAUSTED, before it has come",
    source="grpc doc/statuscodes.md",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def too_large(target: Target) -> None:
    async with linked(target) as link:
        (await _sent(link, b"\0\xff\xff\xff\xff" + b"a" * 1000, end=False)).expect(rpc.RESOURCE_EXHAUSTED)
    await _served(target)


@PROFILE.case(
    "frame.gzip",
    "A message packed by gzip is read, or refused as UNIMPLEMENTED",
    source=f"{HTTP2}, Message-Encoding",
    needs=NEEDS,
)
async def gzipped(target: Target) -> None:
    async with linked(target) as link:
        data = framed(api.GetModelRequest(model=target.setup.model), compressed=True)
        call = await _sent(link, data, method="GetModel", also=[("grpc-encoding", "gzip")])
        if call.code == rpc.UNIMPLEMENTED:
            check.true("grpc-accept-encoding" in call.metadata, "a refusal of gzip that does not say what is read")
            return
        check.equal(call.expect(rpc.OK).received[0].model.id, target.setup.model, "the model")


@PROFILE.case("frame.bomb", "What unpacks to very much is refused", source="CWE-409", needs=NEEDS)
async def bomb(target: Target) -> None:
    async with linked(target) as link:
        packed = framed(b"\x0a" + b"\x80\x80\x80\x20" + b"\0" * (1 << 26), compressed=True)
        call = await _sent(link, packed, method="CreateChatCompletion", also=[("grpc-encoding", "gzip")])
        call.expect(rpc.RESOURCE_EXHAUSTED, rpc.UNIMPLEMENTED, *_REFUSALS)
    await _served(target)


@PROFILE.case(
    "frame.unknown-packing",
    "A packing that nobody knows is refused, best by UNIMPLEMENTED with those that are known",
    source=f"{HTTP2}, Message-Encoding; doc/compression.md",
    needs=NEEDS,
)
async def unknown_packing(target: Target) -> None:
    async with linked(target) as link:
        call = await _sent(link, b"\1\0\0\0\3abc", also=[("grpc-encoding", "no-such-packing")])
        call.expect(rpc.UNIMPLEMENTED, rpc.INTERNAL)  # the latter is grpc-core's
        if "grpc-accept-encoding" not in call.metadata:
            target.note("the refusal does not say which packings are read (grpc-accept-encoding)")


@PROFILE.case(
    "frame.packed-unsaid",
    "A packed message of a call that names no packing: INTERNAL",
    source=f"{HTTP2}; doc/compression.md",
    needs=NEEDS,
)
async def packed_unsaid(target: Target) -> None:
    async with linked(target) as link:
        (await _sent(link, framed(b"", compressed=True))).expect(*_REFUSALS, rpc.UNIMPLEMENTED)


@PROFILE.case(
    "frame.content-type",
    "What does not say application/grpc is refused",
    source=f"{HTTP2}, Content-Type: 415",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def content_type(target: Target) -> None:
    async with linked(target) as link:
        call = await _sent(link, framed(b""), also=[("content-type", "text/plain")])
        check.true(call.code != rpc.OK, "a call of text/plain is served", "415, or a status", call.fields)
        sub = await _sent(link, framed(b""), also=[("content-type", "application/grpc+proto")])
        sub.expect(rpc.OK)


@PROFILE.case("h2.ping", "A ping is answered with its own bytes", source="RFC 9113 §6.7", needs=NEEDS)
async def ping(target: Target) -> None:
    async with linked(target) as link:
        await link.ping(b"confping")
        with trio.move_on_after(3):
            await link.ponged.wait()
        check.equal(link.pongs, [b"confping"], "the bytes of the answers to a ping")


@PROFILE.case(
    "h2.window",
    "No more is sent than the client's window allows, and the rest once it does",
    source="RFC 9113 §5.2",
    needs=NEEDS,
)
async def window(target: Target) -> None:
    async with linked(target, window=16) as link:
        link.acknowledging = False
        call = await link.open(path(_LIST), api.ListModelsResponse)
        await call.send(api.ListModelsRequest(), end=True)
        await trio.sleep(0.2)
        check.true(not link.ended, "more came than the window allowed", "16 bytes", link.ended)
        if call.over.is_set():
            target.skip("the answer fits into the smallest window")
        link.acknowledging = True
        await link.acknowledge(call, 1 << 20)
        (await call.finish()).expect(rpc.OK)
        check.contains([model.id for model in call.received[0].models], target.setup.model, "the models")


@PROFILE.case("h2.unread", "A stream that is not read holds up no other call", source="RFC 9113 §5.2.2", needs=NEEDS)
async def unread(target: Target) -> None:
    async with linked(target, window=64) as link:
        link.acknowledging = False
        call = await link.open(path("StreamChatCompletion"), api.StreamChatCompletionResponse)
        await call.send(streamed(target, max_tokens=64), end=True)
        await trio.sleep(0.2)  # its window is used up by then
        link.acknowledging = True
        other = await link.open(path("GetModel"), api.GetModelResponse)
        await other.send(api.GetModelRequest(model="no-such-model"), end=True)
        with trio.move_on_after(5) as scope:
            await other.finish()
        check.true(not scope.cancelled_caught, "a call waits for another that is not read", "a status", "none in 5 s")
        other.expect(rpc.NOT_FOUND)


@PROFILE.case(
    "h2.broken",
    "Frames that HTTP/2 forbids end the connection with GOAWAY, and no other",
    source="RFC 9113 §5.4.1",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def broken(target: Target) -> None:
    frames = {
        "DATA on stream 0": b"\0\0\1\0\0\0\0\0\0a",
        "a PING of 7 bytes": b"\0\0\7\6\0\0\0\0\0" + b"a" * 7,
        "HEADERS on an even stream": b"\0\0\1\1\5\0\0\0\2\x83",
        "a frame of 16 MB": b"\xff\xff\xff\0\0\0\0\0\1",
        "WINDOW_UPDATE of 0": b"\0\0\4\x08\0\0\0\0\0" + b"\0" * 4,
    }
    for what, data in frames.items():
        async with linked(target) as link:
            await link.unary(path(_LIST), api.ListModelsRequest(), api.ListModelsResponse)
            await link.send_raw(data)
            with trio.move_on_after(3):
                await link.closed.wait()
            check.true(link.closed.is_set(), f"the connection goes on after {what}", "GOAWAY and the end", link.goaway)
            check.true(
                link.goaway != 0, f"the connection ends after {what} as if nothing were wrong", "an error code", 0
            )
    await _served(target)


@PROFILE.case(
    "h2.no-http2", "What is no HTTP/2 is cut off, and the next client is served", source="RFC 9113 §3.4", needs=NEEDS
)
async def no_http2(target: Target) -> None:
    assert target.setup.grpc is not None
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"):
        async with target.connect(target.setup.grpc) as connection:
            await connection.send_raw(data)
            with trio.move_on_after(3) as scope:
                await connection.silence()
            check.true(
                not scope.cancelled_caught, f"the connection stays open after {data[:14]!r}", "closed", "open after 3 s"
            )
    try:
        await _served(target)
    except WireError as error:
        check.fail("the next client is not served", "OK", error.message)
