"""How the cases call, and what they read of a refusal. (T)"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as kinds
from google.rpc.status_pb2 import Status

from conformance.cases.grpc.messages import SERVICE, api
from conformance.suite import check, h2client, rpc
from conformance.suite.h2client import Link
from conformance.suite.rpc import Call
from conformance.suite.target import Target

_KINDS: dict[str, Any] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        kinds.ErrorInfo,
        kinds.BadRequest,
        kinds.RetryInfo,
        kinds.QuotaFailure,
        kinds.ResourceInfo,
        kinds.RequestInfo,
    )
}


@asynccontextmanager
async def linked(target: Target, **how: Any) -> AsyncIterator[Link]:
    assert target.setup.grpc is not None  # what cases need is asked for by name
    async with h2client.connect(target, target.setup.grpc, **how) as link:
        yield link


def path(method: str) -> str:
    return f"/{SERVICE}/{method}"


async def called(target: Target, method: str, message: Message | bytes, **how: Any) -> Call:
    """One call of a method, on a connection of its own, to its end."""
    async with linked(target) as link:
        return await link.unary(path(method), message, getattr(api, f"{method}Response"), **how)


async def answered(target: Target, method: str, message: Message, **how: Any) -> Any:
    """The one answer of a call that has to succeed."""
    call = offered(target, await called(target, method, message, **how)).expect(rpc.OK)
    check.equal(len(call.received), 1, f"the number of answers to {method}")
    return call.received[0]


def offered(target: Target, call: Call) -> Call:
    """``call``, unless the server has no such operation, or its engine has not: then the case is skipped."""
    if call.code == rpc.UNIMPLEMENTED or (call.code == rpc.NOT_FOUND and "model" not in reason(call).lower()):
        target.skip(f"not offered here ({call.code}: {call.message})")
    return call


def chat(target: Target, text: str = "Say hello.", **fields: Any) -> Any:
    fields = {"model": target.setup.model, "max_tokens": 8, **fields}
    return api.CreateChatCompletionRequest(messages=[api.ChatMessage(role="user", text=text)], **fields)


def streamed(target: Target, text: str = "Say hello.", **fields: Any) -> Any:
    return api.StreamChatCompletionRequest(request=chat(target, text, **fields))


# -- refusals -------------------------------------------------------------------------------------------------------


def details(call: Call) -> list[Any]:
    """google.rpc's details of a status; those of other types are left out. Raises Failure for what is no Status."""
    text = call.metadata.get("grpc-status-details-bin", "")
    try:
        status = Status.FromString(base64.b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, DecodeError):
        _no(text)
    if text:
        check.equal(status.code, call.code, "the code in grpc-status-details-bin")
    found = []
    for packed in status.details:
        kind = _KINDS.get(packed.TypeName())
        if kind is not None:
            found.append(kind.FromString(packed.value))
    return found


def _no(text: str) -> NoReturn:
    raise check.Failure("grpc-status-details-bin is no google.rpc.Status", "base64 of one", text)


def detail(call: Call, kind: Any) -> Any:
    """The one detail of this type. Raises Failure if there is none, or more."""
    found = [each for each in details(call) if isinstance(each, kind)]
    check.equal(len(found), 1, f"the number of {kind.DESCRIPTOR.name} in the status's details")
    return found[0]


def reason(call: Call) -> str:
    """ErrorInfo's, "" if there is none."""
    return next((str(each.reason) for each in details(call) if isinstance(each, kinds.ErrorInfo)), "")


def refused(call: Call, code: int, *reasons: str) -> Call:
    """``call``, which ended so, says why in ErrorInfo, and has given no answer."""
    call.expect(code)
    check.equal(call.received, [], "the answers of a call that is refused")
    info = detail(call, kinds.ErrorInfo)
    check.true(
        re.fullmatch(r"[A-Z][A-Z0-9_]{0,62}", info.reason), "the reason is no UPPER_SNAKE word", "AIP-193", info.reason
    )
    check.true(info.domain, "ErrorInfo has no domain")
    if reasons:
        check.among(info.reason, reasons, "the reason")
    return call
