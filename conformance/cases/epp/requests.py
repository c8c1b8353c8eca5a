"""Requests in full duplex: where they go, and what of them goes there. (T)"""

from __future__ import annotations

import json
import re

from conformance.cases.epp import messages
from conformance.cases.epp.messages import DESTINATION, ProcessingRequest
from conformance.cases.epp.profile import NEEDS, PROFILE, PROTO, PROTOCOL
from conformance.cases.epp.proxy import LARGEST, Outcome, document, fields, picked, posted, proxied
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import MODELS, Target

_ADDRESS = re.compile(r"(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+\]):\d{1,5}")
_CONTROL = (
    "x-gateway-destination-endpoint-subset", "x-gateway-inference-objective", "x-llm-d-inference-fairness-id",
    "x-gateway-destination-endpoint-served",
)  # fmt: skip


async def _routed(target: Target, *parts: object, data: bytes | None = None, **how: object) -> Outcome:
    async with proxied(target) as proxy:
        await proxy.say(*(parts or posted(target, document(target) if data is None else data, **how)))  # type: ignore[arg-type]
        return await proxy.routed()


@PROFILE.case(
    "route.header", "The endpoint is named in x-gateway-destination-endpoint, as ip:port", source=PROTOCOL, needs=NEEDS
)
async def header(target: Target) -> None:
    outcome = await _routed(target)
    for one in outcome.destination.split(","):
        check.true(_ADDRESS.fullmatch(one.strip()), "an endpoint is no ip:port", "127.0.0.1:8000", outcome.destination)


@PROFILE.case(
    "route.metadata",
    "The dynamic metadata of envoy.lb says the same",
    source=f"{PROTOCOL}: MUST NOT differ",
    needs=NEEDS,
)
async def metadata(target: Target) -> None:
    outcome = await _routed(target)
    check.equal(outcome.metadata, outcome.destination, f"envoy.lb {DESTINATION}")


@PROFILE.case(
    "route.order",
    "Replies come in order: headers, body, and the end once",
    source=f"{PROTO}, FULL_DUPLEX_STREAMED",
    needs=NEEDS,
)
async def order(target: Target) -> None:
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target)))
        outcome = await proxy.routed()
        check.equal(outcome.order[0], "request_headers", "the first reply")
        check.equal(set(outcome.order[1:]), {"request_body"}, "the other replies")
        check.true(await proxy.silent(), "a reply follows the end of the request", "none", outcome.order)


@PROFILE.case(
    "route.waits",
    "Nothing is decided before the body has come",
    source=f"{PROTOCOL}: the model is in the body",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def waits(target: Target) -> None:
    async with proxied(target) as proxy:
        head, body, end = posted(target, document(target))
        await proxy.say(head, body)
        check.true(await proxy.silent(), "the picker answers half a request", "silence", proxy.request.order)
        await proxy.say(end)
        await proxy.routed()


@PROFILE.case(
    "route.raw-value",
    "Header values stand in raw_value, the field that Envoy reads",
    source=f"{PROTO}; Envoy ignores `value`",
    needs=NEEDS,
)
async def raw_value(target: Target) -> None:
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target)))
        await proxy.routed()
        for reply in proxy.call.received:
            for option in reply.request_headers.response.header_mutation.set_headers:
                check.equal(option.header.value, "", f"`value` of {option.header.key}")


@PROFILE.case(
    "route.clear-cache",
    "The route is chosen again, since it may depend on what was set",
    source=f"{PROTO}, clear_route_cache",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def clear_cache(target: Target) -> None:
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target)))
        await proxy.routed()
        check.equal(proxy.call.received[0].request_headers.response.clear_route_cache, True, "clear_route_cache")


@PROFILE.case("body.same", "The body goes on byte for byte", source=PROTOCOL, needs=NEEDS)
async def same(target: Target) -> None:
    data = document(target, 'ä"\\ 漢字 👩‍👩‍👧')[:-1] + b' ,\n "x_unknown":  [1.0, 1e-7, {"b": 1, "a": 2}]}'
    check.equal((await _routed(target, data=data)).body, data, "the body that is sent on")


@PROFILE.case(
    "body.pieces", "However it comes in pieces, it goes on whole", source=f"{PROTO}, FULL_DUPLEX_STREAMED", needs=NEEDS
)
async def pieces(target: Target) -> None:
    data = document(target, "é" * 500)
    for size in (1000, 97, 7):
        head, *_ = posted(target, data)
        parts = [messages.body("request", data[at : at + size]) for at in range(0, len(data), size)]
        parts[-1].request_body.end_of_stream = True
        check.equal((await _routed(target, head, *parts)).body, data, f"the body of pieces of {size} bytes")


