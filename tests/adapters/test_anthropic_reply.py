"""Anthropic's answers as a chat's client reads them."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.anthropic import Anthropic
from gateway.ports import Decoder
from gateway.types import Headers, Operation, Usage
from tests.adapters.recorded import answer, request, run, split

DATE = (b"date", b"Sat, 21 Nov 2026 03:58:35 GMT")
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), DATE]
JSON = [(b"content-type", b"application/json"), DATE]


def decoder(headers: Headers = EVENTS, *, include_usage: bool = True, stream: bool = True) -> Decoder:
    return Anthropic().decoder(request(stream=stream, include_usage=include_usage), 200, headers)


def event(kind: str, **members: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())


def start(index: int, **block: object) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: int, kind: str, **members: object) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **members})


def stop(index: int) -> bytes:
    return event("content_block_stop", index=index)


BEGIN = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-x",
        "stop_reason": None,
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 2,
            "output_tokens": 1,
        },
    },
)
PING = event("ping")
END = event("message_stop")


def ending(reason: str = "end_turn") -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": 9})


RICH = [
    BEGIN,
    PING,
    start(0, type="thinking", thinking="", signature=""),
    delta(0, "thinking_delta", thinking="hm "),
    delta(0, "thinking_delta", thinking="ja ☃"),
    delta(0, "signature_delta", signature="sig"),
    stop(0),
    start(1, type="text", text=""),
    delta(1, "text_delta", text="a"),
    PING,
    delta(1, "text_delta", text="ü\n"),
    stop(1),
    start(2, type="tool_use", id="toolu_1", name="f", input={}),
    delta(2, "input_json_delta", partial_json=""),
    delta(2, "input_json_delta", partial_json='{"a"'),
    delta(2, "input_json_delta", partial_json=": 1}"),
    stop(2),
    start(3, type="tool_use", id="toolu_2", name="g", input={}),
    delta(3, "input_json_delta", partial_json=""),
    stop(3),
    ending("tool_use"),
    END,
]


def chunks(out: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should."""
    *events, done, rest = out.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(each.removeprefix(b"data: ")) for each in events]


def deltas(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in found if chunk["choices"]]


