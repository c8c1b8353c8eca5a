from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.types import Operation
from protocols.grpc import translate
from protocols.grpc.generated.inference import v1 as typed
from protocols.grpc.generated.upb import inference as pb
from protocols.openai.parse import parse

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.text("abcxyz_", min_size=1, max_size=8)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
OBJECTS = st.dictionaries(NAMES, st.recursive(INT64 | DOUBLES | TEXT | st.none() | st.booleans(), st.lists), max_size=3)

SAMPLING = {
    "max_tokens": INT32,
    "temperature": DOUBLES,
    "top_p": DOUBLES,
    "n": INT32,
    "stop": st.lists(TEXT, min_size=1, max_size=3),
    "seed": INT64,
    "presence_penalty": DOUBLES,
    "frequency_penalty": DOUBLES,
    "logit_bias": st.dictionaries(NAMES, DOUBLES, min_size=1, max_size=3),
    "user": TEXT,
    "top_k": INT32,
    "min_p": DOUBLES,
    "repetition_penalty": DOUBLES,
}
CHAT = SAMPLING | {
    "max_completion_tokens": INT32,
    "logprobs": st.booleans(),
    "top_logprobs": INT32,
    "parallel_tool_calls": st.booleans(),
    "reasoning_effort": TEXT,
}
COMPLETION = SAMPLING | {"best_of": INT32, "logprobs": INT32, "echo": st.booleans(), "suffix": TEXT}


def some(fields: dict[str, Any]):
    return st.fixed_dictionaries({}, optional=fields)


def body(message: Any, *, stream: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(translate.generation(message, stream=stream))
    return found


def chat(**fields: Any) -> Any:
    return pb.CreateChatCompletionRequest(model="m", messages=[pb.ChatMessage(role="user", text="hi")], **fields)


HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@given(some(CHAT))
def test_a_chat_s_body_holds_what_is_set_and_nothing_else(fields: dict[str, Any]) -> None:
    assert body(chat(**fields)) == HI | fields


@given(some(COMPLETION))
def test_a_completion_s_too(fields: dict[str, Any]) -> None:
    message = pb.CreateCompletionRequest(model="m", prompt=[pb.Prompt(text="p")], **fields)
    assert body(message) == {"model": "m", "prompt": "p", **fields}


@given(some(CHAT))
def test_the_generated_classes_speak_the_same_wire(fields: dict[str, Any]) -> None:
    message = typed.ChatMessage(role="user", text="hi")
    written = bytes(typed.CreateChatCompletionRequest(model="m", messages=[message], **fields))
    assert pb.CreateChatCompletionRequest.FromString(written) == chat(**fields)


def test_a_stream_asks_for_its_usage() -> None:
    assert body(chat(), stream=True) == HI | {"stream": True, "stream_options": {"include_usage": True}}


def test_zero_false_and_empty_are_given_if_they_are_set() -> None:
    fields = {"temperature": 0.0, "seed": 0, "logprobs": False, "user": ""}
    assert body(chat(**fields)) == HI | fields


def test_what_turns_hold() -> None:
    call = pb.ToolCall(id="c1", function=pb.FunctionCall(name="f", arguments=""))
    message = pb.CreateChatCompletionRequest(
        model="m",
        messages=[
            pb.ChatMessage(role="system", text=""),
            pb.ChatMessage(role="assistant", tool_calls=[call], reasoning_content="hm", refusal="no"),
            pb.ChatMessage(role="tool", text="42", tool_call_id="c1", name="f"),
        ],
    )
    assert body(message)["messages"] == [
        {"role": "system", "content": ""},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}],
            "reasoning_content": "hm",
            "refusal": "no",
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1", "name": "f"},
    ]


