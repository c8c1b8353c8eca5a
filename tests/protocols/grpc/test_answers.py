from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from protocols.grpc import answers
from protocols.grpc.generated.inference import v1 as typed
from protocols.grpc.generated.upb import inference as pb

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SMALL = st.integers(0, 2**31 - 1)
LOGPROB = st.floats(-100, 0)
REASONS = st.sampled_from([None, "stop", "length", "tool_calls", "content_filter", "function_call"])


def some(fields: dict[str, Any]):
    return st.fixed_dictionaries({}, optional={name: values | st.none() for name, values in fields.items()})


USAGE = some(
    {
        "prompt_tokens": SMALL,
        "completion_tokens": SMALL,
        "total_tokens": SMALL,
        "prompt_tokens_details": some({"cached_tokens": SMALL}),
        "completion_tokens_details": some({"reasoning_tokens": SMALL, "audio_tokens": SMALL}),
    }
)
TOP = {"token": TEXT, "logprob": LOGPROB, "bytes": st.lists(st.integers(0, 255), max_size=3)}
TOKEN = some(TOP | {"top_logprobs": st.lists(some(TOP), max_size=2)})
CALL = some({"index": SMALL, "id": TEXT, "type": TEXT, "function": some({"name": TEXT, "arguments": TEXT})})
MESSAGE = some(
    {
        "role": TEXT,
        "content": TEXT,
        "reasoning_content": TEXT,
        "refusal": TEXT,
        "tool_calls": st.lists(CALL, max_size=2),
        "annotations": st.just([]),
    }
)
LOGPROBS = some({"content": st.lists(TOKEN, max_size=2), "refusal": st.lists(TOKEN, max_size=2)})
ABOUT = {
    "id": TEXT,
    "object": TEXT,
    "created": SMALL,
    "model": TEXT,
    "usage": USAGE,
    "system_fingerprint": TEXT,
    "service_tier": TEXT,
}


def answer(member: str):
    choice = some({"index": SMALL, member: MESSAGE, "finish_reason": REASONS, "logprobs": LOGPROBS})
    return some(ABOUT | {"choices": st.lists(choice, max_size=3)})


def without(document: Any) -> Any:
    """The document without nulls: what a message cannot tell from absent."""
    if isinstance(document, dict):
        return {name: without(value) for name, value in document.items() if value is not None}
    return [without(value) for value in document] if isinstance(document, list) else document


def check_about(told: Any, said: dict[str, Any]) -> None:
    assert told.id == said.get("id", "")
    assert told.created == said.get("created", 0)
    assert told.model == said.get("model", "")
    assert told.system_fingerprint == said.get("system_fingerprint", "")
    assert told.HasField("usage") == ("usage" in said)
    usage = said.get("usage", {})
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (prompt, completion)
    if "usage" in said:
        assert told.usage.total_tokens == (usage.get("total_tokens") or prompt + completion)
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    reasoned = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    assert told.usage.prompt_tokens_details.cached_tokens == cached
    assert told.usage.completion_tokens_details.reasoning_tokens == reasoned


def check_message(told: Any, said: dict[str, Any], *, delta: bool) -> None:
    for name in ("role", "content", "reasoning_content", "refusal"):
        assert getattr(told, name) == said.get(name, "")
        if delta or name != "role":
            assert told.HasField(name) == (name in said)
    calls = said.get("tool_calls", [])
    assert len(told.tool_calls) == len(calls)
    for piece, call in zip(told.tool_calls, calls, strict=True):
        function = call.get("function", {})
        assert (piece.function.name, piece.function.arguments) == (
            function.get("name", ""),
            function.get("arguments", ""),
        )
        assert piece.id == call.get("id", "")
        if delta:
            assert piece.index == call.get("index", 0)


def check_tokens(told: Any, said: list[dict[str, Any]]) -> None:
    assert [(it.token, it.logprob) for it in told] == [(it.get("token", ""), it.get("logprob", 0.0)) for it in said]
    assert [it.token_bytes for it in told] == [bytes(it.get("bytes", ())) for it in said]
    assert [it.HasField("token_bytes") for it in told] == ["bytes" in it for it in said]


