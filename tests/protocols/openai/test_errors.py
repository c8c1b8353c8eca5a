from __future__ import annotations

import json

import pytest

from gateway.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NoEndpoints,
    Overloaded,
    RateLimited,
    Unauthorized,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.types import Operation
from protocols.openai import errors

BROKEN = UpstreamError("The engine left.", code="upstream_error")
ABOUT = {"message": "The engine left.", "type": "server_error", "param": None, "code": "upstream_error"}


def fields(error: GatewayError) -> dict[bytes, bytes]:
    found = errors.fields(error)
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequest("no"), {}),
        (MethodNotAllowed("no", "GET, HEAD"), {b"allow": b"GET, HEAD"}),
        (RateLimited("slow", retry_after=0.25), {b"retry-after": b"1", b"retry-after-ms": b"250"}),
        (Overloaded("full", retry_after=1.5), {b"retry-after": b"2", b"retry-after-ms": b"1500"}),
        (NoEndpoints("none"), {b"x-should-retry": b"false"}),
        (GatewayError("bug"), {b"x-should-retry": b"false"}),
        (BROKEN, {b"x-should-retry": b"false"}),
        (UpstreamTimeout("slow"), {b"x-should-retry": b"false"}),
        (UpstreamError("busy", status=429), {}),
        (UpstreamError("busy", status=503, retry_after=3), {b"retry-after": b"3", b"retry-after-ms": b"3000"}),
    ],
)
def test_a_client_learns_whether_to_come_back(error: GatewayError, expected: dict[bytes, bytes]) -> None:
    assert fields(error) == {b"content-type": b"application/json", **expected}


@pytest.mark.parametrize("operation", [None, *(o for o in Operation if o not in errors.ANTHROPICS)])
def test_bodies(operation: Operation | None) -> None:
    error = InvalidRequest("Missing required parameter: 'model'.", param="model")
    assert json.loads(errors.body(error, operation)) == {
        "error": {
            "message": "Missing required parameter: 'model'.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "invalid_request_error",
        }
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no"), "invalid_request_error"),
        (Unauthorized("no"), "authentication_error"),
        (ModelNotFound("no"), "not_found_error"),
        (RateLimited("no"), "rate_limit_error"),
        (Overloaded("no"), "overloaded_error"),
        (UpstreamError("no", status=402), "billing_error"),
        (UpstreamTimeout("no"), "timeout_error"),
        (BROKEN, "api_error"),
        (GatewayError("no"), "api_error"),
    ],
)
def test_the_envelope_of_messages(error: GatewayError, kind: str) -> None:
    assert errors.body(error, Operation.COUNT_TOKENS, "req-7") == errors.body(error, Operation.MESSAGES, "req-7")
    envelope = json.loads(errors.body(error, Operation.MESSAGES, "req-7"))
    assert (envelope["type"], envelope["request_id"]) == ("error", "req-7")
    assert envelope["error"]["type"] == kind
    assert envelope["error"]["message"] == error.message
    assert envelope["error"]["code"] == error.code


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_the_last_event_of_a_broken_stream(operation: Operation) -> None:
    event = errors.event(BROKEN, operation)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event[6:]) == {"error": ABOUT}


def test_the_last_event_of_broken_messages() -> None:
    name, data = errors.event(BROKEN, Operation.MESSAGES, "req-7").removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: ")) == {
        "type": "error",
        "error": {**ABOUT, "type": "api_error"},
        "request_id": "req-7",
    }


def test_the_last_event_of_a_broken_response() -> None:
    name, data = errors.event(BROKEN, Operation.RESPONSES).removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    found = json.loads(data.removeprefix(b"data: "))
    assert found.pop("error") == ABOUT
    flat = {
        "type": "error",
        "message": "The engine left.",
        "code": "upstream_error",
        "param": None,
        "sequence_number": 0,
    }
    assert found == flat


def test_a_message_with_line_feeds_stays_in_one_event() -> None:
    assert errors.event(GatewayError("a\n\ndata: b\r\n"), Operation.CHAT).count(b"\n") == 2
