"""One tool call at most, for who asks for it before an engine that calls as many as it likes. (P)

Invariant: of each choice the first call alone reaches the client; where nobody asks for that, nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from adapters import chunk
from adapters.messages_reply import Over
from gateway.ports import Decoder
from gateway.types import InferenceRequest, Operation

Found = dict[str, Any]
_CALLS = b'"tool_calls"'


class _Asked(msgspec.Struct):
    parallel_tool_calls: Any = None
    tool_choice: Any = None


_ASKED = msgspec.json.Decoder(_Asked)


def wanted(request: InferenceRequest) -> bool:
    """Whether the client of a chat wants one call at most, be it said as OpenAI's clients or as Anthropic's do."""
    if request.operation is not Operation.CHAT or b"parallel_tool" not in request.body:
        return False
    try:
        asked = _ASKED.decode(request.body)
    except (msgspec.DecodeError, RecursionError):
        return False
    choice = asked.tool_choice
    return asked.parallel_tool_calls is False or (
        isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True
    )


class OneCall(Over):
    """What another decoder gives, without any call but the first of each choice.

    A chunk that held nothing else stays: an engine that writes calls nobody sees is alive, and its clients are told so.
    """

    def __init__(self, inner: Decoder, request: InferenceRequest) -> None:
        super().__init__(inner, request)
        self._one = _of_events if inner.content_type.startswith(b"text/event-stream") else _of_body

    def feed(self, data: bytes) -> bytes:
        return self._shown(self._inner.feed(data))

    def finish(self) -> bytes:
        return self._shown(self._inner.finish())

    def _shown(self, out: bytes) -> bytes:
        self._copy()
        return self._one(out) if _CALLS in out else out


def _of_events(events: bytes) -> bytes:
    """``events`` are whole, each one line of data or comments."""
    return b"\n\n".join([_of_event(event) for event in events.split(b"\n\n")])


def _of_event(event: bytes) -> bytes:
    if not event.startswith(b"data: ") or _CALLS not in event:
        return event
    return b"data: " + _kept(event[6:], "delta", lambda calls: [call for call in calls if call.get("index") == 0])


def _of_body(body: bytes) -> bytes:
    return _kept(body, "message", lambda calls: calls[:1])


def _kept(payload: bytes, where: str, keep: Callable[[list[Found]], list[Found]]) -> bytes:
    """``payload`` as it is unless calls have to go."""
    document = chunk.decode(payload)
    gone = False
    for choice in document["choices"]:
        said = choice.get(where)
        calls = chunk.dicts(said.get("tool_calls")) if isinstance(said, dict) else []
        kept = keep(calls)
        if len(kept) == len(calls):
            continue
        gone = True
        if kept:
            said["tool_calls"] = kept
        else:
            del said["tool_calls"]
    return chunk.encode(document) if gone else payload
