"""The cases of endpoint pickers: all of them pass on ours, and each fails on a picker that has its fault."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import trio

from conformance.cases import profile
from conformance.cases.epp.messages import BUFFERED, DESTINATION, ProcessingRequest, ProcessingResponse
from conformance.cases.grpc.messages import HEALTH
from conformance.suite.outcome import Kind, Result
from conformance.suite.run import Runner
from conformance.suite.target import Setup
from tests.conformance.cases.gated import KEY, gated, played
from tests.conformance.cases.playing import told, well
from tests.conformance.cases.spoiling_grpc import Seen, Spoil, spoiled
from tests.conformance.cases.test_grpc import ends, says

PROFILE = profile("epp")
INFORMS = {"epp.request.other-paths"}
"""Cases that learn something and fail nobody."""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with gated(tmp_path_factory.mktemp("epp")) as found:
        yield found


def test_our_picker_passes_all_cases(setup: Setup) -> None:
    well(played(setup, *PROFILE))


def play(setup: Setup, case: str, spoil: Spoil) -> Result:
    async def run() -> Result:
        assert setup.ext_proc is not None
        async with spoiled(setup.ext_proc, spoil) as where:
            now = msgspec.structs.replace(setup, ext_proc=where, timeout=6.0)
            return await Runner(now, {}).play(PROFILE.cases[case])

    return trio.run(run)


# -- faults -----------------------------------------------------------------------------------------------------------


def reply(kind: str, change: Callable[[Any], Any]) -> Spoil:
    """Replies of a kind, all that begin so, are changed in place, or replaced by a list of messages."""

    def changed(message: Any) -> Any:
        if not message.WhichOneof("response").startswith(kind):
            return None
        made = change(message)
        return [each.SerializeToString() for each in made] if isinstance(made, list) else None

    return says(ProcessingResponse, changed, "Process")


def asked(change: Callable[[Any], Any]) -> Spoil:
    """The picker hears something else than was said."""

    def spoil(seen: Seen, data: bytes) -> bytes:
        message = ProcessingRequest.FromString(data)
        change(message)
        return bytes(message.SerializeToString())

    return Spoil(asked=spoil, at="Process")


def setting(name: str, value: str, kind: str = "request_headers") -> Spoil:
    """The reply sets this field, in place of the picker's own."""

    def change(message: Any) -> None:
        mutation = getattr(message, kind).response.header_mutation
        _drop(mutation.set_headers, name)
        mutation.set_headers.add().header.MergeFrom(
            ProcessingRequest().request_headers.headers.headers.add(key=name, raw_value=value.encode())
        )

    return reply(kind, change)


def _drop(options: Any, name: str) -> None:
    kept = [option for option in options if option.header.key != name]
    del options[:]
    options.extend(kept)


def unset(name: str, kind: str = "request_headers") -> Spoil:
    return reply(kind, lambda said: _drop(getattr(said, kind).response.header_mutation.set_headers, name))


def body(change: Callable[[bytes], bytes], side: str = "request") -> Spoil:
    """The pieces of a body are others."""

    def changed(message: Any) -> None:
        piece = getattr(message, f"{side}_body").response.body_mutation.streamed_response
        piece.body = change(piece.body)

    return reply(f"{side}_body", changed)


def instead(kind: str, other: Any) -> Spoil:
    return reply(kind, lambda said: [other])


def immediate(change: Callable[[Any], Any]) -> Spoil:
    return reply("immediate", lambda said: change(said.immediate_response))


def status(code: int) -> Spoil:
    return immediate(lambda said: setattr(said.status, "code", code))


def in_value(message: Any) -> None:
    for option in message.request_headers.response.header_mutation.set_headers:
        option.header.value, option.header.raw_value = option.header.raw_value.decode(), b""


def uncleared(message: Any) -> None:
    message.request_headers.response.clear_route_cache = False


def unremoved(message: Any) -> None:
    message.request_headers.response.header_mutation.ClearField("remove_headers")


def without_values(message: Any) -> None:
    for field in message.request_headers.headers.headers:
        field.value = ""


def at_once(message: Any) -> None:
    if message.HasField("request_body"):
        message.request_body.end_of_stream = True


def buffered_unless_said(message: Any) -> None:
    if message.HasField("request_headers") and not message.HasField("protocol_config"):
        message.protocol_config.request_body_mode = BUFFERED


def unsteered(message: Any) -> None:
    for field in message.request_headers.headers.headers:
        if field.key == "test-epp-endpoint-selection":
            field.key = "x-other"


def end_of(side: str) -> Any:
    message = ProcessingResponse()
    getattr(message, f"{side}_body").response.body_mutation.streamed_response.end_of_stream = True
    return message


def refusal(code: int) -> Any:
    message = ProcessingResponse()
    message.immediate_response.status.code = code
    return message


