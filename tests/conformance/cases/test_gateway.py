"""The cases of gateways: all of them pass on ours, and each fails on a gateway that has its fault."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import msgspec
import pytest
import trio

from conformance.cases import profile
from conformance.suite.outcome import Kind, Result
from conformance.suite.run import Runner
from conformance.suite.target import CHAT, EMBEDDINGS, MODELS, Setup
from tests.conformance.cases.gated import KEY, gated, played
from tests.conformance.cases.playing import told, well
from tests.conformance.cases.spoiling import (
    Seen,
    Spoil,
    Spoils,
    Whole,
    always,
    body,
    document,
    having,
    on,
    says,
    spoiled,
    status,
    when,
    without,
)

PROFILE = profile("gateway")
COMPLETIONS = "/v1/completions"
INFORMS = {"gateway.leave.half-closed"}
"""Cases that learn something and fail nobody."""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with gated(tmp_path_factory.mktemp("gateway")) as found:
        yield found


def test_our_gateway_passes_all_cases(setup: Setup) -> None:
    well(played(setup, *PROFILE))


@dataclass(frozen=True)
class Broken:
    """``front``: what is wrong with the gateway; ``behind``: what its engines then seem to have got."""

    front: Spoils | None = None
    behind: Spoils | None = None
    setup: Mapping[str, Any] = field(default_factory=dict)


def play(setup: Setup, case: str, broken: Broken) -> Result:
    async def run() -> Result:
        async with AsyncExitStack() as stack:
            now = msgspec.structs.replace(setup, **broken.setup)
            if broken.front:
                now = msgspec.structs.replace(
                    now, address=await stack.enter_async_context(spoiled(setup.address, broken.front))
                )
            if broken.behind:
                seen = [await stack.enter_async_context(spoiled(where, broken.behind)) for where in setup.behind]
                now = msgspec.structs.replace(now, behind=tuple(seen))
            return await Runner(now, {}).play(PROFILE.cases[case])

    return trio.run(run)


# -- faults -----------------------------------------------------------------------------------------------------------


def set_error(**members: Any) -> Spoil:
    return document(lambda said: said["error"].update(members), least=400)


def last(change: Any) -> Spoils:
    """What engines say of their last request."""

    def changed(said: dict[str, Any]) -> None:
        if said["last"]:
            change(said["last"])

    return on("/sim/state", document(changed))


def last_body(change: Any) -> Spoils:
    """Of its last chat: what stood there before may have been another case's request of any kind."""

    def changed(request: dict[str, Any]) -> None:
        if not request["path"].endswith("/chat/completions"):
            return
        found = json.loads(request["body"])
        made = change(found)
        request["body"] = json.dumps(found if made is None else made)

    return last(changed)


def last_field(name: str, value: str) -> Spoils:
    return last(lambda request: request["headers"].update({name: value}))


def at_error(change: Any) -> Spoil:
    """The body of an answer that tells an error, or that broke."""

    def changed(answer: Whole) -> Whole:
        broke = answer.status >= 400 or b'"error"' in answer.body
        return replace(answer, status=200, body=change(answer.body)) if broke else answer

    return Spoil(changed)


def streaming(seen: Seen) -> bool:
    return b'"stream": true' in seen.body


def closed_on_errors(answer: Whole) -> Whole | bytes:
    return b"" if answer.status >= 500 else answer


def ever_more() -> Spoils:
    """Engines that are asked again and again."""
    asked = count()
    return on("/sim/state", document(lambda said: said.update(requests=said["requests"] + 5 * next(asked))))


def after_a_stream(wait: float) -> Spoils:
    streams: list[Seen] = []

    def spoils(seen: Seen) -> Spoil | None:
        if streaming(seen):
            streams.append(seen)
            return None
        if streams and streams.pop():
            return Spoil(wait=wait)
        return None

    return spoils


DONE = b"data: [DONE]\n\n"
FINISHED = b'data: {"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = (
    b'data: {"id": "a", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}\n\n'
)
falsely_whole = always(at_error(lambda data: data + FINISHED + DONE))
SERVED = says(200, b"{}", "connection: close")
numbered = always(set_error(code=400))
uncoded = always(set_error(code=None))
anonymous = always(without("x-request-id"))
mixed = body(lambda said: said.replace(b"stream 17", b"stream 18"))
REPLACED = [f"{name}{suffix}" for name in ("refused", "503", "429") for suffix in ("", "-stream")]
serves = Broken(always(SERVED))
deaf = Broken(always(Spoil(deaf=True)))
closes_late = Spoil(canned=b"HTTP/1.1 400 X\r\ncontent-length: 2\r\n\r\n{}", stays=True)