def check_choice(told: Any, said: dict[str, Any]) -> None:
    assert told.index == said.get("index", 0)
    reason = pb.DESCRIPTOR.enum_types_by_name["FinishReason"].values_by_number[told.finish_reason].name
    assert reason == "FINISH_REASON_" + said.get("finish_reason", "unspecified").upper()
    logprobs = said.get("logprobs", {})
    assert told.HasField("logprobs") == ("logprobs" in said)
    for name in ("content", "refusal"):
        check_tokens(getattr(told.logprobs, name), logprobs.get(name, []))
        for token, had in zip(getattr(told.logprobs, name), logprobs.get(name, []), strict=True):
            check_tokens(token.top_logprobs, had.get("top_logprobs", []))


@given(answer("message"))
def test_a_chat(document: dict[str, Any]) -> None:
    told = pb.CreateChatCompletionResponse.FromString(answers.chat(json.dumps(document).encode()))
    said = without(document)
    check_about(told, said)
    assert told.service_tier == said.get("service_tier", "")
    for choice, had in zip(told.choices, said.get("choices", []), strict=True):
        check_choice(choice, had)
        check_message(choice.message, had.get("message", {}), delta=False)


@given(answer("delta"))
def test_a_chat_s_event(document: dict[str, Any]) -> None:
    packed = answers.chat_event(json.dumps(document).encode())
    told = pb.StreamChatCompletionResponse.FromString(packed)
    said = without(document)
    check_about(told, said)
    for choice, had in zip(told.choices, said.get("choices", []), strict=True):
        check_choice(choice, had)
        check_message(choice.delta, had.get("delta", {}), delta=True)
    again = typed.StreamChatCompletionResponse.parse(packed)
    assert [it.index for it in again.choices] == [it.index for it in told.choices]
    assert pb.StreamChatCompletionResponse.FromString(bytes(again)) == told


COLUMNS = some(
    {
        "tokens": st.lists(TEXT, max_size=3),
        "token_logprobs": st.lists(LOGPROB | st.none(), max_size=3),
        "text_offset": st.lists(SMALL, max_size=3),
        "top_logprobs": st.lists(st.none() | st.dictionaries(TEXT, LOGPROB | st.none(), max_size=2), max_size=3),
    }
)
PIECE = some({"index": SMALL, "text": TEXT, "finish_reason": REASONS, "logprobs": COLUMNS})


@given(some(ABOUT | {"choices": st.lists(PIECE, max_size=3)}))
def test_a_completion_and_its_events(document: dict[str, Any]) -> None:
    packed = json.dumps(document).encode()
    told = pb.CreateCompletionResponse.FromString(answers.completion(packed))
    said = without({**document, "choices": None})
    check_about(told, said)
    for choice, had in zip(told.choices, document.get("choices") or [], strict=True):
        assert (choice.index, choice.text) == (had.get("index") or 0, had.get("text") or "")
        columns = had.get("logprobs") or {}
        assert [row.token for row in choice.logprobs.tokens] == (columns.get("tokens") or [])
        for row, logprob in zip(choice.logprobs.tokens, columns.get("token_logprobs") or (), strict=False):
            assert (row.logprob if row.HasField("logprob") else None) == logprob
        for row, offset in zip(choice.logprobs.tokens, columns.get("text_offset") or (), strict=False):
            assert row.text_offset == offset
        for row, tops in zip(choice.logprobs.tokens, columns.get("top_logprobs") or (), strict=False):
            assert dict(row.top_logprobs) == without(tops or {})
    event = pb.StreamCompletionResponse.FromString(answers.completion_event(packed))
    assert event.SerializeToString(deterministic=True) == told.SerializeToString(deterministic=True)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(FLOATS, max_size=100), max_size=3), st.booleans(), USAGE)
def test_vectors_in_base64_and_as_numbers(vectors: list[list[float]], binary: bool, usage: dict[str, Any]) -> None:
    def written(vector: list[float]) -> Any:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if binary else vector

    data = [{"index": at, "object": "embedding", "embedding": written(vector)} for at, vector in enumerate(vectors)]
    packed = answers.embeddings(json.dumps({"data": data, "model": "m", "usage": usage}).encode())
    told = pb.CreateEmbeddingResponse.FromString(packed)
    assert told.model == "m"
    assert [list(it.embedding) for it in told.data] == vectors
    assert [it.index for it in told.data] == list(range(len(vectors)))
    assert told.usage.prompt_tokens == (usage.get("prompt_tokens") or 0)


