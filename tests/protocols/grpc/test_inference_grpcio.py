"""The inference service behind the real server, asked by grpcio."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import grpc
import pytest
import trio
from google.rpc import error_details_pb2 as details_pb2
from grpc_status import rpc_status

from gateway.errors import Overloaded, RateLimited, UpstreamError
from gateway.listen import open_listeners
from gateway.ports import Exchange
from gateway.types import ModelCard
from protocols.grpc.generated.upb import inference as pb
from protocols.grpc.inference import Inference
from protocols.grpc.server import Server
from tests.protocols.grpc.inference_fakes import EVENTS, JSON, FakeCore

PREFIX = "/inference.v1.InferenceService/"
CHAT = pb.CreateChatCompletionRequest(model="m", messages=[pb.ChatMessage(role="user", text="hi")])
STREAM = pb.StreamChatCompletionRequest(request=CHAT)
WHOLE = b'{"id": "c1", "model": "m", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}'
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_T = TypeVar("_T")


def event(**members: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(members).encode()


async def whole(exchange: Exchange) -> None:
    await exchange.start(200, (JSON, (b"x-ratelimit-remaining-requests", b"3")))
    await exchange.finish(WHOLE)


def unary(channel: grpc.Channel, name: str) -> Any:
    return channel.unary_unary(
        PREFIX + name,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(pb, f"{name}Response").FromString,
    )


def streaming(channel: grpc.Channel, name: str) -> Any:
    return channel.unary_stream(
        PREFIX + name,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(pb, f"{name}Response").FromString,
    )


def play(core: FakeCore, client: Callable[[grpc.Channel], _T], *, retries: bool = False) -> _T:
    """``client`` in a thread, with a channel to a server that stands on ``core``."""

    def talk(port: int) -> _T:
        options = [("grpc.service_config", json.dumps(RETRIES))] if retries else [("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            return client(channel)

    async def main() -> _T:
        listeners = await open_listeners("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            server = Server([Inference(core)], listeners)
            await nursery.start(server.run)
            try:
                return await trio.to_thread.run_sync(talk, listeners[0].address[1])
            finally:
                nursery.cancel_scope.cancel()

    return trio.run(main)


def test_a_whole_answer_and_its_metadata() -> None:
    core = FakeCore(whole)

    def client(channel: grpc.Channel) -> tuple[Any, dict[str, str]]:
        answer, call = unary(channel, "CreateChatCompletion").with_call(
            CHAT, timeout=30, metadata=[("x-request-id", "mine"), ("x-session-id", "s1")]
        )
        return answer, dict(call.initial_metadata())

    answer, initial = play(core, client)
    assert answer.choices[0].message.content == "yes"
    assert (initial["x-request-id"], initial["x-ratelimit-remaining-requests"]) == ("mine", "3")
    request = core.seen[0].request
    assert (b"x-session-id", b"s1") in request.headers
    assert request.identity.user == ""
    assert request.deadline < math.inf


def test_a_stream() -> None:
    async def answers(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        for text in "abc":
            await exchange.send(event(id="c1", choices=[{"delta": {"content": text}}]))
        await exchange.finish(event(choices=[], usage={"completion_tokens": 3}) + b"data: [DONE]\n\n")

    told = play(FakeCore(answers), lambda channel: list(streaming(channel, "StreamChatCompletion")(STREAM)))
    assert [it.choices[0].delta.content for it in told[:-1]] == ["a", "b", "c"]
    assert told[-1].usage.completion_tokens == 3


def refused(name: str, message: Any, channel: grpc.Channel) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        unary(channel, name)(message)
    return raised.value


def test_a_refusal_and_its_details() -> None:
    async def fails(exchange: Exchange) -> None:
        await exchange.fail(RateLimited("zu viel — später", retry_after=2.5, limit="tokens"))

    error: Any = play(FakeCore(fails), partial(refused, "CreateChatCompletion", CHAT))
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "zu viel — später")
    status = rpc_status.from_call(error)
    assert status is not None
    kinds = [part.type_url.rpartition(".")[2] for part in status.details]
    assert kinds == ["ErrorInfo", "QuotaFailure", "RetryInfo", "RequestInfo"]
    info = details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("RATE_LIMITED", "infer-gateway.dev")
    trailing = dict(error.trailing_metadata())
    assert trailing["x-request-id"].startswith("req-")
    assert trailing["retry-after"] == "3"


@pytest.mark.parametrize("message", ["x" * 2000, "ß" * 2000, "語" * 2000])
def test_a_long_text_does_not_make_a_status_too_large_for_clients(message: str) -> None:
    async def fails(exchange: Exchange) -> None:
        await exchange.fail(UpstreamError(message, status=400, param="p" * 500))

    error: Any = play(FakeCore(fails), partial(refused, "CreateChatCompletion", CHAT))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(message[:300])


def test_clients_repeat_by_themselves_what_may_be_repeated_and_nothing_else() -> None:
    async def full(exchange: Exchange) -> None:
        if len(core.seen) < 3:
            await exchange.fail(Overloaded("full"))
        else:
            await whole(exchange)

    core = FakeCore(full)
    answer = play(core, lambda channel: unary(channel, "CreateChatCompletion")(CHAT), retries=True)
    assert answer.id == "c1"
    assert len(core.seen) == 3

    async def breaks(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        await exchange.send(event(choices=[{"delta": {"content": "a"}}]))
        await exchange.fail(UpstreamError("the engine died"))

    def client(channel: grpc.Channel) -> grpc.StatusCode:
        call = streaming(channel, "StreamChatCompletion")(STREAM)
        next(call)
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        code: grpc.StatusCode = raised.value.code()
        return code

    core = FakeCore(breaks)
    assert play(core, client, retries=True) == grpc.StatusCode.UNAVAILABLE
    assert len(core.seen) == 1


@pytest.mark.parametrize("ending", ["cancelled", "late"])
def test_a_client_that_gives_up_cancels_its_call(ending: str) -> None:
    left = trio.Event()

    async def waits(exchange: Exchange) -> None:
        try:
            await exchange.start(200, (EVENTS,))
            await exchange.send(event(choices=[{"delta": {"content": "a"}}]))
            await trio.sleep_forever()
        finally:
            left.set()

    def client(channel: grpc.Channel) -> grpc.StatusCode:
        call = streaming(channel, "StreamChatCompletion")(STREAM, timeout=1 if ending == "late" else None)
        next(call)
        if ending == "cancelled":
            call.cancel()
        with pytest.raises(grpc.RpcError):
            next(call)
        trio.from_thread.run(left.wait)
        code: grpc.StatusCode = call.code()
        return code

    code = play(FakeCore(waits), client)
    assert code == {"late": grpc.StatusCode.DEADLINE_EXCEEDED, "cancelled": grpc.StatusCode.CANCELLED}[ending]


def test_models() -> None:
    core = FakeCore(whole, [ModelCard("b"), ModelCard("a")])

    def client(channel: grpc.Channel) -> list[str]:
        page = unary(channel, "ListModels")(pb.ListModelsRequest(page_size=1))
        rest = unary(channel, "ListModels")(pb.ListModelsRequest(page_token=page.next_page_token))
        one = unary(channel, "GetModel")(pb.GetModelRequest(model="b"))
        return [page.models[0].id, rest.models[0].id, one.model.id]

    assert play(core, client) == ["a", "b", "b"]
    error: Any = play(core, partial(refused, "GetModel", pb.GetModelRequest(model="c")))
    assert error.code() == grpc.StatusCode.NOT_FOUND


def test_bytes_that_are_no_message() -> None:
    def client(channel: grpc.Channel) -> grpc.StatusCode:
        ask = channel.unary_unary(f"{PREFIX}CreateChatCompletion")
        with pytest.raises(grpc.RpcError) as raised:
            ask(b"\xff\xff\xff")
        code: grpc.StatusCode = raised.value.code()
        return code

    assert play(FakeCore(whole), client) == grpc.StatusCode.INTERNAL
