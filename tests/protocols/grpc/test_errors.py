from __future__ import annotations

import inspect
import re

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2 as details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors as taxonomy
from gateway.errors import (
    BodyTooLarge,
    Forbidden,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    NoEndpoints,
    NotFound,
    Overloaded,
    RateLimited,
    Unauthorized,
    Unsupported,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.wire.grpc import Code, encode_binary, encode_text
from protocols.grpc import errors

KINDS = {
    "ErrorInfo": details_pb2.ErrorInfo,
    "BadRequest": details_pb2.BadRequest,
    "RetryInfo": details_pb2.RetryInfo,
    "QuotaFailure": details_pb2.QuotaFailure,
    "ResourceInfo": details_pb2.ResourceInfo,
    "RequestInfo": details_pb2.RequestInfo,
}


def details(packed: bytes):
    """The details by the names of their types; a type that is there twice fails."""
    found = {}
    for part in Status.FromString(packed).details:
        name = part.type_url.rpartition(".")[2]
        assert name not in found
        message = KINDS[name]()
        assert part.Unpack(message)
        found[name] = message
    return found


def reason(error: GatewayError, **options) -> tuple[Code, str]:
    told = errors.status(error, "req-1", **options)
    return told.code, details(told.details)["ErrorInfo"].reason


@pytest.mark.parametrize(
    ("error", "code", "named", "beside"),
    [
        (InvalidRequest("no", param="messages"), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"BadRequest"}),
        (InvalidRequest("no"), Code.INVALID_ARGUMENT, "INVALID_REQUEST", set()),
        (Unsupported("no", param="n"), Code.INVALID_ARGUMENT, "UNSUPPORTED_PARAMETER", {"BadRequest"}),
        (
            UpstreamError("long", status=400, code="context_length_exceeded", param="messages"),
            Code.INVALID_ARGUMENT,
            "CONTEXT_LENGTH_EXCEEDED",
            {"BadRequest"},
        ),
        (
            UpstreamError("no", status=400, code="content_filter"),
            Code.INVALID_ARGUMENT,
            "CONTENT_POLICY_VIOLATION",
            set(),
        ),
        (Unauthorized(), Code.UNAUTHENTICATED, "INVALID_API_KEY", set()),
        (Forbidden("no", param="model"), Code.PERMISSION_DENIED, "PERMISSION_DENIED", set()),
        (ModelNotFound("no", param="model"), Code.NOT_FOUND, "MODEL_NOT_FOUND", {"ResourceInfo"}),
        (NotFound("no"), Code.NOT_FOUND, "NOT_FOUND", set()),
        (BodyTooLarge("no"), Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE", set()),
        (UpstreamError("no", status=402, code="insufficient_quota"), Code.RESOURCE_EXHAUSTED, "INSUFFICIENT_QUOTA",
         {"QuotaFailure"}),
        (UpstreamError("no", status=429, code="insufficient_quota"), Code.RESOURCE_EXHAUSTED, "INSUFFICIENT_QUOTA",
         {"QuotaFailure"}),
        (UpstreamError("full", status=429, code="overloaded"), Code.UNAVAILABLE, "OVERLOADED", {"RetryInfo"}),
        (RateLimited("no", limit="tokens"), Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", {"RetryInfo", "QuotaFailure"}),
        (UpstreamError("no", status=422, param="x"), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"BadRequest"}),
        (UpstreamError("no", status=418), Code.INVALID_ARGUMENT, "INVALID_REQUEST", set()),
        (UpstreamError("no", status=408), Code.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT", set()),
        (UpstreamError("no", status=409), Code.ABORTED, "CONFLICT", set()),
        (UpstreamError("no", status=501), Code.UNIMPLEMENTED, "NOT_IMPLEMENTED", set()),
        (UpstreamError("no", status=599), Code.INTERNAL, "INTERNAL", set()),
        (GatewayError("no"), Code.INTERNAL, "INTERNAL", set()),
        (UpstreamError("no"), Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", {"RetryInfo"}),
        (Overloaded("no"), Code.UNAVAILABLE, "OVERLOADED", {"RetryInfo"}),
        (NoEndpoints("no"), Code.UNAVAILABLE, "NO_ENDPOINTS", {"RetryInfo"}),
        (UpstreamTimeout("no"), Code.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT", set()),
    ],
)  # fmt: skip
def test_a_failure_s_status_reason_and_details(error, code, named, beside) -> None:
    told = errors.status(error, "req-1")
    assert told.code is code
    found = details(told.details)
    assert found["ErrorInfo"].reason == named
    assert found["ErrorInfo"].domain == "infer-gateway.dev"
    assert set(found) == {"ErrorInfo", "RequestInfo"} | beside
    assert found["RequestInfo"].request_id == "req-1"


def test_every_error_of_the_taxonomy_has_a_row_of_its_own_status() -> None:
    kinds = [kind for _, kind in inspect.getmembers(taxonomy, inspect.isclass) if issubclass(kind, GatewayError)]
    assert len(kinds) > 10
    assert {kind.status for kind in kinds} <= set(errors.BY_STATUS)


def test_a_field_at_fault_a_wait_and_a_limit_are_named() -> None:
    found = details(errors.status(InvalidRequest("bad roles", param="messages[0].role"), "r").details)
    (violation,) = found["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("messages[0].role", "bad roles")
    found = details(errors.status(RateLimited("slow down", retry_after=2.25, limit="tokens"), "r").details)
    assert found["RetryInfo"].retry_delay.ToNanoseconds() == 2_250_000_000
    (quota,) = found["QuotaFailure"].violations
    assert (quota.subject, quota.description) == ("limit:tokens", "slow down")


def test_the_codes_that_http_has_are_in_the_metadata() -> None:
    found = details(errors.status(ModelNotFound("no", param="model"), "r").details)["ErrorInfo"]
    assert dict(found.metadata) == {"status": "404", "code": "model_not_found"}


def test_a_broken_stream_is_told_apart_from_a_call_that_may_be_repeated() -> None:
    told = errors.status(UpstreamError("cut", retry_after=1.0), "r", partial=True)
    found = details(told.details)
    assert told.code is Code.UNAVAILABLE
    assert found["ErrorInfo"].reason == "STREAM_INTERRUPTED"
    assert found["ErrorInfo"].metadata["partial"] == "true"
    assert "RetryInfo" not in found
    assert reason(UpstreamTimeout("silent"), partial=True) == (Code.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT")


@given(
    st.text(max_size=3000),
    st.integers(400, 599),
    st.none() | st.text(max_size=3000),
    st.none() | st.text(max_size=3000),
    st.none() | st.floats(0, 1e6),
    st.booleans(),
)
def test_whatever_failed_the_status_keeps_the_rules_and_fits_into_metadata(
    message, status, code, param, retry_after, partial
) -> None:
    error = UpstreamError(message, status=status, code=code, param=param, retry_after=retry_after)
    told = errors.status(error, "r" * 128, partial=partial)
    packed = Status.FromString(told.details)
    assert (packed.code, packed.message) == (told.code, told.message)
    assert told.code is not Code.OK
    info = details(told.details)["ErrorInfo"]
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", info.reason)
    assert all(re.fullmatch(r"[a-z][a-zA-Z0-9-_]+", key) for key in info.metadata)
    assert len(encode_binary(told.details)) + len(encode_text(told.message)) < 8000
    assert isinstance(packed.details[0], Any)
    if len(message.encode()) <= 1024:
        assert told.message == message


def test_lone_surrogates_do_not_break_an_answer() -> None:
    assert errors.status(UpstreamError("a\ud800b"), "r").message == "a?b"