def test_every_kind_of_part() -> None:
    parts = [
        pb.ContentPart(text="look"),
        pb.ContentPart(image_url=pb.ImageUrl(url="data:x", detail="low")),
        pb.ContentPart(input_audio=pb.InputAudio(data="AAAA", format="wav")),
        pb.ContentPart(file=pb.File(file_id="f1", filename="a.pdf")),
        pb.ContentPart(file=pb.File(file_data="data:y")),
        pb.ContentPart(video_url=pb.VideoUrl(url="https://v")),
        pb.ContentPart(audio_url=pb.AudioUrl(url="https://a")),
        pb.ContentPart(refusal="no"),
    ]
    assert {part.WhichOneof("part") for part in parts} == {f.name for f in pb.ContentPart.DESCRIPTOR.fields}
    turn = pb.ChatMessage(role="user", parts=pb.ContentParts(parts=parts))
    assert body(pb.CreateChatCompletionRequest(model="m", messages=[turn]))["messages"][0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f1", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "data:y"}},
        {"type": "video_url", "video_url": {"url": "https://v"}},
        {"type": "audio_url", "audio_url": {"url": "https://a"}},
        {"type": "refusal", "refusal": "no"},
    ]


def test_tools_and_formats() -> None:
    function = pb.FunctionDefinition(name="f", description="d", parameters_json='{"b":1.0,"a":9223372036854775807}')
    message = chat(
        tools=[pb.Tool(function=function)],
        tool_choice=pb.ToolChoice(function="f"),
        response_format=pb.ResponseFormat(
            type="json_schema", json_schema=pb.JsonSchema(name="s", schema_json='{"x":{}}', strict=True)
        ),
    )
    assert body(message) == HI | {
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"b": 1.0, "a": 2**63 - 1}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"x": {}}, "strict": True}},
    }
    assert b'{"b":1.0,"a":' in translate.generation(message, stream=False)  # in its own order, numbers as written
    assert body(chat(tool_choice=pb.ToolChoice(mode="auto")))["tool_choice"] == "auto"
    assert body(chat(response_format=pb.ResponseFormat(type="text")))["response_format"] == {"type": "text"}


@given(OBJECTS)
def test_further_members(extra: dict[str, Any]) -> None:
    assert body(chat(extra_body_json=json.dumps(extra))) == HI | extra


