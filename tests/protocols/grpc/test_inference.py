from __future__ import annotations

import gc
import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from google.rpc import error_details_pb2 as details_pb2
from google.rpc.status_pb2 import Status

from gateway.errors import Overloaded, RateLimited, Unauthorized, UpstreamError
from gateway.ports import Exchange
from gateway.types import Headers, Identity, ModelCard, Operation
from gateway.wire.grpc import Code, GrpcError
from protocols.grpc.exchange import GrpcExchange
from protocols.grpc.generated.inference.v1 import InferenceServiceBase
from protocols.grpc.generated.upb import inference as pb
from protocols.grpc.inference import Inference
from tests.protocols.grpc.inference_fakes import EVENTS, JSON, LATER, FakeCore, FakeStream

PREFIX = "/inference.v1.InferenceService/"
CHAT = pb.CreateChatCompletionRequest(model="m", messages=[pb.ChatMessage(role="user", text="hi")])
COMPLETION = pb.CreateCompletionRequest(model="m", prompt=[pb.Prompt(text="p")])
MESSAGES = {
    "CreateChatCompletion": (CHAT, Operation.CHAT, False),
    "StreamChatCompletion": (pb.StreamChatCompletionRequest(request=CHAT), Operation.CHAT, True),
    "CreateCompletion": (COMPLETION, Operation.COMPLETIONS, False),
    "StreamCompletion": (pb.StreamCompletionRequest(request=COMPLETION), Operation.COMPLETIONS, True),
    "CreateEmbedding": (
        pb.CreateEmbeddingRequest(model="m", input=[pb.Prompt(text="p")]),
        Operation.EMBEDDINGS,
        False,
    ),
    "CountTokens": (pb.CountTokensRequest(model="m", prompt="p"), Operation.TOKENIZE, False),
}
CARDS = [
    ModelCard("org/base", owned_by="vllm", max_model_len=4096),
    ModelCard("my-lora:v1", parent="org/base", created=7),
]
Handler = Callable[[Exchange], Awaitable[None]]


def event(**members: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(members).encode()


def piece(text: str) -> bytes:
    return event(id="c1", model="m", choices=[{"index": 0, "delta": {"content": text}}])


async def empty(exchange: Exchange) -> None:
    await exchange.start(200, (JSON,))
    await exchange.finish(b'{"data": []}')


async def call(name: str, stream: FakeStream, core: FakeCore) -> None:
    await Inference(core).__mapping__()[PREFIX + name].func(stream)


def ask(name: str, message: Any = None, core: FakeCore | None = None, headers: Headers = ()) -> FakeStream:
    """One call that succeeds."""
    stream = FakeStream(message or MESSAGES[name][0], headers)
    trio.run(call, name, stream, core or FakeCore(empty))
    return stream


def failing(
    name: str, core: FakeCore, message: Any = None, headers: Headers = ()
) -> tuple[FakeStream, GrpcError, dict[str, Any]]:
    """A call, the status it ends with, and the details of that by name."""
    stream = FakeStream(message or MESSAGES[name][0], headers)
    with pytest.raises(GrpcError) as raised:
        trio.run(call, name, stream, core)
    found = {}
    for part in Status.FromString(raised.value.details).details:
        kind = part.type_url.rpartition(".")[2]
        found[kind] = getattr(details_pb2, kind)()
        part.Unpack(found[kind])
    return stream, raised.value, found


def failed_with(error: Exception) -> FakeCore:
    async def fails(exchange: Exchange) -> None:
        raise error

    return FakeCore(fails)


def test_the_service_has_the_methods_of_the_generated_base() -> None:
    ours, base = Inference(FakeCore(empty)).__mapping__(), InferenceServiceBase().__mapping__()
    assert {path: handler.cardinality for path, handler in ours.items()} == {
        path: handler.cardinality for path, handler in base.items()
    }
    for path, handler in ours.items():
        assert handler.request_type.DESCRIPTOR.name == base[path].request_type.__name__
        assert handler.reply_type.DESCRIPTOR.name == base[path].reply_type.__name__


@pytest.mark.parametrize("name", MESSAGES)
def test_every_operation_reaches_the_core_as_it_does_over_http(name: str) -> None:
    core = FakeCore(empty)
    headers = ((b"authorization", b"Bearer x"), (b"x-request-id", b"mine"), (b"traceparent", b"00-1"))
    stream = ask(name, core=core, headers=headers)
    request = core.seen[0].request
    _, operation, streamed = MESSAGES[name]
    assert (request.operation, request.path, request.model) == (operation, operation.value, "m")
    assert (request.stream, request.include_usage) == (streamed, streamed)
    assert (request.id, request.protocol, request.headers) == ("mine", "grpc", headers)
    assert request.deadline == math.inf
    assert stream.initial == {"x-request-id": "mine"}


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, "é".encode()])
def test_ids_that_cannot_go_into_a_log_are_replaced(given: bytes) -> None:
    core = FakeCore(empty)
    stream = ask("CreateChatCompletion", core=core, headers=((b"x-request-id", given),))
    assert core.seen[0].request.id.startswith("req-")
    assert stream.initial == {"x-request-id": core.seen[0].request.id}


