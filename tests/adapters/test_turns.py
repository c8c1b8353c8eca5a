"""Messages as DeepSeek, Gemini and others want them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.llamacpp import LlamaCpp
from adapters.openai import OpenAI
from adapters.providers import DeepSeek, Gemini
from adapters.sglang import SGLang
from adapters.vllm import VLLM
from gateway.ports import Adapter
from tests.adapters.recorded import endpoint, request

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
THOUGHT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a", "reasoning": "b"}]


def sent(adapter: Adapter, messages: Any, **members: Any) -> dict[str, Any]:
    body = json.dumps({"model": "tiny", "messages": messages, **members}).encode()
    made = adapter.encode(request(body), endpoint(), "tiny").body
    decoded = json.loads(made)
    assert isinstance(decoded, dict)
    if decoded == json.loads(body):
        assert made == body  # nothing had to change: the client's bytes
    return decoded


@pytest.mark.parametrize("adapter", [SGLang(), LlamaCpp(), DeepSeek()])
def test_thoughts_go_by_the_name_the_engine_reads(adapter: Adapter) -> None:
    assert sent(adapter, THOUGHT)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
    ]


@pytest.mark.parametrize("adapter", [VLLM(), OpenAI(), Gemini()])
def test_elsewhere_they_stay_as_they_are(adapter: Adapter) -> None:
    assert sent(adapter, THOUGHT)["messages"] == THOUGHT


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "x", "reasoning": "not a thought"}],
        [{"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"}],
        [{"role": "user", "content": 'say "reasoning"'}],
        [],
        ["odd"],
        "odder",
        None,
    ],
)
def test_what_is_not_meant_stays_as_it_is(messages: Any) -> None:
    assert sent(SGLang(), messages, reasoning={"effort": "low"})["messages"] == messages


def test_deepseek_gets_a_thought_with_every_answer_while_it_is_to_think() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    on = sent(DeepSeek(), messages, thinking={"type": "enabled"})["messages"]
    assert on == [messages[0], {**messages[1], "reasoning_content": " "}]
    assert sent(DeepSeek(), messages, thinking={"type": "disabled"})["messages"] == messages
    assert sent(DeepSeek(), messages)["messages"] == messages
    kept = [{"role": "assistant", "content": "a", "reasoning": "b"}]
    assert sent(DeepSeek(), kept, thinking={"type": "enabled"})["messages"][0]["reasoning_content"] == "b"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "high"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ({"reasoning_effort": None}, {"reasoning_effort": None}),
        (
            {"reasoning_effort": "max", "thinking": {"type": "disabled"}},
            {"thinking": {"type": "disabled"}, "reasoning_effort": "max"},
        ),
    ],
)
def test_deepseek_is_told_whether_to_think(given: dict[str, Any], told: dict[str, Any]) -> None:
    made = sent(DeepSeek(), [], **given)
    assert {name: made[name] for name in made if name in ("thinking", "reasoning_effort")} == told


def test_gemini_gets_the_name_of_the_function_with_its_result_and_signatures_back() -> None:
    signed = {**CALL, "extra_content": {"google": {"thought_signature": "s+/="}}}
    messages = [
        {"role": "assistant", "tool_calls": [signed, {**CALL, "id": "c2", "function": {"name": "g"}}]},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c1", "content": "1", "name": "mine"},
        {"role": "tool", "tool_call_id": "c9", "content": "1"},
    ]
    made = sent(Gemini(), messages)["messages"]
    assert [turn.get("name") for turn in made] == [None, "g", "f", "mine", None]
    assert made[0] == messages[0]
    assert sent(Gemini(), [{"role": "tool", "tool_calls": 5, "tool_call_id": "x"}])
    assert sent(OpenAI(), messages)["messages"] == messages
