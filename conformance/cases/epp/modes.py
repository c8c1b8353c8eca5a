"""Other ways in which Envoy shows bodies: one reply to one message. (T)"""

from __future__ import annotations

from conformance.cases.epp import messages
from conformance.cases.epp.messages import BUFFERED, DUPLEX, NONE, STREAMED
from conformance.cases.epp.profile import NEEDS, PROFILE, PROTO
from conformance.cases.epp.proxy import Proxy, document, fields, proxied
from conformance.cases.epp.responses import completion
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import Target

_SOURCE = f"{PROTO}, BodySendMode"


async def _head(target: Target, proxy: Proxy, modes: tuple[int, int], size: int) -> None:
    await proxy.say(messages.headers("request", fields(target, size), modes=modes))


@PROFILE.case(
    "mode.buffered",
    "BUFFERED: one reply to the headers, one to the body, which names the endpoint",
    source=_SOURCE,
    level=Level.SHOULD,
    needs=NEEDS,
)
async def buffered(target: Target) -> None:
    modes, data = (BUFFERED, BUFFERED), document(target)
    async with proxied(target, modes) as proxy:
        await _head(target, proxy, modes, len(data))
        await proxy.reply()
        await proxy.say(messages.body("request", data, True))
        await proxy.reply()
        check.equal(proxy.request.order, ["request_headers", "request_body"], "the replies")
        check.true(proxy.request.destination, "no endpoint is named", "ip:port", proxy.request.set)
        check.equal(proxy.request.metadata, proxy.request.destination, "the dynamic metadata")
        check.true(await proxy.silent(), "more replies than messages", 2, proxy.request.order)


@PROFILE.case(
    "mode.streamed",
    "STREAMED: one reply to each message, the endpoint in that to the headers",
    source=_SOURCE,
    level=Level.SHOULD,
    needs=NEEDS,
)
async def streamed(target: Target) -> None:
    await _at_headers(target, (STREAMED, STREAMED), pieces=3)


@PROFILE.case(
    "mode.none",
    "NONE: the endpoint is named in the reply to the headers",
    source=_SOURCE,
    level=Level.SHOULD,
    needs=NEEDS,
)
async def none(target: Target) -> None:
    await _at_headers(target, (NONE, NONE), pieces=0)


async def _at_headers(target: Target, modes: tuple[int, int], pieces: int) -> None:
    data = document(target)
    async with proxied(target, modes) as proxy:
        await _head(target, proxy, modes, len(data))
        await proxy.reply()
        if proxy.request.immediate is not None:
            target.skip(f"no endpoint without a model: {proxy.request.immediate.status.code}")
        check.true(proxy.request.destination, "no endpoint is named", "ip:port", proxy.request.set)
        for at in range(pieces):
            await proxy.say(messages.body("request", data[at::pieces], at == pieces - 1))
            await proxy.reply()
        check.equal(proxy.request.order, ["request_headers", *["request_body"] * pieces], "the replies")
        check.true(await proxy.silent(), "more replies than messages", 1 + pieces, proxy.request.order)


def _answers(name: str, mode: int) -> None:
    async def run(target: Target) -> None:
        data, answer = document(target), completion(target.setup.model)
        async with proxied(target, (DUPLEX, mode)) as proxy:
            await _head(target, proxy, (DUPLEX, mode), len(data))
            await proxy.say(messages.body("request", data, True))
            await proxy.routed()
            kind = ("content-type", "application/json")
            await proxy.say(messages.headers("response", [(":status", "200"), kind]))
            await proxy.reply()
            pieces = [answer[:50], answer[50:]] if mode == STREAMED else [answer]
            for at, piece in enumerate(pieces):
                await proxy.say(messages.body("response", piece, at == len(pieces) - 1))
                await proxy.reply()
            check.equal(proxy.response.order, ["response_headers", *["response_body"] * len(pieces)], "the replies")
            check.equal(proxy.response.body, b"", "the bytes that replace those of an answer that is to stay")

    title = f"Answers shown as {name.upper()}: one reply to each message"
    PROFILE.case(f"mode.response-{name}", title, source=_SOURCE, level=Level.SHOULD, needs=NEEDS)(run)


_answers("streamed", STREAMED)
_answers("buffered", BUFFERED)
