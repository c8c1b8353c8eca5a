"""inference.v1 through the program: the same answers as over HTTP, from every kind of engine, to the same people."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc_status import rpc_status
from openai import OpenAI

from protocols.grpc.generated.upb import inference as pb
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import pool, settings, written
from tests.whole.test_sdk import FORCED, QUESTION, WEATHER

PREFIX = "/inference.v1.InferenceService/"
TURNS = [pb.ChatMessage(role=turn["role"], text=turn["content"]) for turn in QUESTION]
GREEDY = {"max_tokens": 16, "temperature": 0.0, "seed": 7}
NOTICED_S = 1.0
"""Ten times the 100 ms in which it is noticed: the machine may be busy."""


@pytest.fixture
def channel(gateway: InferGateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gateway.ready["grpc"]) as opened:
        yield opened


def ask(channel: grpc.Channel, name: str, message: Any, **metadata: str) -> Any:
    call = channel.unary_unary(
        PREFIX + name,
        request_serializer=lambda it: it.SerializeToString(),
        response_deserializer=getattr(pb, f"{name}Response").FromString,
    )
    return call(message, timeout=30, metadata=[*metadata.items()])


def stream(channel: grpc.Channel, name: str, message: Any) -> Any:
    call = channel.unary_stream(
        PREFIX + name,
        request_serializer=lambda it: it.SerializeToString(),
        response_deserializer=getattr(pb, f"{name}Response").FromString,
    )
    return call(message, timeout=30)


def chat(model: str, **fields: Any) -> Any:
    return pb.CreateChatCompletionRequest(model=model, messages=TURNS, **fields)


def test_a_chat_is_the_same_as_over_http(client: OpenAI, channel: grpc.Channel, model: str) -> None:
    over_http = client.chat.completions.create(model=model, messages=QUESTION, **GREEDY)
    told = ask(channel, "CreateChatCompletion", chat(model, **GREEDY))
    assert told.model == model
    assert told.choices[0].message.content == over_http.choices[0].message.content
    assert told.choices[0].message.role == "assistant"
    assert over_http.usage is not None
    assert told.usage.prompt_tokens == over_http.usage.prompt_tokens
    assert told.usage.completion_tokens == over_http.usage.completion_tokens
    assert told.usage.total_tokens == over_http.usage.total_tokens


def test_a_streamed_chat_is_the_whole_one_in_pieces_and_tells_its_usage_last(channel: grpc.Channel, model: str) -> None:
    whole = ask(channel, "CreateChatCompletion", chat(model, **GREEDY))
    asked = pb.StreamChatCompletionRequest(request=chat(model, **GREEDY))
    *pieces, last = stream(channel, "StreamChatCompletion", asked)
    assert pieces[0].id
    assert pieces[0].model == model
    text = "".join(choice.delta.content for piece in pieces for choice in piece.choices)
    assert text == whole.choices[0].message.content
    assert [choice.finish_reason for piece in pieces for choice in piece.choices if choice.finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert not last.choices
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_a_completion_whole_and_streamed(client: OpenAI, channel: grpc.Channel, model: str) -> None:
    over_http = client.completions.create(model=model, prompt="Once upon a time", **GREEDY)
    asked = pb.CreateCompletionRequest(model=model, prompt=[pb.Prompt(text="Once upon a time")], **GREEDY)
    told = ask(channel, "CreateCompletion", asked)
    assert told.choices[0].text == over_http.choices[0].text
    *pieces, last = stream(channel, "StreamCompletion", pb.StreamCompletionRequest(request=asked))
    assert "".join(choice.text for piece in pieces for choice in piece.choices) == told.choices[0].text
    assert last.usage.total_tokens == told.usage.total_tokens


def test_a_forced_tool_call_whole_and_in_pieces(client: OpenAI, channel: grpc.Channel) -> None:
    over_http = client.chat.completions.create(
        model="demo-vllm", messages=QUESTION, tools=[WEATHER], tool_choice=FORCED, **GREEDY
    )
    schema = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
    function = pb.FunctionDefinition(name="get_weather", description="The weather in a city", parameters_json=schema)
    asked = chat(
        "demo-vllm",
        tools=[pb.Tool(function=function)],
        tool_choice=pb.ToolChoice(function="get_weather"),
        **GREEDY,
    )
    (call,) = ask(channel, "CreateChatCompletion", asked).choices[0].message.tool_calls
    expected = (over_http.choices[0].message.tool_calls or [])[0].function
    assert (call.function.name, call.function.arguments) == (expected.name, expected.arguments)
    told = stream(channel, "StreamChatCompletion", pb.StreamChatCompletionRequest(request=asked))
    pieces = [piece for message in told for choice in message.choices for piece in choice.delta.tool_calls]
    assert pieces[0].id
    assert "".join(piece.function.name for piece in pieces) == "get_weather"
    assert "".join(piece.function.arguments for piece in pieces) == expected.arguments


def test_vectors_are_those_that_the_sdk_gets(client: OpenAI, channel: grpc.Channel) -> None:
    over_http = client.embeddings.create(model="demo-vllm", input=["a", "b"], encoding_format="float")
    inputs = [pb.Prompt(text="a"), pb.Prompt(text="b")]
    told = ask(channel, "CreateEmbedding", pb.CreateEmbeddingRequest(model="demo-vllm", input=inputs))
    assert len(told.data) == 2
    for vector, expected in zip(told.data, over_http.data, strict=True):
        assert list(vector.embedding) == pytest.approx(expected.embedding)
    assert told.usage.prompt_tokens == over_http.usage.prompt_tokens


@pytest.mark.parametrize("model", ["demo-vllm", "demo-sglang", "demo-tgi"])
def test_tokens_are_counted_as_over_http(gateway: InferGateway, channel: grpc.Channel, model: str) -> None:
    over_http = httpx.post(f"{gateway.url}/tokenize", json={"model": model, "prompt": "hello there, world"}).json()
    asked = pb.CountTokensRequest(model=model, prompt="hello there, world", return_tokens=True)
    told = ask(channel, "CountTokens", asked)
    assert (told.count, list(told.tokens)) == (over_http["count"], over_http["tokens"])
    assert (told.max_model_len or None) == over_http["max_model_len"]


def test_models_are_those_listed_over_http(client: OpenAI, channel: grpc.Channel) -> None:
    told = ask(channel, "ListModels", pb.ListModelsRequest()).models
    assert [model.id for model in told] == sorted(model.id for model in client.models.list())
    one = ask(channel, "GetModel", pb.GetModelRequest(model="demo-vllm")).model
    assert one in told


def refusal(channel: grpc.Channel, name: str, message: Any, **metadata: str) -> tuple[grpc.StatusCode, str, Any]:
    """The status, its ErrorInfo's reason and the error itself."""
    with pytest.raises(grpc.RpcError) as raised:
        ask(channel, name, message, **metadata)
    error: Any = raised.value
    status = rpc_status.from_call(error)
    assert status is not None
    info = details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason, error


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (chat("nobody-serves-this"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (pb.CreateChatCompletionRequest(model="demo-vllm"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (chat("demo-vllm", max_tokens=10**9), grpc.StatusCode.INVALID_ARGUMENT, None),
        (chat("demo-tgi", n=3), grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_PARAMETER"),
    ],
)
def test_a_refusal_says_why(channel: grpc.Channel, message: Any, code: grpc.StatusCode, reason: str | None) -> None:
    got, named, error = refusal(channel, "CreateChatCompletion", message)
    assert got == code
    assert reason in (None, named)
    assert dict(error.trailing_metadata())["x-request-id"]


def running(engine: InferGateway) -> int:
    """How many requests the engine works for, by its own account."""
    answer = raw.exchange(engine.address, raw.get("/metrics", "connection: close"))
    assert answer is not None
    found = re.search(rb"^vllm:num_requests_running\{[^}]*\} ([0-9.]+)$", answer.body, re.MULTILINE)
    assert found, answer.body
    return int(float(found[1]))


@pytest.fixture(scope="module")
def slow() -> Iterator[InferGateway]:
    """Slow on both sides of the first token."""
    with simulate("vllm", "m", "--ttft", "0.5", "--itl", "0.05") as engine:
        yield engine


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
@pytest.mark.parametrize("phase", ["before the first token", "streaming", "not streaming"])
def test_a_client_that_leaves_frees_its_engine(slow: InferGateway, how: str, phase: str) -> None:
    asked = chat("m", max_tokens=1000)
    with serve("--backend", f"vllm={slow.url}") as gateway, grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        name = "CreateChatCompletion" if phase == "not streaming" else "StreamChatCompletion"
        message = asked if phase == "not streaming" else pb.StreamChatCompletionRequest(request=asked)
        start: Any = (channel.unary_unary if phase == "not streaming" else channel.unary_stream)(
            PREFIX + name, request_serializer=lambda it: it.SerializeToString()
        )
        start = start.future if phase == "not streaming" else start
        call = start(message, timeout=2.0 if how == "deadline" else None)
        if phase == "streaming":
            assert [next(call) for _ in range(3)]
        assert eventually(lambda: running(slow) == 1)
        if how == "cancel":
            call.cancel()
        elif how == "close":
            channel.close()
        assert eventually(lambda: running(slow) == 0, within_s=NOTICED_S + (2.0 if how == "deadline" else 0.0))


def test_who_may_ask_for_what_is_the_same(tmp_path: Path, slow: InferGateway) -> None:
    ann = {"name": "ann", "keySha256": hashlib.sha256(b"sk-ann-0123456789").hexdigest(), "models": ["open-*"]}
    file = written(tmp_path, pool("open-m", [slow]), pool("closed-m", [slow]), settings(auth={"apiKeys": [ann]}))
    with serve("-c", str(file)) as gateway, grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        code, reason, _ = refusal(channel, "ListModels", pb.ListModelsRequest())
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
        code, _, _ = refusal(channel, "CreateChatCompletion", chat("open-m"), authorization="Bearer wrong")
        assert code == grpc.StatusCode.UNAUTHENTICATED
        key = "Bearer sk-ann-0123456789"
        told = ask(channel, "ListModels", pb.ListModelsRequest(), authorization=key)
        assert [model.id for model in told.models] == ["open-m"]
        assert ask(channel, "CreateChatCompletion", chat("open-m", max_tokens=1), authorization=key).choices
        code, reason, _ = refusal(channel, "CreateChatCompletion", chat("closed-m"), authorization=key)
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
