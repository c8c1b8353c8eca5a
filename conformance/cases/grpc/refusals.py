"""Refusals: the status that clients act by, and google.rpc's details that programs read. (T)"""

from __future__ import annotations

from google.rpc import error_details_pb2 as kinds

from conformance.cases.grpc.calls import called, chat, detail, details, refused
from conformance.cases.grpc.messages import api
from conformance.cases.grpc.profile import NEEDS, PROFILE, PROTO
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.rpc import Call
from conformance.suite.target import Target

_TABLE = "google.rpc.Code; AIP-193"


@PROFILE.case(
    "refuse.model", "An unknown model: NOT_FOUND, MODEL_NOT_FOUND with ResourceInfo", source=_TABLE, needs=NEEDS
)
async def unknown_model(target: Target) -> None:
    for method, message in (
        ("CreateChatCompletion", chat(target, model="no-such-model")),
        ("CreateCompletion", api.CreateCompletionRequest(model="no-such-model", prompt=[api.Prompt(text="a")])),
        ("CreateEmbedding", api.CreateEmbeddingRequest(model="no-such-model", input=[api.Prompt(text="a")])),
        ("GetModel", api.GetModelRequest(model="no-such-model")),
    ):
        call = refused(await called(target, method, message), rpc.NOT_FOUND, "MODEL_NOT_FOUND")
        check.matches(detail(call, kinds.ResourceInfo).resource_type, "model", f"resource_type of {method}")


@PROFILE.case(
    "refuse.argument",
    "What cannot be served as it is: INVALID_ARGUMENT with the field in BadRequest",
    source=_TABLE,
    needs=NEEDS,
)
async def argument(target: Target) -> None:
    for message, field in (
        (chat(target, model=""), "model"),
        (api.CreateChatCompletionRequest(model=target.setup.model), "messages"),
    ):
        call = refused(await called(target, "CreateChatCompletion", message), rpc.INVALID_ARGUMENT, "INVALID_REQUEST")
        fields = [violation.field for violation in detail(call, kinds.BadRequest).field_violations]
        check.true(any(name.startswith(field) for name in fields), "BadRequest names another field", field, fields)


@PROFILE.case("refuse.empty", "Requests of nothing at all are refused, whatever the method", source=_TABLE, needs=NEEDS)
async def empty(target: Target) -> None:
    for method in ("CreateChatCompletion", "CreateCompletion", "CreateEmbedding", "CountTokens", "GetModel"):
        call = await called(target, method, b"")
        if call.code != rpc.UNIMPLEMENTED:
            call.expect(rpc.INVALID_ARGUMENT, rpc.NOT_FOUND)


@PROFILE.case(
    "refuse.too-long",
    "A prompt beyond the model's length: INVALID_ARGUMENT, CONTEXT_LENGTH_EXCEEDED",
    source=_TABLE,
    level=Level.SHOULD,
    needs=NEEDS,
)
async def too_long(target: Target) -> None:
    counted = await called(target, "CountTokens", api.CountTokensRequest(model=target.setup.model, prompt="a"))
    length = counted.received[0].max_model_len if counted.code == rpc.OK else 0
    if not 0 < length <= 200_000:
        target.skip("the model's length is not told, or too large to try")
    call = await called(target, "CreateChatCompletion", chat(target, "word " * (length + 100)))
    refused(call, rpc.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED")


def _told(call: Call) -> None:
    """AIP-193, whatever was refused."""
    names = [type(each).DESCRIPTOR.name for each in details(call)]
    check.equal(names.count("ErrorInfo"), 1, "the number of ErrorInfo")
    check.equal(sorted(set(names)), sorted(names), "the types of details, each at most once")
    size = sum(len(name) + len(value) + 32 for name, value in call.trailers)
    check.at_most(size, 8192, "the size of the trailers, of which clients take 8 KiB")


@PROFILE.case(
    "refuse.details",
    "One ErrorInfo, no type twice, within the 8 KiB that clients take",
    source="AIP-193; grpc-go MaxHeaderListSize",
    needs=NEEDS,
)
async def told(target: Target) -> None:
    for name in ("no-such-model", "long" * 5000, "nämé/☃\n"):
        call = await called(target, "CreateChatCompletion", chat(target, model=name))
        _told(call.expect(rpc.NOT_FOUND, rpc.INVALID_ARGUMENT))


@PROFILE.case(
    "refuse.request-id",
    "RequestInfo and the metadata of a refusal name the call",
    source=f"{PROTO}: Metadata; AIP-193",
    needs=NEEDS,
)
async def request_id(target: Target) -> None:
    also = [("x-request-id", "conformance-refused-1")]
    call = await called(target, "CreateChatCompletion", chat(target, model="no-such-model"), also=also)
    check.equal(call.metadata.get("x-request-id"), "conformance-refused-1", "x-request-id of a call that is refused")
    check.equal(detail(call, kinds.RequestInfo).request_id, "conformance-refused-1", "RequestInfo.request_id")


@PROFILE.case(
    "refuse.message",
    "grpc-message is percent-encoded ASCII",
    source="grpc doc/PROTOCOL-HTTP2.md, Status-Message",
    needs=NEEDS,
)
async def message(target: Target) -> None:
    call = await called(target, "GetModel", api.GetModelRequest(model="ñ☃ 100%\r\nx-injected: 1"))
    call.expect(rpc.NOT_FOUND, rpc.INVALID_ARGUMENT)
    said = call.metadata.get("grpc-message", "")
    check.true(said, "a refusal has no message")
    check.true(all(" " <= char <= "~" for char in said), "grpc-message holds other bytes", "percent-encoding", said)
    check.true("x-injected" not in call.metadata, "a model's name became metadata")


@PROFILE.case("refuse.no-key", "Without a key: UNAUTHENTICATED, INVALID_API_KEY", source=_TABLE, needs=("grpc", "key"))
async def no_key(target: Target) -> None:
    for key in ("", "no-such-key"):
        for method, message in (("CreateChatCompletion", chat(target)), ("ListModels", api.ListModelsRequest())):
            refused(await called(target, method, message, key=key), rpc.UNAUTHENTICATED, "INVALID_API_KEY")


@PROFILE.case(
    "refuse.x-api-key",
    "A key in x-api-key counts",
    source=f"{PROTO}: Metadata",
    level=Level.SHOULD,
    needs=("grpc", "key"),
)
async def x_api_key(target: Target) -> None:
    also = [("x-api-key", target.setup.key)]
    (await called(target, "ListModels", api.ListModelsRequest(), key="", also=also)).expect(rpc.OK)


@PROFILE.case(
    "refuse.limit",
    "Beyond a limit: RESOURCE_EXHAUSTED, RATE_LIMITED with QuotaFailure and RetryInfo",
    source=_TABLE,
    alone=True,
    needs=("grpc", "limited_key"),
)
async def limit(target: Target) -> None:
    for _ in range(100):
        call = await called(
            target, "CreateChatCompletion", chat(target, max_tokens=1), key=target.setup.extra["limited_key"]
        )
        if call.code != rpc.OK:
            break
    refused(call, rpc.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    check.true(detail(call, kinds.QuotaFailure).violations, "QuotaFailure names no quota")
    wait = detail(call, kinds.RetryInfo).retry_delay.ToTimedelta().total_seconds()
    check.true(0 <= wait < 31 * 86400, "retry_delay makes no sense", "seconds to wait", wait)