def test_a_rich_answer_in_order() -> None:
    made = decoder()
    found = chunks(run(made, RICH))
    assert deltas(found) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm "},
        {"reasoning_content": "ja ☃"},
        {"thinking_blocks": [{"type": "thinking", "signature": "sig"}]},
        {"content": "a"},
        {"content": "ü\n"},
        {"tool_calls": [{"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
        {"tool_calls": [{"index": 1, "id": "toolu_2", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    envelopes = {(c["id"], c["object"], c["created"], c["model"]) for c in found}
    assert envelopes == {("msg_1", "chat.completion.chunk", 1795233515, "claude-x")}
    assert [c["choices"][0]["finish_reason"] for c in found if c["choices"]] == [None] * 11 + ["tool_calls"]
    assert found[-1]["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 9,
        "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert made.usage == Usage(10, 9, 3)
    assert made.error is None
    assert made.ended


@given(st.lists(st.integers(0, len(b"".join(RICH))), max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_split_gives_the_same_bytes(cuts: list[int], line_end: bytes) -> None:
    body = b"".join(RICH).replace(b"\n", line_end)
    edges = [0, *sorted(cuts), len(body)]
    made = decoder()
    out = run(made, [body[a:b] for a, b in pairwise(edges)])
    assert out == run(decoder(), RICH)
    assert (made.usage, made.tokens, made.progress) == (Usage(10, 9, 3), 10, 2)


def test_usage_is_told_only_to_who_asked() -> None:
    made = decoder(include_usage=False)
    assert all("usage" not in chunk for chunk in chunks(run(made, RICH)))
    assert made.usage == Usage(10, 9, 3)


def test_progress() -> None:
    made = decoder()
    seen = [(made.feed(piece), made.progress)[1] for piece in RICH[:4]]
    assert seen == [1, 1, 1, 2]
    assert decoder().feed(PING) == b""


@pytest.mark.parametrize("name", ["vllm/messages-anthropic-stream", "sglang/messages-anthropic-stream"])
def test_what_other_engines_recorded_in_this_dialect(name: str) -> None:
    for size in (1, 13, 10_000):
        made = decoder()
        found = chunks(run(made, split(answer(name).body, size)))
        assert "".join(d.get("content", "") for d in deltas(found)) == " haveiva standard T"
        assert found[-2]["choices"][0]["finish_reason"] == "length"
        assert made.usage == Usage(26, 4)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_reasons_to_stop(reason: str, finish: str) -> None:
    found = chunks(run(decoder(), [BEGIN, ending(reason), END]))
    assert [c["choices"][0]["finish_reason"] for c in found[:2]] == [None, finish]
    assert whole({"stop_reason": reason})["choices"][0]["finish_reason"] == finish


def test_hidden_thoughts_and_blocks_that_begin_with_text() -> None:
    body = [
        BEGIN,
        start(0, type="redacted_thinking", data="x"),
        start(1, type="text", text="a"),
        start(2, type="tool_use", id="t", name="f", input={"a": 1}),
        stop(2),
        ending(),
        END,
    ]
    call = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert deltas(chunks(run(decoder(), body)))[1:4] == [
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]},
        {"content": "a"},
        {"tool_calls": [call]},
    ]


@pytest.mark.parametrize(
    ("kind", "status", "code", "retryable"),
    [
        ("overloaded_error", 503, "overloaded", True),
        ("rate_limit_error", 429, "rate_limit_exceeded", True),
        ("invalid_request_error", 400, "invalid_request_error", False),
        ("api_error", 500, "upstream_error", False),
        ("authentication_error", 502, "upstream_error", True),
    ],
)
def test_an_error_ends_the_stream(kind: str, status: int, code: str, retryable: bool) -> None:
    broken = event("error", error={"type": kind, "message": "Sorry."})
    for lead, started in ((RICH[:2], False), (RICH[:4], True)):
        made = decoder()
        out = run(made, [*lead, broken, *RICH[4:]])
        assert out == run(decoder(), lead)
        assert made.error is not None
        assert (made.error.status, made.error.code) == (status, code)
        assert made.error.retryable == (retryable and not started)


def calls(*pieces: bytes) -> list[tuple[str, str]]:
    """Names and arguments of the calls that a client puts together."""
    made: list[tuple[str, str]] = []
    for found in deltas(chunks(run(decoder(), [BEGIN, *pieces, ending("tool_use"), END]))):
        for call in found.get("tool_calls", ()):
            if "name" in call["function"]:
                made.append((call["function"]["name"], ""))
            at, given = call["index"], call["function"]["arguments"]
            made[at] = made[at][0], made[at][1] + given
    return made


@pytest.mark.parametrize("index", [True, False])
def test_calls_are_told_apart_by_their_blocks(index: bool) -> None:
    f, g = start(0, type="tool_use", id="1", name="f", input={}), start(1, type="tool_use", id="2", name="g", input={})
    x, y = (delta(at, "input_json_delta", partial_json=json.dumps({"at": at})) for at in (0, 1))
    if index:
        assert calls(f, g, y, x, stop(0), stop(1)) == [("f", '{"at": 0}'), ("g", '{"at": 1}')]
    else:
        x, y = x.replace(b'"index": 0, ', b""), y.replace(b'"index": 1, ', b"")
        assert calls(f, x, stop(0), g, y, stop(1)) == [("f", '{"at": 0}'), ("g", '{"at": 1}')]


def test_arguments_told_at_once_and_again_are_told_once() -> None:
    given = start(0, type="tool_use", id="1", name="f", input={"a": 1})
    assert calls(given, delta(0, "input_json_delta", partial_json='{"a":1}'), stop(0)) == [("f", '{"a": 1}')]


def test_null_is_nothing() -> None:
    out = run(
        decoder(),
        [BEGIN, start(0, type="text", text=None), delta(0, "text_delta", text=None), ending(), END],
    )
    assert [found.get("content") for found in deltas(chunks(out))] == ["", "", None]
    made = whole({"content": [{"type": "text", "text": None, "id": None}], "id": None})
    assert made["choices"][0]["message"]["content"] == ""


def test_an_end_without_a_beginning_is_none() -> None:
    made = decoder()
    assert run(made, [END]) == b""
    assert made.error is not None
    assert made.error.retryable
    out = chunks(run(decoder(), [ending(), END]))
    assert deltas(out)[0] == {"role": "assistant", "content": ""}


def test_a_stream_that_is_cut_off_is_an_error() -> None:
    for count in range(len(RICH) - 2):
        made = decoder()
        assert b"[DONE]" not in run(made, RICH[:count])
        assert made.error is not None
        assert made.error.status == 502


def test_who_closes_after_the_reason_has_answered() -> None:
    assert run(decoder(), RICH[:-1]) == run(decoder(), RICH)


def test_the_role_comes_first_even_if_the_start_is_missing() -> None:
    assert deltas(chunks(run(decoder(), [delta(0, "text_delta", text="a"), END]))) == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {},
    ]


@pytest.mark.parametrize("data", [b"x", b"[]", b'{"type":5}', b'{"type":"content_block_delta","delta":{"text":5}}'])
def test_events_that_make_no_sense(data: bytes) -> None:
    made = decoder()
    assert run(made, [b"data: %b\n\n" % data, *RICH]) == b""
    assert made.error is not None
    assert (made.error.status, made.error.retryable) == (502, False)


def test_comments_stay_and_done_is_not_doubled() -> None:
    out = run(decoder(), [b": busy\n\n", b"data: [DONE]\n\n", *RICH])
    assert out == b": busy\n\n" + run(decoder(), RICH)


@given(st.lists(st.sampled_from(RICH) | st.binary(max_size=20), max_size=12))
def test_nothing_an_engine_says_breaks_more_than_its_answer(pieces: list[bytes]) -> None:
    made = decoder()
    out = run(made, pieces)
    assert (made.error is None) == out.endswith(b"data: [DONE]\n\n")
    assert out.count(b"[DONE]") <= 1


# --- whole ------------------------------------------------------------------------------------------------------------

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "citations": None},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, 2.50]}},
        {"type": "tool_use", "id": "u", "name": "g", "input": {"INVALID_JSON": '{"a'}},
        {"type": "server_tool_use", "id": "v", "name": "web_search", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
    },
}


def whole(changes: dict[str, Any]) -> Any:
    return json.loads(run(decoder(JSON, stream=False), [json.dumps({**MESSAGE, **changes}).encode()]))


def test_a_whole_message() -> None:
    made = decoder(JSON, stream=False)
    body = json.dumps(MESSAGE).encode()
    assert json.loads(run(made, split(body, 50))) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 1795233515,
        "model": "claude-x",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "ab",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "thinking_blocks": MESSAGE["content"][:2],
                    "tool_calls": [
                        {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, 2.5]}'}},
                        {"id": "u", "type": "function", "function": {"name": "g", "arguments": '{"a'}},
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 9,
            "total_tokens": 19,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    }
    assert made.usage == Usage(10, 9, 3, 4)
    assert made.error is None
    assert made.progress == 2


