"""Gemini's streams: what it counts is told once."""

from __future__ import annotations

import json

import pytest

from adapters.providers import Gemini
from gateway.types import Usage
from tests.adapters.recorded import events, request, run, split

COUNTS = [{"prompt_tokens": 5, "completion_tokens": made, "total_tokens": 5 + made} for made in (1, 2, 3)]


def chunk(text: str, counts: dict[str, int], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
    document = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps({**document, "usage": counts}).encode()


BODY = chunk("a", COUNTS[0]) + chunk("b", COUNTS[1]) + chunk("c", COUNTS[2], "stop") + b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize(("asked", "told"), [(True, [COUNTS[-1]]), (False, [])])
def test_counts_that_grow_with_every_chunk_are_told_at_the_end(size: int, asked: bool, told: list[object]) -> None:
    made = Gemini().decoder(request(stream=True, include_usage=asked), 200, events(b"").headers)
    body = run(made, split(BODY, size))
    assert body.endswith(b"data: [DONE]\n\n")
    found = [json.loads(event[6:]) for event in body.split(b"\n\n")[:-2]]
    assert "".join(one["choices"][0]["delta"]["content"] for one in found if one["choices"]) == "abc"
    assert [one["usage"] for one in found if "usage" in one] == told
    assert not told or found[-1]["choices"] == []
    assert made.usage == Usage(5, 3)
