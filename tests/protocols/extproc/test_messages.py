from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as xds
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from protocols.extproc import messages
from protocols.extproc.messages import Mode, Mutation
from tests.protocols.extproc.proxy import theirs


def fields(descriptor: Any, seen: set[str]) -> Iterator[tuple[str, Any]]:
    if descriptor.full_name in seen:
        return
    seen.add(descriptor.full_name)
    for field in descriptor.fields:
        yield f"{descriptor.full_name}.{field.name}", field
        if field.message_type is not None:
            yield from fields(field.message_type, seen)


@pytest.mark.parametrize("name", ["ProcessingRequest", "ProcessingResponse"])
def test_every_field_is_envoys(name: str) -> None:
    envoys = dict(fields(getattr(xds, name).DESCRIPTOR, set()))
    trimmed = dict(fields(getattr(messages, name).DESCRIPTOR, set()))
    assert len(trimmed) > 20
    for path, field in trimmed.items():
        envoy = envoys[path]
        assert (field.number, field.type, field.is_repeated) == (envoy.number, envoy.type, envoy.is_repeated), path
        for ours, envoys_own in ((field.message_type, envoy.message_type), (field.enum_type, envoy.enum_type)):
            assert (ours and ours.full_name) == (envoys_own and envoys_own.full_name), path
        if field.enum_type is not None:
            numbers = {value.name: value.number for value in envoy.enum_type.values}
            assert all(numbers[value.name] == value.number for value in field.enum_type.values)
        assert (field.containing_oneof and field.containing_oneof.name) == (
            envoy.containing_oneof and envoy.containing_oneof.name
        )


def test_service_is_envoys() -> None:
    service = messages._POOL.FindServiceByName(messages.SERVICE)
    assert service.full_name == xds.DESCRIPTOR.services_by_name["ExternalProcessor"].full_name
    (method,) = service.methods
    assert method.name == "Process"


def test_default_pool_is_left_to_others() -> None:
    ours = messages.ProcessingRequest.DESCRIPTOR
    found = descriptor_pool.Default().FindMessageTypeByName(ours.full_name)
    assert found is not ours
    assert found.file.name == ours.file.name


def test_modes_are_envoys() -> None:
    envoys = xds.ProcessingRequest().protocol_config.DESCRIPTOR.fields_by_name["request_body_mode"].enum_type
    assert {mode.value for mode in Mode} == {value.number for value in envoys.values} - {5}


@given(st.binary(max_size=200), st.booleans(), st.integers(1, 9))
def test_pieces_are_the_body(data: bytes, end: bool, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "MAX_CHUNK", size)
        replies = [theirs(reply) for reply in messages.streamed("response_body", data, end)]
    pieces = [reply.response_body.response.body_mutation.streamed_response for reply in replies]
    assert b"".join(piece.body for piece in pieces) == data
    assert all(len(piece.body) <= size for piece in pieces)
    assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [end] * bool(pieces)
    assert len(pieces) == max(-(-len(data) // size), int(end))


def test_empty_replacement_clears() -> None:
    assert theirs(messages.body("response_body", b"")).response_body.response.body_mutation.clear_body
    untouched = theirs(messages.body("response_body"))
    assert untouched.response_body.HasField("response")
    assert not untouched.response_body.response.HasField("body_mutation")


def test_mutations_overwrite_with_raw_values() -> None:
    reply = theirs(messages.headers("request_headers", Mutation([("a", b"\xff1")], ("b", "c")), reroute=True))
    mutation = reply.request_headers.response.header_mutation
    assert reply.request_headers.response.clear_route_cache
    assert [(option.header.key, option.header.raw_value, option.header.value) for option in mutation.set_headers] == [
        ("a", b"\xff1", "")
    ]
    assert mutation.set_headers[0].append_action == mutation.set_headers[0].OVERWRITE_IF_EXISTS_OR_ADD
    assert list(mutation.remove_headers) == ["b", "c"]


@pytest.mark.parametrize(
    ("value", "read"),
    [("a,b", "a,b"), (["a", "b"], ["a", "b"]), ([], []), ("", ""), (7, []), (None, []), (["a", 3], ["a"])],
)
def test_metadata_is_read_as_a_string_or_strings(value: Any, read: Any) -> None:
    message = xds.ProcessingRequest()
    message.metadata_context.filter_metadata["space"]["key"] = value
    got = messages.ProcessingRequest.FromString(message.SerializeToString())
    assert messages.metadata(got, "space", "key") == read
    assert messages.metadata(got, "space", "other") is None
    assert messages.metadata(got, "other", "key") is None
    assert messages.metadata(messages.ProcessingRequest(), "space", "key") is None


def test_annotations_meet_in_one_struct() -> None:
    reply = messages.headers("request_headers")
    messages.annotate(reply, "where", "1.2.3.4:80")
    messages.annotate(reply, "scores", {"1.2.3.4:80": 0.5})
    messages.annotate(reply, "cost", 10)
    found = theirs(reply).dynamic_metadata["envoy.lb"]
    assert found["where"] == "1.2.3.4:80"
    assert dict(found["scores"]) == {"1.2.3.4:80": 0.5}
    assert found["cost"] == 10
