"""llama.cpp's streams of the Responses API with what it leaves out: numbers of events, places of items and parts. (P)

Invariant: what the engine does say stays as it is; a member is added where it is missing, and never changed.
"""

from __future__ import annotations

import msgspec

from adapters.named import ResponsesDecoder
from gateway.wire import splice, sse

_IN_PARTS = ("response.content_part.", "response.output_text.", "response.reasoning_text.", "response.refusal.")

_NULL = msgspec.Raw(b"null")


class _Item(msgspec.Struct):
    id: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    item: _Item | None = None
    item_id: str | None = None
    response: msgspec.Raw = _NULL
    sequence_number: int | None = None
    output_index: int | None = None
    content_index: int | None = None


class _Response(msgspec.Struct):
    output: msgspec.Raw = _NULL


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)


class PlacedDecoder(ResponsesDecoder):
    """SDKs put an answer together by ``output_index`` and ``content_index`` and fail without them.

    Items are numbered as they come; each has one part (source: llama-server of autumn 2026).
    """

    def __init__(self) -> None:
        super().__init__()
        self._number = 0
        self._places: dict[str, int] = {}

    def _plain(self, data: bytes) -> int:
        return 0

    def _block(self, block: bytes) -> bytes:
        passed = super()._block(block)
        data = sse.parse(block).data
        if not passed or not data:
            return passed
        try:
            event = _EVENT.decode(data)
            data = self._placed(data, event)
        except ValueError:  # none of the events known here
            return passed
        named = b"event: %b\n" % event.type.encode() if event.type else b""
        return b"%bdata: %b\n\n" % (named, data)

    def _placed(self, data: bytes, event: _Event) -> bytes:
        if event.response != _NULL and _RESPONSE.decode(event.response).output == _NULL:
            data = splice.replace(data, "response", splice.insert(bytes(event.response), "output", b"[]"))
        item = event.item.id if event.item is not None else event.item_id
        if item is not None and event.output_index is None:
            data = splice.insert(data, "output_index", b"%d" % self._places.setdefault(item, len(self._places)))
        if event.type.startswith(_IN_PARTS) and event.content_index is None:
            data = splice.insert(data, "content_index", b"0")
        if event.sequence_number is None:
            data = splice.insert(data, "sequence_number", b"%d" % self._number)
        self._number += 1
        return data
