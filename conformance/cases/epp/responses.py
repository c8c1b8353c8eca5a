"""Answers in full duplex: they pass as they are, at once. (T)"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from conformance.cases.epp import messages
from conformance.cases.epp.profile import NEEDS, PROFILE, PROTO, PROTOCOL
from conformance.cases.epp.proxy import Proxy, document, fields, posted, proxied, recovered
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.target import MODELS, Target

_SOURCE = f"{PROTO}, FULL_DUPLEX_STREAMED"
_EVENTS = ("content-type", "text/event-stream")
_JSON = ("content-type", "application/json")


def _event(model: str, **members: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": model, **members}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _stream(model: str) -> list[bytes]:
    words = [_event(model, choices=[{"index": 0, "delta": {"content": word}}]) for word in ("Hé", "llo", " 漢字")]
    last = _event(model, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    usage = _event(model, choices=[], usage={"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6})
    return [*words, last, usage, b"data: [DONE]\n\n"]


def completion(model: str, text: str = "Hé 漢字") -> bytes:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    said = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return json.dumps({**said, "choices": [choice], "usage": usage}, ensure_ascii=False).encode()


@asynccontextmanager
async def _answering(target: Target, *more: tuple[str, str], status: str = "200") -> AsyncIterator[Proxy]:
    """A request that has been let through, and whose response has begun."""
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target, stream=_EVENTS in more)))
        await proxy.routed()
        head = messages.headers("response", [(":status", status), *more])
        await proxy.say(messages.served_by(head, proxy.request.first))
        if await proxy.reply() is None:
            target.skip("the picker does not look at responses")
        check.equal(proxy.response.order, ["response_headers"], "the replies to the response's headers")
        yield proxy


async def _mended(target: Target, endpoint: str) -> None:
    """Have the endpoint answer well: a picker sets those aside that fail several times in a row."""
    await recovered(target, endpoint)
    data = completion(target.setup.model)
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target), hint=[endpoint]))
        await proxy.routed()
        await proxy.say(messages.headers("response", [(":status", "200"), _JSON]))
        await proxy.say(messages.body("response", data, True))
        await proxy.until("response")


async def _passed(proxy: Proxy, pieces: Sequence[bytes], *, end: bool = True) -> None:
    """The pieces go through unchanged, in whatever cuts."""
    for at, piece in enumerate(pieces):
        await proxy.say(messages.body("response", piece, end and at == len(pieces) - 1))
    whole = b"".join(pieces)
    while not proxy.response.over if end else len(proxy.response.body) < len(whole):
        if await proxy.reply() is None:
            break
    check.equal(proxy.response.body, whole, "the answer that the client gets")
    check.equal(proxy.response.over, end, "whether the answer was ended")


@PROFILE.case("response.events", "A stream of events passes as it is", source=_SOURCE, needs=NEEDS)
async def events(target: Target) -> None:
    async with _answering(target, _EVENTS) as proxy:
        await _passed(proxy, _stream(target.setup.model))


@PROFILE.case(
    "response.at-once",
    "Each event goes on before the next one comes",
    source="a picker that buffers spoils every stream",
    needs=NEEDS,
)
async def at_once(target: Target) -> None:
    async with _answering(target, _EVENTS) as proxy:
        sent = 0
        for event in _stream(target.setup.model):
            await proxy.say(messages.body("response", event))
            sent += len(event)
            while len(proxy.response.body) < sent:
                if await proxy.reply(3.0) is None:
                    check.fail(
                        "the stream to the picker ended inside an answer", "a reply to each event", proxy.call.fields
                    )


@PROFILE.case("response.cut-anywhere", "Events that are cut anywhere pass as they are", source=_SOURCE, needs=NEEDS)
async def cut_anywhere(target: Target) -> None:
    whole = b"".join(_stream(target.setup.model))
    async with _answering(target, _EVENTS) as proxy:
        await _passed(proxy, [whole[at : at + 11] for at in range(0, len(whole), 11)])


@PROFILE.case("response.json", "A whole answer passes as it is", source=_SOURCE, needs=NEEDS)
async def whole(target: Target) -> None:
    data = completion(target.setup.model)
    async with _answering(target, _JSON, ("content-length", str(len(data)))) as proxy:
        await _passed(proxy, [data[:20], data[20:], b""])


@PROFILE.case(
    "response.rubbish", "An answer that cannot be read passes as it is", source=PROTOCOL, alone=True, needs=NEEDS
)
async def rubbish(target: Target) -> None:
    for kind in (_JSON, _EVENTS, ("content-type", "application/octet-stream")):
        async with _answering(target, kind) as proxy:
            await _passed(proxy, [b"<html>\xff\xfe", b"data: {not JSON\n\n", b""])
        await _mended(target, proxy.request.first)


@PROFILE.case(
    "response.large",
    "An answer of a megabyte passes, in pieces that proxies take",
    source="GIE #854, #2056",
    needs=NEEDS,
)
async def large(target: Target) -> None:
    async with _answering(target, _JSON) as proxy:
        data = completion(target.setup.model, "word " * 200_000)
        await _passed(proxy, [data[at : at + 60_000] for at in range(0, len(data), 60_000)])
        check.at_most(max(proxy.response.pieces), 65_536, "the largest piece")


@PROFILE.case(
    "response.errors", "An endpoint's error passes as it is", source=PROTOCOL, alone=True, needs=NEEDS, timeout=60.0
)
async def errors(target: Target) -> None:
    for status in ("400", "429", "500", "503"):
        async with _answering(target, _JSON, status=status) as proxy:
            await _passed(proxy, [b'{"error": {"message": "no"}}', b""])
        await _mended(target, proxy.request.first)


@PROFILE.case("response.bodiless", "An answer without a body is let through at its headers", source=PROTO, needs=NEEDS)
async def bodiless(target: Target) -> None:
    async with proxied(target) as proxy:
        proxy.ended = frozenset(("request", "response"))
        await proxy.say(messages.headers("request", fields(target, path=MODELS), end=True))
        await proxy.routed()
        await proxy.say(messages.headers("response", [(":status", "204")], end=True))
        await proxy.until("response")
        await proxy.end()
        check.equal(await proxy.reply(), None, "what follows an answer without a body")


@PROFILE.case("response.trailers", "An answer with trailers passes with them", source=PROTO, needs=NEEDS)
async def trailers(target: Target) -> None:
    async with _answering(target, _EVENTS) as proxy:
        await _passed(proxy, _stream(target.setup.model), end=False)
        await proxy.say(messages.trailers("response"))
        await proxy.reply()
        check.equal(proxy.response.order[-1], "response_trailers", "the last reply")


@PROFILE.case(
    "response.head-kept",
    "The response's own header fields are left alone",
    source=PROTOCOL,
    level=Level.SHOULD,
    needs=NEEDS,
)
async def head_kept(target: Target) -> None:
    async with _answering(target, _EVENTS, ("x-conformance", "1"), ("cache-control", "no-cache")) as proxy:
        changed = [n for n in (":status", "x-conformance", "cache-control") if n in proxy.response.removed]
        check.equal(changed, [], "the fields that are removed")
        check.equal(proxy.response.set.get("x-conformance", "1"), "1", "x-conformance")


@PROFILE.case(
    "response.ends-well", "When the answer is over, the stream ends with OK", source=f"{PROTO}, Process", needs=NEEDS
)
async def ends_well(target: Target) -> None:
    async with _answering(target, _EVENTS) as proxy:
        await _passed(proxy, _stream(target.setup.model))
        await proxy.end()
        check.equal(await proxy.reply(), None, "what follows the answer's end")
        proxy.call.expect(rpc.OK)
