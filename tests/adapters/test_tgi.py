"""TGI: both its APIs, translated there and mended back."""

import json
from typing import Any

import pytest

from adapters.tgi import TGI
from gateway.errors import GatewayError, Unsupported
from gateway.ports import Decoder
from gateway.types import Headers, InferenceRequest, Operation, Usage
from tests.adapters.recorded import endpoint, request, run, split

ADAPTER = TGI()
JSON: Headers = [
    (b"content-type", b"application/json"),
    (b"x-prompt-tokens", b"6"),
    (b"date", b"Sat, 21 Nov 2026 04:00:00 GMT"),
]
EVENTS: Headers = [(b"content-type", b"text/event-stream"), (b"date", b"Sat, 21 Nov 2026 04:00:00 GMT")]


def asked(operation: Operation, members: dict[str, Any]) -> InferenceRequest:
    usage = bool(members.get("stream_options"))
    body = json.dumps({"model": "base", **members}).encode()
    return request(body, operation=operation, model="base", stream=bool(members.get("stream")), include_usage=usage)


def chat(model: str = "base", **members: Any) -> dict[str, Any]:
    sent = ADAPTER.encode(asked(Operation.CHAT, members), endpoint(labels=(("loras", "sql,chat"),)), model)
    assert sent.path == b"/v1/chat/completions"
    return dict(json.loads(sent.body))


def completion(model: str = "base", **members: Any) -> tuple[bytes, dict[str, Any]]:
    members = {"prompt": "hi", **members}
    sent = ADAPTER.encode(asked(Operation.COMPLETIONS, members), endpoint(labels=(("loras", "sql"),)), model)
    return sent.path, dict(json.loads(sent.body))


def test_any_model_is_tgi_unless_it_is_a_lora() -> None:
    assert chat()["model"] == "tgi"
    assert chat("sql")["model"] == "sql"
    assert completion("sql")[1]["parameters"]["adapter_id"] == "sql"
    assert "adapter_id" not in completion()[1]["parameters"]


def test_chat_members_in_tgis_terms() -> None:
    assert chat(stop="x")["stop"] == ["x"]
    assert chat(stop=["x", "y"])["stop"] == ["x", "y"]
    assert chat(max_completion_tokens=5, max_tokens=9) == {"model": "tgi", "max_tokens": 5}
    assert chat(max_tokens=9, max_completion_tokens=None) == {"model": "tgi", "max_tokens": 9}
    assert "top_p" not in chat(top_p=1.0)
    assert chat(top_p=0.9)["top_p"] == 0.9
    assert chat(presence_penalty=0, logit_bias={}, n=1, tools=[], tool_choice="none") == {"model": "tgi"}
    assert chat(stream=True)["stream_options"] == {"include_usage": True}
    assert chat(priority=1, rid="x", seed=5) == {"model": "tgi", "seed": 5}


def test_response_formats_in_tgis_terms() -> None:
    schema = {"name": "s", "schema": {"type": "object"}}
    assert chat(response_format={"type": "json_schema", "json_schema": schema})["response_format"] == {
        "type": "json_schema",
        "value": schema,
    }
    assert chat(response_format={"type": "json_object"})["response_format"]["value"] == {"type": "object"}
    assert "response_format" not in chat(response_format={"type": "text"})
    with pytest.raises(Unsupported, match="tools"):
        chat(response_format={"type": "json_object"}, tools=[{"type": "function"}])


@pytest.mark.parametrize(
    "members",
    [
        {"n": 2},
        {"logit_bias": {"1": 1}},
        {"presence_penalty": 0.5},
        {"best_of": 2},
        {"bad_words": ["x"]},
        {"top_k": 5},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"stop_token_ids": [1]},
        {"ignore_eos": True},
        {"chat_template_kwargs": {"a": 1}},
        {"reasoning_effort": "low"},
    ],
)
def test_chat_members_tgi_would_drop_or_mangle_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        chat(**members)
    assert caught.value.param == next(iter(members))


def test_a_completion_in_native_terms() -> None:
    path, body = completion(
        max_tokens=9, temperature=0.5, top_p=0.9, seed=1, stop="x", frequency_penalty=0.1, logprobs=2, echo=True
    )
    assert path == b"/generate"
    assert body == {
        "inputs": "hi",
        "parameters": {
            "max_new_tokens": 9,
            "do_sample": True,
            "details": True,
            "return_full_text": True,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 1,
            "stop": ["x"],
            "frequency_penalty": 0.1,
            "top_n_tokens": 2,
        },
    }
    assert completion(stream=True)[0] == b"/generate_stream"


def test_openais_defaults_hold_and_zero_temperature_is_greedy() -> None:
    parameters = completion()[1]["parameters"]
    assert (parameters["max_new_tokens"], parameters["do_sample"]) == (16, True)
    parameters = completion(temperature=0, top_p=1, max_tokens=None)[1]["parameters"]
    assert parameters["do_sample"] is False
    assert not parameters.keys() & {"temperature", "top_p"}


