"""Reflection as grpcio's reflection client sees it, which speaks v1alpha, and v1 by the same questions."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import pytest
import trio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protocols.grpc import standard
from protocols.grpc.client import RpcError, connect
from protocols.grpc.generated.upb import inference as pb
from protocols.grpc.health import Health
from protocols.grpc.reflection import Reflection
from tests.protocols.grpc.served import served

Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
SERVICE = "inference.v1.InferenceService"


class Inference:
    def __mapping__(self) -> dict[str, object]:
        handler = next(iter(Health().__mapping__().values()))
        return {
            f"/{SERVICE}/{method.name}": handler
            for method in pb.DESCRIPTOR.services_by_name["InferenceService"].methods
        }


def extended() -> Iterable[object]:
    """A file in proto2 with an extension, which imports another."""
    pool = descriptor_pool.DescriptorPool()
    base = descriptor_pb2.FileDescriptorProto(name="test/base.proto", package="test")
    base.message_type.add(name="Base").extension_range.add(start=100, end=200)
    top = descriptor_pb2.FileDescriptorProto(name="test/top.proto", package="test", dependency=["test/base.proto"])
    for number in (150, 120):
        top.extension.add(name=f"more{number}", number=number, label=1, type=5, extendee=".test.Base")
    pool.Add(base)
    pool.Add(top)
    return [pool.FindFileByName("test/top.proto")]


def services() -> list[object]:
    mounted = [Inference(), Health()]
    return [*mounted, Reflection(mounted, [pb.DESCRIPTOR, *extended()])]


def ask(*asked: Request, version: str = "v1alpha") -> list[Response]:
    """The answers to questions on one stream."""
    answers = []

    async def main() -> None:
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        async with (
            served(services()) as (_, target),
            connect(target) as channel,
            channel.stream_stream(path, Response) as call,
        ):
            for question in asked:
                await call.send(question)
                answers.append(await call.receive())
            await call.end()
            assert await call.receive() is None

    trio.run(main)
    return answers


def names(answer: Response) -> list[str]:
    files = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(file).name for file in files]


def test_grpcio_finds_services_and_builds_messages() -> None:
    def explore(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert set(database.get_services()) == {
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                SERVICE,
            }
            pool = descriptor_pool.DescriptorPool(database)
            for service in database.get_services():
                assert pool.FindServiceByName(service).methods
            method = pool.FindServiceByName(SERVICE).methods_by_name["CreateChatCompletion"]
            kind = message_factory.GetMessageClass(method.input_type)
            request = kind(model="m", messages=[{"role": "user", "text": "hi"}])
            assert pb.CreateChatCompletionRequest.FromString(request.SerializeToString()).messages[0].text == "hi"
            assert list(database.FindAllExtensionNumbers("test.Base")) == [120, 150]

    async def main() -> None:
        async with served(services()) as (_, target):
            await trio.to_thread.run_sync(explore, target)

    trio.run(main)


def test_a_question_that_is_a_load_is_not_repeated_in_an_answer() -> None:
    async def main() -> None:
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        async with (
            served(services()) as (_, target),
            connect(target) as channel,
            channel.stream_stream(path, Response) as call,
        ):
            await call.send(Request(file_by_filename="x" * 5000))
            with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED: a message has 5003 bytes, at most 4096"):
                await call.receive()

    trio.run(main)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_services_are_listed_in_order(version: str) -> None:
    (answer,) = ask(Request(host="h", list_services="*"), version=version)
    listed = [service.name for service in answer.list_services_response.service]
    assert listed == sorted(listed)
    assert len(listed) == 4
    assert answer.valid_host == "h"
    assert answer.original_request == Request(host="h", list_services="*")


@pytest.mark.parametrize(
    ("asked", "files"),
    [
        (Request(file_by_filename="inference/v1/inference.proto"), ["inference/v1/inference.proto"]),
        (Request(file_by_filename="grpc/health/v1/health.proto"), ["grpc/health/v1/health.proto"]),
        (Request(file_containing_symbol=SERVICE), ["inference/v1/inference.proto"]),
        (Request(file_containing_symbol=f"{SERVICE}.GetModel"), ["inference/v1/inference.proto"]),
        (Request(file_containing_symbol="inference.v1.FinishReason"), ["inference/v1/inference.proto"]),
        (Request(file_containing_symbol="inference.v1.Usage.prompt_tokens"), ["inference/v1/inference.proto"]),
        (Request(file_containing_symbol="grpc.health.v1.HealthCheckResponse.ServingStatus"), [standard.HEALTH.name]),
        (Request(file_containing_symbol="test.more120"), ["test/top.proto", "test/base.proto"]),
        (Request(file_by_filename="test/base.proto"), ["test/base.proto"]),
        (
            Request(file_containing_extension={"containing_type": "test.Base", "extension_number": 150}),
            ["test/top.proto", "test/base.proto"],
        ),
    ],
)
def test_a_file_comes_with_what_it_imports(asked: Request, files: list[str]) -> None:
    (answer,) = ask(asked)
    assert names(answer) == files


@pytest.mark.parametrize(
    "asked",
    [
        Request(file_by_filename="no.proto"),
        Request(file_containing_symbol="no.Such"),
        Request(file_containing_symbol=""),
        Request(file_containing_extension={"containing_type": "test.Base", "extension_number": 1}),
        Request(file_containing_extension={"containing_type": "no.Such", "extension_number": 1}),
        Request(all_extension_numbers_of_type="no.Such"),
    ],
)
def test_what_is_not_there_is_an_error_and_the_stream_goes_on(asked: Request) -> None:
    answer, after = ask(asked, Request(list_services=""))
    assert answer.WhichOneof("message_response") == "error_response"
    assert answer.error_response.error_code == NOT_FOUND
    assert answer.original_request == asked
    assert len(after.list_services_response.service) == 4


def test_a_message_without_extensions_has_none() -> None:
    (answer,) = ask(Request(all_extension_numbers_of_type="inference.v1.Usage"))
    assert answer.all_extension_numbers_response.base_type_name == "inference.v1.Usage"
    assert not answer.all_extension_numbers_response.extension_number


def test_a_question_without_a_question() -> None:
    (answer,) = ask(Request(host="h"))
    assert answer.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
