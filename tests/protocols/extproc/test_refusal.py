from __future__ import annotations

import pytest

from gateway.errors import (
    BodyTooLarge,
    Forbidden,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    NoEndpoints,
    Overloaded,
    QueueTimeout,
    RateLimited,
    Stopping,
    Unauthorized,
    Unverified,
)
from protocols.extproc import refusal
from protocols.extproc.refusal import Late
from tests.protocols.extproc.proxy import theirs

NO_PODS = "inference error: Internal - no pods available in datastore"
NO_CANDIDATES = "inference error: ServiceUnavailable - failed to find endpoint candidates for serving the request"
CASES: list[tuple[GatewayError, int, str, str]] = [
    (NoEndpoints("x"), 503, NO_CANDIDATES, "rejected-no-endpoints"),
    (Overloaded("full"), 429, "inference error: ResourceExhausted - full", "rejected-saturated"),
    (
        QueueTimeout("late"),
        429,
        "inference error: ResourceExhausted - late",
        "rejected-ttl-expired",
    ),
    (
        Stopping(),
        503,
        "inference error: ServiceUnavailable - the gateway is stopping; try again later",
        "rejected-shutting-down",
    ),
    (Unverified("who?"), 503, "inference error: ServiceUnavailable - who?", ""),
    (RateLimited("slow"), 429, "inference error: ResourceExhausted - slow", "rejected-rate-limited"),
    (InvalidRequest("no"), 400, "inference error: BadRequest - no", ""),
    (
        InvalidRequest("Missing required parameter: 'model'.", param="model"),
        400,
        "inference error: BadRequest - model not found in request body",
        "",
    ),
    (
        InvalidRequest("We could not parse the JSON body of your request: it is empty."),
        400,
        "inference error: BadRequest - error unmarshaling request bodyMap: "
        "We could not parse the JSON body of your request: it is empty.",
        "",
    ),
    (Unauthorized("who"), 401, "inference error: Unauthorized - who", ""),
    (Forbidden("no"), 403, "inference error: Forbidden - no", ""),
    (ModelNotFound("no"), 404, "inference error: NotFound - no", ""),
    (BodyTooLarge("big"), 413, "inference error: PayloadTooLarge - big", ""),
    (Late("late", 504, "rejected-timeout"), 504, "inference error: DeadlineExceeded - late", "rejected-timeout"),
    (GatewayError("bug"), 500, "inference error: Internal - bug", ""),
]


@pytest.mark.parametrize(("error", "status", "text", "dropped"), CASES)
def test_table(error: GatewayError, status: int, text: str, dropped: str) -> None:
    reply = theirs(refusal.reply(error, refusal.verdict(error), "r-1")).immediate_response
    found = {option.header.key: option.header.raw_value.decode() for option in reply.headers.set_headers}
    assert reply.status.code == status
    assert reply.body.decode() == text
    assert found.get("x-llm-d-request-dropped-reason", "") == dropped
    assert found["x-request-id"] == "r-1"
    assert " " not in reply.details


def test_reference_fails_otherwise_without_a_body() -> None:
    verdict = refusal.verdict(NoEndpoints("x"), bodiless=True)
    assert (verdict.status, verdict.text, verdict.dropped) == (500, NO_PODS, "rejected-no-endpoints")


def test_fields_of_the_error_go_along() -> None:
    error = RateLimited("slow", retry_after=2.5, fields=[(b"x-ratelimit-limit-requests", b"5")])
    reply = theirs(refusal.reply(error, refusal.verdict(error), "r-1")).immediate_response
    found = {option.header.key: option.header.raw_value for option in reply.headers.set_headers}
    assert found["retry-after"] == b"3"
    assert found["x-ratelimit-limit-requests"] == b"5"
