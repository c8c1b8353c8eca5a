"""Chats' answers as a client of Messages reads them."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.openai import OpenAI
from adapters.providers import Gemini, Ollama
from adapters.tgi import TGI
from adapters.vllm import VLLM
from gateway.ports import Adapter, Decoder
from gateway.types import Headers, Operation, Usage
from tests.adapters.recorded import answer, request, run, split

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]
BODY = b'{"model":"tiny","max_tokens":7,"tools":[],"messages":[]}'


def decoder(adapter: Adapter | None = None, headers: Headers = EVENTS, *, stream: bool = True) -> Decoder:
    return (adapter or OpenAI()).decoder(request(BODY, operation=Operation.MESSAGES, stream=stream), 200, headers)


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **members: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
    members = {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": choices,
        **members,
    }
    return b"data: %b\n\n" % json.dumps(members, separators=(",", ":")).encode()


def call(index: int, arguments: str, ident: str | None = None, name: str | None = None) -> dict[str, Any]:
    lead = {"id": ident, "type": "function"} if ident else {}
    function = {**({"name": name} if name else {}), "arguments": arguments}
    return {"tool_calls": [{"index": index, **lead, "function": function}]}


ROLE = chunk({"role": "assistant", "content": ""})
COUNTS = {
    "prompt_tokens": 10,
    "completion_tokens": 9,
    "total_tokens": 19,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
DONE = b"data: [DONE]\n\n"
RICH = [
    ROLE,
    chunk({"reasoning_content": "hm "}),
    b": keep-alive\n\n",
    chunk({"reasoning": "ja ☃"}),
    chunk({"content": "a"}),
    chunk({"content": "ü\n"}),
    chunk(call(0, "", "t1", "f")),
    chunk(call(0, '{"a"')),
    chunk(call(0, ": 1}")),
    chunk(call(1, "{}", "t2", "g")),
    chunk({}, "tool_calls"),
    chunk(usage=COUNTS),
    DONE,
]


def parsed(out: bytes) -> list[dict[str, Any]]:
    """The events of a stream; each is named as its data says."""
    found = []
    for block in out.removesuffix(b"\n\n").split(b"\n\n"):
        if block.startswith(b":"):
            continue
        name, data = block.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        found.append(event)
    return found


def message(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client puts together of the events; complains of blocks out of order."""
    start, *blocks, delta, stop = found
    assert (start["type"], delta["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    content: list[dict[str, Any]] = []
    opened = False
    for event in blocks:
        if event["type"] == "content_block_start":
            assert not opened
            assert event["index"] == len(content)
            content.append({**event["content_block"], "given": ""})
            opened = True
        elif event["type"] == "content_block_stop":
            assert opened
            opened = False
        else:
            assert opened
            assert event["index"] == len(content) - 1
            given = {key: value for key, value in event["delta"].items() if key != "type"}
            assert len(given) == 1
            content[-1]["given"] += next(iter(given.values()))
        assert event["index"] == len(content) - 1
    assert not opened
    return {**start["message"], "content": content, **delta["delta"], "usage": delta["usage"]}


def test_a_rich_answer() -> None:
    made = decoder()
    assert message(parsed(run(made, RICH))) == {
        "id": "c-1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "", "signature": "", "given": "hm ja ☃"},
            {"type": "text", "text": "", "given": "aü\n"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}, "given": '{"a": 1}'},
            {"type": "tool_use", "id": "t2", "name": "g", "input": {}, "given": "{}"},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
        },
    }
    assert (made.usage, made.error, made.ended) == (Usage(10, 9, 3, 4), None, True)


def test_kinds_of_deltas() -> None:
    kinds = [e["delta"]["type"] for e in parsed(run(decoder(), RICH)) if e["type"] == "content_block_delta"]
    assert kinds == ["thinking_delta"] * 2 + ["text_delta"] * 2 + ["input_json_delta"] * 3


ADAPTERS = st.sampled_from([OpenAI(), TGI(), Gemini(), Ollama()])


@given(st.lists(st.integers(0, len(b"".join(RICH))), max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]), ADAPTERS)
def test_any_split_gives_the_same_bytes(cuts: list[int], line_end: bytes, adapter: Adapter) -> None:
    body = b"".join(RICH).replace(b"\n", line_end)
    edges = [0, *sorted(cuts), len(body)]
    made = decoder(adapter)
    out = run(made, [body[a:b] for a, b in pairwise(edges)])
    assert out == run(decoder(adapter), [b"".join(RICH)])
    assert made.usage == Usage(10, 9, 3, 4)
    assert message(parsed(out))["stop_reason"] == "tool_use"


def test_progress_and_what_a_reader_gets_at_once() -> None:
    made = decoder()
    assert [e["type"] for e in parsed(made.feed(ROLE))] == ["message_start"]
    assert made.progress == 1
    assert [e["type"] for e in parsed(made.feed(RICH[1]))] == ["content_block_start", "content_block_delta"]
    assert made.progress == 2
    assert made.tokens == 1


