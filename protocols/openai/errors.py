"""How an error reads to a client of this API: header fields, body, and the last event of a broken stream. (P)

Every shape nests a whole OpenAI error object under ``error``: SDKs look there, and raise on nothing else in a stream.
Anthropic's and the Responses API's shapes are put around it for their own clients.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway.errors import GatewayError
from gateway.types import Operation

JSON: Final = (b"content-type", b"application/json")
ANTHROPICS: Final = frozenset({Operation.MESSAGES, Operation.COUNT_TOKENS})
"""Operations whose clients are Anthropic's."""
_DO_NOT_RETRY: Final = (b"x-should-retry", b"false")
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def fields(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """Header fields of the answer, the request id apart.

    A client is told either when to come back or, of a failure that the gateway's own retries did not cure, that
    trying again at once is vain: SDKs retry 5xx unasked, and their retries multiply with the gateway's.
    """
    found = [JSON, *error.headers]
    if error.retry_after is not None:
        found.append((b"retry-after-ms", b"%d" % max(0, math.ceil(error.retry_after * 1000))))
    elif error.status >= 500:
        found.append(_DO_NOT_RETRY)
    return found


def body(error: GatewayError, operation: Operation | None = None, request_id: str = "") -> bytes:
    """The whole answer of a request for ``operation`` (None: no operation's path)."""
    if operation in ANTHROPICS:
        return _anthropic(error, request_id)
    return msgspec.json.encode({"error": _object(error)})


def event(error: GatewayError, operation: Operation, request_id: str = "") -> bytes:
    """The last event of a stream that had begun; no ``[DONE]`` follows it."""
    if operation is Operation.MESSAGES:
        return b"event: error\ndata: %b\n\n" % _anthropic(error, request_id)
    if operation is Operation.RESPONSES:
        # the event's own members stand at the top (sequence_number is required; what was sent is not counted here)
        about = _object(error)
        flat = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode({**flat, "sequence_number": 0, "error": about})
    return b"data: %b\n\n" % msgspec.json.encode({"error": _object(error)})


def _object(error: GatewayError) -> dict[str, str | None]:
    return {"message": error.message, "type": error.type, "param": error.param, "code": error.code}


def _anthropic(error: GatewayError, request_id: str) -> bytes:
    kind = anthropic_type(error.status)
    envelope = {"type": "error", "error": {**_object(error), "type": kind}, "request_id": request_id or None}
    return msgspec.json.encode(envelope)


def anthropic_type(status: int) -> str:
    """What Anthropic's clients go by."""
    return _ANTHROPIC_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
