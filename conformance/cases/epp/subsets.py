"""Which endpoints a proxy allows, and the header by which conformance suites steer. (T)"""

from __future__ import annotations

from collections.abc import Sequence

from conformance.cases.epp import messages
from conformance.cases.epp.profile import NEEDS, PROFILE, PROTOCOL
from conformance.cases.epp.proxy import Outcome, document, endpoints, picked, posted, proxied, refused
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import Target

_SOURCE = f"{PROTOCOL}: envoy.lb.subset_hint"
_NOWHERE = "192.0.2.1:9"


async def _within(target: Target, hint: Sequence[str] | str, allowed: Sequence[str]) -> Outcome:
    """A request with this hint, whose endpoints have all to be among those."""
    outcome = await picked(target, hint=hint)
    check.true(
        outcome.immediate is None,
        f"a request with the hint {hint!r} is refused",
        allowed,
        outcome.immediate and outcome.immediate.body,
    )
    beyond = [one for one in outcome.destination.split(",") if one.strip() not in allowed]
    check.equal(beyond, [], f"the endpoints beyond the hint {hint!r}")
    return outcome


@PROFILE.case("subset.list", "Of a list of endpoints, one is picked", source=_SOURCE, needs=NEEDS)
async def as_list(target: Target) -> None:
    for one in await endpoints(target):
        await _within(target, [one], [one])
        await _within(target, [_NOWHERE, one], [one])


@PROFILE.case(
    "subset.string",
    "A string with commas is a list",
    source="Envoy's header-to-metadata filter makes strings",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def as_string(target: Target) -> None:
    one = (await endpoints(target))[0]
    await _within(target, f"{_NOWHERE}, {one}", [one])


@PROFILE.case(
    "subset.address",
    "An address without a port stands for all its ports",
    source=f"{_SOURCE}; lwepp",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def address(target: Target) -> None:
    known = await endpoints(target)
    host = known[0].rpartition(":")[0]
    await _within(target, [host], [one for one in known if one.rpartition(":")[0] == host])


@PROFILE.case(
    "subset.elsewhere", "Endpoints that are not there: 503", source=f"{PROTOCOL}: no ready endpoint", needs=NEEDS
)
async def elsewhere(target: Target) -> None:
    for hint in ([_NOWHERE], _NOWHERE, [_NOWHERE, "[2001:db8::1]:80", "nonsense"]):
        refused(await picked(target, hint=hint), 503)


@PROFILE.case(
    "subset.port",
    "The right address with another port is another endpoint",
    source=f"{_SOURCE}; lwepp",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def port(target: Target) -> None:
    host = (await endpoints(target))[0].rpartition(":")[0]
    refused(await picked(target, hint=[f"{host}:9"]), 503)


@PROFILE.case("subset.empty", "A hint that names none allows none: 503", source=_SOURCE, needs=NEEDS)
async def empty(target: Target) -> None:
    refused(await picked(target, hint=[]), 503)


@PROFILE.case(
    "subset.on-body",
    "A hint that comes with the body alone counts, too",
    source="llm-d-router, hermetic tests: metadata on both",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def on_body(target: Target) -> None:
    head, *rest = posted(target, document(target))
    async with proxied(target) as proxy:
        await proxy.say(head, *(messages.hinted(part, [_NOWHERE]) for part in rest))
        refused(await proxy.until(), 503)


@PROFILE.case(
    "steer.header",
    "test-epp-endpoint-selection names the endpoint",
    source="Gateway API Inference Extension, conformance",
    needs=("ext_proc", "steering"),
)
async def steer(target: Target) -> None:
    for one in await endpoints(target):
        outcome = await picked(target, more=[("test-epp-endpoint-selection", one)])
        check.equal(outcome.destination, one, "the endpoint")


@PROFILE.case(
    "steer.served",
    "Who served is told in x-conformance-test-served-endpoint",
    source="Gateway API Inference Extension, conformance",
    level=Level.SHOULD,
    needs=("ext_proc", "steering"),
)
async def steer_served(target: Target) -> None:
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target)))
        one = (await proxy.routed()).first
        await proxy.say(messages.served_by(messages.headers("response", [(":status", "200")]), one))
        await proxy.reply()
        check.equal(proxy.response.set.get("x-conformance-test-served-endpoint"), one, "the header of the response")
