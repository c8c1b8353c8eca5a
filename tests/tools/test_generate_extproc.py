from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protocols.extproc.proto import descriptors
from tools import generate_extproc


def test_checked_in_descriptors_are_what_the_protos_say() -> None:
    assert generate_extproc.rendered(generate_extproc.compiled()) == generate_extproc.TARGET.read_text()
    names = [file.name for file in FileDescriptorSet.FromString(descriptors.SERIALIZED).file]
    assert generate_extproc.SERVICE in names
