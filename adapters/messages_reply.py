"""A whole chat completion, as an adapter's own decoder gives it, as a message; and what its chunks share with it. (P)

Invariant: nothing is told before the adapter's decoder has found the answer whole; a message stays as it is.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from adapters import failure
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


class Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class Call(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A delta, or the message of a whole answer."""

    content: Any = None
    refusal: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[Call] | None = None

    @property
    def thought(self) -> str:
        """By whichever of its names; an engine that sends both means the same."""
        return _text(self.reasoning_content) or _text(self.reasoning)

    @property
    def text(self) -> str:
        return _text(self.content) or _text(self.refusal)


class Choice(msgspec.Struct):
    index: Any = 0
    delta: Said | None = None
    message: Said | None = None
    finish_reason: Any = None
    stop_reason: Any = None


class Chat(msgspec.Struct):
    """A chunk or a whole completion. ``type`` is that of an engine's own Messages."""

    id: Any = None
    model: Any = None
    type: Any = None
    choices: list[Choice] | None = None
    usage: Any = None


_DECODER: Final = msgspec.json.Decoder(Chat)


def read(payload: bytes) -> Chat | None:
    try:
        return _DECODER.decode(payload)
    except (ValueError, RecursionError):
        pass
    try:
        return msgspec.convert(json.loads(payload), Chat)  # NaN, half an emoji
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    """Content may come in parts."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join([text for text in texts if isinstance(text, str)])


def encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def counts(used: Usage | None, tokens: int = 0) -> dict[str, Any]:
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


def stopped(choice: Choice, *, called: bool) -> tuple[str, str | None]:
    """Stop reason and sequence; vLLM and few others say which sequence it was."""
    reason = choice.finish_reason if isinstance(choice.finish_reason, str) else "stop"
    if reason == "stop" and called:
        return "tool_use", None
    if reason == "stop" and isinstance(choice.stop_reason, str):
        return "stop_sequence", choice.stop_reason
    return _REASONS.get(reason, "end_turn"), None


class Over:
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

    def _rubbish(self, why: str = "the engine's answer cannot be read as a chat completion") -> bytes:
        self.error = failure.rubbish(why)
        return b""


class MessagesWhole(Over):
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
        chat = read(body)
        if chat is not None and chat.type == "message" and chat.choices is None:
            return body
        choice = chat.choices[0] if chat is not None and chat.choices else None
        if chat is None or choice is None or choice.message is None:
            return self._rubbish()
        content = _content(choice.message, self._request)
        called = any(block["type"] == "tool_use" for block in content)
        reason, sequence = stopped(choice, called=called)
        message = {
            "id": chat.id if isinstance(chat.id, str) and chat.id else ident(self._request),
            "type": "message",
            "role": "assistant",
            "model": chat.model if isinstance(chat.model, str) else self._request.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": counts(self.usage),
        }
        return encode(message)


def ident(request: InferenceRequest) -> str:
    return f"msg_{request.id}"


def call_id(given: Any, request: InferenceRequest, at: int) -> str:
    return given if isinstance(given, str) and given else f"toolu_{request.id}_{at}"


def _content(said: Said, request: InferenceRequest) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.thought:
        blocks.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    for at, call in enumerate(said.tool_calls or ()):
        function = call.function or Function()
        name = function.name if isinstance(function.name, str) else ""
        ident = call_id(call.id, request, at)
        blocks.append({"type": "tool_use", "id": ident, "name": name, "input": arguments(function.arguments)})
    return blocks