@pytest.mark.parametrize("name", ["vllm/messages-anthropic", "sglang/messages-anthropic"])
def test_recorded_whole_messages(name: str) -> None:
    found = json.loads(run(decoder(JSON, stream=False), [answer(name).body]))
    assert found["choices"][0]["message"]["content"] == " haveiva standard T"
    assert found["choices"][0]["finish_reason"] == "length"


def test_an_answer_without_text_has_no_content() -> None:
    assert whole({"content": []})["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": None}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"<html>", b'{"type":"message","content":5}', b'{"choices":[]}', b"[" * 100_000]
)
def test_what_is_no_message_is_an_error(body: bytes) -> None:
    for stream in (False, True):
        made = decoder(JSON, stream=stream)
        assert run(made, [body]) == b""
        assert made.error is not None
        assert made.error.status == 502


def test_an_error_in_a_200() -> None:
    made = decoder(JSON, stream=False)
    run(made, [b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'])
    assert made.error is not None
    assert (made.error.status, made.error.message) == (503, "Overloaded")


def test_a_whole_answer_to_who_wanted_a_stream() -> None:
    made = decoder(JSON)
    assert made.content_type.startswith(b"text/event-stream")
    found = chunks(run(made, [json.dumps(MESSAGE).encode()]))
    assert found[0]["choices"][0]["delta"]["content"] == "ab"
    assert [call["index"] for call in found[0]["choices"][0]["delta"]["tool_calls"]] == [0, 1]
    assert found[1]["usage"]["prompt_tokens"] == 10


def test_a_stream_nobody_asked_for() -> None:
    made = decoder(EVENTS, stream=False)
    assert run(made, RICH) == b""
    assert made.error is not None


def test_clients_of_messages_get_them_as_they_are() -> None:
    made = Anthropic().decoder(request(operation=Operation.MESSAGES, stream=True), 200, EVENTS)
    assert run(made, RICH) == b"".join(RICH)
