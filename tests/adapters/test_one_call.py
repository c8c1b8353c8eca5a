"""One call at most, where an engine calls as many as it likes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.llamacpp import LlamaCpp
from adapters.openai import OpenAI
from adapters.providers import DeepSeek, Gemini, Ollama, TensorRT
from gateway.ports import Adapter
from gateway.types import Operation
from tests.adapters.recorded import request, run, split

TALKERS = [Ollama(), DeepSeek(), Gemini(), TensorRT()]
EVENTS = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
ONE = b'{"model":"tiny","messages":[],"tools":[{}],"parallel_tool_calls":false}'
MANY = ONE.replace(b"false", b"true")


def call(index: int, name: str = "", arguments: str = "{}") -> dict[str, Any]:
    named = {"id": f"call-{index}", "type": "function"} if name else {}
    return {"index": index, **named, "function": {"arguments": arguments, **({"name": name} if name else {})}}


def chunk(*calls: dict[str, Any], index: int = 0, reason: str | None = None, **said: Any) -> dict[str, Any]:
    delta = {**said, **({"tool_calls": list(calls)} if calls else {})}
    return {**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


CHUNKS = [
    chunk(role="assistant", content=""),
    chunk(content="Let me see."),
    chunk(call(0, "f", "")),
    chunk(call(0, arguments='{"a":')),
    chunk(call(0, arguments="1}"), call(1, "g")),
    chunk(call(1, arguments='{"b":2}')),
    chunk(call(0, "h"), index=1, content="of the other choice"),
    chunk(call(1, "i"), index=1, content=" goes on"),
    chunk(reason="tool_calls"),
]
STREAM = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in CHUNKS) + b"data: [DONE]\n\n"


def told(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(event[6:]) for event in out.split(b"\n\n")[:-2]]


def named(chunks: list[dict[str, Any]]) -> list[str]:
    choices = [choice for each in chunks for choice in each["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    return [call["function"]["name"] for call in calls if call["function"].get("name")]


@pytest.mark.parametrize("adapter", TALKERS)
@given(size=st.integers(1, len(STREAM)))
def test_a_stream_holds_the_first_call_of_each_choice(adapter: Adapter, size: int) -> None:
    decoder = adapter.decoder(request(ONE, stream=True), 200, EVENTS)
    out = run(decoder, split(STREAM, size))
    chunks = told(out)
    assert named(chunks) == ["f", "h"]
    assert len(chunks) == len(CHUNKS)  # each a sign of life
    assert out.endswith(b"data: [DONE]\n\n")
    arguments = [
        c["function"]["arguments"] for each in chunks for c in each["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert "".join(arguments) == '{"a":1}{}'
    assert [each["choices"][0]["finish_reason"] for each in chunks][-1] == "tool_calls"
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks) == (
        "Let me see.of the other choice goes on"
    )
    assert (decoder.error, decoder.ended, decoder.progress) == (None, True, 2)
    assert decoder.tokens == 7


@pytest.mark.parametrize("adapter", TALKERS)
def test_a_whole_answer_holds_the_first_call_of_each_choice(adapter: Adapter) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": name, "arguments": "{}"}} for name in "fg"]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choices = [{"index": at, "message": message, "finish_reason": "tool_calls"} for at in range(2)]
    body = json.dumps({**HEAD, "object": "chat.completion", "choices": choices, "usage": {"prompt_tokens": 3}}).encode()
    decoder = adapter.decoder(request(ONE), 200, JSON)
    answer = json.loads(run(decoder, split(body, 50)))
    assert [len(choice["message"]["tool_calls"]) for choice in answer["choices"]] == [1, 1]
    assert [choice["message"]["tool_calls"][0]["function"]["name"] for choice in answer["choices"]] == ["f", "f"]
    assert decoder.usage is not None
    both = json.loads(run(adapter.decoder(request(MANY), 200, JSON), [body]))
    assert len(both["choices"][0]["message"]["tool_calls"]) == 2


@pytest.mark.parametrize("adapter", [*TALKERS, OpenAI(), LlamaCpp()])
@pytest.mark.parametrize(
    "body", [MANY, b'{"messages":[{"role":"user","content":"parallel_tool_calls"}]}', b"[parallel_tool"]
)
def test_who_asks_for_nothing_gets_all(adapter: Adapter, body: bytes) -> None:
    assert named(told(run(adapter.decoder(request(body, stream=True), 200, EVENTS), [STREAM]))) == ["f", "g", "h", "i"]


@pytest.mark.parametrize("adapter", [OpenAI(), LlamaCpp()])
def test_who_heeds_it_is_asked_and_trusted(adapter: Adapter) -> None:
    decoder = adapter.decoder(request(ONE, stream=True), 200, EVENTS)
    assert named(told(run(decoder, [STREAM]))) == ["f", "g", "h", "i"]


def test_one_call_alone_keeps_its_bytes() -> None:
    event = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index": 0, "delta":'
    event += b'{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},'
    event += b'"finish_reason":null}]}\n\n'
    assert TensorRT().decoder(request(ONE, stream=True), 200, EVENTS).feed(event) == event


def test_of_a_message_the_same_is_true() -> None:
    """Anthropic's clients say it otherwise."""
    body = b'{"messages":[],"tool_choice":{"type":"auto","disable_parallel_tool_use":true}}'
    for more, expected in ((body, 1), (body.replace(b"true", b"false"), 2)):
        asked = msgspec.structs.replace(request(more, stream=True, operation=Operation.MESSAGES), body=more)
        first = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in (*CHUNKS[:6], CHUNKS[-1]))
        out = run(Ollama().decoder(asked, 200, EVENTS), [first + b"data: [DONE]\n\n"])
        assert out.count(b'"type":"tool_use"') == expected
