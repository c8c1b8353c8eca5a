from __future__ import annotations

import json
import sys
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.types import Identity, InferenceRequest, Operation
from protocols.openai.parse import parse
from protocols.openai.view import ChatView, View

JSON = [(b"host", b"h"), (b"content-type", b"application/json")]
CHAT, TEXT, EMBED = Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS
HELLO: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def parsed(operation: Operation, body: object, headers: list[tuple[bytes, bytes]] = JSON) -> InferenceRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(operation, raw, headers, request_id="r", path=operation.value)


def view(operation: Operation, body: object) -> View:
    found = parsed(operation, body).view
    assert isinstance(found, View)
    return found


def refusal(operation: Operation, body: object, headers: list[tuple[bytes, bytes]] = JSON) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parsed(operation, body, headers)
    assert caught.value.status == 400
    return caught.value


def test_a_chat_request() -> None:
    asked = b'"stream": true, "stream_options": {"include_usage": true}'
    body = b'{"model": "m", "messages": [{"role": "user"}], %b, "x": 1e999}' % asked
    who = Identity(user="u")
    request = parse(CHAT, body, JSON, request_id="id-1", path="/v1/chat/completions", identity=who)
    assert (request.id, request.operation, request.model, request.path) == ("id-1", CHAT, "m", "/v1/chat/completions")
    assert request.body is body
    assert request.headers is JSON
    assert request.stream
    assert request.include_usage
    assert request.identity is who
    assert isinstance(request.view, ChatView)
    assert [message.role for message in request.view.messages] == ["user"]


