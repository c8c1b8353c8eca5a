"""Print what each adapter's translation costs: a small chat on its way there, a streamed chunk on its way back. (P)

Run it as `python benchmarks/translation.py`; beside each stands what json.loads and dumps of the same bytes take.
`--json` gives the same as an object by engine. It asserts nothing, as times depend on the machine.
"""

from __future__ import annotations

import json
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.registry import load
from gateway.ports import Adapter, Decoder
from gateway.types import Endpoint, InferenceRequest, Operation

EVENTS = ((b"content-type", b"text/event-stream"), (b"date", b"Sat, 21 Nov 2026 12:00:00 GMT"))
WORDS = (" the", " quick", " brown", " fox", " jumps", " over", " a", " lazy", " dog", ",", " sleeping", " in", " it")
CHAT = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. Answer in one short sentence."},
        {"role": "user", "content": "What is the capital of France, and since when? " * 3},
    ],
    "temperature": 0.7,
    "max_tokens": 64,
    "stream": True,
}
HEAD = 'data: {"id":"chatcmpl-81f12d222dc27c7a","object":"chat.completion.chunk","created":1795233512,"model":"tiny",'
OPENAI = (
    HEAD + '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n',
    HEAD + '"choices":[{"index":0,"delta":{"content":%s},"logprobs":null,"finish_reason":null}]}\n\n',
)
TGI = (
    "",
    'data: {"object":"chat.completion.chunk","id":"","created":1795233512,"model":"tiny","system_fingerprint":"3.3.7",'
    '"choices":[{"index":0,"delta":{"role":"assistant","content":%s},"logprobs":null,"finish_reason":null}],'
    '"usage":null}\n\n',
)
GEMINI = (
    "",
    HEAD + '"choices":[{"delta":{"content":%s,"role":"assistant"},"index":0}],'
    '"usage":{"completion_tokens":5,"prompt_tokens":9,"total_tokens":20}}\n\n',
)
ANTHROPIC = (
    'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    '"model":"tiny","content":[],"stop_reason":null,"usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
    'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    '"content_block":{"type":"text","text":""}}\n\n',
    'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    '"delta":{"type":"text_delta","text":%s}}\n\n',
)
DIALECTS = {"tgi": TGI, "gemini": GEMINI, "anthropic": ANTHROPIC}
"""What a stream begins with, and one chunk of it with a place for its text; OpenAI's where nothing else is said."""
TRANSLATED = frozenset((*DIALECTS, "ollama"))
"""Those whose chunks are made anew, one by one."""


def microseconds(call: Callable[[], object]) -> float:
    """Of processor time, so that others on the machine count less."""
    timer = timeit.Timer(call, timer=time.process_time)
    number = max(1, timer.autorange()[0] // 10)
    return min(timer.repeat(5, number)) / number * 1e6


def of_json(body: bytes) -> float:
    """What reading and writing it costs the standard library."""
    return microseconds(lambda: json.dumps(json.loads(body)).encode())


def chunks(name: str) -> tuple[bytes, Iterator[bytes], bytes]:
    """The stream's beginning, its chunks without end, and one of them."""
    head, chunk = DIALECTS.get(name, OPENAI)
    made = [(chunk % json.dumps(word)).encode() for word in WORDS]
    return head.encode(), cycle(made), made[0]


def decoding(adapter: Adapter, request: InferenceRequest, head: bytes, reads: Iterator[bytes]) -> float:
    """One chunk, each in a read of its own, in mid-stream."""
    decoder: Decoder = adapter.decoder(request, 200, EVENTS)
    decoder.feed(head)
    for _ in range(4):
        decoder.feed(next(reads))
    took = microseconds(lambda: decoder.feed(next(reads)))
    assert decoder.error is None, decoder.error
    return took


def measured(name: str, adapter: Adapter) -> dict[str, float]:
    """Microseconds, and how many times json's."""
    body = json.dumps(CHAT).encode()
    request = InferenceRequest("req-1", Operation.CHAT, "tiny", body, (), "/v1/chat/completions", True)
    endpoint = Endpoint(name, "http", "127.0.0.1", 8000)
    encode = microseconds(lambda: adapter.encode(request, endpoint, "tiny"))
    head, reads, one = chunks(name)
    chunk = decoding(adapter, request, head, reads)
    data = one.partition(b"data: ")[2]
    return {
        "encode_us": encode,
        "encode_of_json": encode / of_json(body),
        "chunk_us": chunk,
        "chunk_of_json": chunk / of_json(data),
        "translated": float(name in TRANSLATED),
    }


def main() -> None:
    found = {name: measured(name, adapter) for name, adapter in load().items()}
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    print(f"{'':<12} {'small chat':>10} {'of json':>8} {'chunk':>9} {'of json':>8}")
    for name, took in found.items():
        print(
            f"{name:<12} {took['encode_us']:7.1f} µs {took['encode_of_json']:7.2f}x "
            f"{took['chunk_us']:6.2f} µs {took['chunk_of_json']:7.2f}x"
        )


if __name__ == "__main__":
    main()