@pytest.mark.parametrize("name", ["vllm/chat-stream", "sglang/chat-stream", "llamacpp/chat-stream"])
def test_recorded_chats(name: str) -> None:
    body = answer(name).body
    texts = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    said = "".join(c["choices"][0]["delta"].get("content") or "" for c in texts if c["choices"])
    for size in (1, 100, 100_000):
        got = message(parsed(run(decoder(), split(body, size))))
        assert [block["given"] for block in got["content"]] == [said]
        assert got["stop_reason"] in ("max_tokens", "end_turn")


@pytest.mark.parametrize("name", ["vllm-lora-tools/chat-tools-forced-stream"])
def test_recorded_calls(name: str) -> None:
    body = answer(name).body
    for size in (1, 100, 100_000):
        got = message(parsed(run(decoder(), split(body, size))))
        used = [block for block in got["content"] if block["type"] == "tool_use"]
        assert len(used) == 1
        assert used[0]["name"] == "get_weather"
        assert (bool(used[0]["id"]), bool(used[0]["given"])) == (True, True)


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("function_call", "tool_use"),
        ("eos_token", "end_turn"),
    ],
)
def test_reasons_to_stop(reason: str, stop: str) -> None:
    assert message(parsed(run(decoder(), [ROLE, chunk({}, reason), DONE])))["stop_reason"] == stop
    assert whole({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]})["stop_reason"] == stop


def test_calls_end_with_tool_use_even_where_the_engine_says_stop() -> None:
    assert message(parsed(run(decoder(), [*RICH[:10], chunk({}, "stop"), DONE])))["stop_reason"] == "tool_use"


def test_a_stop_sequence_is_named_where_the_engine_names_it() -> None:
    last = {"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "x"}
    got = message(parsed(run(decoder(), [ROLE, chunk(choices=[last]), DONE])))
    assert (got["stop_reason"], got["stop_sequence"]) == ("stop_sequence", "x")


def test_calls_without_index_or_id_are_told_apart() -> None:
    def bare(name: str, arguments: Any) -> bytes:
        return chunk({"tool_calls": [{"function": {"name": name, "arguments": arguments}}]})

    got = message(parsed(run(decoder(), [bare("f", "{}"), bare("g", {"a": 1}), chunk({}, "stop"), DONE])))
    assert [(block["name"], json.loads(block["given"])) for block in got["content"]] == [("f", {}), ("g", {"a": 1})]
    assert len({block["id"] for block in got["content"]}) == 2


@pytest.mark.parametrize("between", [{"content": "x"}, call(1, "{", "t2", "g")])
def test_a_call_that_goes_on_after_its_end_is_no_answer(between: dict[str, Any]) -> None:
    made = decoder()
    out = run(
        made, [ROLE, chunk(call(0, "{", "t1", "f")), chunk(between), chunk(call(0, "}")), chunk({}, "stop"), DONE]
    )
    assert made.error is not None
    assert made.error.status == 502
    assert b"message_stop" not in out
    again = run(
        decoder(),
        [ROLE, chunk(call(0, "{}", "t1", "f")), chunk({"content": "x"}), chunk(call(0, "{}", "t2", "g")), DONE],
    )
    assert again.count(b'"type":"tool_use"') == 2


def test_usage_in_every_chunk_tells_the_prompt_at_once() -> None:
    first = chunk({"role": "assistant", "content": "a"}, usage={**COUNTS, "completion_tokens": 0})
    start = parsed(decoder().feed(first))[0]
    assert start["message"]["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 4},
    }


def test_tokens_are_counted_where_the_engine_tells_no_usage() -> None:
    got = message(parsed(run(decoder(), [*RICH[:11], DONE])))
    assert got["usage"]["output_tokens"] == 8


def test_an_empty_answer_is_whole() -> None:
    assert message(parsed(run(decoder(), [chunk({}, "stop"), DONE])))["content"] == []


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_error_ends_the_stream_before_its_end(count: int) -> None:
    failing = b'data: {"error":{"message":"busy","code":503}}\n\n'
    made = decoder()
    out = run(made, [*RICH[:count], failing, *RICH[count:]])
    assert b"message_stop" not in out
    assert b"message_delta" not in out
    assert made.error is not None
    assert (made.error.status, made.error.retryable) == (503, count < 2)


def test_a_stream_that_is_cut_off_has_no_end() -> None:
    for count in range(10):
        made = decoder()
        out = run(made, RICH[:count])
        assert b"message_stop" not in out
        assert made.error is not None
        assert made.error.status == 502


def test_a_chunk_that_makes_no_sense() -> None:
    odd = b'data: {"choices":[{"delta":{"tool_calls":5}}]}\n\n'
    made = decoder()
    out = run(made, [ROLE, odd, *RICH[1:]])
    assert out == run(decoder(), [ROLE])
    assert made.error is not None
    assert (made.error.status, made.error.retryable) == (502, False)


def test_content_in_parts_and_half_an_emoji() -> None:
    parts = chunk({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})
    half = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":null}]}\n\n'
    got = message(parsed(run(decoder(), [parts, half, chunk({}, "stop"), DONE])))
    assert got["content"][0]["given"] == "ab\ud83d"


@given(st.lists(st.sampled_from(RICH) | st.binary(max_size=20), max_size=12), ADAPTERS)
def test_nothing_an_engine_says_breaks_more_than_its_answer(pieces: list[bytes], adapter: Adapter) -> None:
    made = decoder(adapter)
    out = run(made, pieces)
    assert (made.error is None) == out.endswith(b'data: {"type":"message_stop"}\n\n')


# --- engines that speak Messages after all ----------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [VLLM(), OpenAI(), TGI()])
@pytest.mark.parametrize("lead", [b"", b": wait\n\n", b"\r\n: wait\r\n\r\n"])
def test_a_stream_of_messages_goes_through_as_it_is(adapter: Adapter, lead: bytes) -> None:
    body = answer("vllm/messages-anthropic-stream").body
    for size in (1, 7, 100_000):
        made = decoder(adapter)
        assert run(made, split(lead + body, size)) == body
        assert (made.usage, made.error, made.progress) == (Usage(26, 4), None, 2)


@pytest.mark.parametrize("adapter", [VLLM(), OpenAI(), TGI(), Gemini()])
def test_a_whole_message_goes_through_as_it_is(adapter: Adapter) -> None:
    body = answer("vllm/messages-anthropic").body
    made = decoder(adapter, JSON, stream=False)
    assert run(made, split(body, 40)) == body
    assert made.usage == Usage(26, 4)


# --- whole ------------------------------------------------------------------------------------------------------------

ANSWER: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "a",
                "reasoning": "hm",
                "reasoning_content": "hm",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                    {"id": "t2", "type": "function", "function": {"name": "g", "arguments": '{"a'}},
                    {"type": "function", "function": {"name": "h", "arguments": ""}},
                ],
            },
            "finish_reason": "stop",
        }
    ],
    "usage": COUNTS,
}


