"""Chats for Anthropic: what is translated, what is refused, and by which path a mistake is named."""

import contextlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.anthropic import Anthropic
from adapters.anthropic_request import BUDGETS, DEFAULT_MAX_TOKENS
from gateway.errors import InvalidRequest, NotFound, Unsupported
from gateway.types import Endpoint, Headers, Operation
from tests.adapters.recorded import endpoint, request, run

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}


def sent(messages: Any = HI, **members: Any) -> dict[str, Any]:
    """The body Anthropic gets for a chat."""
    body = json.dumps({"model": "tiny", "messages": messages, **members}).encode()
    made = Anthropic().encode(request(body, stream=bool(members.get("stream"))), endpoint(), "claude")
    assert made.path == b"/v1/messages"
    decoded = json.loads(made.body)
    assert isinstance(decoded, dict)
    return decoded


def turns(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    made = sent(list(messages))["messages"]
    assert isinstance(made, list)
    return made


def asked(name: str, arguments: str, ident: str = "c1") -> dict[str, Any]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_small_chat() -> None:
    assert sent(
        max_tokens=7, temperature=0.5, top_p=0.9, top_k=5, stream=True, stream_options={"include_usage": True}
    ) == {
        "model": "claude",
        "messages": HI,
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stream": True,
    }


def test_a_limit_is_always_sent_and_the_newer_name_wins() -> None:
    assert sent()["max_tokens"] == DEFAULT_MAX_TOKENS
    assert sent(max_tokens=None)["max_tokens"] == DEFAULT_MAX_TOKENS
    assert sent(max_tokens=7, max_completion_tokens=9)["max_tokens"] == 9


def test_system_messages_stand_before_the_turns_wherever_they_stood() -> None:
    one = [{"role": "system", "content": "Be brief."}, *HI]
    assert (sent(one)["system"], sent(one)["messages"]) == ("Be brief.", HI)
    cached = {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}
    two = [{"role": "developer", "content": "a"}, *HI, {"role": "system", "content": [cached]}]
    assert sent(two)["system"] == [{"type": "text", "text": "a"}, cached]
    assert sent(two)["messages"] == HI
    assert "system" not in sent([{"role": "system", "content": ""}, *HI])


def test_turns_alternate() -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    made = turns(user, user, {"role": "user", "content": [{"type": "text", "text": "c"}]}, assistant, assistant, user)
    assert [turn["role"] for turn in made] == ["user", "assistant", "user"]
    assert [block["text"] for block in made[0]["content"]] == ["a", "a", "c"]
    assert [block["text"] for block in made[1]["content"]] == ["b", "b"]


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool", "system"]), st.text(max_size=3))))
def test_turns_alternate_whatever_is_said(said: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text, "tool_call_id": "c"} for role, text in said]
    roles = [turn["role"] for turn in turns(*messages)]
    assert all(a != b for a, b in pairwise(roles))
    kept = json.dumps(sent(messages))
    assert all(json.dumps(text) in kept for role, text in said if text)


def test_calls_and_their_results() -> None:
    made = turns(
        *HI,
        {"role": "assistant", "content": "let me see", "tool_calls": [asked("f", '{"a": 1}'), asked("g", "", "c2")]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]},
        {"role": "user", "content": "so?"},
    )
    assert made[1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "let me see"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "2"}]},
                {"type": "text", "text": "so?"},
            ],
        },
    ]


@pytest.mark.parametrize("spoilt", ['{"a": 1', "[1]", "5", '"x"', "NaN", "[" * 100_000])
def test_arguments_that_are_no_object_are_kept_as_text(spoilt: str) -> None:
    made = turns(*HI, {"role": "assistant", "content": None, "tool_calls": [asked("f", spoilt)]})
    assert made[1]["content"][0]["input"] == {"INVALID_JSON": spoilt}


def test_thoughts_go_back_as_they_came() -> None:
    whole = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    call = {"role": "assistant", "content": "let me see", "tool_calls": [asked("f", "{}")]}
    made = turns(*HI, {**call, "thinking_blocks": [whole, hidden]})[1]["content"]
    assert made[:2] == [whole, hidden]
    assert [block["type"] for block in made[2:]] == ["text", "tool_use"]
    signed = {**call, "reasoning_content": "hm", "thinking_blocks": [{"type": "thinking", "signature": "s"}]}
    assert turns(*HI, signed)[1]["content"][0] == whole
    several = {**signed, "thinking_blocks": [{"type": "thinking", "signature": name} for name in "st"]}
    assert [block["type"] for block in turns(*HI, several)[1]["content"]] == ["text", "tool_use"]


