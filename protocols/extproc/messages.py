"""ext_proc's messages in protobuf (upb), from descriptors in a pool of their own, and the replies built of them. (P)

Invariant: the names are Envoy's, and nothing is registered in protobuf's default pool: whoever else has Envoy's own
definitions loaded in this process is not disturbed. Header values go into ``raw_value``, the only field Envoy reads.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from protocols.extproc.proto.descriptors import SERIALIZED

MAX_CHUNK: Final = 62_000
"""Bytes of body in one reply: some proxies refuse messages above 64 kB."""

_PACKAGE: Final = "envoy.service.ext_proc.v3"
SERVICE: Final = f"{_PACKAGE}.ExternalProcessor"
LB: Final = "envoy.lb"
"""The namespace in which load balancers look for metadata."""


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(SERIALIZED).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL: Final = _pool()
ProcessingRequest: Any = GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.ProcessingRequest"))
ProcessingResponse: Any = GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.ProcessingResponse"))
_OVERWRITE: Final = 2  # HeaderAppendAction; the default appends


class Mode(enum.IntEnum):
    """How Envoy shows a body; ``GRPC`` is reserved in Envoy."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    DUPLEX = 4


class Mutation(msgspec.Struct, frozen=True, gc=False):
    """Header fields to set, whatever stood there, after those to remove have been removed."""

    set: Sequence[tuple[str, bytes]] = ()
    remove: Sequence[str] = ()


UNCHANGED: Final = Mutation()


def headers(side: str, mutation: Mutation = UNCHANGED, *, reroute: bool = False) -> Any:
    """The reply to ``request_headers`` or ``response_headers``. ``reroute``: have the route chosen again."""
    reply = ProcessingResponse()
    common = getattr(reply, side).response
    _mutate(common.header_mutation, mutation)
    if reroute:
        common.clear_route_cache = True
    return reply


def body(side: str, replaced: bytes | None = None, mutation: Mutation = UNCHANGED, *, reroute: bool = False) -> Any:
    """The one reply to one ``request_body`` or ``response_body``; None leaves its bytes. Never to be sent in duplex."""
    reply = ProcessingResponse()
    common = getattr(reply, side).response
    if replaced:
        common.body_mutation.body = replaced
    elif replaced is not None:
        common.body_mutation.clear_body = True  # an empty ``body`` would read as none
    if mutation is not UNCHANGED:
        _mutate(common.header_mutation, mutation)
    if reroute:
        common.clear_route_cache = True
    else:
        common.SetInParent()
    return reply


def streamed(side: str, data: bytes, end: bool) -> Iterator[Any]:
    """Replies that carry ``data`` on in duplex, ``end`` on the last; at least one if it is the end."""
    if len(data) <= MAX_CHUNK:
        if data or end:
            yield _chunk(side, data, end)
        return
    last = (len(data) - 1) // MAX_CHUNK * MAX_CHUNK
    for at in range(0, last + 1, MAX_CHUNK):
        yield _chunk(side, data[at : at + MAX_CHUNK], end and at == last)


def _chunk(side: str, data: bytes, end: bool) -> Any:
    reply = ProcessingResponse()
    piece = getattr(reply, side).response.body_mutation.streamed_response
    piece.SetInParent()
    piece.body = data
    piece.end_of_stream = end
    return reply


def trailers(side: str) -> Any:
    """The reply to ``request_trailers`` or ``response_trailers``, which stay as they are."""
    reply = ProcessingResponse()
    getattr(reply, side).SetInParent()
    return reply


def immediate(status: int, mutation: Mutation, text: bytes, details: str) -> Any:
    """The answer to the client in place of any other. ``details`` is for Envoy's access log."""
    reply = ProcessingResponse()
    answer = reply.immediate_response
    answer.status.code = status
    _mutate(answer.headers, mutation)
    answer.body = text
    answer.details = details
    return reply


def annotate(reply: Any, key: str, value: str | float | Mapping[str, float]) -> None:
    """Add dynamic metadata to a reply, under `LB`."""
    entry = reply.dynamic_metadata.fields[LB].struct_value.fields[key]
    if isinstance(value, str):
        entry.string_value = value
    elif isinstance(value, Mapping):
        entry.struct_value.SetInParent()
        for name, number in value.items():
            entry.struct_value.fields[name].number_value = number
    else:
        entry.number_value = value


def _mutate(target: Any, mutation: Mutation) -> None:
    target.SetInParent()
    for name, value in mutation.set:
        option = target.set_headers.add()
        option.header.key = name
        option.header.raw_value = value
        option.append_action = _OVERWRITE
    if mutation.remove:
        target.remove_headers.extend(mutation.remove)


def metadata(message: Any, namespace: str, key: str) -> str | list[str] | None:
    """What the proxy tells under that name: a string, or the strings of a list; None where it tells nothing.

    A value of another type reads as an empty list: it is there, and names nothing.
    """
    if not message.HasField("metadata_context"):
        return None
    spaces = message.metadata_context.filter_metadata
    if namespace not in spaces or key not in spaces[namespace].fields:
        return None
    value = spaces[namespace].fields[key]
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return str(value.string_value)
    return list(_strings(value.list_value.values)) if kind == "list_value" else []


def _strings(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if value.WhichOneof("kind") == "string_value":
            yield value.string_value