@pytest.mark.parametrize(
    "members",
    [
        {"prompt": ["a", "b"]},
        {"prompt": [1, 2]},
        {"prompt": [[1]]},
        {"suffix": "x"},
        {"n": 2},
        {"echo": True, "stream": True},
        {"best_of": 2, "stream": True},
        {"presence_penalty": 1},
    ],
)
def test_completion_members_tgi_cannot_do_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        completion(**members)
    assert caught.value.param == next(iter(members))


def test_one_prompt_in_a_list_is_one_prompt() -> None:
    assert completion(prompt=["a"])[1]["inputs"] == "a"


def native(members: dict[str, Any], headers: Headers) -> Decoder:
    return ADAPTER.decoder(asked(Operation.COMPLETIONS, members), 200, headers)


def test_a_count_that_is_none_counts_nothing() -> None:
    body = json.dumps({"generated_text": "ab"}).encode()
    out = json.loads(run(native({}, [*JSON, (b"x-prompt-tokens", b"1" * 5000)]), [body]))
    assert out["usage"]["prompt_tokens"] == 0


def test_a_native_answer_as_a_completion() -> None:
    made = native({"logprobs": 1}, JSON)
    tokens = [{"id": 1, "text": "a", "logprob": -0.5, "special": False}, {"id": 2, "text": "b", "logprob": -1.5}]
    top = [[{"id": 1, "text": "a", "logprob": -0.5}], []]
    details = {"finish_reason": "eos_token", "generated_tokens": 2, "tokens": tokens, "top_tokens": top, "seed": None}
    out = json.loads(run(made, [json.dumps({"generated_text": "ab", "details": details}).encode()]))
    assert out == {
        "id": "cmpl-req-1",
        "object": "text_completion",
        "created": 1795233600,
        "model": "base",
        "choices": [
            {
                "index": 0,
                "text": "ab",
                "finish_reason": "stop",
                "logprobs": {
                    "tokens": ["a", "b"],
                    "token_logprobs": [-0.5, -1.5],
                    "top_logprobs": [{"a": -0.5}, {}],
                    "text_offset": [0, 1],
                },
            }
        ],
        "usage": {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8},
    }
    assert made.usage == Usage(6, 2)


STREAM = (
    b":\n\n"
    b'data:{"index":1,"token":{"id":1,"text":"a","logprob":-0.5,"special":false},"generated_text":null,"details":null}\n\n'
    b'data:{"index":2,"token":{"id":2,"text":"b","logprob":-0.5,"special":false},"generated_text":null,"details":null}\n\n'
    b'data:{"index":3,"token":{"id":0,"text":"</s>","logprob":0,"special":true},"generated_text":"ab",'
    b'"details":{"finish_reason":"stop_sequence","generated_tokens":3,"seed":null,"input_length":6}}\n\n'
)


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_a_native_stream_as_completion_chunks(size: int) -> None:
    made = native({"stream": True, "stream_options": {"include_usage": True}}, EVENTS)
    comment, *chunks, done, end = run(made, split(STREAM, size)).split(b"\n\n")
    assert (comment, done, end) == (b":", b"data: [DONE]", b"")
    decoded = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    assert [c["text"] for d in decoded for c in d["choices"]] == ["a", "b", ""]
    assert [c["finish_reason"] for d in decoded for c in d["choices"]] == [None, None, "stop"]
    assert decoded[-1]["usage"] == {"prompt_tokens": 6, "completion_tokens": 3, "total_tokens": 9}
    assert {(d["id"], d["created"]) for d in decoded} == {("cmpl-req-1", 1795233600)}
    assert made.usage == Usage(6, 3)


def test_10_a_native_stream_cut_short_is_an_error() -> None:
    made = native({"stream": True}, EVENTS)
    assert b"[DONE]" not in run(made, [STREAM[:200]])
    assert made.error is not None


@pytest.mark.parametrize(
    ("kind", "status", "retryable"),
    [("overloaded", 429, True), ("validation", 422, False), ("generation", 500, False)],
)
def test_11_native_errors_in_a_stream(kind: str, status: int, retryable: bool) -> None:
    made = native({"stream": True}, EVENTS)
    assert run(made, [b'data:{"error":"m","error_type":"%b"}\n\n' % kind.encode()]) == b""
    assert isinstance(made.error, GatewayError)
    assert (made.error.status, made.error.message, made.error.retryable) == (status, "m", retryable)


def chunk(delta: str, reason: str = "null", created: int = 1) -> bytes:
    return (
        b'data: {"object":"chat.completion.chunk","id":"","created":%d,"model":"base","choices":[{"index":0,'
        b'"delta":%b,"logprobs":null,"finish_reason":%b}],"usage":null}\n\n'
    ) % (created, delta.encode(), reason.encode())


