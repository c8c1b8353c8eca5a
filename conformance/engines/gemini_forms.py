"""How Gemini's OpenAI-compatible endpoint writes chats. (P)

Invariant: every chunk's usage is what has been used so far, and thoughts are in the total only.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any, ClassVar

from conformance.engines.chat import Chat
from conformance.engines.forms import Choice, encode

Usage = dict[str, Any]


def thought_signature(call_id: str) -> str:
    """What a call by a model that thinks carries, and must carry when it comes back."""
    return base64.b64encode(b"sim" + zlib.crc32(call_id.encode()).to_bytes(4, "big")).decode()


class GeminiChat(Chat):
    """Thoughts are not shown. A call is one delta without an index, and a stream with one ends with "stop"."""

    merges_finish: ClassVar[bool] = True
    headers_first: ClassVar[bool] = False
    stream_type: ClassVar[bytes] = b"text/event-stream"

    def uniform(self, choice: Choice) -> bool:
        return False

    def chunk_id(self, choice: Choice) -> str:
        return self.id

    def spent(self, choice: Choice, made: int) -> Usage:
        """Usage after ``made`` tokens of this choice."""
        thoughts = min(made, choice.plan.reasoning)
        others = [other for other in self.choices if other is not choice]
        shown = made - thoughts + sum(max(0, other.taken - other.plan.reasoning) for other in others)
        total = self.prompt_tokens + made + sum(other.taken for other in others)
        return {"completion_tokens": shown, "prompt_tokens": self.prompt_tokens, "total_tokens": total}

    def final_usage(self) -> Usage:
        shown = self.completion_tokens - self.reasoning_tokens
        total = self.prompt_tokens + self.completion_tokens
        return {"completion_tokens": shown, "prompt_tokens": self.prompt_tokens, "total_tokens": total}

    def opening(self, choice: Choice) -> bytes:
        return b""

    def token(self, choice: Choice, at: int) -> bytes:
        plan = choice.plan
        if at < plan.reasoning:
            return b""
        if plan.tool is None:
            return self._said(choice, {"content": plan.pieces[at]}, at + 1)
        if at < plan.length - 1:
            return b""
        return self._said(choice, {"tool_calls": [self.tool_call(choice)]}, at + 1)

    def last(self, choice: Choice) -> bytes:
        plan = choice.plan
        shown = {"content": plan.pieces[-1]} if plan.length > plan.reasoning else {}
        return self._said(choice, shown, plan.length, plan.finish)

    def closing(self, choice: Choice) -> bytes:
        return self._said(choice, {}, choice.plan.length, choice.plan.finish)

    def end(self) -> bytes:
        return self.done

    def _said(self, choice: Choice, delta: dict[str, Any], made: int, finish: str | None = None) -> bytes:
        told: dict[str, Any] = {"delta": {**delta, "role": "assistant"}, "index": choice.index}
        if finish is not None:
            told = {"delta": told["delta"], "finish_reason": finish, "index": choice.index}
        return self.event(self._envelope(self.chunk_kind, [told], self.spent(choice, made)))

    def _envelope(self, kind: str, choices: list[Any], usage: Usage) -> dict[str, Any]:
        envelope = {"choices": choices, "created": self.created, "id": self.id, "model": self.ask.model}
        return {**envelope, "object": kind, "usage": usage}

    def tool_call(self, choice: Choice) -> dict[str, Any]:
        plan = choice.plan
        call: dict[str, Any] = {"function": {"arguments": plan.content, "name": plan.tool}, "id": choice.call_id}
        if plan.reasoning:
            call = {"extra_content": {"google": {"thought_signature": thought_signature(choice.call_id)}}, **call}
        return {**call, "type": "function"}

    def message(self, choice: Choice) -> dict[str, Any]:
        plan = choice.plan
        if plan.tool is not None:
            return {"role": "assistant", "tool_calls": [self.tool_call(choice)]}
        return {"content": plan.content, "role": "assistant"} if plan.content else {"role": "assistant"}

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return {"finish_reason": self.finish(choice), "index": choice.index, "message": self.message(choice)}

    def whole(self) -> bytes:
        choices = [self.whole_choice(choice) for choice in self.choices]
        return encode(self._envelope(self.kind, choices, self.final_usage()))
