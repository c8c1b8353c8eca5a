"""Answers of a chat, as an adapter's own decoder gives them, as answers of Anthropic's Messages. (P)

Invariant: any split of the upstream bytes gives the same events; every content block that starts stops before the next
one starts; the stream ends with ``message_delta`` and ``message_stop``, and with neither of them if it is not whole.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from adapters import failure, usage
from adapters.named import MessagesDecoder
from adapters.shapes import arguments
from gateway.errors import GatewayError
from gateway.ports import Decoder
from gateway.types import InferenceRequest, Usage

_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_IDLE: Final = re.compile(rb"(?:[\r\n]|:[^\r\n]*[\r\n])*")
"""Comments and blank lines."""
_LEAD_MAX: Final = 1 << 20


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    """A delta, or the message of a whole answer."""

    content: Any = None
    refusal: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[_Call] | None = None

    @property
    def thought(self) -> str:
        """By whichever of its names; an engine that sends both means the same."""
        return _text(self.reasoning_content) or _text(self.reasoning)

    @property
    def text(self) -> str:
        return _text(self.content) or _text(self.refusal)


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: Any = None
    stop_reason: Any = None


class _Chat(msgspec.Struct):
    """A chunk or a whole completion. ``type`` is that of an engine's own Messages."""

    id: Any = None
    model: Any = None
    type: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None


_DECODER: Final = msgspec.json.Decoder(_Chat)


def _read(payload: bytes) -> _Chat | None:
    try:
        return _DECODER.decode(payload)
    except (ValueError, RecursionError):
        pass
    try:
        return msgspec.convert(json.loads(payload), _Chat)  # NaN, half an emoji
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    """Content may come in parts."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join([text for text in texts if isinstance(text, str)])


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _counts(used: Usage | None, tokens: int = 0) -> dict[str, Any]:
    """Usage as Messages have it: what came from a cache stands apart from the rest of the prompt."""
    used = used or Usage(completion=tokens)
    counts: dict[str, Any] = {
        "input_tokens": max(0, used.prompt - used.cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": used.cached,
        "output_tokens": used.completion,
    }
    if used.reasoning:
        counts["output_tokens_details"] = {"thinking_tokens": used.reasoning}
    return counts


def _stop(choice: _Choice, *, called: bool) -> tuple[str, str | None]:
    """Stop reason and sequence; vLLM and few others say which sequence it was."""
    reason = choice.finish_reason if isinstance(choice.finish_reason, str) else "stop"
    if reason == "stop" and called:
        return "tool_use", None
    if reason == "stop" and isinstance(choice.stop_reason, str):
        return "stop_sequence", choice.stop_reason
    return _REASONS.get(reason, "end_turn"), None


class _Over:
    """What both have in common: an adapter's decoder under them, whose state they show as theirs."""

    def __init__(self, inner: Decoder, request: InferenceRequest) -> None:
        self._inner = inner
        self._request = request
        self.content_type = inner.content_type
        self._copy()

    def _copy(self) -> None:
        inner = self._inner
        self.usage: Usage | None = inner.usage
        self.error: GatewayError | None = inner.error
        self.progress = inner.progress
        self.tokens = inner.tokens
        self.ended = inner.ended

    def _rubbish(self) -> bytes:
        self.error = failure.rubbish("the engine's answer cannot be read as a chat completion")
        return b""


class MessagesWhole(_Over):
    """A chat completion as a message."""

    def feed(self, data: bytes) -> bytes:
        self._inner.feed(data)
        self._copy()
        return b""

    def finish(self) -> bytes:
        body = self._inner.finish()
        self._copy()
        return b"" if self.error is not None else self._message(body)

    def _message(self, body: bytes) -> bytes:
        chat = _read(body)
        if chat is not None and chat.type == "message" and chat.choices is None:
            return body
        choice = chat.choices[0] if chat is not None and chat.choices else None
        if chat is None or choice is None or choice.message is None:
            return self._rubbish()
        content = _content(choice.message, self._request)
        called = any(block["type"] == "tool_use" for block in content)
        reason, sequence = _stop(choice, called=called)
        message = {
            "id": chat.id if isinstance(chat.id, str) and chat.id else _ident(self._request),
            "type": "message",
            "role": "assistant",
            "model": chat.model if isinstance(chat.model, str) else self._request.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": _counts(self.usage),
        }
        return _json(message)


def _ident(request: InferenceRequest) -> str:
    return f"msg_{request.id}"


def _call_id(given: Any, request: InferenceRequest, at: int) -> str:
    return given if isinstance(given, str) and given else f"toolu_{request.id}_{at}"


def _content(said: _Said, request: InferenceRequest) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.thought:
        blocks.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    for at, call in enumerate(said.tool_calls or ()):
        function = call.function or _Function()
        name = function.name if isinstance(function.name, str) else ""
        ident = _call_id(call.id, request, at)
        blocks.append({"type": "tool_use", "id": ident, "name": name, "input": arguments(function.arguments)})
    return blocks