BROKEN: dict[str, Broken] = {
    "id.made": Broken(always(having("x-request-id", "the-same"))),
    "id.taken": Broken(always(having("x-request-id", "another"))),
    "id.on-errors": Broken(anonymous),
    "id.on-streams": Broken(when(streaming, without("x-request-id"))),
    "id.on-listings": Broken(on(MODELS, without("x-request-id"))),
    "id.long": Broken(always(having("x-request-id", "a" * 8192))),
    "id.no-injection": Broken(always(having("x-request-id", "a\r\nx-injected: 1"))),
    "id.forwarded": Broken(behind=last_field("x-request-id", "another")),
    "error.syntax": Broken(numbered),
    "error.no-object": Broken(always(set_error(type=None))),
    "error.types": Broken(always(set_error(param=None, message="no"))),
    "error.param": Broken(always(set_error(param=None))),
    "error.no-model": Broken(always(document(lambda said: {"detail": said}, least=400))),
    "error.unknown-model": Broken(uncoded),
    "error.unknown-model-stream": Broken(always(status(200))),
    "error.unknown-model-embedding": Broken(on(EMBEDDINGS, set_error(code="400"))),
    "error.path": Broken(always(body(lambda said: b"<html>404</html>"))),
    "error.method": Broken(always(without("allow"))),
    "error.too-large": Broken(always(says(200))),
    "error.large-head": serves,
    "error.form": Broken(always(says(500))),
    "error.keeps-connection": Broken(always(Spoil())),
    "auth.missing": Broken(always(status(403))),
    "auth.wrong": Broken(uncoded),
    "auth.bearer-case": Broken(always(says(401))),
    "auth.x-api-key": Broken(when(lambda seen: "x-api-key" in seen.headers, says(401))),
    "auth.before-body": Broken(always(says(400))),
    "auth.no-echo": Broken(always(body(lambda said: said + b"sk-conformance-0123456789abcdef"))),
    "auth.listing": Broken(on(MODELS, says(200))),
    "limit.refused": Broken(uncoded),
    "limit.retry-after": Broken(always(without("retry-after"))),
    "limit.headers": Broken(always(without("x-ratelimit-limit-requests"))),
    "models.listing": Broken(on(MODELS, document(lambda said: said["data"].extend(said["data"])))),
    "models.served": Broken(on(MODELS, document(lambda said: said["data"].append({**said["data"][0], "id": "ghost"})))),
    "models.one": Broken(on(f"{MODELS}/m", says(404))),
    "models.unknown": Broken(uncoded),
    "models.name-kept": Broken(on(CHAT, document(lambda said: said.update(model="other")))),
    "pass.unknown-members": Broken(behind=last_body(lambda said: said.update(x_conformance=1))),
    "pass.numbers": Broken(behind=last(lambda said: said.update(body=said["body"].replace("40993", "40992")))),
    "pass.text": Broken(behind=last_body(lambda said: said["messages"][-1].update(content="conformance-text"))),
    "pass.no-credentials": Broken(behind=last_field("authorization", f"Bearer {KEY}")),
    "pass.no-hop-fields": Broken(behind=last_field("x-hop", "1")),
    "pass.no-steering-fields": Broken(behind=last_field("x-data-parallel-rank", "0")),
    "pass.no-steering-members": Broken(behind=last_body(lambda said: said.update(lora_path="7"))),
    "pass.answer": Broken(on(CHAT, document(lambda said: said["choices"][0]["message"].update(content="mine")))),
    "pass.closed-paths": serves,
    "pass.traversal": serves,
    "stream.whole": Broken(always(body(lambda said: said + DONE))),
    "stream.usage": Broken(always(body(lambda said: said.replace(b'"usage":{', b'"uses":{')))),
    "stream.no-usage": Broken(always(body(lambda said: said.replace(DONE, USAGE + DONE)))),
    "stream.completions": Broken(on(COMPLETIONS, body(lambda said: said.replace(DONE, b"")))),
    "stream.head": Broken(always(without("cache-control"))),
    "stream.not-held": Broken(when(streaming, Spoil())),
    "stream.unicode": Broken(always(body(lambda said: said.decode("ascii", "replace").encode()))),
    "leave.stream": deaf,
    "leave.whole": deaf,
    "leave.unanswered": deaf,
    "leave.many": deaf,
    "leave.others-stay": Broken(when(streaming, body(lambda said: said.replace(DONE, b"")))),
    "leave.mid-request": Broken(on(CHAT, Spoil(canned=b""))),
    "failover.hang": serves,
    "retry.bounded": Broken(on(CHAT, Spoil(times=4))),
    "retry.not-400": Broken(on(CHAT, Spoil(times=2))),
    "retry.not-after-tokens": Broken(on(CHAT, Spoil(times=2))),
    "retry-after.503": Broken(always(without("retry-after"))),
    "retry-after.429": Broken(always(without("retry-after"))),
    "retry-after.heeded": Broken(behind=ever_more()),
    "broken.cut": Broken(falsely_whole),
    "broken.error-event": Broken(falsely_whole),
    "broken.rubbish-events": Broken(falsely_whole),
    "broken.last-event": Broken(on(CHAT, body(lambda said: said.replace(b'"error"', b'"oops"')))),
    "broken.closes": Broken(when(streaming, Spoil(stays=True))),
    "broken.kept": Broken(always(at_error(lambda said: said[said.rindex(b"data: ") :]))),
    "broken.first": Broken(always(at_error(lambda said: said))),
    "broken.whole": Broken(always(at_error(lambda said: b"{}"))),
    "broken.rubbish-json": Broken(always(at_error(lambda said: said))),
    "broken.rubbish-http": Broken(on(CHAT, Spoil(closed_on_errors))),
    "broken.rubbish-json-stream": Broken(always(at_error(lambda said: said))),
    "broken.500": Broken(always(set_error(code=500))),
    "broken.400": Broken(always(set_error(code=400))),
    "broken.afterwards": Broken(on(CHAT, Spoil(closed_on_errors))),
    "http.cl-and-te": serves,
    "http.two-lengths": serves,
    "http.bad-length": Broken(always(closes_late)),
    "http.bad-encoding": serves,
    "http.bad-chunk": serves,
    "http.chunked": Broken(always(says(411))),
    "http.space-before-colon": serves,
    "http.folding": Broken(always(says(200, b"{}", "x-injected: 1", "connection: close"))),
    "http.control-bytes": serves,
    "http.no-host": serves,
    "http.rubbish": serves,
    "http.target": serves,
    "http.expect": Broken(always(Spoil(canned=b"", stays=True))),
    "http.pipelined": Broken(always(says(200))),
    "http.old": Broken(always(says(200, b"{}", "transfer-encoding: chunked"))),
    "http.reuse": Broken(always(Spoil())),
    "http.slow-head": Broken(always(says(408))),
    "load.not-mixed": Broken(when(lambda seen: b"stream 17" in seen.body, mixed)),
    "load.large-body": Broken(always(says(413))),
    "load.slow-reader": Broken(after_a_stream(4.0)),
    "load.connections": Broken(always(says(503))),
    "load.many-models": Broken(always(says(404, b'{"error": {"message": "no-such-model-007-end"}}'))),
    **{f"failover.{name}": Broken(when(lambda seen: b"conformance" in seen.body, says(503))) for name in REPLACED},
}  # fmt: skip


def test_every_case_has_its_fault() -> None:
    ids = {case.id.removeprefix("gateway.") for case in PROFILE if case.id not in INFORMS}
    assert set(BROKEN) == ids, f"missing: {sorted(ids - set(BROKEN))}, unknown: {sorted(set(BROKEN) - ids)}"


@pytest.mark.parametrize("case", BROKEN)
def test_a_gateway_with_the_fault_fails(setup: Setup, case: str) -> None:
    result = play(setup, f"gateway.{case}", BROKEN[case])
    assert result.kind is Kind.FAILED, f"{result.kind} {result.message}"
    assert "could not be understood" not in result.message, told([result])


def test_without_engines_named_what_needs_them_is_skipped(setup: Setup) -> None:
    bare = msgspec.structs.replace(setup, behind=(), extra={})
    results = played(bare, *(case for case in PROFILE if case.needs))
    assert {result.kind for result in results if "key" not in PROFILE.cases[result.case].needs} == {Kind.SKIPPED}
