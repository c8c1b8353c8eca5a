"""ext_proc's messages, from Envoy's descriptors, and those that Envoy would send. (P)

Invariant: what is built here is what Envoy says: names in lower case, values in ``raw_value``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from protocols.extproc.proto.descriptors import SERIALIZED

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
PROCESS: Final = f"/{SERVICE}/Process"
NONE, STREAMED, BUFFERED, DUPLEX = 0, 1, 2, 4
DESTINATION: Final = "x-gateway-destination-endpoint"
SERVED: Final = f"{DESTINATION}-served"
SUBSET: Final = f"{DESTINATION}-subset"
LB, HINT = "envoy.lb", "envoy.lb.subset_hint"

Fields = Sequence[tuple[str, str]]


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(SERIALIZED).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()
ProcessingRequest: Any = GetMessageClass(_POOL.FindMessageTypeByName("envoy.service.ext_proc.v3.ProcessingRequest"))
ProcessingResponse: Any = GetMessageClass(_POOL.FindMessageTypeByName("envoy.service.ext_proc.v3.ProcessingResponse"))


def headers(
    side: str, fields: Fields, *, end: bool = False, modes: tuple[int, int] | None = (DUPLEX, DUPLEX), raw: bool = True
) -> Any:
    """``side``: request or response. ``modes``: of bodies, told in the first message; None: a proxy that says nothing.

    ``raw``: values as Envoy has them, else in the field of old.
    """
    message = ProcessingRequest()
    part = getattr(message, f"{side}_headers")
    part.SetInParent()
    part.end_of_stream = end
    for name, value in fields:
        part.headers.headers.add(key=name, **({"raw_value": value.encode()} if raw else {"value": value}))
    if modes is not None and side == "request":
        message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = modes
    return message


def body(side: str, data: bytes, end: bool = False) -> Any:
    message = ProcessingRequest()
    part = getattr(message, f"{side}_body")
    part.body, part.end_of_stream = data, end
    return message


def trailers(side: str) -> Any:
    message = ProcessingRequest()
    getattr(message, f"{side}_trailers").SetInParent()
    return message


def hinted(message: Any, hint: Sequence[str] | str) -> Any:
    """``message`` with the endpoints that the proxy allows, as a list or as a string with commas."""
    value = message.metadata_context.filter_metadata[HINT].fields[SUBSET]
    if isinstance(hint, str):
        value.string_value = hint
    else:
        value.list_value.SetInParent()
        for one in hint:
            value.list_value.values.add(string_value=one)
    return message


def served_by(message: Any, endpoint: str) -> Any:
    """``message`` with who has answered."""
    message.metadata_context.filter_metadata[LB].fields[SERVED].string_value = endpoint
    return message
