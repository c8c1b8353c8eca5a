from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from protocols.grpc.generated.inference.v1 import InferenceServiceBase
from protocols.grpc.generated.upb import inference as pb
from tools import generate_proto as generator

FILE = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
(SERVICE,) = FILE.service


def test_what_is_checked_in_is_what_would_be_generated_now(tmp_path: Path) -> None:
    generator.generate(tmp_path)
    assert generator.files(tmp_path) == generator.files(generator.ROOT / generator.GENERATED)


# -- the rules of buf's STANDARD category that can be broken here ---------------------------------------------------


def test_the_package_has_a_version_and_is_where_its_name_says() -> None:
    assert re.fullmatch(r"[a-z.]+\.v\d+", FILE.package)
    assert Path(FILE.name).parent.as_posix() == FILE.package.replace(".", "/")
    assert re.fullmatch(r"[a-z_]+\.proto", Path(FILE.name).name)
    assert (generator.ROOT / generator.PROTO / FILE.name).exists()


def test_every_rpc_has_messages_of_its_own_with_its_name() -> None:
    assert SERVICE.name.endswith("Service")
    for method in SERVICE.method:
        assert method.input_type == f".{FILE.package}.{method.name}Request"
        assert method.output_type == f".{FILE.package}.{method.name}Response"


def messages(parent: FileDescriptorProto | DescriptorProto):
    for message in parent.nested_type if isinstance(parent, DescriptorProto) else parent.message_type:
        yield message
        yield from messages(message)


def test_names_have_their_cases() -> None:
    for message in messages(FILE):
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", message.name)
        for field in message.field:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name)
        for choice in message.oneof_decl:
            assert re.fullmatch(r"_?[a-z][a-z0-9]*(_[a-z0-9]+)*", choice.name)


def test_enum_values_have_the_enum_s_prefix_and_zero_is_unspecified() -> None:
    assert FILE.enum_type
    for enum in FILE.enum_type:
        prefix = re.sub(r"(?<!^)([A-Z])", r"_\1", enum.name).upper()
        assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}_UNSPECIFIED", 0)
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value)


# -- our own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CreateChatCompletionRequest", "CreateCompletionRequest", "CreateEmbeddingRequest"])
def test_every_scalar_of_a_request_but_the_model_tells_whether_it_is_given(name: str) -> None:
    (message,) = (it for it in FILE.message_type if it.name == name)
    for field in message.field:
        single = field.label != FieldDescriptorProto.LABEL_REPEATED and field.type != FieldDescriptorProto.TYPE_MESSAGE
        assert field.proto3_optional == (single and field.name != "model"), field.name


def test_the_generated_base_has_every_method() -> None:
    paths = {f"/{FILE.package}.{SERVICE.name}/{method.name}" for method in SERVICE.method}
    assert InferenceServiceBase().__mapping__().keys() == paths
