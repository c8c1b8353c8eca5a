"""The cases of inference.v1: all of them pass on our gateway, and each fails on a server that has its fault."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import msgspec
import pytest
import trio
from google.rpc.status_pb2 import Status

from conformance.cases import profile
from conformance.cases.grpc.messages import HEALTH, REFLECTION, api
from conformance.suite.outcome import Kind, Result
from conformance.suite.run import Runner
from conformance.suite.target import Setup
from tests.conformance.cases.gated import KEY, gated, played
from tests.conformance.cases.playing import told, well
from tests.conformance.cases.spoiling_grpc import Fields, Seen, Spoil, spoiled

PROFILE = profile("grpc")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with gated(tmp_path_factory.mktemp("grpc")) as found:
        yield found


def test_our_gateway_passes_all_cases(setup: Setup) -> None:
    well(played(setup, *PROFILE))


def play(setup: Setup, case: str, spoil: Spoil) -> Result:
    async def run() -> Result:
        assert setup.grpc is not None
        async with spoiled(setup.grpc, spoil) as where:
            now = msgspec.structs.replace(setup, grpc=where, timeout=6.0)
            return await Runner(now, {}).play(PROFILE.cases[case])

    return trio.run(run)


# -- faults -----------------------------------------------------------------------------------------------------------


def ends(code: int, at: str = "", **more: Any) -> Spoil:
    """Every call ends with this status, without details."""

    def trailers(seen: Seen, fields: Fields) -> Fields:
        others = [(n, v) for n, v in fields if n not in ("grpc-status", "grpc-status-details-bin")]
        return [*others, ("grpc-status", str(code))]

    return Spoil(trailers=trailers, at=at, **more)


def says(kind: Any, change: Callable[[Any], Any], at: str) -> Spoil:
    """Messages are changed in place, or replaced."""

    def answered(seen: Seen, data: bytes) -> bytes | list[bytes]:
        message = kind.FromString(data)
        made = change(message)
        return made if isinstance(made, list) else bytes(message.SerializeToString())

    return Spoil(answered=answered, at=at)


def method(name: str, change: Callable[[Any], Any]) -> Spoil:
    return says(getattr(api, f"{name}Response"), change, name)


def trailing(change: Callable[[Fields], Fields]) -> Spoil:
    return Spoil(trailers=lambda seen, fields: change(fields))


def without(name: str) -> Callable[[Seen, Fields], Fields]:
    return lambda seen, fields: [(n, v) for n, v in fields if n != name]


def having(name: str, value: str) -> Callable[[Seen, Fields], Fields]:
    return lambda seen, fields: [*((n, v) for n, v in fields if n != name), (name, value)]


def doubled(fields: Fields) -> Fields:
    """Each detail of the status twice."""
    named = dict(fields)
    text = named.get("grpc-status-details-bin", "")
    status = Status.FromString(base64.b64decode(text + "=" * (-len(text) % 4)))
    status.details.extend(list(status.details))
    named["grpc-status-details-bin"] = base64.b64encode(status.SerializeToString()).decode()
    return list(named.items())


_NUMBERS = count()


def never_the_same(message: Any) -> None:
    message.choices[0].message.content += str(next(_NUMBERS))


NO_DETAILS = Spoil(trailers=without("grpc-status-details-bin"))
UNTIMED = Spoil(requested=without("grpc-timeout"))
NO_USAGE = {
    name: method(name, lambda message: message.ClearField("usage"))
    for name in ("StreamChatCompletion", "StreamCompletion")
}
BROKEN: dict[str, Spoil] = {
    "chat": method("CreateChatCompletion", lambda said: setattr(said.usage, "total_tokens", 0)),
    "chat.zero": method("CreateChatCompletion", never_the_same),
    "chat.extra": ends(0),
    "completion": method("CreateCompletion", lambda said: said.choices[0].ClearField("finish_reason")),
    "embedding": method("CreateEmbedding", lambda said: said.data.reverse()),
    "count": method("CountTokens", lambda said: said.tokens.pop()),
    "models": method("ListModels", lambda said: said.models.insert(0, api.Model(id="z"))),
    "models.pages": method("ListModels", lambda said: setattr(said, "next_page_token", "again")),
    "models.bad-page": ends(0),
    "model": method("GetModel", lambda said: setattr(said.model, "owned_by", "another")),
    "metadata.request-id": Spoil(head=without("x-request-id")),
    "metadata.long-id": Spoil(head=having("x-request-id", "a" * 4096)),
    "metadata.others": ends(13),
    "many": Spoil(trailers=having("grpc-message", "no-such-model-007-end")),
    "stream.chat": NO_USAGE["StreamChatCompletion"],
    "stream.completion": NO_USAGE["StreamCompletion"],
    "stream.same": method("CreateChatCompletion", never_the_same),
    "stream.refused": ends(13),
    "stream.no-request": ends(0),
    "stream.broken": ends(0),
    "stream.not-held": Spoil(held=True),
    "status.unavailable": ends(2),
    "status.rubbish": ends(13),
    "status.internal": ends(14),
    "status.quota": NO_DETAILS,
    "refuse.model": NO_DETAILS,
    "refuse.argument": NO_DETAILS,
    "refuse.empty": ends(0),
    "refuse.too-long": ends(14, "CreateChatCompletion"),
    "refuse.details": trailing(doubled),
    "refuse.request-id": Spoil(trailers=without("x-request-id")),
    "refuse.message": Spoil(trailers=having("grpc-message", "ñ")),
    "refuse.no-key": Spoil(requested=having("authorization", f"Bearer {KEY}")),
    "refuse.x-api-key": Spoil(requested=without("x-api-key")),
    "refuse.limit": ends(14),
    "deadline.passed": UNTIMED,
    "deadline.far": ends(4),
    "deadline.within": UNTIMED,
    "deadline.malformed": ends(14),
    "cancel.frees": Spoil(deaf=True),
    "cancel.others": ends(1, "StreamChatCompletion"),
    "cancel.early": ends(1, "ListModels"),
    "health.check": says(HEALTH["HealthCheckResponse"], lambda said: setattr(said, "status", 2), "Check"),
    "health.unknown": ends(0),
    "health.watch": says(HEALTH["HealthCheckResponse"], lambda said: [], "Watch"),
    "no-method": ends(13),
    "frame.cuts": ends(13),
    "frame.end-later": ends(13),
    "frame.no-message": ends(0),
    "frame.two-messages": ends(0),
    "frame.truncated": ends(0),
    "frame.no-protobuf": ends(0),
    "frame.unknown-fields": ends(3),
    "frame.large": ends(8),
    "frame.too-large": ends(3),
    "frame.gzip": ends(13),
    "frame.bomb": ends(0),
    "frame.unknown-packing": ends(0),
    "frame.packed-unsaid": ends(0),
    "frame.content-type": Spoil(requested=having("content-type", "application/grpc")),
    "h2.ping": Spoil(mute_pings=True),
    "h2.window": Spoil(greedy=True),
    "h2.unread": Spoil(one_at_a_time=True),
    "h2.broken": Spoil(patient=True),
    "h2.no-http2": Spoil(patient=True),
    "reflection.v1": says(REFLECTION["Response"], lambda said: said.Clear(), "v1.ServerReflection"),
    "reflection.v1alpha": says(REFLECTION["Response"], lambda said: said.Clear(), "v1alpha.ServerReflection"),
    "reflection.file": says(REFLECTION["Response"], lambda said: said.Clear(), "v1.ServerReflection"),
    "reflection.unknown": says(REFLECTION["Response"], lambda said: said.Clear(), "v1.ServerReflection"),
}


def test_every_case_has_its_fault() -> None:
    ids = {case.id.removeprefix("grpc.") for case in PROFILE}
    assert set(BROKEN) == ids, f"missing: {sorted(ids - set(BROKEN))}, unknown: {sorted(set(BROKEN) - ids)}"


@pytest.mark.parametrize("case", BROKEN)
def test_a_server_with_the_fault_fails(setup: Setup, case: str) -> None:
    result = play(setup, f"grpc.{case}", BROKEN[case])
    assert result.kind is Kind.FAILED, f"{result.kind} {result.message}"
    assert "could not be understood" not in result.message, told([result])


def test_an_unspoiled_proxy_changes_nothing(setup: Setup) -> None:
    for case in ("grpc.chat", "grpc.stream.chat", "grpc.frame.cuts", "grpc.refuse.model", "grpc.health.watch"):
        result = play(setup, case, Spoil())
        assert result.kind is Kind.PASSED, told([result])


def test_a_failure_comes_with_the_grpcurl_that_repeats_it(setup: Setup) -> None:
    result = play(setup, "grpc.model", BROKEN["model"])
    exchange = result.exchanges[-1]
    assert exchange.status == 0
    assert '"ownedBy": "another"' in exchange.answer
    assert exchange.command.startswith('grpcurl -plaintext -H "authorization: Bearer $API_KEY" -d \'{"model": "m"}\'')
    assert exchange.command.endswith("inference.v1.InferenceService/GetModel")
    assert KEY not in str(result)


def test_where_no_server_is_named_all_is_skipped(setup: Setup) -> None:
    results = played(msgspec.structs.replace(setup, grpc=None), *PROFILE)
    assert {(result.kind, result.message.split(",")[0]) for result in results} == {(Kind.SKIPPED, "needs --grpc")}


def test_a_server_that_is_not_there_fails_all(setup: Setup) -> None:
    assert setup.grpc is not None
    nowhere = msgspec.structs.replace(setup, grpc=msgspec.structs.replace(setup.grpc, port=1), behind=())
    result = played(nowhere, PROFILE.cases["grpc.chat"])[0]
    assert "no connection to" in result.message