def test_pictures_and_files() -> None:
    parts = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
    ]
    assert turns({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            "title": "a.pdf",
        },
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "made"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("required", None, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ({"type": "function", "function": {"name": "f"}}, True, {"type": "tool", "name": "f"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
    ],
)
def test_tools(choice: Any, parallel: bool | None, made: Any) -> None:
    bare = {"type": "function", "function": {"name": "g", "strict": True}}
    got = sent(tools=[TOOL, bare], tool_choice=choice, parallel_tool_calls=parallel)
    assert got.get("tool_choice") == made
    assert got["tools"] == [
        {"name": "f", "description": "d", "input_schema": SCHEMA},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]
    assert "tool_choice" not in sent(tools=[], tool_choice="auto")


def test_members_by_other_names() -> None:
    got = sent(stop="x", user="ann", response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})
    assert got["stop_sequences"] == ["x"]
    assert got["metadata"] == {"user_id": "ann"}
    assert got["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert sent(stop=["x", "y"])["stop_sequences"] == ["x", "y"]
    both = sent(output_config={"effort": "low"}, response_format={"type": "json_schema", "json_schema": {"schema": {}}})
    assert both["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": {}}}


@pytest.mark.parametrize("effort", BUDGETS)
def test_an_effort_is_a_budget_within_the_limit(effort: str) -> None:
    free = sent(reasoning_effort=effort)
    assert free["thinking"] == {"type": "enabled", "budget_tokens": BUDGETS[effort]}
    assert free["max_tokens"] == DEFAULT_MAX_TOKENS + BUDGETS[effort]
    tight = sent(reasoning_effort=effort, max_tokens=2048)
    assert tight["thinking"]["budget_tokens"] == 1024
    assert tight["max_tokens"] == 2048
    with pytest.raises(Unsupported, match="2048"):
        sent(reasoning_effort=effort, max_tokens=2047)


def test_there_is_no_thinking_where_the_thoughts_behind_calls_were_not_kept() -> None:
    call = {"role": "assistant", "tool_calls": [asked("f", "{}")]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    assert "thinking" not in sent([*HI, call, result], reasoning_effort="low")
    kept = {**call, "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    assert sent([*HI, kept, result], reasoning_effort="low")["thinking"]["type"] == "enabled"
    assert sent([*HI, call, result], reasoning_effort="none")["thinking"] == {"type": "disabled"}


def test_no_effort_and_what_the_client_says_in_anthropics_words() -> None:
    assert sent(reasoning_effort="none")["thinking"] == {"type": "disabled"}
    said = {"type": "adaptive"}
    assert sent(reasoning_effort="high", thinking=said)["thinking"] == said
    assert "thinking" not in sent(reasoning_effort=None)


def test_what_is_unknown_goes_along_and_what_is_of_no_consequence_does_not() -> None:
    assert sent(container="x", speed="fast") == {**sent(), "container": "x", "speed": "fast"}
    idle = {"store": True, "metadata": {"a": "b"}, "service_tier": "flex", "n": 1, "seed": None, "logprobs": False}
    assert sent(**idle, presence_penalty=0, priority=3, modalities=["text"]) == sent()


@pytest.mark.parametrize(
    "members",
    [
        {"n": 2},
        {"temperature": 1.5},
        {"logprobs": True},
        {"logit_bias": {"1": 2}},
        {"seed": 7},
        {"seed": 0},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"functions": [{}]},
        {"modalities": ["audio"]},
        {"prediction": {"type": "content"}},
        {"web_search_options": {"a": 1}},
        {"guided_json": SCHEMA},
        {"min_p": 0.1},
        {"chat_template_kwargs": {"a": 1}},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
    ],
)
def test_what_anthropic_cannot_do_is_refused_by_name(members: dict[str, Any]) -> None:
    name = list(members)[-1]
    with pytest.raises(Unsupported, match=name) as caught:
        sent(**members)
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}], "messages[0].content[0].file"),
        ([{"role": "assistant", "function_call": {"name": "f"}}], "messages[0].function_call"),
    ],
)
def test_content_of_other_kinds_is_refused_where_it_stands(messages: Any, param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        sent(messages)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": 5}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"role": 5}]}, "messages[0].role"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*HI, {"role": "user", "content": [{"text": "x"}]}]}, "messages[1].content[0]"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "ftp://x"}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"stop": [7]}, "stop[0]"),
        ({"tools": [{"type": "function", "function": {"name": 7}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"reasoning_effort": "vast"}, "reasoning_effort"),
        ({"user": 5}, "user"),
    ],
)
def test_mistakes_are_named_by_their_path(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(**members)
    assert (caught.value.param, caught.value.status) == (param, 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["messages", "max_tokens", "stop", "tools", "tool_choice", "user", "reasoning_effort", "response_format", "n", "x"]
)
EFFORT = st.fixed_dictionaries({}, optional={"reasoning_effort": st.sampled_from(["low", "none"])})
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "file", "refusal"]) | JSON},
    optional={"text": JSON, "image_url": JSON, "file": JSON, "cache_control": JSON},
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"]) | JSON},
    optional={
        "content": st.lists(PARTS, max_size=3) | JSON,
        "tool_calls": st.just([asked("f", "{}")]) | JSON,
        "tool_call_id": JSON,
        "thinking_blocks": st.lists(st.dictionaries(st.just("type") | st.text(max_size=3), JSON, max_size=2)) | JSON,
    },
)


