"""What no engine should answer: no decoder fails over it, and nothing that is not whole is said to be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import registry
from gateway.errors import GatewayError
from gateway.ports import Decoder
from gateway.types import Headers, Operation
from tests.adapters.recorded import request, run

ADAPTERS = {name: adapter for name, adapter in registry.load().items() if name not in ("trtllm", "huggingface")}
STREAM: Headers = ((b"content-type", b"text/event-stream"),)
JSON: Headers = ((b"content-type", b"application/json"),)
BODY = b'{"model":"tiny","max_tokens":1,"messages":[],"tools":[1],"logprobs":true}'

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ENVELOPE = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CHUNKS = [
    {**ENVELOPE, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {**ENVELOPE, "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]},
    {**ENVELOPE, "choices": [{"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": None}]},
    {**ENVELOPE, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {**ENVELOPE, "choices": [], "usage": USAGE},
]
WHOLE = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x", "tool_calls": [CALL]},
                 "finish_reason": "stop"}],
}  # fmt: skip
BLOCKS = [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"}]
MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "c", "content": BLOCKS, "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "output_tokens": 1},
}  # fmt: skip
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]

odd = st.sampled_from(
    [None, True, 0, -5, 1.5, 10**30, "", "x", "tool_use", "\ud800", "stop", [], {}, [None], [{}], ["x"], {"a": 1}]
)


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in it."""
    inside = document.items() if isinstance(document, dict) else enumerate(document)
    found = [path] if path else []
    for key, value in inside if isinstance(document, (dict, list)) else ():
        found += leaves(value, (*path, key)) if isinstance(value, (dict, list)) else [(*path, key)]
    return found


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


@st.composite
def mutations(draw: st.DrawFn, original: Any) -> Any:
    """With one or two places where something else stands; a later one may lie in what an earlier one made."""
    document = original
    for _ in range(draw(st.integers(1, 2))):
        document = changed(document, draw(st.sampled_from(leaves(document) or [()])), draw(odd))
    return document


def dumped(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")  # half an emoji is no UTF-8


def event(document: Any) -> bytes:
    kind = document.get("type") if isinstance(document, dict) else None
    name = b"event: %b\n" % kind.encode("utf-8", "replace") if isinstance(kind, str) and kind else b""
    return name + b"data: %b\n\n" % dumped(document)


def heard(decoder: Decoder, pieces: list[bytes]) -> bytes:
    """What the client gets; checked for what holds however odd the answer is."""
    out = run(decoder, pieces)
    usage = decoder.usage
    assert usage is None or min(usage.prompt, usage.completion, usage.cached, usage.reasoning) >= 0
    if decoder.error is not None:
        assert isinstance(decoder.error, GatewayError)
        assert b"data: [DONE]" not in out
    return out


@given(
    st.sampled_from(list(ADAPTERS)),
    st.sampled_from([Operation.CHAT, Operation.MESSAGES]),
    st.booleans(),
    mutations(CHUNKS) | mutations(EVENTS),
)
def test_streams(name: str, operation: Operation, include_usage: bool, documents: Any) -> None:
    made = request(BODY, operation=operation, stream=True, include_usage=include_usage)
    decoder = ADAPTERS[name].decoder(made, 200, STREAM)
    out = heard(decoder, [event(each) for each in documents] if isinstance(documents, list) else [event(documents)])
    if decoder.error is None and operation is Operation.CHAT:
        assert out.count(b"data: [DONE]\n\n") == 1


@given(st.sampled_from(list(ADAPTERS)), st.booleans(), mutations(WHOLE) | mutations(MESSAGE))
def test_whole_answers(name: str, stream: bool, document: Any) -> None:
    decoder = ADAPTERS[name].decoder(request(BODY, stream=stream), 200, JSON)
    out = heard(decoder, [dumped(document)])
    if not stream and decoder.error is None:
        assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize("count", [b"NaN", b"Infinity", b"-Infinity", b"-7", b"1e400", b'"\xed\xa0\x80"', b"[]"])
@pytest.mark.parametrize("name", ["openai", "gemini", "deepseek"])
def test_counts_that_cannot_be(name: str, count: bytes) -> None:
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":%b}}\n\n' % count
    decoder = ADAPTERS[name].decoder(request(BODY, stream=True, include_usage=True), 200, STREAM)
    out = heard(decoder, [*(event(each) for each in CHUNKS[:-1]), usage, b"data: [DONE]\n\n"])
    assert decoder.error is None
    assert out.endswith(b"data: [DONE]\n\n")
    assert decoder.usage is None or decoder.usage.completion == 0


def test_a_character_cut_in_half_is_replaced() -> None:
    """By an engine that puts bytes of a token into its JSON."""
    decoder = ADAPTERS["openai"].decoder(request(BODY, stream=True), 200, STREAM)
    cut = event(CHUNKS[1]).replace(b'"a"', b'"a\xf0\x9f"')
    out = heard(decoder, [event(CHUNKS[0]), cut, event(CHUNKS[3]), b"data: [DONE]\n\n"])
    assert decoder.error is None
    assert out.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("operation", [Operation.TOKENIZE, Operation.DETOKENIZE])
@pytest.mark.parametrize(
    "body", [b'{"a":NaN,"usage":[],"content":"x"}', b'{"choices":[{"logprobs":NaN}],"content":"x"}']
)
def test_what_only_a_lenient_reader_reads(operation: Operation, body: bytes) -> None:
    made = ADAPTERS["llamacpp"].decoder(request(operation=operation), 200, JSON)
    assert run(made, [body]) == b""
    assert made.error is not None
    assert made.error.status == 502


@pytest.mark.parametrize("name", ["openai", "gemini", "tgi", "anthropic", "sglang"])
def test_as_deep_as_can_be_read(name: str) -> None:
    for depth in range(840, 1000, 3):
        nest = b"[" * depth + b"]" * depth
        stream = ADAPTERS[name].decoder(request(BODY, stream=True), 200, STREAM)
        heard(stream, [b'data: {"choices":[{"index":0,"x":%b,"finish_reason":"eos_token"}]}\n\n' % nest])
        whole = ADAPTERS[name].decoder(request(BODY), 200, JSON)
        heard(whole, [b'{"choices":[{"finish_reason":"eos_token","message":{"x":%b}}]}' % nest])
        assert ADAPTERS[name].error(400, (), b'{"error":{"message":%b}}' % nest).status == 400
