"""Envoy as a picker meets it: says what Envoy says, and refuses what Envoy refuses. Messages are Envoy's own (xds).

What either sends goes through bytes, so that the trimmed messages and Envoy's read each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as xds
from google.protobuf.json_format import MessageToDict

from protocols.extproc import messages
from protocols.extproc.messages import Mode

DESTINATION = "x-gateway-destination-endpoint"
SUBSET = "x-gateway-destination-endpoint-subset"
SERVED = "x-gateway-destination-endpoint-served"
Fields = Sequence[tuple[str, str]]


def heads(
    kind: str,
    fields: Fields,
    *,
    end: bool = False,
    modes: tuple[Mode, Mode] | None = None,
    raw: bool = True,
    subset: Sequence[str] | str | None = None,
    served: str = "",
) -> Any:
    message = xds.ProcessingRequest()
    part = getattr(message, kind)
    part.SetInParent()
    for name, value in fields:
        if raw:
            part.headers.headers.add(key=name, raw_value=value.encode())
        else:
            part.headers.headers.add(key=name, value=value)
    part.end_of_stream = end
    if modes:
        message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = modes
    hint(message, subset)
    if served:
        message.metadata_context.filter_metadata["envoy.lb"][SERVED] = served
    return message


def hint(message: Any, subset: Sequence[str] | str | None) -> Any:
    if subset is not None:
        message.metadata_context.filter_metadata["envoy.lb.subset_hint"][SUBSET] = (
            subset if isinstance(subset, str) else list(subset)
        )
    return message


def body(kind: str, data: bytes, end: bool = False) -> Any:
    message = xds.ProcessingRequest()
    part = getattr(message, kind)
    part.body = data
    part.end_of_stream = end
    return message


def trailers(kind: str) -> Any:
    message = xds.ProcessingRequest()
    getattr(message, kind).SetInParent()
    return message


def ours(message: Any) -> Any:
    return messages.ProcessingRequest.FromString(message.SerializeToString())


def theirs(reply: Any) -> Any:
    data = reply if isinstance(reply, bytes) else reply.SerializeToString()
    return xds.ProcessingResponse.FromString(data)


class Proxy:
    """What becomes of a request and its response under the replies it is given; asserts Envoy's rules.

    ``headers``, ``sent``: what reaches the endpoint; ``received``: the response's body as the client gets it.
    """

    def __init__(self, modes: tuple[Mode, Mode] = (Mode.DUPLEX, Mode.DUPLEX)) -> None:
        self.request_mode, self.response_mode = modes
        self.headers: list[tuple[str, bytes]] = []
        self.response_headers: list[tuple[str, bytes]] = []
        self.metadata: dict[str, Any] = {}
        self.sent = b""
        self.received = b""
        self.request_over = self.response_over = False
        self.immediate: Any = None
        self.order: list[str] = []
        self._asked: list[Any] = []

    def say(self, message: Any) -> bytes:
        """Note what is said, since later replies are about it; returns its bytes."""
        kind = message.WhichOneof("request")
        if kind == "request_headers":
            self.headers = [(f.key, f.raw_value or f.value.encode()) for f in message.request_headers.headers.headers]
            self.request_over = message.request_headers.end_of_stream
        if kind == "response_headers":
            found = message.response_headers.headers.headers
            self.response_headers = [(f.key, f.raw_value or f.value.encode()) for f in found]
            self.response_over = message.response_headers.end_of_stream
        self._asked.append(message)
        return bytes(message.SerializeToString())

    def hear(self, reply: Any) -> None:
        reply = theirs(reply)
        kind = reply.WhichOneof("response")
        self.order.append(kind)
        if reply.HasField("dynamic_metadata"):
            self.metadata.update(MessageToDict(reply.dynamic_metadata))
        if kind == "immediate_response":
            self.immediate = reply.immediate_response
            return
        side = kind.partition("_")[0]
        if kind.endswith("body"):
            self._body(side, reply)
        elif kind.endswith("headers"):
            self._pop(kind)
            fields = self.headers if side == "request" else self.response_headers
            fields[:] = mutated(fields, getattr(reply, kind).response.header_mutation)
        else:
            assert kind == "response_trailers" or "request_headers" in self.order
            self._pop(kind)
            setattr(self, f"{side}_over", True)

    def value(self, name: str) -> str | None:
        values = [value.decode() for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} {len(values)} times"
        return values[0] if values else None

    def _pop(self, kind: str) -> Any:
        """The message that is answered: the oldest of this kind, which has to be there."""
        for at, message in enumerate(self._asked):
            if message.WhichOneof("request") == kind:
                return self._asked.pop(at)
        raise AssertionError(f"spurious {kind}")

    def _body(self, side: str, reply: Any) -> None:
        common = getattr(reply, f"{side}_body").response
        mode = self.request_mode if side == "request" else self.response_mode
        mutation = common.body_mutation
        if mode is Mode.DUPLEX:
            assert f"{side}_headers" in self.order, "a body before its headers"
            assert mutation.HasField("streamed_response"), "a plain body reply in duplex"
            piece = mutation.streamed_response
            assert len(piece.body) <= 62_000
            assert not getattr(self, f"{side}_over"), "a body beyond its end"
            data, over = piece.body, piece.end_of_stream
        else:
            said = getattr(self._pop(f"{side}_body"), f"{side}_body")
            which = mutation.WhichOneof("mutation")
            assert which in (None, "body", "clear_body")
            data = {None: said.body, "body": mutation.body, "clear_body": b""}[which]
            over = said.end_of_stream
            if mode is Mode.BUFFERED:
                fields = self.headers if side == "request" else self.response_headers
                fields[:] = mutated(fields, common.header_mutation)
                lengths = [value for name, value in fields if name == "content-length"]
                assert which is None or lengths in ([], [b"%d" % len(data)])
        if side == "request":
            self.sent += data
        else:
            self.received += data
        setattr(self, f"{side}_over", over)


def mutated(fields: Iterable[tuple[str, bytes]], mutation: Any) -> list[tuple[str, bytes]]:
    """Envoy removes first, then sets."""
    found = [(name, value) for name, value in fields if name not in mutation.remove_headers]
    for option in mutation.set_headers:
        assert option.header.key == option.header.key.lower()
        assert not option.header.value, "header values belong into raw_value"
        assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
        found = [(name, value) for name, value in found if name != option.header.key]
        found.append((option.header.key, option.header.raw_value))
    return found