def _large(name: str, size: int) -> None:
    async def run(target: Target) -> None:
        data = document(target, "word " * (size // 5))
        head, *_ = posted(target, data)
        parts = [messages.body("request", data[at : at + LARGEST]) for at in range(0, len(data), LARGEST)]
        outcome = await _routed(target, head, *parts, messages.body("request", b"", True))
        check.equal(
            (len(outcome.body), outcome.body == data), (len(data), True), "the length, and whether it is the same,"
        )
        check.at_most(max(outcome.pieces), LARGEST, "the largest piece, of which some proxies take 64 KiB,")

    PROFILE.case(
        f"body.{name}", f"A body of {name} goes on, in pieces that proxies take", source="GIE #854, #2056", needs=NEEDS
    )(run)


_large("300kB", 300_000)
_large("5MB", 5_000_000)


@PROFILE.case("body.length", "A content-length that is set is the body's", source="RFC 9110 §8.6", needs=NEEDS)
async def length(target: Target) -> None:
    outcome = await _routed(target)
    told = outcome.set.get("content-length", str(len(outcome.body)))
    check.equal(told, str(len(outcome.body)), "content-length")


@PROFILE.case(
    "body.trailers",
    "A request that ends with trailers is let through with them",
    source=f"{PROTO}, request_trailers",
    needs=NEEDS,
)
async def trailers(target: Target) -> None:
    head, body, _ = posted(target, document(target))
    outcome = await _routed(target, head, body, messages.trailers("request"))
    check.equal(outcome.order[-1], "request_trailers", "the last reply")
    check.equal(outcome.body, document(target), "the body that is sent on")


@PROFILE.case(
    "request.bodiless", "A request without a body is let through at its headers", source=PROTOCOL, needs=NEEDS
)
async def bodiless(target: Target) -> None:
    async with proxied(target) as proxy:
        proxy.ended = frozenset(("request",))
        await proxy.say(messages.headers("request", fields(target, path=MODELS), end=True))
        outcome = await proxy.routed()
    check.equal(outcome.order, ["request_headers"], "the replies")
    check.true("content-length" not in outcome.set, "a request without a body gets a content-length")


@PROFILE.case(
    "request.old-values",
    "Header values in `value` are read, too",
    source=f"{PROTO}: HeaderValue",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def old_values(target: Target) -> None:
    await _routed(target, data=document(target), raw=False)


@PROFILE.case(
    "request.no-config",
    "A proxy that does not tell its modes is taken to be in full duplex",
    source=f"{PROTOCOL}: streaming mode",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def no_config(target: Target) -> None:
    await _routed(target, data=document(target), modes=None)


@PROFILE.case(
    "request.id",
    "A request without an id gets one; one that has an id keeps it",
    source=f"{PROTOCOL}: x-request-id",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def request_id(target: Target) -> None:
    check.true((await _routed(target)).set.get("x-request-id"), "no x-request-id is set")
    named = await _routed(target, data=document(target), more=[("x-request-id", "conformance-epp-1")])
    check.equal(named.set.get("x-request-id", "conformance-epp-1"), "conformance-epp-1", "x-request-id")


@PROFILE.case("request.forged", "A destination that a client names counts for nothing", source="CWE-290", needs=NEEDS)
async def forged(target: Target) -> None:
    outcome = await _routed(target, data=document(target), more=[(DESTINATION, "192.0.2.1:1")])
    check.true(
        "192.0.2.1" not in outcome.destination,
        "the client's own destination is passed on",
        "the picker's",
        outcome.destination,
    )


@PROFILE.case(
    "request.control",
    "Control headers are removed before the endpoint sees them",
    source=f"{PROTOCOL}; llm-d: system-owned headers",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def control(target: Target) -> None:
    outcome = await _routed(target, data=document(target), more=[(name, "x") for name in _CONTROL])
    left = [name for name in _CONTROL if name not in outcome.removed]
    check.equal(left, [], "the control headers that go on")


@PROFILE.case(
    "request.duplicates", "Fields that come twice, and empty ones, disturb nothing", source="RFC 9110 §5.3", needs=NEEDS
)
async def duplicates(target: Target) -> None:
    more = [("accept", "a"), ("accept", "b"), ("x-empty", ""), ("cookie", "a=1"), ("cookie", "b=2")]
    await _routed(target, data=document(target), more=more)


@PROFILE.case(
    "request.rewritten",
    "x-gateway-model-name-rewrite replaces the model, and nothing else",
    source="Gateway API Inference Extension, headers",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def rewritten(target: Target) -> None:
    data = document(target, model="conformance-alias")
    outcome = await _routed(target, data=data, more=[("x-gateway-model-name-rewrite", target.setup.model)])
    want = {**json.loads(data), "model": target.setup.model}
    check.equal(json.loads(outcome.body), want, "the body that is sent on")


@PROFILE.case(
    "request.other-paths",
    "A path that is none of the API's does not stop the picker",
    source=PROTOCOL,
    level=Level.INFO,
    needs=NEEDS,
)
async def other_paths(target: Target) -> None:
    outcome = await picked(target, b"\x00\x01 not JSON", path="/no/such/path")
    status = outcome.immediate.status.code if outcome.immediate is not None else ""
    target.note(f"a body that is not JSON, for a path of no API: {status or f'goes to {outcome.destination}'}")


@PROFILE.case(
    "request.observed",
    "A proxy that only lets look on is not answered",
    source=f"{PROTO}, observability_mode",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def observed(target: Target) -> None:
    async with proxied(target) as proxy:
        for part in posted(target, document(target)):
            message = ProcessingRequest.FromString(part.SerializeToString())
            message.observability_mode = True
            await proxy.say(message)
        await proxy.silent()
        check.equal(proxy.request.order, [], "the replies to a proxy that heeds none")
