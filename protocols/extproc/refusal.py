"""What a client is answered where no endpoint is: status, text and drop reason of the endpoint picker protocol. (P)

Invariant: one table; a client learns in the reference's words what the reference would have told it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import (
    GatewayError,
    InvalidRequest,
    NoEndpoints,
    Overloaded,
    QueueTimeout,
    RateLimited,
    Stopping,
    Unverified,
    UpstreamTimeout,
)
from protocols.extproc import messages
from protocols.extproc.fields import DROPPED

_CODES: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    413: "PayloadTooLarge",
    429: "ResourceExhausted",
    500: "Internal",
    503: "ServiceUnavailable",
    504: "DeadlineExceeded",
}
_NO_CANDIDATES: Final = "failed to find endpoint candidates for serving the request"
_NO_PODS: Final = "no pods available in datastore"
_NO_MODEL: Final = "model not found in request body"


class Late(GatewayError):
    """A phase of the picker's own took too long. ``dropped``: the drop reason."""

    code = "deadline_exceeded"
    reason = "deadline"

    def __init__(self, message: str, status: int, dropped: str) -> None:
        super().__init__(message)
        self.status = status
        self.dropped = dropped


class Silent(Late, UpstreamTimeout):
    """What took too long is the endpoint's answer."""

    code = UpstreamTimeout.code
    reason = UpstreamTimeout.reason


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """``dropped``: why, in one word of the protocol's; "" for a request that is at fault itself."""

    status: int
    message: str
    dropped: str = ""

    @property
    def text(self) -> str:
        return f"inference error: {_CODES.get(self.status, 'Unknown')} - {self.message}"


_OVERLOADS: Final = {
    QueueTimeout: (429, "rejected-ttl-expired"),
    Stopping: (503, "rejected-shutting-down"),
    Unverified: (503, ""),
}


def verdict(error: GatewayError, *, bodiless: bool = False) -> Verdict:
    """``bodiless``: the request has no body; the reference then fails otherwise for want of endpoints."""
    if isinstance(error, NoEndpoints):
        status, message = (500, _NO_PODS) if bodiless else (503, _NO_CANDIDATES)
        return Verdict(status, message, "rejected-no-endpoints")
    if isinstance(error, Overloaded):
        status, dropped = _OVERLOADS.get(type(error), (429, "rejected-saturated"))
        return Verdict(status, error.message, dropped)
    if isinstance(error, RateLimited):
        return Verdict(error.status, error.message, "rejected-rate-limited")
    if isinstance(error, Late):
        return Verdict(error.status, error.message, error.dropped)
    if isinstance(error, InvalidRequest):
        return Verdict(error.status, _invalid(error))
    return Verdict(error.status, error.message)


def _invalid(error: InvalidRequest) -> str:
    if error.param == "model" and error.message.startswith("Missing"):
        return _NO_MODEL
    if error.param is None and error.message.startswith("We could not parse"):
        return f"error unmarshaling request bodyMap: {error.message}"
    return error.message


def reply(error: GatewayError, verdict: Verdict, request_id: str) -> Any:
    """The ImmediateResponse."""
    fields = [("content-type", b"text/plain; charset=utf-8"), ("x-request-id", request_id.encode())]
    if verdict.dropped:
        fields.append((DROPPED, verdict.dropped.encode()))
    fields += [(name.decode(), value) for name, value in error.headers]
    details = f"endpoint_picker_{verdict.dropped or error.reason}"
    return messages.immediate(verdict.status, messages.Mutation(fields), verdict.text.encode(), details)
