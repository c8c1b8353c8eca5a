"""``/v1/messages``: the answer in Anthropic's shape. (P)

Invariant: every content block that starts stops, in order, and the stream ends with message_stop and nothing else.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from conformance.engines.forms import Choice, Form, encode, event

_STOPS = {"stop": "end_turn", "length": "max_tokens"}


class Messages(Form):
    """Blocks are thinking, then text or tool_use."""

    always_stop_sequence: ClassVar[bool] = False
    """A whole answer has the member even where it is null."""

    def start_message(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.ask.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": 0},
        }

    def stop_delta(self) -> dict[str, Any]:
        return {"stop_reason": self._reason(), "stop_sequence": self.choices[0].plan.matched}

    def stop_usage(self) -> dict[str, Any]:
        return {"input_tokens": self.prompt_tokens, "output_tokens": self.completion_tokens}

    def whole_usage(self) -> dict[str, Any]:
        return {"input_tokens": self.prompt_tokens, "output_tokens": self.completion_tokens}

    def signature(self, choice: Choice) -> str:
        """What vouches for the thoughts; "" where nobody does."""
        return ""

    def event(self, name: str, **members: Any) -> bytes:
        return event({"type": name, **members}, name)

    def block_event(self, name: str, index: int, **members: Any) -> bytes:
        """An event about one content block."""
        return self.event(name, index=index, **members)

    def failure(self, message: str) -> bytes:
        return self.event("error", error={"type": "api_error", "message": message})

    def _reason(self) -> str:
        plan = self.choices[0].plan
        if plan.tool is not None and plan.finish == "stop":
            return "tool_use"
        return "stop_sequence" if plan.matched is not None else _STOPS[plan.finish]

    def begin(self) -> bytes:
        return self.event("message_start", message=self.start_message())

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        out = []
        plan = choice.plan
        for at in range(start, stop):
            block = 0 if at < plan.reasoning else min(plan.reasoning, 1)
            if at in (0, plan.reasoning):
                if block:
                    out.append(self._block_stop(choice, 0))
                out.append(self.block_start(choice, block, at))
            delta = self._delta(choice, at)
            out.append(self.block_event("content_block_delta", block, delta=delta))
        if stop == plan.length:
            out.append(self._closing(choice))
        return b"".join(out)

    def block_start(self, choice: Choice, block: int, at: int) -> bytes:
        return self.block_event("content_block_start", block, content_block=self._block(choice, at))

    def _block_stop(self, choice: Choice, block: int) -> bytes:
        out, signature = b"", self.signature(choice)
        if signature and block == 0 and choice.plan.reasoning:
            delta = {"type": "signature_delta", "signature": signature}
            out = self.block_event("content_block_delta", 0, delta=delta)
        return out + self.block_event("content_block_stop", block)

    def _block(self, choice: Choice, at: int) -> dict[str, Any]:
        if at < choice.plan.reasoning:
            return {"type": "thinking", "thinking": "", "signature": ""}
        if choice.plan.tool is not None:
            return {"type": "tool_use", "id": choice.call_id, "name": choice.plan.tool, "input": {}}
        return {"type": "text", "text": ""}

    def _delta(self, choice: Choice, at: int) -> dict[str, Any]:
        piece = choice.plan.pieces[at]
        if at < choice.plan.reasoning:
            return {"type": "thinking_delta", "thinking": piece}
        if choice.plan.tool is not None:
            return {"type": "input_json_delta", "partial_json": piece}
        return {"type": "text_delta", "text": piece}

    def _closing(self, choice: Choice) -> bytes:
        plan = choice.plan
        out = b""
        if plan.length:
            index = 1 if 0 < plan.reasoning < plan.length else 0
            out = self._block_stop(choice, index)
        out += self.event("message_delta", delta=self.stop_delta(), usage=self.stop_usage())
        return out + self.event("message_stop")

    def whole(self) -> bytes:
        choice = self.choices[0]
        content: list[dict[str, Any]] = []
        plan = choice.plan
        if plan.reasoning:
            content.append({"type": "thinking", "thinking": plan.thoughts, "signature": self.signature(choice)})
        if plan.tool is not None:
            content.append(
                {"type": "tool_use", "id": choice.call_id, "name": plan.tool, "input": _arguments(plan.content)}
            )
        elif plan.length > plan.reasoning or not plan.length:
            content.append({"type": "text", "text": plan.content})
        answer: dict[str, Any] = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self.ask.model,
            "stop_reason": self._reason(),
        }
        if plan.matched is not None or self.always_stop_sequence:
            answer["stop_sequence"] = plan.matched
        return encode({**answer, "usage": self.whole_usage()})


def _arguments(text: str) -> Any:
    """A tool's input as an object; cut short, it is not JSON and stays out."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