@pytest.mark.parametrize("name", ["model", "messages", "temperature", "stream", "stream_options", "encoding_format"])
def test_further_members_do_not_stand_for_fields(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as raised:
        body(chat(temperature=1.0, extra_body_json=json.dumps({name: 1})))
    assert raised.value.param == "extra_body_json"


def test_a_further_member_may_have_a_field_that_is_not_set() -> None:
    assert body(chat(extra_body_json='{"temperature": null}'))["temperature"] is None


def bad_parts() -> Any:
    return pb.CreateChatCompletionRequest(
        model="m", messages=[pb.ChatMessage(role="user", parts=pb.ContentParts(parts=[pb.ContentPart()]))]
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (chat(temperature=math.nan), "temperature"),
        (chat(min_p=math.inf), "min_p"),
        (chat(logit_bias={"7": math.nan}), "logit_bias"),
        (chat(tool_choice=pb.ToolChoice()), "tool_choice"),
        (chat(extra_body_json="{"), "extra_body_json"),
        (chat(extra_body_json="[]"), "extra_body_json"),
        (chat(extra_body_json='{"a":' * 5000), "extra_body_json"),
        (
            chat(tools=[pb.Tool(function=pb.FunctionDefinition(name="f", parameters_json="1"))]),
            "tools[0].function.parameters",
        ),
        (
            chat(response_format=pb.ResponseFormat(type="json_schema", json_schema=pb.JsonSchema(schema_json="x"))),
            "response_format.json_schema.schema",
        ),
        (bad_parts(), "messages[0].content[0]"),
    ],
)
def test_what_no_body_can_stand_for_is_named(message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        translate.generation(message, stream=False)
    assert raised.value.param == param


def prompt(given: str | list[int]) -> Any:
    return pb.Prompt(text=given) if isinstance(given, str) else pb.Prompt(token_ids=pb.TokenIds(ids=given))


@given(st.lists(TEXT, min_size=1, max_size=3) | st.lists(st.lists(INT64, max_size=3), min_size=1, max_size=3))
def test_prompts_alone_and_in_arrays(prompts: list[Any]) -> None:
    expected = prompts[0] if len(prompts) == 1 else prompts
    messages = [prompt(given) for given in prompts]
    assert body(pb.CreateCompletionRequest(model="m", prompt=messages))["prompt"] == expected
    asked = json.loads(translate.embedding(pb.CreateEmbeddingRequest(model="m", input=messages, dimensions=8)))
    assert asked == {"model": "m", "input": expected, "dimensions": 8, "encoding_format": "base64"}


@pytest.mark.parametrize("prompts", [[pb.Prompt()], [prompt("a"), prompt([1])], [prompt("a"), pb.Prompt()]])
def test_prompts_that_are_neither_texts_nor_tokens(prompts: list[Any]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        body(pb.CreateCompletionRequest(model="m", prompt=prompts))
    assert raised.value.param == "prompt"


def test_what_counts_tokens() -> None:
    asked = pb.CountTokensRequest(model="m", prompt="", add_special_tokens=False, return_tokens=True)
    assert json.loads(translate.tokenize(asked)) == {"model": "m", "prompt": "", "add_special_tokens": False}
    turns = pb.CountTokensRequest(
        model="m", messages=[pb.ChatMessage(role="user", text="hi")], tools=[pb.Tool()], add_generation_prompt=True
    )
    tools = [{"type": "function", "function": {}}]
    assert json.loads(translate.tokenize(turns)) == HI | {"tools": tools, "add_generation_prompt": True}
    turns.prompt = ""
    with pytest.raises(InvalidRequest) as raised:
        translate.tokenize(turns)
    assert raised.value.param == "prompt"


@pytest.mark.parametrize("kind", [pb.CreateChatCompletionRequest, pb.CreateCompletionRequest, pb.CountTokensRequest])
@given(data=st.data())
def test_any_message_is_a_body_that_parses_or_an_invalid_request(kind: Any, data: st.DataObject) -> None:
    message = kind()
    fill(data.draw, message, 3)
    operation = {
        "CreateChatCompletionRequest": Operation.CHAT,
        "CreateCompletionRequest": Operation.COMPLETIONS,
        "CountTokensRequest": Operation.TOKENIZE,
    }[kind.__name__]
    try:
        made = (
            translate.tokenize(message)
            if operation is Operation.TOKENIZE
            else translate.generation(message, stream=data.draw(st.booleans()))
        )
        json.loads(made, parse_constant=pytest.fail)
        parse(operation, made, (), request_id="r", path="")
    except InvalidRequest:
        pass


BY_TYPE = {1: st.floats(), 3: INT64, 5: INT32, 8: st.booleans(), 9: TEXT | st.just("{}")}


def fill(draw: Any, message: Any, depth: int) -> None:
    """Some fields of a message, and of those in it, with anything."""
    for field in message.DESCRIPTOR.fields:
        if draw(st.integers(0, 2)):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name).update(draw(st.dictionaries(TEXT, st.floats(), max_size=2)))
        elif field.message_type is not None:
            target = getattr(message, field.name)
            inner = target.add() if field.is_repeated else target
            if not field.is_repeated:
                inner.SetInParent()
            if depth:
                fill(draw, inner, depth - 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(BY_TYPE[field.type], max_size=2)))
        else:
            setattr(message, field.name, draw(BY_TYPE[field.type]))


@pytest.mark.parametrize(
    "message",
    [
        pb.CreateChatCompletionRequest.FromString(b"\x12\0" * (translate.MAX_ITEMS + 1)),
        pb.CreateChatCompletionRequest(
            messages=[pb.ChatMessage(parts=pb.ContentParts(parts=[pb.ContentPart()] * 1000))] * 66
        ),
        pb.CreateChatCompletionRequest(messages=[pb.ChatMessage(tool_calls=[pb.ToolCall()] * 1000)] * 66),
        pb.CreateChatCompletionRequest(tools=[pb.Tool()] * (translate.MAX_ITEMS + 1)),
        pb.CreateCompletionRequest(prompt=[pb.Prompt()] * (translate.MAX_ITEMS + 1)),
    ],
)
def test_nothing_is_made_of_more_than_anybody_means(message: Any) -> None:
    with pytest.raises(InvalidRequest, match="more than 65536 items"):
        translate.generation(message, stream=False)
