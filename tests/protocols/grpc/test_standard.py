from __future__ import annotations

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from protocols.grpc import standard


def described(file: FileDescriptor, package: str) -> FileDescriptorProto:
    """What the file says but for names of files and packages and for languages' options."""
    text = file.serialized_pb
    proto = FileDescriptorProto.FromString(text)
    proto.ClearField("options")
    proto.name, proto.package = "file", "package"
    for message in proto.message_type:
        for member in (*message.field, *(field for nested in message.nested_type for field in nested.field)):
            member.type_name = member.type_name.replace(f".{package}.", ".package.")
            member.ClearField("json_name")
    for method in proto.service[0].method:
        method.input_type = method.input_type.replace(f".{package}.", ".package.")
        method.output_type = method.output_type.replace(f".{package}.", ".package.")
    return proto


@pytest.mark.parametrize(
    ("ours", "package", "theirs"),
    [
        (standard.HEALTH, "grpc.health.v1", health_pb2.DESCRIPTOR),
        (standard.REFLECTION["v1alpha"], "grpc.reflection.v1alpha", reflection_pb2.DESCRIPTOR),
        (standard.REFLECTION["v1"], "grpc.reflection.v1", reflection_pb2.DESCRIPTOR),
    ],
)
def test_what_is_described_is_what_grpcio_has(ours: FileDescriptor, package: str, theirs: FileDescriptor) -> None:
    assert ours.package == package
    assert ours.name == f"{package.replace('.', '/')}/{ours.name.rpartition('/')[2]}"
    assert described(ours, package) == described(theirs, theirs.package)
