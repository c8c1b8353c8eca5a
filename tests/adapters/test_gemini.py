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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("content_filter: SAFETY", "content_filter"),
        ("function_call_filter: MALFORMED_FUNCTION_CALL", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("MAX_TOKENS", "length"),
        ("OTHER", "stop"),
    ],
)
def test_what_a_filter_ended_is_not_said_to_be_whole(said: str, told: str) -> None:
    made = Gemini().decoder(request(stream=True), 200, events(b"").headers)
    body = run(made, [chunk("a", COUNTS[0]), chunk("b", COUNTS[1], said), b"data: [DONE]\n\n"])
    reasons = [json.loads(event[6:])["choices"][0]["finish_reason"] for event in body.split(b"\n\n")[:2]]
    assert reasons == [None, told]


ERROR = b'[{"error":{"code":503,"message":"The model is overloaded","status":"UNAVAILABLE"}}]'


@pytest.mark.parametrize("before", [b"", chunk("a", COUNTS[0])])
def test_an_error_in_an_array_is_one(before: bytes) -> None:
    """…and may be tried elsewhere if nothing was said before."""
    streamed = Gemini().decoder(request(stream=True), 200, events(b"").headers)
    run(streamed, [before, b"data: %b\n\n" % ERROR])
    whole = Gemini().decoder(request(), 200, [(b"content-type", b"application/json")])
    run(whole, [ERROR])
    for decoder, retryable in ((streamed, not before), (whole, True)):
        assert decoder.error is not None
        assert (decoder.error.status, decoder.error.code, decoder.error.retryable) == (503, "overloaded", retryable)
