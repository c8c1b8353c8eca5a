"""Requests that get no endpoint: what their clients are told in place of it. (T)"""

from __future__ import annotations

from conformance.cases.epp.profile import NEEDS, PROFILE, PROTO, PROTOCOL
from conformance.cases.epp.proxy import document, picked, posted, proxied, refused
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.target import Target

_REFERENCE = "the reference picker, hermetic tests"


@PROFILE.case("refuse.json", "A body that is not JSON: 400", source=_REFERENCE, needs=NEEDS)
async def not_json(target: Target) -> None:
    for data in (b"no healthy upstream", b"{", b"", b"[]", b"\xff\xfe"):
        refused(await picked(target, data), 400)


@PROFILE.case("refuse.no-model", "A body that names no model: 400", source=_REFERENCE, needs=NEEDS)
async def no_model(target: Target) -> None:
    for data in (document(target, model=None), document(target, model="")):
        refused(await picked(target, data), 400)


@PROFILE.case(
    "refuse.unknown-model",
    "A model that nobody serves: 404, unless the pool takes any",
    source=f"{PROTOCOL}; OpenAI API reference",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def unknown_model(target: Target) -> None:
    outcome = await picked(target, document(target, model="no-such-model"))
    if outcome.immediate is None:
        target.skip("the pool takes any model")
    refused(outcome, 404, 400)


@PROFILE.case(
    "refuse.ends",
    "After an ImmediateResponse nothing follows, and the stream ends well",
    source=f"{PROTO}, ImmediateResponse",
    needs=NEEDS,
)
async def ends(target: Target) -> None:
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, b"{"))
        refused(await proxy.until(), 400)
        await proxy.end()
        check.equal(await proxy.reply(), None, "what follows the ImmediateResponse")
        proxy.call.expect(rpc.OK)


@PROFILE.case(
    "refuse.text",
    "A refusal says what is wrong",
    source=f"{PROTO}, ImmediateResponse.body",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def text(target: Target) -> None:
    answer = refused(await picked(target, document(target, model=None)), 400)
    check.matches(answer.body.decode("utf-8", "replace"), "model", "the text")


@PROFILE.case(
    "refuse.reason",
    "A request that finds no endpoint says so in x-llm-d-request-dropped-reason",
    source="llm-d-router, drop reasons",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def reason(target: Target) -> None:
    answer = refused(await picked(target, hint=[]), 503)
    told = {o.header.key.lower(): o.header.raw_value or o.header.value.encode() for o in answer.headers.set_headers}
    check.equal(told.get("x-llm-d-request-dropped-reason"), b"rejected-no-endpoints", "the drop reason")


@PROFILE.case(
    "refuse.limit",
    "Beyond a caller's limit: 429 with Retry-After",
    source="RFC 6585 §4",
    level=Level.SHOULD,
    alone=True,
    needs=("ext_proc", "limited_key"),
)
async def limit(target: Target) -> None:
    for _ in range(100):
        more = [("authorization", f"Bearer {target.setup.extra['limited_key']}")]
        data = document(target)
        head, *rest = posted(target, data)
        kept = [field for field in head.request_headers.headers.headers if field.key != "authorization"]
        del head.request_headers.headers.headers[:]
        head.request_headers.headers.headers.extend(kept)
        for name, value in more:
            head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
        async with proxied(target) as proxy:
            await proxy.say(head, *rest)
            outcome = await proxy.until()
        if outcome.immediate is not None:
            break
    answer = refused(outcome, 429)
    told = {option.header.key.lower() for option in answer.headers.set_headers}
    check.contains(told, "retry-after", "the fields of the refusal")


@PROFILE.case("refuse.no-key", "Who is nobody gets 401", source="RFC 9110 §15.5.2", needs=("ext_proc", "key"))
async def no_key(target: Target) -> None:
    head, *rest = posted(target, document(target))
    for field in list(head.request_headers.headers.headers):
        if field.key == "authorization":
            field.raw_value = b"Bearer no-such-key"
    async with proxied(target) as proxy:
        await proxy.say(head, *rest)
        refused(await proxy.until(), 401)