def test_a_deadline_goes_with_the_request() -> None:
    core = FakeCore(empty)

    async def main() -> float:
        at = trio.current_time() + 3
        await call("CreateChatCompletion", FakeStream(CHAT, deadline_at=at), core)
        return at

    assert trio.run(main, clock=trio.testing.MockClock()) == core.seen[0].request.deadline


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_whole_answer_in_pieces() -> None:
    async def answers(exchange: Exchange) -> None:
        await exchange.start(200, (JSON, (b"x-ratelimit-remaining-requests", b"3")))
        await exchange.send(b'{"id": "c1", "choices": [{"message"')
        await exchange.finish(b': {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]}')

    stream = ask("CreateChatCompletion", core=FakeCore(answers), headers=((b"x-request-id", b"r"),))
    assert stream.initial == {"x-request-id": "r", "x-ratelimit-remaining-requests": "3"}
    (answer,) = map(pb.CreateChatCompletionResponse.FromString, stream.sent)
    assert (answer.id, answer.choices[0].message.content, answer.choices[0].finish_reason) == ("c1", "yes", 1)
    assert stream.trailing == []


def test_a_stream_s_events_one_for_one_and_usage_last() -> None:
    async def answers(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        await exchange.send(piece("a") + piece("b"))
        exchange.keep_alive()
        await exchange.send(b": comment\n\n")
        await exchange.send(piece("c"))
        await exchange.finish(event(choices=[], usage={"prompt_tokens": 1}) + b"data: [DONE]\n\n")

    stream = ask("StreamChatCompletion", core=FakeCore(answers))
    told = [pb.StreamChatCompletionResponse.FromString(message) for message in stream.sent]
    assert [it.choices[0].delta.content for it in told[:-1]] == ["a", "b", "c"]
    assert told[-1].usage.prompt_tokens == 1
    assert not told[-1].choices


@pytest.mark.parametrize("wanted", [False, True])
def test_counted_tokens_are_told_if_they_are_wanted(wanted: bool) -> None:
    async def answers(exchange: Exchange) -> None:
        await exchange.start(200, (JSON,))
        await exchange.finish(b'{"count": 2, "tokens": [5, 6]}')

    asked = pb.CountTokensRequest(model="m", prompt="p", return_tokens=wanted)
    stream = ask("CountTokens", asked, FakeCore(answers))
    (told,) = map(pb.CountTokensResponse.FromString, stream.sent)
    assert (told.count, list(told.tokens)) == (2, [5, 6] if wanted else [])


def test_who_does_not_read_holds_up_its_own_call_only() -> None:
    async def answers(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        await exchange.send(piece("a"))
        await exchange.finish(piece("b"))

    async def main() -> None:
        stream = FakeStream(MESSAGES["StreamChatCompletion"][0])
        stream.full = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "StreamChatCompletion", stream, FakeCore(answers))
            await trio.testing.wait_all_tasks_blocked()
            assert len(stream.sent) == 1
            stream.read.set()
        assert len(stream.sent) == 2

    trio.run(main)


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MESSAGES)
def test_a_call_that_fails_before_its_answer_has_no_initial_metadata(name: str) -> None:
    stream, error, details = failing(
        name, failed_with(Overloaded("full", retry_after=2.0)), headers=((b"x-request-id", b"r"),)
    )
    assert (error.code, error.message) == (Code.UNAVAILABLE, "full")
    assert details["ErrorInfo"].reason == "OVERLOADED"
    assert details["RetryInfo"].retry_delay.seconds == 2
    assert details["RequestInfo"].request_id == "r"
    assert stream.initial is None
    assert stream.sent == []
    assert dict(stream.trailing) == {b"x-request-id": b"r", b"retry-after": b"2"}


