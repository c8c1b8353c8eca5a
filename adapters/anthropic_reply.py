"""A whole answer of Anthropic's Messages as a chat completion. (P)

Invariant: what is no message is nobody's answer; thoughts keep their signatures.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from adapters import chunk, failure, usage
from adapters.shapes import arguments_text
from adapters.stream import answer_id
from adapters.whole import Restreamed, WholeDecoder
from gateway.types import Headers, InferenceRequest, Usage

_ABSENT: Final = msgspec.Raw()


class Block(msgspec.Struct):
    """Some that speak this dialect write null for what a block has not."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = _ABSENT


class Message(msgspec.Struct):
    type: str = ""
    id: str | None = None
    model: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    usage: usage.Counts | None = None
    error: Any = None


_ANSWER: Final = msgspec.json.Decoder(Message)


def counted(used: Usage) -> dict[str, Any]:
    """Usage as chats have it."""
    counts: dict[str, Any] = {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "total_tokens": used.prompt + used.completion,
        "prompt_tokens_details": {"cached_tokens": used.cached},
    }
    if used.reasoning:
        counts["completion_tokens_details"] = {"reasoning_tokens": used.reasoning}
    return counts


def created(headers: Headers) -> int:
    """Anthropic's answers do not say when; their heads do."""
    return int(failure.http_date(dict(headers).get(b"date", b"").decode("latin-1")) or 0)


class _Translating:
    """Puts a chat completion in place of the message before it is looked at."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        self._asked = request
        self._created = created(headers)

    def completion(self, body: bytes) -> bytes:
        """What is no message becomes nothing, which is taken for rubbish; an error stays for others to judge."""
        try:
            message = _ANSWER.decode(body)
        except (ValueError, RecursionError):
            return b""
        if message.error:
            return body
        return b"" if message.type != "message" else msgspec.json.encode(self._document(message))

    def _document(self, message: Message) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": _spoken(message.content or []),
            "logprobs": None,
            "finish_reason": chunk.finish_reason(message.stop_reason) or "stop",
        }
        return {
            "id": message.id or answer_id(self._asked),
            "object": "chat.completion",
            "created": self._created,
            "model": message.model or self._asked.model,
            "choices": [choice],
            "usage": counted(usage.read(message.usage) or Usage()),
        }


class AnthropicWhole(WholeDecoder):
    """A message as a chat completion."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        super().__init__()
        self._translating = _Translating(request, headers)

    def _taken(self, body: bytes) -> bytes:
        return self._translating.completion(body)


class AnthropicRestreamed(Restreamed):
    """A message in answer to a request for a stream."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        super().__init__(request)
        self._translating = _Translating(request, headers)

    def _taken(self, body: bytes) -> bytes:
        return self._translating.completion(body)


def _spoken(blocks: list[Block]) -> dict[str, Any]:
    """The assistant's message of an answer. Blocks of tools that run at Anthropic are left out: none are asked for."""
    texts = [block.text or "" for block in blocks if block.type == "text"]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": None}
    thoughts = [block for block in blocks if block.type in ("thinking", "redacted_thinking")]
    if thoughts:
        message["reasoning_content"] = "".join([block.thinking or "" for block in thoughts])
        message["thinking_blocks"] = [thought(block) for block in thoughts]
    calls = [block for block in blocks if block.type == "tool_use"]
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {"name": call.name or "", "arguments": arguments_text(call.input)},
            }
            for call in calls
        ]
    return message


def thought(block: Block) -> dict[str, str]:
    if block.type == "redacted_thinking":
        return {"type": "redacted_thinking", "data": block.data or ""}
    return {"type": "thinking", "thinking": block.thinking or "", "signature": block.signature or ""}
