"""Event streams: cut, read and translated, for each engine's dialect. (P)

Property: any split of the bytes gives the same events and, through an adapter's decoder, the same bytes for the client,
the same usage and the same error; every piece of these is whole events. An answer ends either with an error, and then
neither ``[DONE]`` nor any other last event is said, or with exactly one such. No splitter holds more than its limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from adapters import registry
from gateway.ports import Adapter, Decoder
from gateway.types import InferenceRequest, Operation
from gateway.wire import sse
from tests.fuzz.pieces import cut

_HEADERS = ((b"content-type", b"text/event-stream"),)
_DONE = (Operation.CHAT, Operation.COMPLETIONS)
_BODY = b'{"model":"m","prompt":"p","messages":[],"stream":true%b}'
_BODIES = (b"", b',"tools":[],"parallel_tool_calls":false', b',"logprobs":true', b',"tools":[]')
_LIMIT = 64
_COUNTING = ("message_start", "message_delta")
_BLANKS = re.compile(rb"\n{3,}")
_COUNT = re.compile(rb'"output_tokens":\d+')


def _requests() -> Iterator[tuple[Adapter, InferenceRequest]]:
    adapters = registry.load()
    for name in sorted(adapters):
        for operation in (*_DONE, Operation.MESSAGES, Operation.RESPONSES):
            if operation in getattr(adapters[name], "paths", _DONE) or operation is Operation.MESSAGES:
                for usage in (False, True):
                    yield (
                        adapters[name],
                        InferenceRequest("id", operation, "m", b"", stream=True, include_usage=usage),
                    )


_REQUESTS = list(_requests())


def target(data: bytes) -> None:
    """First bytes: which decoder, what else was asked for, how the stream is cut; the rest is the stream."""
    if len(data) < 3:
        return
    which, asked, seed, stream = data[0], data[1], data[2], data[3:]
    if which == 255:
        _events(stream, seed)
        return
    adapter, request = _REQUESTS[which % len(_REQUESTS)]
    request = InferenceRequest(
        "id",
        request.operation,
        "m",
        _BODY % _BODIES[asked % len(_BODIES)],
        stream=True,
        include_usage=request.include_usage,
    )
    whole, pieces = (adapter.decoder(request, 200, _HEADERS) for _ in range(2))
    told, again = _run(whole, [stream]), _run(pieces, cut(stream, seed))
    _ended_once(told, whole, request.operation)
    if _json(stream):
        if whole.usage is None:  # counted by events, of which some may turn out to say nothing
            told, again = (_COUNT.sub(b"", each) for each in (told, again))
        told, again = (_BLANKS.sub(b"\n\n", each) for each in (told, again))
        assert told == again, (told, again)
        assert _state(whole) == _state(pieces), (_state(whole), _state(pieces))
        assert whole.usage == pieces.usage or not _tells_usage(stream, request.operation), (whole.usage, pieces.usage)


def _json(stream: bytes) -> bool:
    """Whether each event is a JSON object: plain ones pass unread, so that only a look can tell one that is none."""
    for event in sse.Parser().feed(stream):
        try:
            if event.data != b"[DONE]" and not isinstance(json.loads(event.data), dict):
                return False
        except (ValueError, RecursionError):
            return False
    return True


def _tells_usage(stream: bytes, operation: Operation) -> bool:
    """Whether usage stands only where the dialect has it: elsewhere named events are not read for it."""
    events = [json.loads(event.data) for event in sse.Parser().feed(stream) if event.data != b"[DONE]"]
    return operation in _DONE or all(event.get("type") in _COUNTING for event in events if "usage" in event)


def _run(decoder: Decoder, pieces: Iterable[bytes]) -> bytes:
    told = []
    for piece in pieces:
        failed = decoder.error is not None
        told.append(decoder.feed(piece))
        assert not failed or not told[-1], "something follows an error"
        assert not told[-1] or told[-1].endswith(b"\n\n"), told[-1]
    if decoder.error is None:
        told.append(decoder.finish())
    return b"".join(told)


def _state(decoder: Decoder) -> tuple[object, ...]:
    return decoder.progress, decoder.ended, decoder.error and decoder.error.message


def _ended_once(told: bytes, decoder: Decoder, operation: Operation) -> None:
    if operation is not Operation.RESPONSES:
        last = _is_done if operation in _DONE else _is_stop
        found = sum(last(event.data) for event in sse.Parser().feed(told))
        assert found == (decoder.error is None), (found, decoder.error, told)


def _is_done(data: bytes) -> bool:
    return data.strip() == b"[DONE]"


def _is_stop(data: bytes) -> bool:
    try:
        return bool(json.loads(data)["type"] == "message_stop")
    except (ValueError, KeyError, TypeError):
        return False


def _events(stream: bytes, seed: int) -> None:
    whole, again = sse.Parser(), sse.Parser()
    events = whole.feed(stream)
    assert events == [event for piece in cut(stream, seed) for event in again.feed(piece)]
    assert sse.Parser().feed(b"".join(map(sse.encode, events))) == events or any(b"\0" in event.id for event in events)
    _bounded(stream, seed)


def _bounded(stream: bytes, seed: int) -> None:
    """The same is too long, however it comes; and nothing longer is held."""
    found: list[list[bytes] | None] = []
    for pieces in ([stream], cut(stream, seed)):
        splitter, blocks = sse.Splitter(_LIMIT), []
        try:
            for piece in pieces:
                blocks += splitter.feed(piece)
                assert len(splitter._pending) <= _LIMIT + 1, splitter._pending
            found.append(blocks)
        except sse.EventTooLong:
            found.append(None)
    assert found[0] == found[1], found