@pytest.mark.usefixtures("uncollected")
def test_a_call_that_fails_needs_no_garbage_collector() -> None:
    async def full(exchange: Exchange) -> None:
        raise Overloaded("full")

    async def main() -> None:
        try:
            await call("StreamCompletion", FakeStream(MESSAGES["StreamCompletion"][0]), FakeCore(full))
        except GrpcError as error:
            failures.append(error.message)

    failures: list[str] = []

    def calls() -> int:
        return sum(isinstance(each, (GrpcExchange, FakeStream)) for each in gc.get_objects())

    before = calls()
    trio.run(main)
    assert failures == ["full"]
    assert calls() == before


def test_what_is_left_of_limits_is_told_by_a_refusal_too() -> None:
    error = RateLimited("slow down", retry_after=1.0, fields=[(b"x-ratelimit-remaining-tokens", b"0")], limit="tokens")

    async def fails(exchange: Exchange) -> None:
        await exchange.fail(error)  # as the core does

    stream, told, _ = failing("CreateChatCompletion", FakeCore(fails))
    assert told.code is Code.RESOURCE_EXHAUSTED
    assert dict(stream.trailing)[b"x-ratelimit-remaining-tokens"] == b"0"


def test_a_stream_that_breaks_keeps_what_was_sent_and_says_so() -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        await exchange.send(piece("a"))
        await exchange.fail(UpstreamError("the engine died"))
        await exchange.fail(Overloaded("too late"))

    stream, error, details = failing("StreamChatCompletion", FakeCore(breaks))
    assert len(stream.sent) == 1
    assert (error.code, error.message) == (Code.UNAVAILABLE, "the engine died")
    assert details["ErrorInfo"].reason == "STREAM_INTERRUPTED"
    assert details["ErrorInfo"].metadata["partial"] == "true"


def test_an_answer_that_does_not_fit_is_the_engine_s_failure() -> None:
    async def odd(exchange: Exchange) -> None:
        await exchange.start(200, (JSON,))
        with pytest.raises(UpstreamError) as raised:
            await exchange.finish(b'{"choices": 1}')
        await exchange.fail(raised.value)

    stream, error, _ = failing("CreateChatCompletion", FakeCore(odd))
    assert error.code is Code.UNAVAILABLE
    assert stream.sent == []


def test_what_is_wrong_with_a_message_is_a_refusal_that_is_noted() -> None:
    core = FakeCore(empty)
    asked = pb.CreateChatCompletionRequest(model="m")
    _, error, details = failing("CreateChatCompletion", core, asked, ((b"x-request-id", b"r"),))
    assert error.code is Code.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "messages"
    ((operation, reason, request_id, identity, protocol),) = core.refusals
    assert (operation, reason, request_id, protocol) == (Operation.CHAT, "invalid_request", "r", "grpc")
    assert identity is not None
    assert core.seen == []


@pytest.mark.parametrize("name", ["StreamChatCompletion", "StreamCompletion"])
def test_a_stream_request_without_a_request(name: str) -> None:
    _, error, details = failing(name, FakeCore(empty), getattr(pb, f"{name}Request")())
    assert error.code is Code.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "model"


def test_who_is_not_known_is_refused_before_the_message_is_looked_at() -> None:
    def nobody(headers: Headers, peer: str, subject: str) -> Identity | None:
        assert (peer, subject) == ("192.0.2.7", "proxy")
        raise Unauthorized

    core = FakeCore(empty, known=nobody)
    stream, error, details = failing("CreateChatCompletion", core, pb.CreateChatCompletionRequest())
    assert error.code is Code.UNAUTHENTICATED
    assert details["ErrorInfo"].reason == "INVALID_API_KEY"
    assert not stream.taken
    assert b"www-authenticate" not in dict(stream.trailing)
    assert [refusal[3] for refusal in core.refusals] == [None]


