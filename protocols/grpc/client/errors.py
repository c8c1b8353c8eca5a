"""How a call fails, as its caller sees it: one exception, with the code, the text and the server's details. (P)

Invariant: whatever a server sends makes an `RpcError`; what of it cannot be read is left out.
"""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Final, TypeVar

from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from h2.errors import ErrorCodes

from gateway.wire.grpc import Code, decode_binary, decode_text
from protocols.grpc.metadata import Metadata

_M = TypeVar("_M", bound=Message)
_KINDS: Final = {
    kind.full_name: message_factory.GetMessageClass(kind)
    for kind in error_details_pb2.DESCRIPTOR.message_types_by_name.values()
}

_CODES: Final = {str(code.value).encode(): code for code in Code}

# grpc doc/http-grpc-status-mapping.md
_HTTP: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
# grpc doc/PROTOCOL-HTTP2.md, Errors
_RESET: Final = {
    ErrorCodes.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCodes.CANCEL: Code.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


class RpcError(Exception):
    """A call that did not end with OK.

    ``details``: the messages of google.rpc.Status, decoded (`ErrorInfo`, `RetryInfo`, …); one of an unknown type stays
    a google.protobuf.Any. ``metadata``: what came with the status. ``unprocessed``: the server has not looked at the
    call, so that it may be repeated whatever it does.
    """

    def __init__(
        self,
        code: Code,
        message: str = "",
        details: tuple[Message, ...] = (),
        metadata: Metadata = (),
        *,
        unprocessed: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = details
        self.metadata = metadata
        self.unprocessed = unprocessed

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    def detail(self, kind: type[_M]) -> _M | None:
        """The first detail of this type, or None."""
        return next((detail for detail in self.details if isinstance(detail, kind)), None)


def ended(trailers: Mapping[bytes, bytes], metadata: Metadata) -> RpcError | None:
    """What the trailers say; None for OK."""
    status = trailers.get(b"grpc-status")
    if status is None:
        return RpcError(Code.UNKNOWN, "the answer ended without a status", (), metadata)
    if status == b"0":
        return None
    code = _CODES.get(status, Code.UNKNOWN)
    message = decode_text(trailers.get(b"grpc-message", b"").decode("latin-1"))
    return RpcError(code, message, _details(trailers.get(b"grpc-status-details-bin", b"")), metadata)


def _details(value: bytes) -> tuple[Message, ...]:
    try:
        status = status_pb2.Status.FromString(decode_binary(value))
    except (ValueError, DecodeError):
        return ()
    found: list[Message] = []
    for packed in status.details:
        kind = _KINDS.get(packed.type_url.rpartition("/")[2])
        try:
            found.append(kind.FromString(packed.value) if kind is not None else packed)
        except DecodeError:
            found.append(packed)
    return tuple(found)


def refused(status: bytes, content_type: bytes) -> RpcError | None:
    """What a head says that is not gRPC's; None where it is."""
    if status != b"200":
        number = int(status[:3]) if status.isdigit() else 0
        name = http.HTTPStatus(number).phrase if number in http.HTTPStatus._value2member_map_ else ""
        return RpcError(_HTTP.get(number, Code.UNKNOWN), f"the answer is HTTP {number} {name}".rstrip())
    if not content_type.startswith(b"application/grpc"):
        return RpcError(Code.UNKNOWN, f"the answer is {content_type.decode('latin-1') or 'of no type'}, not gRPC")
    return None


def reset(code: ErrorCodes | int) -> RpcError:
    """What RST_STREAM says."""
    refused = code == ErrorCodes.REFUSED_STREAM
    name = code.name if isinstance(code, ErrorCodes) else str(code)
    known = _RESET.get(code, Code.INTERNAL) if isinstance(code, ErrorCodes) else Code.INTERNAL
    return RpcError(known, f"the server reset the call: {name}", unprocessed=refused)