def whole(changes: dict[str, Any], adapter: Adapter | None = None) -> Any:
    return json.loads(run(decoder(adapter, JSON, stream=False), [json.dumps({**ANSWER, **changes}).encode()]))


@pytest.mark.parametrize("adapter", [OpenAI(), TGI(), Gemini(), Ollama()])
def test_a_whole_answer(adapter: Adapter) -> None:
    got = whole({}, adapter)
    idents = [block.pop("id") for block in got["content"] if block["type"] == "tool_use"]
    assert idents[:2] == ["t1", "t2"]
    assert idents[2]
    assert got == {
        "id": "chatcmpl-req-1" if isinstance(adapter, Ollama) else "c-1",  # whose own repeat
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "name": "g", "input": {"INVALID_JSON": '{"a'}},
            {"type": "tool_use", "name": "h", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
        },
    }


@pytest.mark.parametrize("name", ["vllm/chat", "sglang/chat", "llamacpp/chat", "vllm-lora-tools/chat-tools-forced"])
def test_recorded_whole_chats(name: str) -> None:
    recorded = answer(name).body
    said = json.loads(recorded)["choices"][0]["message"]
    made = decoder(headers=JSON, stream=False)
    got = json.loads(run(made, split(recorded, 100)))
    assert "".join(block.get("text", "") for block in got["content"]) == (said["content"] or "")
    assert len([b for b in got["content"] if b["type"] == "tool_use"]) == len(said.get("tool_calls") or ())
    assert made.usage is not None


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"choices":[]}', b'{"choices":[{}]}', b'{"a":1}'])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    made = decoder(headers=JSON, stream=False)
    assert run(made, [body]) == b""
    assert made.error is not None
    assert made.error.status == 502


def test_an_error_in_a_200() -> None:
    made = decoder(TGI(), JSON, stream=False)
    assert run(made, [b'{"error":"Model is overloaded","error_type":"overloaded"}']) == b""
    assert made.error is not None
    assert made.error.status == 429


def test_a_whole_answer_to_who_wanted_a_stream() -> None:
    made = decoder(headers=JSON)
    assert made.content_type.startswith(b"text/event-stream")
    got = message(parsed(run(made, [json.dumps(ANSWER).encode()])))
    assert [block["type"] for block in got["content"]] == ["thinking", "text", "tool_use", "tool_use", "tool_use"]
    assert got["usage"]["input_tokens"] == 7


def test_a_stream_nobody_asked_for() -> None:
    made = decoder(stream=False)
    assert run(made, RICH) == b""
    assert made.error is not None
