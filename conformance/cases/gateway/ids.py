"""Request ids: taken or made, told on every answer, never a way into headers. (T)"""

from __future__ import annotations

from conformance.cases import behind
from conformance.cases.gateway.profile import PROFILE
from conformance.cases.gateway.raw import head, raw
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, MODELS, Target

ID = "x-request-id"
_SDKS = "openai-python: `_request_id` of every answer and error is this field"


def told(answer: Answer) -> str:
    """The answer's id, of which there is one."""
    found = [value for name, value in answer.fields if name == ID]
    check.equal(len(found), 1, f"the number of {ID} fields")
    check.true(found[0].strip(), f"{ID} is empty")
    return found[0]


@PROFILE.case("id.made", "A request without an id gets one, each its own", source=_SDKS, level=Level.SHOULD)
async def made(target: Target) -> None:
    first, second = [told((await target.ask(CHAT, target.chat())).expect(200)) for _ in range(2)]
    check.true(first != second, "two requests have the same id", "ids that tell requests apart", first)


@PROFILE.case(
    "id.taken",
    "A client's x-request-id comes back",
    source="Envoy, nginx and the SDKs' support advice",
    level=Level.SHOULD,
)
async def taken(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(), headers=[(ID, "conformance-4711.a:b_c")])
    check.equal(told(answer.expect(200)), "conformance-4711.a:b_c", ID)


@PROFILE.case("id.on-errors", "Errors of every kind carry the id", source=_SDKS, level=Level.SHOULD)
async def on_errors(target: Target) -> None:
    for what, path, document in (
        ("an unknown model", CHAT, target.chat(model="no-such-model")),
        ("a body that is no request", CHAT, {"model": 1}),
        ("an unknown path", "/v1/no-such-path", {}),
    ):
        answer = await target.ask(path, document, headers=[(ID, "conformance-err-1")])
        check.at_least(answer.status, 400, f"the status of {what}")
        check.equal(told(answer), "conformance-err-1", f"{ID} of the answer to {what}")


@PROFILE.case("id.on-streams", "A stream's head carries the id", source=_SDKS, level=Level.SHOULD)
async def on_streams(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(stream=True), headers=[(ID, "conformance-stream-1")])
    check.equal(told(answer.expect(200)), "conformance-stream-1", ID)


@PROFILE.case("id.on-listings", "Listings carry the id, too", source=_SDKS, level=Level.SHOULD)
async def on_listings(target: Target) -> None:
    check.equal(told(await target.ask(MODELS, headers=[(ID, "conformance-list-1")])), "conformance-list-1", ID)


@PROFILE.case(
    "id.long", "An id of 8 KB is not handed on as it is", source="logs and vLLM's own ids are made of it (vLLM 0.33)",
    level=Level.SHOULD,
)  # fmt: skip
async def long(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(), headers=[(ID, "a" * 8192)])
    if answer.status == 200:
        check.at_most(len(told(answer)), 1024, f"the length of {ID}")
    else:
        check.among(answer.status, (400, 431), "the status")


@PROFILE.case("id.no-injection", "An id cannot add header fields to an answer", source="RFC 9110 §5.5; CWE-113")
async def no_injection(target: Target) -> None:
    for value in ("a\rx-injected: 1", "a\nx-injected: 1", "a\x00b", 'a"; x="<script>\xff\xfe'):
        reply = await raw(
            target, head(target, f"GET {target.path(MODELS)} HTTP/1.1", f"{ID}: {value}", "Connection: close")
        )
        if reply.refused:
            continue
        check.equal(reply.status, 200, f"the status of a request with the id {value!r}")
        names = [name for name, _ in reply.fields]
        check.true("x-injected" not in names, "the id became a header field", "no field x-injected", names)
        for mark in "\r\n\x00\xff":
            shown = dict(reply.fields).get(ID, "")
            check.true(mark not in shown, "the id came back with bytes that no header may hold", "a new id", shown)


@PROFILE.case(
    "id.forwarded", "The engine gets the id that the client is told", source="vLLM 0.33: X-Request-Id",
    level=Level.SHOULD, alone=True, needs=("behind",),
)  # fmt: skip
async def forwarded(target: Target) -> None:
    marker = "conformance-forwarded-1"
    told_id = told((await target.ask(CHAT, target.chat(marker), headers=[(ID, marker)])).expect(200))
    got = (await behind.received(target, marker))["headers"].get(ID)
    check.equal(got, told_id, f"the engine's {ID}")
