"""Print what the adapters cost on the hot path, in microseconds: a 16-token read, a small body, a request. (P)

Run it as `python benchmarks/decoder.py`; it asserts nothing, as times depend on the machine.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.registry import load
from adapters.vllm import VLLM
from gateway.ports import Decoder
from gateway.types import Endpoint, InferenceRequest, Operation
from gateway.wire import splice

ENDPOINT = Endpoint("vllm", "http", "127.0.0.1", 8000)
EVENTS = ((b"content-type", b"text/event-stream"),)
JSON = ((b"content-type", b"application/json"),)
CHUNK = (
    b'data: {"id":"chatcmpl-81f12d222dc27c7a","object":"chat.completion.chunk","created":1795233512,"model":"tiny",'
    b'"choices":[{"index":0,"delta":{"content":" have"},"logprobs":null,"finish_reason":null,"token_ids":null}]%b}\n\n'
)
COUNTED = CHUNK % b',"usage":{"prompt_tokens":26,"total_tokens":27,"completion_tokens":1}'
BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1795233511,"model":"tiny","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"the answer to the question is yes"},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":26,"total_tokens":42,"completion_tokens":16}}'
)
CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"%b"}],"max_tokens":16}'


def asked(body: bytes, *, stream: bool = False) -> InferenceRequest:
    return InferenceRequest("req-1", Operation.CHAT, "tiny", body, (), "/v1/chat/completions", stream)


def show(what: str, call: Callable[[], object]) -> None:
    timer = timeit.Timer(call)
    number = max(1, timer.autorange()[0] // 10)
    print(f"{what:<58} {min(timer.repeat(5, number)) / number * 1e6:9.2f} µs")


def show_stream(name: str, decoder: Decoder) -> None:
    event = CHUNK % b""
    plain, counted, split, rest = event * 16, COUNTED * 16, event * 16 + event[:50], event[50:]
    decoder.feed(plain)
    show(f"{name}: 16 tokens in one read", lambda: decoder.feed(plain))
    show(f"{name}: 16 tokens that carry usage", lambda: decoder.feed(counted))
    show(f"{name}: 17 tokens in two reads", lambda: decoder.feed(split) + decoder.feed(rest))


def main() -> None:
    small, large = asked(CHAT % (b"hello " * 20)), asked(CHAT % (b"hello, world. " * 7000))
    streamed = asked(CHAT[:-1] % (b"hello " * 20) + b',"stream":true}', stream=True)
    for name in ("vllm", "sglang", "tgi"):
        show_stream(name, load()[name].decoder(streamed, 200, EVENTS))
    adapter = VLLM()

    def whole() -> bytes:
        decoder = adapter.decoder(small, 200, JSON)
        decoder.feed(BODY)
        return decoder.finish()

    show("vllm: a small body, decoder and all", whole)
    show("vllm: encode a small chat", lambda: adapter.encode(small, ENDPOINT, "tiny"))
    show("vllm: encode a small streamed chat", lambda: adapter.encode(streamed, ENDPOINT, "tiny"))
    show("vllm: encode a small chat under another model name", lambda: adapter.encode(small, ENDPOINT, "other"))
    show("vllm: encode 100 KB under another model name", lambda: adapter.encode(large, ENDPOINT, "other"))
    show("splice: replace a member of 100 KB known to be there", lambda: _replace(large.body))
    show("splice: insert a member into 100 KB", lambda: splice.insert(large.body, "x", b"1"))


def _replace(body: bytes) -> bytes:
    return splice.replace(body, "model", b'"other"', present=True)


if __name__ == "__main__":
    main()
