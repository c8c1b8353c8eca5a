"""Messages for engines that know chats: what is translated, what is refused, and in whose words."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.openai import OpenAI
from adapters.providers import DeepSeek, Gemini, HuggingFace, Ollama, TensorRT
from adapters.tgi import TGI
from adapters.vllm import VLLM
from gateway.errors import InvalidRequest, Unsupported
from gateway.ports import Adapter
from gateway.types import Operation
from tests.adapters.recorded import endpoint, request

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA}
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def asked(adapter: Adapter, messages: Any = HI, **members: Any) -> tuple[bytes, dict[str, Any]]:
    """Where an engine is asked, and for what."""
    body = json.dumps({"model": "tiny", "max_tokens": 7, "messages": messages, **members}).encode()
    stream = bool(members.get("stream"))
    made = adapter.encode(request(body, operation=Operation.MESSAGES, stream=stream), endpoint(), "other")
    decoded = json.loads(made.body)
    assert isinstance(decoded, dict)
    return made.path, decoded


def sent(messages: Any = HI, **members: Any) -> dict[str, Any]:
    return asked(OpenAI(), messages, **members)[1]


def chat(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    made = sent(list(messages))["messages"]
    assert isinstance(made, list)
    return made


def test_a_small_request() -> None:
    assert asked(OpenAI(), temperature=0.5, top_p=0.9, stream=True) == (
        b"/v1/chat/completions",
        {
            "model": "other",
            "messages": HI,
            "max_completion_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )
    assert sent(stream=False) == {"model": "other", "messages": HI, "max_completion_tokens": 7}


@pytest.mark.parametrize(
    ("adapter", "path", "limit", "model"),
    [
        (OpenAI(), b"/v1/chat/completions", "max_completion_tokens", "other"),
        (HuggingFace(), b"/v1/chat/completions", "max_completion_tokens", "other"),
        (TensorRT(), b"/v1/chat/completions", "max_completion_tokens", "other"),
        (Gemini(), b"/chat/completions", "max_completion_tokens", "other"),
        (Ollama(), b"/v1/chat/completions", "max_tokens", "other"),
        (TGI(), b"/v1/chat/completions", "max_tokens", "tgi"),
    ],
)
def test_each_engine_is_asked_in_its_own_dialect(adapter: Adapter, path: bytes, limit: str, model: str) -> None:
    assert asked(adapter, stop_sequences=["x"]) == (
        path,
        {"model": model, "messages": HI, limit: 7, "stop": ["x"]},
    )


def test_engines_that_know_messages_get_them() -> None:
    assert asked(DeepSeek())[0] == b"/anthropic/v1/messages"
    assert asked(VLLM())[0] == b"/v1/messages"


@pytest.mark.parametrize(("version", "path"), [("0.11.1", "/v1/chat/completions"), ("0.11.2", "/v1/messages")])
def test_an_older_vllm_is_asked_for_a_chat(version: str, path: str) -> None:
    body = json.dumps({"model": "tiny", "max_tokens": 7, "messages": HI}).encode()
    where = endpoint(labels=(("version", version),))
    assert VLLM().encode(request(body, operation=Operation.MESSAGES), where, "tiny").path == path.encode()


def test_the_system_prompt() -> None:
    assert sent(system="Be brief.")["messages"] == [{"role": "system", "content": "Be brief."}, *HI]
    blocks = [{"type": "text", "text": text} for text in ("x-anthropic-billing-header: 7", "a", "b")]
    assert sent(system=[*blocks, {"type": "text", "text": ""}])["messages"][0]["content"] == "a\nb"
    assert sent(system="")["messages"] == sent(system=[])["messages"] == HI
    inline = chat(*HI, {"role": "system", "content": "now"})
    assert inline[1] == {"role": "system", "content": "now"}


def test_calls_and_their_results() -> None:
    made = chat(
        *HI,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "let me "},
                {"type": "text", "text": "see"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "t2", "name": "g", "input": {"INVALID_JSON": '{"a'}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "so?"},
                {"type": "tool_result", "tool_use_id": "t1", "content": "1", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "2"}, {"type": "image", "source": PNG}],
                },
                {"type": "tool_result", "tool_use_id": "t3"},
            ],
        },
    )
    assert made[1:] == [
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "t2", "type": "function", "function": {"name": "g", "arguments": '{"a'}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "1"},
        {"role": "tool", "tool_call_id": "t2", "content": "2"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "so?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
    ]


def test_a_turn_of_calls_alone_has_no_content_and_one_of_results_alone_no_user() -> None:
    made = chat(
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]},
    )
    assert made[0]["content"] is None
    assert [message["role"] for message in made] == ["assistant", "tool"]


def test_pictures_and_documents() -> None:
    blocks = [
        {"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "read"}},
        {"type": "document", "title": "a.pdf", "source": {**PNG, "media_type": "application/pdf"}},
    ]
    assert chat({"role": "user", "content": blocks})[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
        {"type": "text", "text": "read"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
    ]
    assert chat({"role": "user", "content": [{"type": "text", "text": "a"}]}) == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_tools(choice: Any, made: dict[str, Any]) -> None:
    got = sent(tools=[TOOL, {"type": "custom", "name": "g", "strict": True}], tool_choice=choice)
    first = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
    second = {"type": "function", "function": {"name": "g", "strict": True}}
    assert got == {**sent(), "tools": [first, second], **made}
    assert sent(tools=[], tool_choice=choice) == sent()


@pytest.mark.parametrize(
    ("members", "made"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8192}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8193}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"metadata": {"user_id": "ann"}}, {"user": "ann"}),
        ({"metadata": {}}, {}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"service_tier": "auto", "cache_control": {"type": "ephemeral"}, "container": None}, {}),
        ({"top_k": 5, "chat_template_kwargs": {"a": 1}}, {"top_k": 5, "chat_template_kwargs": {"a": 1}}),
    ],
)
def test_members_beside_the_messages(members: dict[str, Any], made: dict[str, Any]) -> None:
    assert sent(**members) == {**sent(), **made}


@pytest.mark.parametrize("adapter", [OpenAI(), Ollama(), TGI(), Gemini()])
def test_a_message_has_one_limit_and_one_answer(adapter: Adapter) -> None:
    """What is counted beforehand is what the engine is told."""
    plain = asked(adapter)
    assert asked(adapter, max_completion_tokens=10**6, n=1, stream_options={}) == plain


def test_what_steers_an_engine_is_taken_out_here_too() -> None:
    assert sent(priority=3, cache_salt="x") == sent()


@pytest.mark.parametrize(
    ("adapter", "members", "param", "droppable"),
    [
        (TGI(), {"top_k": 5}, "top_k", ("top_k",)),
        (TGI(), {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking", ("thinking",)),
        (TGI(), {"output_config": {"effort": "low"}}, "output_config", ()),
        (
            TGI(),
            {"top_k": 5, "thinking": {"type": "enabled", "budget_tokens": 1024}},
            "top_k",
            ("top_k", "thinking"),
        ),
        (TGI(), {"top_k": 5, "output_config": {"effort": "low"}}, "top_k", ("top_k",)),
        (
            TGI(),
            {"tools": [TOOL], "output_config": {"format": {"type": "json_schema", "schema": {}}}},
            "output_config",
            (),
        ),
        (Ollama(), {"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice", ()),
        (TGI(), {"top_k": 5, "system": 'how to say "effort"'}, "top_k", ("top_k",)),
        (TGI(), {"thinking": {"type": "enabled"}, "system": '"effort"'}, "thinking", ("thinking",)),
        (OpenAI(), {"n": 2}, "n", ("n",)),
        (TGI(), {"reasoning_effort": "high"}, "reasoning_effort", ("reasoning_effort",)),
        (OpenAI(), {"mcp_servers": [{}]}, "mcp_servers", ("mcp_servers",)),
        (OpenAI(), {"context_management": {"edits": []}}, "context_management", ("context_management",)),
        (OpenAI(), {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools", ()),
        (OpenAI(), {"output_config": {"format": {"type": "xml"}}}, "output_config", ()),
    ],
)
def test_refusals_are_in_the_clients_words(
    adapter: Adapter, members: dict[str, Any], param: str, droppable: tuple[str, ...]
) -> None:
    with pytest.raises(Unsupported, match=f"'{param}'") as caught:
        asked(adapter, **members)
    assert (caught.value.param, sorted(caught.value.droppable)) == (param, sorted(droppable))


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([{"type": "search_result"}], "messages[0].content[0].type"),
        ([{"type": "image"}], "messages[0].content[0].type"),
        ([{"type": "image", "source": {"type": "file", "file_id": "f"}}], "messages[0].content[0].source"),
        ([{"type": "tool_result", "content": [{"type": "x"}]}], "messages[0].content[0].content[0].type"),
    ],
)
def test_content_of_other_kinds_is_refused_where_it_stands(content: Any, param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        chat({"role": "user", "content": content})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": 5}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": 5}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": 5}]}]},
            "messages[0].content[0].content",
        ),
        ({"max_tokens": None}, "max_tokens"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"input_schema": {}}]}, "tools[0]"),
        ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
        ({"metadata": 5}, "metadata"),
    ],
)
def test_mistakes_are_named_by_their_path(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(**members)
    assert (caught.value.param, caught.value.status, caught.value.code) == (param, 400, "invalid_request_error")


def test_a_limit_is_required() -> None:
    body = json.dumps({"model": "tiny", "messages": HI}).encode()
    with pytest.raises(InvalidRequest, match="max_tokens"):
        OpenAI().encode(request(body, operation=Operation.MESSAGES), endpoint(), "tiny")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "messages",
        "max_tokens",
        "stop_sequences",
        "tools",
        "tool_choice",
        "metadata",
        "thinking",
        "output_config",
        "system",
    ]
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking", "document"]) | JSON},
    optional={"text": JSON, "source": JSON, "content": JSON, "input": JSON, "id": JSON, "tool_use_id": JSON},
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(BLOCKS, max_size=3) | JSON}
)


@given(
    st.dictionaries(NAMES, JSON, max_size=4),
    st.lists(MESSAGES, max_size=3) | JSON,
    st.sampled_from([OpenAI(), TGI(), Gemini(), Ollama()]),
)
def test_whatever_is_asked_is_translated_or_the_callers_mistake(
    members: dict[str, Any], messages: Any, adapter: Adapter
) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(asked(adapter, **{"messages": messages, **members})[1]["messages"], list)


def test_depth_is_the_callers_mistake() -> None:
    deep = '{"type":"text","x":' + "[" * 100_000 + "]" * 100_000 + "}"
    body = f'{{"model":"m","max_tokens":7,"messages":[{{"role":"user","content":[{deep}]}}]}}'.encode()
    for operation in (Operation.MESSAGES, Operation.CHAT):
        with pytest.raises(InvalidRequest):
            TGI().encode(request(body, operation=operation), endpoint(), "m")
