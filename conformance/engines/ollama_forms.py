"""Ollama's way of writing answers: its OpenAI routes, and lines of JSON on its own. (P)

Invariant: a tool call is one delta, whole; the last line or chunk says why the answer ended.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec

from conformance.engines.chat import Chat, Completion
from conformance.engines.forms import Choice, Form, encode

Usage = dict[str, Any]
FINGERPRINT = "fp_ollama"


class OllamaChat(Chat):
    """The role is in the first delta that says something."""

    headers_first: ClassVar[bool] = False
    stream_type: ClassVar[bytes] = b"text/event-stream"
    reasoning_field: ClassVar[tuple[str, ...]] = ("reasoning",)
    _led = False

    def uniform(self, choice: Choice) -> bool:
        return False

    def chunk_id(self, choice: Choice) -> str:
        return self.id

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        made = super().chunk(choice, [])
        return {**made, "system_fingerprint": FINGERPRINT, "choices": choices, **more}

    def choice(self, choice: Choice, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        role = {} if self._led else {"role": "assistant"}
        self._led = True
        made = {"index": choice.index, "delta": {**role, **delta}, "finish_reason": finish}
        return made if logprobs is None else {**made, "logprobs": logprobs}

    def opening(self, choice: Choice) -> bytes:
        return b""

    def thought_delta(self, piece: str) -> dict[str, Any]:
        return {"content": "", "reasoning": piece}

    def end_delta(self) -> dict[str, Any]:
        return {"content": ""}

    def token(self, choice: Choice, at: int) -> bytes:
        plan = choice.plan
        if plan.tool is None or at < plan.reasoning:
            return super().token(choice, at)
        if at < plan.length - 1:
            return b""
        delta = {"content": "", "tool_calls": [self.tool_call(choice)]}
        return self.event(self.chunk(choice, [self.choice(choice, delta, None, None)]))

    def tool_call(self, choice: Choice) -> dict[str, Any]:
        called = super().tool_call(choice)
        return {"id": called["id"], "index": 0, "type": "function", "function": called["function"]}

    def message(self, choice: Choice) -> dict[str, Any]:
        message = super().message(choice)
        return {**message, "content": message["content"] or ""}

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        made = super().whole_choice(choice)
        logprobs = made.pop("logprobs")
        return made if logprobs is None else {**made, "logprobs": logprobs}

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        made = super().answer([])
        usage = made.pop("usage")
        return {**made, "system_fingerprint": FINGERPRINT, "choices": choices, "usage": usage}


class OllamaCompletion(Completion):
    """With usage asked for, every chunk has one: zeros, until the last."""

    headers_first: ClassVar[bool] = False
    stream_type: ClassVar[bytes] = b"text/event-stream"
    merges_finish: ClassVar[bool] = False

    def choice(self, choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"text": text, "index": choice.index, "finish_reason": finish}

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        zeros = {"usage": self.usage(0, 0)} if self.ask.include_usage else {}
        return {
            "id": self.id,
            "object": self.chunk_kind,
            "created": self.created,
            "choices": choices,
            "model": self.ask.model,
            "system_fingerprint": FINGERPRINT,
            **zeros,
            **more,
        }

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        made = super().answer([])
        usage = made.pop("usage")
        return {**made, "system_fingerprint": FINGERPRINT, "choices": choices, "usage": usage}


class OllamaLines(Form):
    """``/api/chat``, and ``/api/generate`` with ``said`` False: a line for every token, the last with the counts."""

    headers_first: ClassVar[bool] = False
    stream_type: ClassVar[bytes] = b"application/x-ndjson"
    said: ClassVar[bool] = True

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        plan = choice.plan
        out = []
        for at in range(start, stop):
            if at < plan.reasoning:
                out.append(self._line(thinking=plan.pieces[at]))
            elif plan.tool is None:
                out.append(self._line(plan.pieces[at]))
            elif at == plan.length - 1:
                out.append(self._line(tool_calls=[self._call(choice)]))
        if stop == plan.length:
            out.append(self._last(""))
        return b"".join(out)

    def failure(self, message: str) -> bytes:
        return encode({"error": message}) + b"\n"

    def whole(self) -> bytes:
        choice = self.choices[0]
        plan = choice.plan
        thoughts = {"thinking": plan.thoughts} if plan.reasoning else {}
        calls = {"tool_calls": [self._call(choice)]} if plan.tool is not None else {}
        return self._last(plan.content if plan.tool is None else "", **thoughts, **calls).rstrip(b"\n")

    def _members(self, content: str, **more: Any) -> dict[str, Any]:
        stamp = datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told: dict[str, Any] = {"message": {"role": "assistant", "content": content, **more}}
        if not self.said:
            told = {"response": content, **more}
        return {"model": self.ask.model, "created_at": stamp, **told}

    def _line(self, content: str = "", **more: Any) -> bytes:
        return encode({**self._members(content, **more), "done": False}) + b"\n"

    def _last(self, content: str, **more: Any) -> bytes:
        choice = self.choices[0]
        made = choice.generation
        prompt, answer = made.first_at - made.admitted, made.last_at - made.first_at
        counts = {
            "total_duration": _nanoseconds(made.last_at - made.arrived),
            "load_duration": 0,
            "prompt_eval_count": made.prompt,
            "prompt_eval_duration": _nanoseconds(prompt),
            "eval_count": choice.plan.length,
            "eval_duration": _nanoseconds(answer),
        }
        ended = {"done": True, "done_reason": choice.plan.finish}
        return encode({**self._members(content, **more), **ended, **counts}) + b"\n"

    def _call(self, choice: Choice) -> dict[str, Any]:
        """Arguments are an object here; cut short they are none."""
        try:
            arguments = msgspec.json.decode(choice.plan.content)
        except msgspec.DecodeError:
            arguments = {}
        return {"id": choice.call_id, "function": {"index": 0, "name": choice.plan.tool, "arguments": arguments}}


def _nanoseconds(seconds: float) -> int:
    return int(max(0.0, seconds) * 1e9)
