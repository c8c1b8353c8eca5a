"""Streams to the picker: broken off, out of order, many at a time; and its health. (T)"""

from __future__ import annotations

import trio

from conformance.cases.epp import messages
from conformance.cases.epp.messages import PROCESS, SERVICE, ProcessingRequest, ProcessingResponse
from conformance.cases.epp.profile import NEEDS, PROFILE, PROTO, PROTOCOL
from conformance.cases.epp.proxy import document, fields, linked, posted, proxied
from conformance.cases.grpc.messages import HEALTH
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.rpc import framed
from conformance.suite.target import Target

_STREAMS = 100


async def _serves(target: Target) -> None:
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target)))
        await proxy.routed()


async def _ended(target: Target, *parts: object, end: bool = False) -> int:
    """The status that a stream of these messages ends with; an ImmediateResponse of an error counts as INTERNAL."""
    async with proxied(target) as proxy:
        for part in parts:
            await proxy.say(part)
        if end:
            await proxy.end()
        with trio.move_on_after(5):
            while await proxy.call.next() is not None:
                if proxy.call.received[-1].HasField("immediate_response"):
                    return rpc.INTERNAL
            return proxy.call.code
        raise check.Failure("the picker neither answers nor ends the stream", "a status within 5 s", "silence")


@PROFILE.case(
    "stream.left",
    "A stream that ends before the request does is no error, and costs nothing",
    source=f"{PROTOCOL}: the client has gone",
    needs=NEEDS,
)
async def left(target: Target) -> None:
    head, body, _ = posted(target, document(target))
    for parts in ((), (head,), (head, body)):
        check.equal(
            await _ended(target, *parts, end=True), rpc.OK, f"the status of a stream left after {len(parts)} messages"
        )
    await _serves(target)


@PROFILE.case(
    "stream.left-later",
    "A stream that ends after the request was let through is no error",
    source=f"{PROTOCOL}: the client has gone",
    needs=NEEDS,
)
async def left_later(target: Target) -> None:
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target)))
        await proxy.routed()
        await proxy.end()
        check.equal(await proxy.reply(), None, "what follows")
        proxy.call.expect(rpc.OK)


@PROFILE.case(
    "stream.reset", "Streams that are reset at any point disturb nobody", source="RFC 9113 §5.4.2", needs=NEEDS
)
async def reset(target: Target) -> None:
    head, body, end = posted(target, document(target))
    async with linked(target) as link:
        for parts in ((), (head,), (head, body), (head, body, end)):
            async with proxied(target, on=link) as proxy:
                await proxy.say(*parts)
                await proxy.call.cancel()
        async with proxied(target, on=link) as proxy:
            await proxy.say(head, body, end)
            await proxy.routed()


@PROFILE.case("stream.empty", "A message that holds nothing ends its stream with an error", source=PROTO, needs=NEEDS)
async def empty(target: Target) -> None:
    check.true(
        await _ended(target, ProcessingRequest()) != rpc.OK, "a message that holds nothing is well", "an error", rpc.OK
    )
    await _serves(target)


@PROFILE.case(
    "stream.no-protobuf",
    "Bytes that are no message end their stream with an error, and no other",
    source="grpc doc/statuscodes.md",
    needs=NEEDS,
)
async def no_protobuf(target: Target) -> None:
    async with linked(target) as link:
        bad = await link.open(PROCESS, ProcessingResponse, key="")
        await bad.send_raw(framed(b"\xff" * 20))
        with trio.move_on_after(5) as scope:
            await bad.finish()
        check.true(not scope.cancelled_caught, "bytes that are no message are not refused", "a status", "none in 5 s")
        check.true(bad.code != rpc.OK, "bytes that are no message end with OK", "an error", bad.code)
        async with proxied(target, on=link) as proxy:
            await proxy.say(*posted(target, document(target)))
            await proxy.routed()


def _disorder(name: str, title: str, *kinds: str) -> None:
    async def run(target: Target) -> None:
        made = {
            "headers": messages.headers("request", fields(target, 2)),
            "body": messages.body("request", b"{}"),
            "trailers": messages.trailers("request"),
            "response": messages.body("response", b"{}", True),
        }
        status = await _ended(target, *(made[kind] for kind in kinds))
        check.true(status != rpc.OK, f"{', '.join(kinds)}: well", "an error", status)
        await _serves(target)

    PROFILE.case(f"stream.{name}", title, source=PROTO, level=Level.SHOULD, needs=NEEDS)(run)


_disorder("body-first", "A body without headers ends the stream with an error", "body")
_disorder("headers-twice", "Headers that come twice end the stream with an error", "headers", "headers")
_disorder("response-first", "A response to no request ends the stream with an error", "headers", "response")


@PROFILE.case(
    "stream.many",
    f"{_STREAMS} requests at once, each with its own body",
    source="confidentiality",
    alone=True,
    needs=NEEDS,
)
async def many(target: Target) -> None:
    async with linked(target) as link:
        await trio.sleep(0.05)  # the server's settings

        async def one(number: int) -> None:
            data = document(target, f"conformance stream {number:03} " * 20)
            head, *_ = posted(target, data)
            async with proxied(target, on=link) as proxy:
                await proxy.say(head)
                for at in range(0, len(data), 200):
                    await proxy.say(messages.body("request", data[at : at + 200]))
                await proxy.say(messages.body("request", b"", True))
                outcome = await proxy.routed()
                check.true(outcome.body == data, "a request got another body", data[:120], outcome.body[:120])
                await proxy.call.cancel()

        async with trio.open_nursery() as nursery:
            for number in range(_STREAMS):
                nursery.start_soon(one, number)


@PROFILE.case(
    "stream.spread",
    "Requests under way count: they spread over the endpoints",
    source="what a picker is for",
    level=Level.SHOULD,
    alone=True,
    needs=("ext_proc", "behind"),
)
async def spread(target: Target) -> None:
    async with linked(target) as link:
        found: dict[str, int] = {}
        for number in range(40):
            async with proxied(target, on=link) as proxy:
                await proxy.say(*posted(target, document(target, f"{number} " * 50)))
                first = (await proxy.routed()).first
                found[first] = found.get(first, 0) + 1
    if len(target.setup.behind) < 2:
        target.skip("needs two engines --behind")
    check.at_least(len(found), 2, "the number of endpoints that forty requests at once went to")


@PROFILE.case(
    "health",
    "Health says SERVING of the picker, for whatever name it is probed by",
    source=f"{PROTOCOL}; GIE: gRPC health checks",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def health(target: Target) -> None:
    async with linked(target) as link:
        for name in ("", SERVICE, "inference-extension"):
            asked = HEALTH["HealthCheckRequest"](service=name)
            call = await link.unary("/grpc.health.v1.Health/Check", asked, HEALTH["HealthCheckResponse"], key="")
            if call.code == rpc.UNIMPLEMENTED:
                target.skip("health is answered on another port")
            check.equal(call.expect(rpc.OK).received[0].status, 1, f"the status of {name!r}")


@PROFILE.case("no-method", "A method that is not there: UNIMPLEMENTED", source="grpc doc/statuscodes.md", needs=NEEDS)
async def no_method(target: Target) -> None:
    async with linked(target) as link:
        for path in (f"/{SERVICE}/NoSuchMethod", "/envoy.service.ext_proc.v2.ExternalProcessor/Process"):
            (await link.unary(path, b"", ProcessingResponse, key="")).expect(rpc.UNIMPLEMENTED)
