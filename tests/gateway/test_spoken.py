"""Conversations as the conventions write them, of every protocol's requests and answers, and of nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.spoken import answered, asked

HELLO = {"role": "user", "parts": [{"type": "text", "content": "hello"}]}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def told(body: Any) -> list[dict[str, Any]]:
    return json.loads(asked(json.dumps(body).encode(), 1000) or "[]")


def said(*events: Any) -> list[dict[str, Any]]:
    """Of a whole answer (one event), or of a stream of them."""
    lines = [json.dumps(event) for event in events]
    text = lines[0] if len(lines) == 1 else "".join(f"data: {line}\n\n" for line in lines) + "data: [DONE]\n\n"
    return json.loads(answered(text.encode(), 1000) or "[]")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        {"prompt": "hello"},
        {"prompt": ["hello"]},
        {"input": "hello"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]},
    ],
)
def test_a_question_however_it_is_put(body: Any) -> None:
    assert told(body) == [HELLO]


def test_instructions_tools_and_media() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "user", "content": [image]},
    ]
    answer = [{"type": "text", "content": "42"}]
    assert told({"system": "be brief", "messages": turns}) == [
        {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": answer}]},
        {"role": "user", "parts": [{"type": "image_url"}]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([{"choices": [{"index": 0, "message": {"content": "hi you"}, "finish_reason": "stop"}]}], "stop"),
        ([{"choices": [{"index": 0, "text": "hi you", "finish_reason": "stop"}]}], "stop"),
        (
            [
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"index": 0, "delta": {"content": "hi "}}]},
                {"choices": [{"index": 0, "delta": {"content": "you"}, "finish_reason": "length"}]},
                {"choices": [], "usage": {}},
            ],
            "length",
        ),
        ([{"type": "message", "content": [{"type": "text", "text": "hi you"}], "stop_reason": "end_turn"}], "end_turn"),
        (
            [
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi "}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "you"}},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            ],
            "end_turn",
        ),
        (
            [
                {"type": "response.output_text.delta", "delta": "hi "},
                {"type": "response.output_text.delta", "delta": "you"},
            ],
            None,
        ),
        (
            [
                {
                    "object": "response",
                    "status": "completed",
                    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi you"}]}],
                }
            ],
            "completed",
        ),
    ],
)
def test_an_answer_however_it_comes(events: list[Any], end: str | None) -> None:
    message = {"role": "assistant", "parts": [{"type": "text", "content": "hi you"}], "finish_reason": end}
    assert said(*events) == [message]


def test_a_call_of_a_tool() -> None:
    choice = {"index": 0, "message": {"content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}
    assert said({"choices": [choice]})[0]["parts"] == [{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}]


def test_text_is_cut() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "ä" * 90}] * 3}).encode()
    assert asked(body, 100).count("ä") == 100
    whole = json.dumps({"choices": [{"message": {"content": "ö" * 300}}]}).encode()
    assert answered(whole, 100).count("ö") == 100


NAMES = ["messages", "role", "content", "type", "text", "tool_calls", "function", "choices", "delta", "message"]
NAMES += ["index", "input", "prompt", "system", "output", "object"]
json_ = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_)
def test_nonsense_of_the_right_shape_raises_nothing(tree: Any) -> None:
    body = json.dumps(tree).encode()
    for text in (asked(body, 50), answered(body, 50), answered(b"data: " + body + b"\n\n", 50)):
        assert not text or isinstance(json.loads(text), list)


@given(st.binary(max_size=60))
def test_nonsense_raises_nothing(data: bytes) -> None:
    assert asked(data, 50) in ("", asked(data, 50))
    answered(data, 50)
    answered(b"data:" + data, 50)


def test_lone_surrogates_raise_nothing() -> None:
    for escaped in (rb'{"prompt":"\ud800"}', rb'{"choices":[{"text":"\udfff"}]}'):
        asked(escaped, 50)
        answered(escaped, 50)
    assert asked(b"[" * 100_000, 50) == ""