def test_19_chat_chunks_get_one_id_one_time_and_one_role() -> None:
    body = b"".join(
        [
            chunk('{"role":"assistant","content":"a"}', created=1),
            chunk('{"role":"assistant","content":"b"}', created=2),
            chunk('{"role":"assistant","content":""}', '"stop_sequence"', created=3),
        ]
    )
    made = ADAPTER.decoder(asked(Operation.CHAT, {"stream": True}), 200, EVENTS)
    *events, done, _ = run(made, [body, b"data: [DONE]\n\n"]).split(b"\n\n")
    assert done == b"data: [DONE]"
    decoded = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert {(d["id"], d["created"]) for d in decoded} == {("chatcmpl-req-1", 1)}
    assert ["role" in d["choices"][0]["delta"] for d in decoded] == [True, False, False]
    assert decoded[-1]["choices"][0]["finish_reason"] == "stop"


def test_19_tool_calls_are_named_once_and_end_as_tool_calls() -> None:
    function = '{"index":0,"id":"0","type":"function","function":{"name":%s,"arguments":%s}}'
    call = '{"role":"assistant","tool_calls":[' + function + "]}"
    body = chunk(call % ('"f"', '"{"')) + chunk(call % ("null", '"}"')) + chunk('{"role":"assistant"}', '"stop"')
    made = ADAPTER.decoder(asked(Operation.CHAT, {"stream": True}), 200, EVENTS)
    decoded = [json.loads(event[6:]) for event in run(made, [body]).split(b"\n\n")[:-2]]
    first, second = (d["choices"][0]["delta"]["tool_calls"][0] for d in decoded[:2])
    assert first == {
        "index": 0,
        "id": "chatcmpl-req-1-0",
        "type": "function",
        "function": {"name": "f", "arguments": "{"},
    }
    assert second == {"index": 0, "function": {"arguments": "}"}}
    assert decoded[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_19_a_whole_chat_is_mended_too() -> None:
    call = {"id": 0, "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    body = {
        "id": "",
        "object": "chat.completion",
        "created": 5,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "tool_calls": [call]}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    made = ADAPTER.decoder(asked(Operation.CHAT, {}), 200, JSON)
    out = json.loads(run(made, [json.dumps(body).encode()]))
    assert out["id"] == "chatcmpl-req-1"
    choice = out["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["tool_calls"][0] == {
        "id": "chatcmpl-req-1-0",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": 1}'},
    }
    assert made.usage == Usage(1, 2)


def test_11_overload_inside_a_200_may_be_tried_elsewhere() -> None:
    made = ADAPTER.decoder(asked(Operation.CHAT, {"stream": True}), 200, EVENTS)
    event = b'data: {"error":{"message":"Model is overloaded","http_status_code":422}}\n\ndata: [DONE]\n\n'
    assert run(made, [event]) == b""
    assert made.error is not None
    assert (made.error.status, made.error.code, made.error.retryable) == (429, "overloaded", True)


def test_tokenize_of_a_prompt_and_of_messages() -> None:
    asked_for = asked(Operation.TOKENIZE, {"prompt": "hi"})
    sent = ADAPTER.encode(asked_for, endpoint(), "base")
    assert (sent.path, json.loads(sent.body)) == (b"/tokenize", {"inputs": "hi"})
    made = ADAPTER.decoder(asked_for, 200, JSON)
    assert json.loads(run(made, [b'[{"id":4,"text":"h"},{"id":5,"text":"i"}]'])) == {
        "count": 2,
        "max_model_len": None,
        "tokens": [4, 5],
    }
    sent = ADAPTER.encode(asked(Operation.TOKENIZE, {"messages": [{"role": "user", "content": "x"}]}), endpoint(), "b")
    assert sent.path == b"/chat_tokenize"
    made = ADAPTER.decoder(asked_for, 200, JSON)
    assert run(made, [b'{"nothing":1}']) == b""
    assert made.error is not None


@pytest.mark.parametrize("count", [-5, 10**18])
@pytest.mark.parametrize("stream", [False, True])
def test_counts_that_cannot_be_are_none(count: int, stream: bool) -> None:
    """Limits go by them: what is below nothing would be given back."""
    details = {"finish_reason": "length", "generated_tokens": count, "input_length": count}
    said = json.dumps({"token": {"text": "a"}, "generated_text": "a", "details": details}).encode()
    made = TGI().decoder(request(b'{"prompt":"x"}', operation=Operation.COMPLETIONS, stream=stream), 200, ())
    run(made, [b"data:%b\n\n" % said if stream else said])
    assert made.error is None
    assert made.usage == Usage()


@pytest.mark.parametrize("event", [b"{}", b'{"object":"error","message":"gone"}', b'{"token":null}'])
def test_an_event_without_a_token_is_none(event: bytes) -> None:
    made = TGI().decoder(request(b'{"prompt":"x"}', operation=Operation.COMPLETIONS, stream=True), 200, ())
    assert run(made, [b"data:%b\n\n" % event]) == b""
    assert made.error is not None
    assert (made.error.status, made.progress) == (502, 0)