twice = {
    kind: reply(kind, lambda said: [said, said])
    for kind in ("request", "request_body", "response_headers", "immediate")
}
shorter = body(lambda data: data[:-1])
longer = body(lambda data: data + b"x", "response")
hintless = asked(lambda said: said.ClearField("metadata_context"))
replaced = reply("response_body", lambda said: setattr(said.response_body.response.body_mutation, "body", b"x"))
BROKEN: dict[str, Spoil] = {
    "route.header": setting(DESTINATION, "somewhere"),
    "route.metadata": reply("request_headers", lambda said: said.ClearField("dynamic_metadata")),
    "route.order": twice["request_body"],
    "route.waits": asked(at_once),
    "route.raw-value": reply("request_headers", in_value),
    "route.clear-cache": reply("request_headers", uncleared),
    "body.same": body(lambda data: data.replace(b"  ", b" ")),
    "body.pieces": shorter,
    "body.300kB": shorter,
    "body.5MB": shorter,
    "body.length": setting("content-length", "1"),
    "body.trailers": instead("request_trailers", end_of("request")),
    "request.bodiless": setting("content-length", "0"),
    "request.old-values": asked(without_values),
    "request.no-config": asked(buffered_unless_said),
    "request.id": unset("x-request-id"),
    "request.forged": setting(DESTINATION, "192.0.2.1:1"),
    "request.control": reply("request_headers", unremoved),
    "request.duplicates": instead("request_headers", refusal(400)),
    "request.rewritten": body(lambda data: data.replace(b'"m"', b'"x"')),
    "request.observed": asked(lambda said: said.ClearField("observability_mode")),
    "mode.buffered": twice["request_body"],
    "mode.streamed": twice["request"],
    "mode.none": twice["request"],
    "mode.response-streamed": replaced,
    "mode.response-buffered": replaced,
    "subset.list": hintless,
    "subset.string": hintless,
    "subset.address": instead("request_headers", refusal(503)),
    "subset.elsewhere": hintless,
    "subset.port": hintless,
    "subset.empty": hintless,
    "subset.on-body": hintless,
    "steer.header": asked(unsteered),
    "steer.served": unset("x-conformance-test-served-endpoint", "response_headers"),
    "refuse.json": status(500),
    "refuse.no-model": status(500),
    "refuse.unknown-model": status(500),
    "refuse.ends": twice["immediate"],
    "refuse.text": immediate(lambda said: said.ClearField("body")),
    "refuse.reason": immediate(lambda said: said.ClearField("headers")),
    "refuse.limit": status(503),
    "refuse.no-key": status(403),
    "response.events": longer,
    "response.at-once": reply("response_body", lambda said: []),
    "response.cut-anywhere": longer,
    "response.json": longer,
    "response.rubbish": longer,
    "response.large": longer,
    "response.errors": longer,
    "response.bodiless": twice["response_headers"],
    "response.trailers": instead("response_trailers", end_of("response")),
    "response.head-kept": setting("x-conformance", "2", "response_headers"),
    "response.ends-well": ends(13),
    "stream.left": ends(13),
    "stream.left-later": ends(13),
    "stream.reset": instead("request_headers", refusal(503)),
    "stream.empty": ends(0),
    "stream.no-protobuf": ends(0),
    "stream.body-first": ends(0),
    "stream.headers-twice": ends(0),
    "stream.response-first": ends(0),
    "stream.many": body(lambda data: data.replace(b"stream 007", b"stream 008")),
    "stream.spread": setting(DESTINATION, "127.0.0.1:1"),
    "health": says(HEALTH["HealthCheckResponse"], lambda said: setattr(said, "status", 2), "Check"),
    "no-method": ends(13),
}  # fmt: skip


def test_every_case_has_its_fault() -> None:
    ids = {case.id.removeprefix("epp.") for case in PROFILE if case.id not in INFORMS}
    assert set(BROKEN) == ids, f"missing: {sorted(ids - set(BROKEN))}, unknown: {sorted(set(BROKEN) - ids)}"


@pytest.mark.parametrize("case", BROKEN)
def test_a_picker_with_the_fault_fails(setup: Setup, case: str) -> None:
    result = play(setup, f"epp.{case}", BROKEN[case])
    assert result.kind is Kind.FAILED, f"{result.kind} {result.message}"
    assert "could not be understood" not in result.message, told([result])


def test_an_unspoiled_proxy_changes_nothing(setup: Setup) -> None:
    for case in ("epp.route.metadata", "epp.body.pieces", "epp.response.events", "epp.subset.empty"):
        result = play(setup, case, Spoil())
        assert result.kind is Kind.PASSED, told([result])


def test_a_failure_shows_both_sides_and_no_key(setup: Setup) -> None:
    result = play(setup, "epp.route.metadata", BROKEN["route.metadata"])
    exchange = result.exchanges[-1]
    assert exchange.command.endswith("envoy.service.ext_proc.v3.ExternalProcessor/Process")
    assert DESTINATION in exchange.answer
    assert '"key": "authorization", "rawValue": "$API_KEY"' in exchange.request
    for secret in (KEY, f"Bearer {KEY}"):
        assert base64.b64encode(secret.encode()).decode() not in str(result)


def test_where_no_picker_is_named_all_is_skipped(setup: Setup) -> None:
    results = played(msgspec.structs.replace(setup, ext_proc=None), *PROFILE)
    assert {(result.kind, result.message.split(",")[0]) for result in results} == {(Kind.SKIPPED, "needs --ext-proc")}