def test_what_was_counted() -> None:
    body = b'{"count": 3, "max_model_len": 4096, "tokens": [1, 2, 9223372036854775807]}'
    told = pb.CountTokensResponse.FromString(answers.count(body))
    assert told == pb.CountTokensResponse(count=3, max_model_len=4096)
    told = pb.CountTokensResponse.FromString(answers.tokens(body))
    assert told == pb.CountTokensResponse(count=3, max_model_len=4096, tokens=[1, 2, 2**63 - 1])
    told = pb.CountTokensResponse.FromString(answers.count(b'{"tokens": [7], "max_model_len": null}'))
    assert told == pb.CountTokensResponse(count=1)


@pytest.mark.parametrize(
    ("tell", "body"),
    [
        (answers.chat, b'{"choices": 1}'),
        (answers.chat, b"[]"),
        (answers.chat, b"{"),
        (answers.chat, b'{"choices": [{"index": 2147483648}]}'),
        (answers.chat_event, b'{"choices": [{"logprobs": {"content": [{"bytes": [256]}]}}]}'),
        (answers.chat_event, b'{"x": ' + b"[" * 100000),
        (answers.embeddings, b'{"data": [{"embedding": "AAA="}]}'),
        (answers.embeddings, b'{"data": [{"embedding": "!"}]}'),
        (answers.embeddings, b'{"data": [{"embedding": [1e300]}]}'),
        (answers.embeddings, b"{}"),
        (answers.tokens, b'{"tokens": [9223372036854775808]}'),
    ],
)
def test_an_answer_that_no_message_can_tell_is_the_engine_s_failure(tell: Any, body: bytes) -> None:
    with pytest.raises(UpstreamError, match="does not fit") as raised:
        tell(body)
    assert (raised.value.status, raised.value.retryable) == (502, False)


def test_what_engines_write_that_is_not_quite_json() -> None:
    body = b'{"choices": [{"message": {"content": "a\\ud83d"}, "logprobs": {"content": [{"logprob": NaN}]}}]}'
    (choice,) = pb.CreateChatCompletionResponse.FromString(answers.chat(body)).choices
    assert choice.message.content == "a?"
    assert choice.logprobs.content[0].logprob == 0.0
    assert not math.isnan(choice.logprobs.content[0].logprob)


def test_odd_spellings() -> None:
    body = json.dumps(
        {
            "created": 1.5,
            "choices": [
                {
                    "message": {"reasoning": "hm", "content": [{"type": "text", "text": "a"}, {"type": "x"}]},
                    "finish_reason": "eos",
                },
                {"finish_reason": ""},
            ],
        }
    ).encode()
    told = pb.CreateChatCompletionResponse.FromString(answers.chat(body))
    first, second = told.choices
    assert (told.created, first.message.content, first.message.reasoning_content) == (1, "a", "hm")
    assert (first.finish_reason, second.finish_reason) == (1, 0)


@given(st.lists(st.sampled_from(["a", "b", "comment", "done", "lines"]), max_size=6))
def test_events_in_one_chunk(kinds: list[str]) -> None:
    shapes = {
        "a": b'data: {"id":"a"}\n\n',
        "b": b'event: x\ndata:{"id":"b"}\n\n',
        "comment": b": keep-alive\n\n",
        "done": b"data: [DONE]\n\n",
        "lines": b'data: {"id":\ndata: "c"}\n\n',
    }
    told = answers.events(b"".join(shapes[kind] for kind in kinds), answers.chat_event)
    ids = [pb.StreamChatCompletionResponse.FromString(message).id for message in told]
    assert ids == [{"lines": "c"}.get(kind, kind) for kind in kinds if kind not in ("comment", "done")]


@pytest.mark.parametrize("odd", ["-5", "1e300", "10" * 20, '"7"', "[]", "{}", "NaN", "Infinity"])
def test_counts_that_cannot_be_do_not_make_an_answer_a_bad_one(odd: str) -> None:
    counts = b'"created":%b,"usage":{"prompt_tokens":%b,"total_tokens":%b}' % ((odd.encode(),) * 3)
    body = b'{"choices":[{"index":0,"message":{"content":"a"}}],%b}' % counts
    told = pb.CreateChatCompletionResponse.FromString(answers.chat(body))
    assert told.choices[0].message.content == "a"
    assert (told.created, told.usage.prompt_tokens, told.usage.total_tokens) == (0, 0, 0)