def test_who_has_to_be_asked_about_is_asked_about() -> None:
    core = FakeCore(empty, known=lambda headers, peer, subject: None)
    ask("CreateChatCompletion", core=core)
    assert core.seen[0].request.identity == LATER


def test_a_bug_ends_one_call_and_is_in_the_log_under_its_id(caplog: pytest.LogCaptureFixture) -> None:
    headers = ((b"x-request-id", b"r-7"),)
    with caplog.at_level(logging.ERROR):
        _, error, details = failing("CreateEmbedding", failed_with(ZeroDivisionError("secret")), headers=headers)
    assert error.code is Code.INTERNAL
    assert "secret" not in error.message
    assert "r-7" in error.message
    assert details["ErrorInfo"].reason == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text
    assert "r-7" in caplog.text


def test_a_client_that_resets_its_call_cancels_it_wherever_it_is() -> None:
    left = []

    async def waits(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            left.append(trio.current_time())

    async def main() -> None:
        stream = FakeStream(CHAT)
        with trio.move_on_after(2) as scope:
            await call("CreateChatCompletion", stream, FakeCore(waits))
        assert scope.cancelled_caught
        assert left == [trio.current_time()]
        assert stream.initial is None

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# -- models ----------------------------------------------------------------------------------------------------------


def page(core: FakeCore, **asked: Any) -> Any:
    stream = ask("ListModels", pb.ListModelsRequest(**asked), core)
    assert stream.initial is not None
    assert stream.initial["x-request-id"]
    (told,) = map(pb.ListModelsResponse.FromString, stream.sent)
    return told


def test_the_listing_of_models() -> None:
    told = page(FakeCore(empty, CARDS))
    assert told == pb.ListModelsResponse(
        models=[
            pb.Model(id="my-lora:v1", created=7, owned_by="infer-gateway", parent="org/base"),
            pb.Model(id="org/base", owned_by="vllm", max_model_len=4096),
        ]
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100])
def test_pages_hold_every_model_once_though_models_go(size: int) -> None:
    core = FakeCore(empty, [ModelCard(f"m{number}") for number in range(8)])
    seen: list[str] = []
    token = ""
    while True:
        told = page(core, page_size=size, page_token=token)
        assert 0 < len(told.models) <= size
        seen += [model.id for model in told.models]
        token = told.next_page_token
        if not token:
            break
        core.cards = [card for card in core.cards if card.id != token]
    assert seen == [f"m{number}" for number in range(8)]


def test_pages_have_a_size_unless_they_are_given_one() -> None:
    core = FakeCore(empty, [ModelCard(f"m{number:04}") for number in range(1100)])
    assert len(page(core).models) == 100
    assert len(page(core, page_size=5000).models) == 1000
    assert len(page(core, page_size=99, page_token="m1098").models) == 1


def test_a_page_of_negative_size() -> None:
    _, error, details = failing("ListModels", FakeCore(empty), pb.ListModelsRequest(page_size=-1))
    assert error.code is Code.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "page_size"


def test_models_that_the_caller_may_not_use_are_not_there() -> None:
    core = FakeCore(empty, CARDS, known=lambda headers, peer, subject: None)  # LATER: my-*
    assert [model.id for model in page(core).models] == ["my-lora:v1"]
    _, error, details = failing("GetModel", core, pb.GetModelRequest(model="org/base"))
    assert error.code is Code.NOT_FOUND
    assert details["ErrorInfo"].reason == "MODEL_NOT_FOUND"
    assert details["ResourceInfo"].resource_type == "model"
    stream = ask("GetModel", pb.GetModelRequest(model="my-lora:v1"), core)
    assert pb.GetModelResponse.FromString(stream.sent[0]).model.parent == "org/base"


@pytest.mark.parametrize("name", ["ListModels", "GetModel"])
def test_models_are_told_to_nobody_unknown(name: str) -> None:
    def nobody(headers: Headers, peer: str, subject: str) -> Identity | None:
        raise Unauthorized

    asked = getattr(pb, f"{name}Request")()
    stream, error, _ = failing(name, FakeCore(empty, CARDS, known=nobody), asked)
    assert error.code is Code.UNAUTHENTICATED
    assert not stream.taken
