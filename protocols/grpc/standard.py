"""The messages of gRPC's own services, health and reflection, as their protos have them. (P)

They are described here and built in a pool of their own: no release of grpcio is needed, and a process that imports
grpcio's as well has both. Invariant: field for field what grpc/health/v1/health.proto and
grpc/reflection/{v1,v1alpha}/reflection.proto say; clients ask for the files by these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

MAX_MESSAGE: Final = 4096
"""Bytes of a question, which is a name: whoever asks these services is asked nothing, and may leave the answer, which
repeats it, where it is.
"""

_SCALARS: Final = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
}
_Messages = Mapping[str, str]
_Methods = Sequence[tuple[str, str, str]]

_HEALTH: Final[_Messages] = {
    "HealthCheckRequest": "string service = 1",
    "HealthCheckResponse": "enum HealthCheckResponse.ServingStatus status = 1",
    "HealthListRequest": "",
    "HealthListResponse": "repeated HealthListResponse.StatusesEntry statuses = 1",
}
_HEALTH_METHODS: Final[_Methods] = (
    ("Check", "HealthCheckRequest", "HealthCheckResponse"),
    ("List", "HealthListRequest", "HealthListResponse"),
    ("Watch", "HealthCheckRequest", "stream HealthCheckResponse"),
)
_STATUSES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")

# fields after `oneof` are members of one
_REFLECTION: Final[_Messages] = {
    "ServerReflectionRequest": "string host = 1; oneof message_request; string file_by_filename = 3; "
    "string file_containing_symbol = 4; ExtensionRequest file_containing_extension = 5; "
    "string all_extension_numbers_of_type = 6; string list_services = 7",
    "ExtensionRequest": "string containing_type = 1; int32 extension_number = 2",
    "ServerReflectionResponse": "string valid_host = 1; ServerReflectionRequest original_request = 2; "
    "oneof message_response; FileDescriptorResponse file_descriptor_response = 4; "
    "ExtensionNumberResponse all_extension_numbers_response = 5; ListServiceResponse list_services_response = 6; "
    "ErrorResponse error_response = 7",
    "FileDescriptorResponse": "repeated bytes file_descriptor_proto = 1",
    "ExtensionNumberResponse": "string base_type_name = 1; repeated int32 extension_number = 2",
    "ListServiceResponse": "repeated ServiceResponse service = 1",
    "ServiceResponse": "string name = 1",
    "ErrorResponse": "int32 error_code = 1; string error_message = 2",
}
_REFLECTION_METHODS: Final[_Methods] = (
    ("ServerReflectionInfo", "stream ServerReflectionRequest", "stream ServerReflectionResponse"),
)


def _file(name: str, service: str, messages: _Messages, methods: _Methods) -> FileDescriptorProto:
    package = name.rpartition("/")[0].replace("/", ".")
    file = FileDescriptorProto(name=name, package=package, syntax="proto3")
    for message, members in messages.items():
        _describe(file.message_type.add(name=message), package, members)
    described = file.service.add(name=service)
    for method, request, reply in methods:
        described.method.add(
            name=method,
            input_type=f".{package}.{request.split()[-1]}",
            output_type=f".{package}.{reply.split()[-1]}",
            client_streaming=True if request.startswith("stream ") else None,
            server_streaming=True if reply.startswith("stream ") else None,
        )
    return file


def _describe(message: DescriptorProto, package: str, members: str) -> None:
    for member in filter(None, members.split("; ")):
        *words, last = member.replace(" = ", " ").split(" ")
        if words == ["oneof"]:
            message.oneof_decl.add(name=last)
            continue
        *flags, kind, name = words
        field = message.field.add(name=name, number=int(last), label=FieldDescriptorProto.LABEL_OPTIONAL)
        if "repeated" in flags:
            field.label = FieldDescriptorProto.LABEL_REPEATED
        if message.oneof_decl:
            field.oneof_index = 0
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
            continue
        field.type = FieldDescriptorProto.TYPE_ENUM if "enum" in flags else FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{package}.{kind}"


def _health() -> FileDescriptorProto:
    file = _file("grpc/health/v1/health.proto", "Health", _HEALTH, _HEALTH_METHODS)
    statuses = file.message_type[1].enum_type.add(name="ServingStatus")
    for number, name in enumerate(_STATUSES):
        statuses.value.add(name=name, number=number)
    entry = file.message_type[3].nested_type.add(name="StatusesEntry")
    _describe(entry, file.package, "string key = 1; HealthCheckResponse value = 2")
    entry.options.map_entry = True
    return file


def _built(file: FileDescriptorProto) -> FileDescriptor:
    built: FileDescriptor = DescriptorPool().AddSerializedFile(file.SerializeToString())
    return built


def _reflection(version: str) -> FileDescriptor:
    name = f"grpc/reflection/{version}/reflection.proto"
    return _built(_file(name, "ServerReflection", _REFLECTION, _REFLECTION_METHODS))


def message(file: FileDescriptor, name: str) -> Any:
    """The class of a message of ``file``."""
    return message_factory.GetMessageClass(file.message_types_by_name[name])


HEALTH: Final = _built(_health())
REFLECTION: Final = {version: _reflection(version) for version in ("v1", "v1alpha")}
FILES: Final = (HEALTH, *REFLECTION.values())
