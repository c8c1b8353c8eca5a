"""llama.cpp's Responses streams: numbered and placed, whatever the split; what it says of its own accord stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.llamacpp import LlamaCpp
from gateway.ports import Decoder
from gateway.types import Operation, Usage
from tests.adapters.recorded import events, request, run, split

TEXT, CALL = "msg_k3LdnyYxF4Wphw", "fc_dW1kYYx0f4"
BEGUN = {"id": "resp_29M9Jmy31iR6ZE1AGA8zq2aF", "object": "response", "status": "in_progress"}
PART = {"type": "output_text", "annotations": [], "logprobs": [], "text": "]X"}
MESSAGE = {"type": "message", "status": "completed", "id": TEXT, "content": [PART], "role": "assistant"}
USAGE = {"input_tokens": 19, "output_tokens": 3, "total_tokens": 22, "input_tokens_details": {"cached_tokens": 2}}
SAID: list[dict[str, Any]] = [
    {"type": "response.created", "response": BEGUN},
    {"type": "response.in_progress", "response": BEGUN},
    {"type": "response.output_item.added", "item": {**MESSAGE, "content": [], "status": "in_progress"}},
    {"type": "response.content_part.added", "item_id": TEXT, "part": {"type": "output_text", "text": ""}},
    {"type": "response.output_text.delta", "item_id": TEXT, "delta": "]"},
    {"type": "response.output_text.delta", "item_id": TEXT, "delta": "X"},
    {"type": "response.output_text.done", "item_id": TEXT, "text": "]X"},
    {"type": "response.content_part.done", "item_id": TEXT, "part": PART},
    {"type": "response.output_item.done", "item": MESSAGE},
    {"type": "response.output_item.added", "item": {"type": "function_call", "id": CALL, "arguments": ""}},
    {"type": "response.function_call_arguments.delta", "item_id": CALL, "delta": "{}"},
    {"type": "response.completed", "response": {**BEGUN, "status": "completed", "output": [MESSAGE], "usage": USAGE}},
]


def decoder() -> Decoder:
    return LlamaCpp().decoder(request(stream=True, operation=Operation.RESPONSES), 200, events(b"").headers)


def stream(said: list[dict[str, Any]]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in said)


def told(body: bytes) -> list[dict[str, Any]]:
    blocks = [block.split("\n") for block in body.decode().split("\n\n")[:-1]]
    found = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name for name, _ in blocks] == [f"event: {one['type']}" for one in found]
    return found


@pytest.mark.parametrize("size", [1, 10, 100, 100_000])
def test_every_event_has_its_number_and_its_place(size: int) -> None:
    made = decoder()
    found = told(run(made, split(stream(SAID), size)))
    assert [one["sequence_number"] for one in found] == list(range(len(SAID)))
    assert [one.get("output_index") for one in found] == [None, None, 0, 0, 0, 0, 0, 0, 0, 1, 1, None]
    assert [one.get("content_index") for one in found] == [None, None, None, 0, 0, 0, 0, 0, None, None, None, None]
    assert [one["response"]["output"] for one in found if "response" in one] == [[], [], [MESSAGE]]
    for one, before in zip(found, SAID, strict=True):
        assert one.items() >= {name: value for name, value in before.items() if name != "response"}.items()
    assert (made.usage, made.error, made.progress, made.tokens) == (Usage(19, 3, 2), None, 2, 3)


def test_what_it_says_itself_stays() -> None:
    placed = {"sequence_number": 7, "output_index": 5, "content_index": 3}
    said = [{**one, **placed} for one in SAID]
    assert told(run(decoder(), [stream(said)]))[3:-1] == said[3:-1]


def test_comments_pass_and_failures_end_it() -> None:
    made = decoder()
    failed = {"type": "error", "message": "out of memory", "code": 500}
    body = run(made, [b": wait\n\n", stream(SAID[:5]), stream([failed])])
    assert body.startswith(b": wait\n\n")
    assert len(told(body.removeprefix(b": wait\n\n"))) == 5
    assert made.error is not None
    assert made.error.message == "out of memory"