class MessagesStream(_Over):
    """A chat's chunks as the events of a message. One block is open at a time, calls come one after the other."""

    def __init__(self, inner: Decoder, request: InferenceRequest) -> None:
        super().__init__(inner, request)
        self._native = False
        self._lead: bytes | None = b""  # what came before it was clear what speaks
        self._begun = False
        self._index = -1  # of the open block, or of the last one
        self._open = ""  # its type
        self._call: Any = None  # the index of the open call in the chat
        self._calls = 0
        self._stopped: tuple[str, str | None] = ("end_turn", None)

    def feed(self, data: bytes) -> bytes:
        if self._lead is not None:
            data = self._decided(self._lead + data)
        return self._events(self._inner.feed(data)) if data and self.error is None else b""

    def finish(self) -> bytes:
        lead, self._lead = self._lead, None
        out = self._inner.feed(lead) if lead else b""
        return self._events(out + self._inner.finish()) if self.error is None else b""

    def _decided(self, lead: bytes) -> bytes:
        """Everything from the first event on, once it is clear whether it is a chunk or a named one; b"" before."""
        idle = _IDLE.match(lead)
        lead = lead[idle.end() :] if idle is not None else lead
        if len(lead) < len(b"event:") or (lead.startswith(b":") and len(lead) < _LEAD_MAX):
            self._lead = lead
            return b""
        self._lead = None
        if lead.startswith(b"event:"):
            self._inner, self._native = MessagesDecoder(), True
        return lead

    def _events(self, chunks: bytes) -> bytes:
        """``chunks`` are whole events, each one line of data or comments."""
        self._copy()
        if self._native:
            return chunks
        out = []
        for event in chunks.split(b"\n\n"):
            if event.startswith(b"data: "):
                out.append(self._event(event[6:]))
            elif event.startswith(b":"):
                out.append(event + b"\n\n")
            if self.error is not None and self.error is not self._inner.error:
                break
        return b"".join(out)

    def _event(self, payload: bytes) -> bytes:
        if payload == b"[DONE]":
            return self._end()
        chunk = _read(payload)
        if chunk is None:
            return self._rubbish()
        out = b"" if self._begun else self._start(chunk)
        for choice in chunk.choices or ():
            if choice.delta is not None:
                out += self._delta(choice.delta)
            if choice.finish_reason:
                self._stopped = _stop(choice, called=self._calls > 0)
        return out

    def _start(self, chunk: _Chat) -> bytes:
        """The prompt's length is told here by engines that count in every chunk; by others at the end."""
        self._begun = True
        message: dict[str, Any] = {
            "id": chunk.id if isinstance(chunk.id, str) and chunk.id else _ident(self._request),
            "type": "message",
            "role": "assistant",
            "model": chunk.model if isinstance(chunk.model, str) else self._request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**_counts(usage.read(usage.loose(chunk.usage))), "output_tokens": 0},
        }
        return b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % _json(message)

    def _delta(self, said: _Said) -> bytes:
        out = b""
        if (said.reasoning_content or said.reasoning) and (thought := said.thought):
            out = self._text("thinking", b'"thinking_delta","thinking":', thought)
        if (said.content or said.refusal) and (text := said.text):
            out += self._text("text", b'"text_delta","text":', text)
        for call in said.tool_calls or ():
            out += self._called(call)
        return out

    def _text(self, kind: str, delta: bytes, text: str) -> bytes:
        opened = b""
        if self._open != kind:
            empty = {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}
            opened = self._block(empty)
        return opened + self._block_delta(delta + _json(text))

    def _called(self, call: _Call) -> bytes:
        function = call.function or _Function()
        out = b""
        name = function.name if isinstance(function.name, str) else ""
        another = bool(name) if call.index is None else call.index != self._call
        if self._open != "tool_use" or another:
            ident = _call_id(call.id, self._request, self._calls)
            out = self._block({"type": "tool_use", "id": ident, "name": name, "input": {}})
            self._call, self._calls = call.index, self._calls + 1
        if function.arguments:
            given = function.arguments
            text = given if isinstance(given, str) else json.dumps(given)
            out += self._block_delta(b'"input_json_delta","partial_json":' + _json(text))
        return out

    def _block(self, block: dict[str, Any]) -> bytes:
        """Close what is open, and begin this."""
        out = self._close()
        self._index += 1
        self._open = block["type"]
        start = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
        return out + start % (self._index, _json(block))

    def _block_delta(self, delta: bytes) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b}}\n\n'
            % (self._index, delta)
        )

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index

    def _end(self) -> bytes:
        reason, sequence = self._stopped
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        counts = _counts(self.usage, self.tokens)
        begun = b"" if self._begun else self._start(_Chat())
        return (
            begun
            + self._close()
            + b'event: message_delta\ndata: {"type":"message_delta","delta":%b,"usage":%b}\n\n'
            % (_json(delta), _json(counts))
            + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        )
