"""Streams of named events: bytes through, usage counted, ends known."""

import json

import pytest

from adapters.vllm import VLLM
from gateway.ports import Decoder
from gateway.types import Operation, Usage
from tests.adapters.recorded import answer, events, request, run, split


def decoder(operation: Operation) -> Decoder:
    return VLLM().decoder(request(stream=True, operation=operation), 200, events(b"").headers)


def event(kind: str, **members: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())


RESPONSE = [
    event("response.created", response={"usage": None}),
    event("response.in_progress", response={}),
    event("response.output_text.delta", delta="a"),
    event("response.output_text.delta", delta="b"),
]
COMPLETED = event(
    "response.completed",
    response={"usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}},
)


@pytest.mark.parametrize("name", ["vllm/messages-anthropic-stream", "sglang/messages-anthropic-stream"])
def test_recorded_messages_pass_byte_for_byte_at_any_split(name: str) -> None:
    body = answer(name).body
    for size in (1, 10, 100, 10_000):
        made = decoder(Operation.MESSAGES)
        assert run(made, split(body, size)) == body
        assert made.error is None
        assert made.usage == Usage(26, 4)
        assert (made.progress, made.tokens) == (2, 4)


@pytest.mark.parametrize("size", [1, 10, 100, 10_000])
def test_responses_pass_byte_for_byte_and_no_done_is_added(size: int) -> None:
    body = b"".join(RESPONSE) + COMPLETED
    made = decoder(Operation.RESPONSES)
    assert run(made, split(body, size)) == body
    assert made.error is None
    assert made.usage == Usage(9, 2, 4)


def test_progress_begins_with_the_first_delta() -> None:
    made = decoder(Operation.RESPONSES)
    seen = []
    for piece in RESPONSE:
        assert made.feed(piece) == piece
        seen.append(made.progress)
    assert seen == [1, 1, 2, 2]


def test_what_a_proxy_appends_to_the_end_is_dropped() -> None:
    made = decoder(Operation.MESSAGES)
    body = answer("vllm/messages-anthropic-stream").body
    assert run(made, [body, b"data: [DONE]\n\n"]) == body


@pytest.mark.parametrize("operation", [Operation.RESPONSES, Operation.MESSAGES])
def test_10_a_close_before_the_last_event_is_an_error(operation: Operation) -> None:
    made = decoder(operation)
    assert run(made, RESPONSE) == b"".join(RESPONSE)
    assert made.error is not None
    assert made.error.status == 502


@pytest.mark.parametrize(
    ("failing", "status", "message"),
    [
        (event("response.failed", response={"error": {"code": "server_error", "message": "m"}}), 500, "m"),
        (event("error", code="rate_limit_exceeded", message="m", param=None, sequence_number=1), 429, "m"),
        (event("error", error={"type": "overloaded_error", "message": "Overloaded"}), 503, "Overloaded"),
        (b'data: {"error":{"message":"m","code":503}}\n\n', 503, "m"),
    ],
)
def test_11_failures_end_the_stream(failing: bytes, status: int, message: str) -> None:
    for lead in ([], RESPONSE):
        made = decoder(Operation.RESPONSES)
        assert run(made, [*lead, failing, COMPLETED]) == b"".join(lead)
        assert made.error is not None
        assert (made.error.status, made.error.message) == (status, message)
        assert made.error.retryable == (not lead and status in (429, 503))
