"""How a failure reads to a gRPC client: one table from the taxonomy to statuses, and the details that go with them. (P)

Every status carries exactly one ErrorInfo, whose reason is what programs go by, and at most one detail of any type
(AIP-193). UNAVAILABLE is what clients retry unasked (AIP-194): it stands for what may go better in a moment, never for
a caller's quota. Texts are cut so that a status fits into the 8 KiB of metadata that clients accept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details_pb2
from google.rpc.status_pb2 import Status

from gateway.errors import GatewayError, RateLimited
from gateway.wire.grpc import Code, GrpcError

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN: Final = "infer-gateway.dev"
_TEXT_MAX: Final = 1024
_FIELD_MAX: Final = 128
_COME_AGAIN_S: Final = 1.0


class Row(msgspec.Struct, frozen=True):
    """What stands for a kind of failure. ``retry``: RetryInfo is given; ``quota``: QuotaFailure is."""

    code: Code
    reason: str
    retry: bool = False
    quota: bool = False


BY_CODE: Final[dict[tuple[int, str], Row]] = {
    (400, "context_length_exceeded"): Row(Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED"),
    (400, "unsupported_parameter"): Row(Code.INVALID_ARGUMENT, "UNSUPPORTED_PARAMETER"),
    (400, "content_filter"): Row(Code.INVALID_ARGUMENT, "CONTENT_POLICY_VIOLATION"),
    (400, "content_policy_violation"): Row(Code.INVALID_ARGUMENT, "CONTENT_POLICY_VIOLATION"),
    (404, "model_not_found"): Row(Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    (429, "insufficient_quota"): Row(Code.RESOURCE_EXHAUSTED, "INSUFFICIENT_QUOTA", quota=True),
    (429, "overloaded"): Row(Code.UNAVAILABLE, "OVERLOADED", retry=True),
    (503, "no_endpoints"): Row(Code.UNAVAILABLE, "NO_ENDPOINTS", retry=True),
}
"""What an HTTP status and the code beside it mean; before `BY_STATUS`."""

BY_STATUS: Final[dict[int, Row]] = {
    400: Row(Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    401: Row(Code.UNAUTHENTICATED, "INVALID_API_KEY"),
    402: Row(Code.RESOURCE_EXHAUSTED, "INSUFFICIENT_QUOTA", quota=True),
    403: Row(Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
    404: Row(Code.NOT_FOUND, "NOT_FOUND"),
    405: Row(Code.UNIMPLEMENTED, "NOT_IMPLEMENTED"),
    408: Row(Code.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT"),
    409: Row(Code.ABORTED, "CONFLICT"),
    413: Row(Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE"),
    422: Row(Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    429: Row(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry=True, quota=True),
    431: Row(Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE"),
    499: Row(Code.CANCELLED, "CANCELLED"),
    500: Row(Code.INTERNAL, "INTERNAL"),
    501: Row(Code.UNIMPLEMENTED, "NOT_IMPLEMENTED"),
    502: Row(Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", retry=True),
    503: Row(Code.UNAVAILABLE, "OVERLOADED", retry=True),
    504: Row(Code.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
    529: Row(Code.UNAVAILABLE, "OVERLOADED", retry=True),
}
_INTERRUPTED: Final = Row(Code.UNAVAILABLE, "STREAM_INTERRUPTED")


def row(error: GatewayError, *, partial: bool = False) -> Row:
    """What ``error`` is to a gRPC client. ``partial``: part of the answer had been sent when it happened."""
    found = BY_CODE.get((error.status, error.code or "")) or BY_STATUS.get(error.status)
    if found is None:
        found = BY_STATUS[500 if error.status >= 500 else 400]
    if partial and found.code in (Code.UNAVAILABLE, Code.INTERNAL):
        return _INTERRUPTED
    return found


def status(error: GatewayError, request_id: str, *, partial: bool = False) -> GrpcError:
    """The status of a call that ends with ``error``, with its details as a serialised google.rpc.Status.

    ``partial``: part of the answer has been sent, so the client must not take the whole for repeatable unasked.
    """
    found = row(error, partial=partial)
    message = _cut(error.message, _TEXT_MAX)
    parts: list[Message] = [_info(error, found, partial)]
    if found.code is Code.INVALID_ARGUMENT and error.param:
        parts.append(_bad_request(error.param, message))
    if found.quota:
        parts.append(_quota(error, message))
    if found.code is Code.NOT_FOUND and error.param == "model":
        parts.append(details_pb2.ResourceInfo(resource_type="model", description=message))
    if found.retry:
        parts.append(details_pb2.RetryInfo(retry_delay=_duration(error.retry_after)))
    parts.append(details_pb2.RequestInfo(request_id=request_id))
    packed = Status(code=found.code, message=message, details=[_any(part) for part in parts])
    return GrpcError(found.code, message, packed.SerializeToString())


def _info(error: GatewayError, found: Row, partial: bool) -> details_pb2.ErrorInfo:
    """``code`` and ``status`` are those that the same failure has over HTTP."""
    about = {"status": str(error.status)}
    if error.code:
        about["code"] = _cut(error.code, _FIELD_MAX)
    if partial:
        about["partial"] = "true"
    return details_pb2.ErrorInfo(reason=found.reason, domain=DOMAIN, metadata=about)


def _bad_request(param: str, message: str) -> details_pb2.BadRequest:
    violation = details_pb2.BadRequest.FieldViolation(field=_cut(param, _FIELD_MAX), description=message)
    return details_pb2.BadRequest(field_violations=[violation])


def _quota(error: GatewayError, message: str) -> details_pb2.QuotaFailure:
    limit = error.limit if isinstance(error, RateLimited) else ""
    violation = details_pb2.QuotaFailure.Violation(subject=f"limit:{limit}" if limit else "", description=message)
    return details_pb2.QuotaFailure(violations=[violation])


def _duration(seconds: float | None) -> Duration:
    wait = Duration()
    wait.FromNanoseconds(round((_COME_AGAIN_S if seconds is None else max(0.0, seconds)) * 1e9))
    return wait


def _any(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def _cut(text: str, limit: int) -> str:
    """At most ``limit`` bytes of UTF-8, an ellipsis at the end if some are missing; lone surrogates are replaced."""
    data = text.encode("utf-8", "replace")
    if len(data) > limit:
        data = data[: limit - 3].decode("utf-8", "ignore").encode() + "…".encode()
    return data.decode()