@given(st.dictionaries(NAMES, JSON, max_size=4), EFFORT, st.lists(MESSAGES, max_size=3) | JSON)
def test_whatever_is_asked_is_translated_or_the_callers_mistake(
    members: dict[str, Any], effort: dict[str, str], messages: Any
) -> None:
    body = json.dumps({"model": "m", "messages": messages, **members, **effort}).encode()
    with contextlib.suppress(InvalidRequest):
        assert json.loads(Anthropic().encode(request(body), endpoint(), "m").body)["model"] == "m"


# --- the head of the request ------------------------------------------------------------------------------------------


def fields(operation: Operation, headers: Headers = (), own: tuple[tuple[bytes, bytes], ...] = ()) -> Headers:
    body = json.dumps({"model": "tiny", "messages": HI, "max_tokens": 7}).encode()
    where = Endpoint("anthropic", "https", "a.test", 443, headers=own)
    return Anthropic().encode(request(body, operation=operation, headers=headers), where, "tiny").extra


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.MESSAGES])
def test_a_version_is_told_once(operation: Operation) -> None:
    assert (b"anthropic-version", b"2023-06-01") in fields(operation)
    configured = fields(operation, own=((b"anthropic-version", b"2024-01-01"),))
    assert b"anthropic-version" not in dict(configured)


def test_who_speaks_anthropics_api_names_its_version_and_betas() -> None:
    theirs = [(b"anthropic-version", b"2024-01-01"), (b"anthropic-beta", b"a,b"), (b"x-api-key", b"secret")]
    got = dict(fields(Operation.MESSAGES, theirs))
    assert (got[b"anthropic-version"], got[b"anthropic-beta"]) == (b"2024-01-01", b"a,b")
    assert b"x-api-key" not in got
    assert dict(fields(Operation.CHAT, theirs)).get(b"anthropic-beta") is None


def test_messages_go_through_as_they_are() -> None:
    body = b'{"model":"tiny", "messages":[{"role":"user","content":"hi"}],"max_tokens":7,"stream":true}'
    made = Anthropic().encode(request(body, operation=Operation.MESSAGES, stream=True), endpoint(), "tiny")
    assert (made.path, made.body) == (b"/v1/messages", body)


def test_tokens_are_counted_by_anthropic() -> None:
    body = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'
    asked = request(body, operation=Operation.COUNT_TOKENS)
    made = Anthropic().encode(asked, endpoint(), "claude")
    assert (made.path, json.loads(made.body)) == (b"/v1/messages/count_tokens", {"model": "claude", "messages": HI})
    assert (b"anthropic-version", b"2023-06-01") in made.extra
    counts = Anthropic().decoder(asked, 200, [(b"content-type", b"application/json")])
    assert run(counts, [b'{"input_tokens":7}']) == b'{"input_tokens":7}'


def test_a_base_path_that_names_a_version() -> None:
    assert Anthropic().encode(request(), endpoint("/v1"), "tiny").path == b"/messages"


@pytest.mark.parametrize("operation", [Operation.COMPLETIONS, Operation.EMBEDDINGS, Operation.RESPONSES])
def test_what_anthropic_does_not_offer(operation: Operation) -> None:
    with pytest.raises(NotFound, match=operation.value):
        Anthropic().encode(request(operation=operation), endpoint(), "tiny")