@pytest.mark.parametrize(
    ("members", "stream", "include_usage"),
    [
        ({}, False, False),
        ({"stream": None, "stream_options": None}, False, False),
        ({"stream": False}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": None}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True, "other": 1}}, True, True),
    ],
)
def test_what_is_asked_of_the_stream(members: dict[str, object], stream: bool, include_usage: bool) -> None:
    request = parsed(CHAT, HELLO | members)
    assert (request.stream, request.include_usage) == (stream, include_usage)


def test_only_generations_stream() -> None:
    assert not parsed(EMBED, {"model": "m", "input": "a", "stream": True}).stream
    assert parsed(Operation.RESPONSES, {"model": "m", "input": "a", "stream": True, "stream_options": {"a": 1}}).stream


UNREADABLE = [
    (b"", "it is empty."),
    (b" \n", "it is empty."),
    (b"{", "it ends before the JSON does (byte 1)."),
    (b'{"model": "m"', "it ends before the JSON does (byte 13)."),
    (b'{"model": m}', "invalid character (byte 10)."),
    (b'{"model": "m"} x', "trailing characters (byte 16)."),
    (b'{"model": "m"}{}', "trailing characters (byte 15)."),
    (b"[]", "it must be an object, but is an array."),
    (b'"model"', "it must be an object, but is a string."),
    (b"null", "it must be an object, but is null."),
    (b"1.5", "it must be an object, but is a decimal."),
    (b'{"model": "m", "top_p": NaN}', "invalid character (byte 24)."),
    (b'{"model": "m", "top_p": -Infinity}', "invalid character (byte 25)."),
    (b'{"model": "m", "a": "\xff"}', "it is not valid UTF-8 (byte 21)."),
    (b'{"model": "m\xff"}', "it is not valid UTF-8 (byte 12)."),
    (b'\xef\xbb\xbf{"model": "m"}', "invalid character (byte 0)."),
    (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "it is nested too deeply."),
    (b'{"model": "m", "messages": ' + b'[{"a":' * 100_000, "it is nested too deeply."),
]


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize(("body", "why"), UNREADABLE, ids=lambda value: repr(value)[:24])
def test_a_body_that_is_no_json_object(operation: Operation, body: bytes, why: str) -> None:
    error = refusal(operation, body)
    assert error.message == "We could not parse the JSON body of your request: " + why
    assert (error.param, error.code) == (None, "invalid_request_error")


def test_a_lone_surrogate_is_not_taken_for_a_truncated_body() -> None:
    assert "ends before" not in refusal(CHAT, b'{"model": "\\ud800"}').message


INVALID: list[tuple[Operation, dict[str, object], str, str]] = [
    (CHAT, {}, "model", "Missing required parameter: 'model'."),
    (CHAT, {"model": None}, "model", "Invalid type for 'model': expected a string, but got null instead."),
    (CHAT, {"model": 3}, "model", "Invalid type for 'model': expected a string, but got an integer instead."),
    (CHAT, HELLO | {"model": ""}, "model", "Invalid 'model': empty string."),
    (CHAT, {"model": "m"}, "messages", "Missing required parameter: 'messages'."),
    (CHAT, HELLO | {"messages": []}, "messages", "Invalid 'messages': empty array."),
    (CHAT, HELLO | {"messages": None}, "messages", "expected an array, but got null instead."),
    (CHAT, HELLO | {"messages": "hi"}, "messages", "expected an array, but got a string instead."),
    (CHAT, HELLO | {"messages": ["hi"]}, "messages[0]", "expected an object, but got a string instead."),
    (CHAT, HELLO | {"messages": [{"role": "user"}, {}]}, "messages[1].role", "Missing required parameter"),
    (CHAT, HELLO | {"messages": [{"role": 1.5}]}, "messages[0].role", "expected a string, but got a decimal instead."),
    (
        CHAT,
        HELLO | {"stream": "true"},
        "stream",
        "Invalid type for 'stream': expected a boolean, but got a string inst",
    ),
    (CHAT, HELLO | {"stream": 1}, "stream", "expected a boolean, but got an integer instead."),
    (
        CHAT,
        HELLO | {"stream_options": {"include_usage": True}},
        "stream_options",
        "only allowed when 'stream' is enabled",
    ),
    (CHAT, HELLO | {"stream": True, "stream_options": []}, "stream_options", "expected an object, but got an array"),
    (
        CHAT,
        HELLO | {"stream": True, "stream_options": {"include_usage": "y"}},
        "stream_options.include_usage",
        "a boolean",
    ),
    (CHAT, HELLO | {"max_tokens": "10"}, "max_tokens", "expected an integer, but got a string instead."),
    (CHAT, HELLO | {"max_completion_tokens": 1.5}, "max_completion_tokens", "expected an integer, but got a decimal"),
    (CHAT, HELLO | {"n": [1]}, "n", "expected an integer, but got an array instead."),
    (CHAT, HELLO | {"n": 0}, "n", "integer below minimum value. Expected a value >= 1, but got 0 instead."),
    (CHAT, HELLO | {"n": -(10**30)}, "n", "Expected a value >= 1, but got -1000000"),
    (CHAT, HELLO | {"max_tokens": -1}, "max_tokens", "integer below minimum value. Expected a value >= 0, but got -1"),
    (CHAT, HELLO | {"max_completion_tokens": 2**31}, "max_completion_tokens", "Expected a value <= 2147483647"),
    (CHAT, HELLO | {"user": {}}, "user", "expected a string, but got an object instead."),
    (
        CHAT,
        HELLO | {"messages": HELLO["messages"] * 65_537},
        "messages",
        "Expected at most 65536 items, but got 65537.",
    ),
    (TEXT, {"model": "m"}, "prompt", "Missing required parameter: 'prompt'."),
    (TEXT, {"model": "m", "prompt": None}, "prompt", "expected a string or an array, but got null instead."),
    (TEXT, {"model": "m", "prompt": "", "stream_options": {}}, "stream_options", "only allowed when 'stream'"),
    (EMBED, {"model": "m"}, "input", "Missing required parameter: 'input'."),
    (EMBED, {"model": "m", "input": []}, "input", "Invalid 'input': empty array."),
    (EMBED, {"model": "m", "input": True}, "input", "expected a string or an array, but got a boolean instead."),
    (Operation.RESPONSES, {"model": "m", "input": {}}, "input", "expected a string or an array, but got an object"),
    (Operation.MESSAGES, {"model": "m"}, "messages", "Missing required parameter: 'messages'."),
    (Operation.COUNT_TOKENS, {"model": "m"}, "messages", "Missing required parameter: 'messages'."),
    (Operation.RERANK, {"model": "m", "documents": []}, "query", "Missing required parameter: 'query'."),
    (Operation.RERANK, {"model": "m", "query": "q"}, "documents", "Missing required parameter: 'documents'."),
    (Operation.TOKENIZE, {"prompt": "p"}, "model", "Missing required parameter: 'model'."),
    (Operation.DETOKENIZE, {"tokens": [1]}, "model", "Missing required parameter: 'model'."),
]


@pytest.mark.parametrize(("operation", "body", "param", "message"), INVALID)
def test_a_member_that_is_wrong(operation: Operation, body: object, param: str, message: str) -> None:
    error = refusal(operation, body)
    assert error.param == param
    assert message in error.message
    assert (error.type, error.code) == ("invalid_request_error", "invalid_request_error")


def test_one_mistake_among_many_turns_is_found_without_a_look_at_each() -> None:
    """Nobody else is served meanwhile."""
    turns, looks = 20_000, 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal looks
        looks += event == "call"

    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}] * turns + [{"role": 1}]}).encode()
    sys.setprofile(count)
    try:
        error = refusal(CHAT, body)
    finally:
        sys.setprofile(None)
    assert error.param == f"messages[{turns}].role"
    assert looks < 4 * turns


