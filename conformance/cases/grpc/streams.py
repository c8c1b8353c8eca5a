"""Calls with a stream of answers. (T)"""

from __future__ import annotations

from typing import Any

import trio
from google.rpc import error_details_pb2 as kinds

from conformance.cases import behind
from conformance.cases.grpc.calls import (
    called,
    detail,
    details,
    linked,
    offered,
    path,
    reason,
    refused,
    streamed,
)
from conformance.cases.grpc.messages import api
from conformance.cases.grpc.profile import NEEDS, PROFILE, PROTO
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.rpc import Call
from conformance.suite.target import Target

_BEHIND = ("grpc", "behind")


def _held(pieces: list[Any]) -> None:
    """What the proto says of any stream that ended with OK."""
    check.at_least(len(pieces), 2, "the number of messages")
    check.true(pieces[0].id and pieces[0].model, "the first message lacks id or model", "both", str(pieces[0]))
    check.equal(len({piece.id for piece in pieces if piece.id}), 1, "the number of ids in one stream")
    finished = [choice.finish_reason for piece in pieces for choice in piece.choices if choice.finish_reason]
    check.equal(len(finished), 1, "the number of finish reasons")
    check.true(pieces[-1].HasField("usage"), "the last message has no usage")
    check.equal(len(pieces[-1].choices), 0, "the number of choices in the last message")
    usage = pieces[-1].usage
    check.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total_tokens")


@PROFILE.case("stream.chat", "A chat in pieces: id first, one finish, usage last", source=PROTO, needs=NEEDS)
async def chat_stream(target: Target) -> None:
    call = offered(target, await called(target, "StreamChatCompletion", streamed(target))).expect(rpc.OK)
    _held(call.received)
    check.equal(call.received[0].model, target.setup.model, "model")
    roles = [choice.delta.role for piece in call.received for choice in piece.choices if choice.delta.role]
    check.equal(roles, ["assistant"], "the roles told")


@PROFILE.case(
    "stream.completion", "A completion in pieces: id first, one finish, usage last", source=PROTO, needs=NEEDS
)
async def completion_stream(target: Target) -> None:
    asked = api.CreateCompletionRequest(model=target.setup.model, prompt=[api.Prompt(text="Once")], max_tokens=8)
    call = await called(target, "StreamCompletion", api.StreamCompletionRequest(request=asked))
    _held(offered(target, call).expect(rpc.OK).received)


@PROFILE.case(
    "stream.same", "Pieces together are what the whole answer says", source=PROTO, level=Level.SHOULD, needs=NEEDS
)
async def same(target: Target) -> None:
    asked = streamed(target, temperature=0.0)
    pieces = (await called(target, "StreamChatCompletion", asked)).expect(rpc.OK).received
    whole = await called(target, "CreateChatCompletion", asked.request)
    said = "".join(choice.delta.content for piece in pieces for choice in piece.choices)
    check.equal(said, whole.expect(rpc.OK).received[0].choices[0].message.content, "the text of the pieces")


@PROFILE.case(
    "stream.refused", "A stream that is refused ends with a status, with no message before", source=PROTO, needs=NEEDS
)
async def stream_refused(target: Target) -> None:
    call = await called(target, "StreamChatCompletion", streamed(target, model="no-such-model"))
    refused(call, rpc.NOT_FOUND, "MODEL_NOT_FOUND")


@PROFILE.case("stream.no-request", "A stream request that holds none is refused", source=PROTO, needs=NEEDS)
async def no_request(target: Target) -> None:
    call = await called(target, "StreamChatCompletion", api.StreamChatCompletionRequest())
    refused(call, rpc.INVALID_ARGUMENT)


async def _failing(target: Target, spec: str, method: str = "StreamChatCompletion") -> Call:
    """A call while all engines fail so."""
    engines = await behind.simulators(target)
    request = streamed(target, max_tokens=16)
    async with behind.failing(target, engines, spec):
        return await called(target, method, request if method.startswith("Stream") else request.request)


@PROFILE.case(
    "stream.broken",
    "A stream that breaks ends with UNAVAILABLE and `partial`, never with OK",
    source=f"{PROTO}: a stream that ends with OK is whole",
    alone=True,
    needs=_BEHIND,
)
async def broken(target: Target) -> None:
    for spec in ("cut:3", "error-event:3"):
        call = await _failing(target, spec)
        call.expect(rpc.UNAVAILABLE)
        info = detail(call, kinds.ErrorInfo)
        check.equal(info.reason, "STREAM_INTERRUPTED", "the reason")
        check.equal(info.metadata.get("partial"), "true", "ErrorInfo.metadata of a stream of which a part was sent")
        check.true(
            not any(c.finish_reason for m in call.received for c in m.choices), "a finish reason before the break"
        )


@PROFILE.case(
    "status.unavailable",
    "Engines that say 503 are UNAVAILABLE with RetryInfo",
    source="google.rpc.Code; AIP-194",
    alone=True,
    needs=_BEHIND,
)
async def unavailable(target: Target) -> None:
    for method in ("CreateChatCompletion", "StreamChatCompletion"):
        call = await _failing(target, "503", method)
        refused(call, rpc.UNAVAILABLE, "OVERLOADED", "UPSTREAM_UNAVAILABLE", "NO_ENDPOINTS")
        check.at_least(detail(call, kinds.RetryInfo).retry_delay.ToTimedelta().total_seconds(), 0, "retry_delay")


@PROFILE.case(
    "status.rubbish",
    "Engines that answer rubbish are UNAVAILABLE",
    source="google.rpc.Code; AIP-194",
    alone=True,
    needs=_BEHIND,
)
async def rubbish(target: Target) -> None:
    for method in ("CreateChatCompletion", "StreamChatCompletion"):
        refused(await _failing(target, "rubbish", method), rpc.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")


@PROFILE.case(
    "status.internal",
    "An engine's 500 is INTERNAL, which nobody repeats unasked",
    source="AIP-194",
    alone=True,
    needs=_BEHIND,
)
async def internal(target: Target) -> None:
    refused(await _failing(target, "status:500", "CreateChatCompletion"), rpc.INTERNAL, "INTERNAL")


@PROFILE.case(
    "status.quota",
    "A provider's 429 tells a quota by RESOURCE_EXHAUSTED, or overload by UNAVAILABLE",
    source="AIP-194",
    alone=True,
    needs=_BEHIND,
)
async def quota(target: Target) -> None:
    call = await _failing(target, "429:1", "CreateChatCompletion")
    await trio.sleep(1)
    call.expect(rpc.RESOURCE_EXHAUSTED, rpc.UNAVAILABLE)
    check.true(
        any(isinstance(each, kinds.RetryInfo) for each in details(call)), "no RetryInfo", "RetryInfo", reason(call)
    )


@PROFILE.case("stream.not-held", "Messages come as the engine makes them", source=PROTO, alone=True, needs=_BEHIND)
async def not_held(target: Target) -> None:
    engines = await behind.simulators(target)
    async with behind.failing(target, engines, "stall:3"), linked(target) as link:
        call = await link.open(path("StreamChatCompletion"), api.StreamChatCompletionResponse)
        await call.send(streamed(target, max_tokens=16), end=True)
        words = 0
        with trio.move_on_after(3) as scope:
            while words < 3:
                message = await call.next()
                if message is None:
                    check.fail("the stream ended while its engine was silent", "three words", call.fields)
                words += sum(bool(choice.delta.content) for choice in message.choices)
        check.true(
            not scope.cancelled_caught, "three words of an engine that then pauses did not come within 3 s", 3, words
        )