def test_a_number_longer_than_python_reads() -> None:
    for number in (b"9" * 5000, b"-" + b"9" * 5000):
        with pytest.raises(InvalidRequest) as caught:
            parse(CHAT, b'{"model":"m","messages":[{"role":"user"}],"n":%b}' % number, (), request_id="r", path="p")
        assert caught.value.param == "n"
        assert len(caught.value.message) < 200


VALID: list[tuple[Operation, dict[str, object]]] = [
    (CHAT, HELLO | {"stream": None, "max_tokens": None, "n": None, "user": None}),
    (CHAT, {"model": "m", "messages": [{"role": "anything", "content": 5, "more": []}], "temperature": "hot"}),
    (CHAT, HELLO | {"max_tokens": 0, "n": 2**31 - 1}),
    (TEXT, {"model": "m", "prompt": ["a", [1]]}),
    (TEXT, {"model": "m", "prompt_embeds": "AAAA"}),
    (EMBED, {"model": "m", "input": [[]]}),
    (EMBED, HELLO),
    (Operation.RESPONSES, {"model": "m"}),
    (Operation.RESPONSES, {"model": "m", "input": None, "previous_response_id": "r"}),
    (Operation.MESSAGES, HELLO | {"max_tokens": 5}),
    (Operation.RERANK, {"model": "m", "query": "q", "documents": [{"text": "d"}]}),
    (Operation.TOKENIZE, {"model": "m"}),
    (Operation.DETOKENIZE, {"model": "m", "tokens": [1, 2]}),
]


@pytest.mark.parametrize(("operation", "body"), VALID)
def test_what_the_gateway_does_not_read_it_does_not_judge(operation: Operation, body: dict[str, object]) -> None:
    assert parsed(operation, body).model == "m"


def test_the_last_of_duplicate_members_counts() -> None:
    assert parsed(CHAT, b'{"model": "a", "messages": [{"role": "u"}], "model": "b"}').model == "b"


def test_duplicates_of_which_one_is_wrong_are_refused() -> None:
    assert "Expected `str`" in refusal(CHAT, b'{"model": 1, "messages": [{"role": "u"}], "model": "b"}').message


@pytest.mark.parametrize("kind", [b"text/plain", b"application/json; charset=utf-8", b"application/octet-stream"])
def test_content_types_that_do_no_harm(kind: bytes) -> None:
    assert parsed(CHAT, HELLO, [(b"content-type", kind)]).model == "m"
    assert parsed(CHAT, HELLO, []).model == "m"


@pytest.mark.parametrize("kind", [b"application/x-www-form-urlencoded", b"Multipart/Form-Data; boundary=x"])
def test_content_types_of_forms(kind: bytes) -> None:
    error = refusal(CHAT, HELLO, [(b"content-type", kind)])
    assert error.param == "Content-Type"
    assert "application/json" in error.message


def test_a_compressed_body_is_called_so() -> None:
    assert "Content-Encoding" in refusal(CHAT, b"\x1f\x8b\x08\x00", [*JSON, (b"content-encoding", b"gzip")]).message


@settings(max_examples=200)
@given(st.sampled_from(Operation), st.binary() | st.text().map(str.encode))
def test_any_bytes_are_parsed_or_refused(operation: Operation, body: bytes) -> None:
    try:
        parsed(operation, body)
    except InvalidRequest as error:
        assert error.message  # noqa: PT017


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["model", "messages", "stream", "stream_options", "prompt", "input", "max_tokens", "n", "user", "priority", "query"]
)


@settings(max_examples=200)
@given(st.sampled_from(Operation), st.dictionaries(names | st.text(max_size=5), values))
def test_any_object_is_parsed_or_refused_by_name(operation: Operation, body: dict[str, object]) -> None:
    try:
        request = parsed(operation, body)
    except InvalidRequest as error:
        assert error.param  # noqa: PT017
        assert error.param in error.message  # noqa: PT017
    else:
        assert request.model == body["model"]
        assert isinstance(request.view, View)
        request.view.prompt_text()


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=8).filter(lambda name: name not in View.__struct_fields__), values))
def test_members_unknown_here_never_matter(unknown: dict[str, object]) -> None:
    body = json.dumps({**unknown, "model": "m", "prompt": "p"}, ensure_ascii=False).encode("utf-8", "replace")
    assert parsed(Operation.TOKENIZE, body).body == body
