"""TGI's way of writing answers: its Messages API with its oddities, and the native generation routes. (P)"""

from __future__ import annotations

from typing import Any, ClassVar

from conformance.engines import text
from conformance.engines.chat import Chat, Completion
from conformance.engines.forms import Choice, Stream, encode

_FINISH = {"stop": "eos_token", "length": "length"}


def finish_reason(choice: Choice) -> str:
    """The native word for why a generation ended."""
    return "stop_sequence" if choice.plan.matched is not None else _FINISH[choice.plan.finish]


class TgiChat(Chat):
    """Every chunk says the role, ids are empty, and events have no space after the colon."""

    prefix: ClassVar[bytes] = b"data:"
    merges_finish: ClassVar[bool] = True
    fingerprint: ClassVar[str] = ""

    def opening(self, choice: Choice) -> bytes:
        return b""

    def finish(self, choice: Choice) -> str:
        if choice.plan.matched is not None:
            return "stop_sequence"
        return choice.plan.finish

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {
            "object": "chat.completion.chunk",
            "id": "",
            "created": self.created,
            "model": self.ask.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            "usage": None,
            **more,
        }

    def text_delta(self, piece: str) -> dict[str, Any]:
        return {"role": "assistant", "content": piece}

    def thought_delta(self, piece: str) -> dict[str, Any]:
        return self.text_delta(piece)

    def end_delta(self) -> dict[str, Any]:
        return self.text_delta("")

    def call_opening(self, choice: Choice) -> dict[str, Any]:
        return {"function": {"name": choice.plan.tool, "arguments": ""}}

    def call_delta(self, call: dict[str, Any]) -> dict[str, Any]:
        function = {"name": None, **call["function"]}
        call = {"index": 0, "id": self.choices[0].call_id, "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}

    def message(self, choice: Choice) -> dict[str, Any]:
        if choice.plan.tool is None:
            return {"role": "assistant", "content": "".join(choice.plan.pieces)}
        function = {"description": None, "name": choice.plan.tool, "arguments": choice.plan.content}
        call = {"id": choice.call_id, "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        answer = {"object": "chat.completion", **super().answer(choices)}
        usage = answer.pop("usage")
        return {**answer, "id": "", "system_fingerprint": self.fingerprint, "usage": usage}


class TgiCompletion(Completion):
    """Chunks before the last have an empty finish reason; the last one of each prompt carries the usage."""

    prefix: ClassVar[bytes] = b"data:"
    fingerprint: ClassVar[str] = ""

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        chunk: dict[str, Any] = {"object": "text_completion", "id": "", "created": self.created, "choices": choices}
        return {**chunk, "model": self.ask.model, "system_fingerprint": self.fingerprint, **more}

    def choice(self, choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return super().choice(choice, text, logprobs, finish or "")

    def finish(self, choice: Choice) -> str:
        return finish_reason(choice) if self.ask.stream else self.choices[0].plan.finish

    def last(self, choice: Choice) -> bytes:
        last = self.choice(choice, choice.plan.pieces[-1], None, self.finish(choice))
        return self.event(self.chunk(choice, [last], usage=self.usage(choice.generation.prompt, choice.plan.length)))

    def end(self) -> bytes:
        return self.done

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        answer = {"object": "text_completion", **super().answer(choices)}
        usage = answer.pop("usage")
        return {**answer, "id": "", "system_fingerprint": self.fingerprint, "usage": usage}


class TgiGenerate(Stream):
    """``/generate_stream`` and ``/generate``. The stream has no terminator: the last token carries the whole text."""

    details: bool = False
    full_text: bool = False
    listed: bool = False
    """``POST /`` answers a list."""

    def uniform(self, choice: Choice) -> bool:
        return False

    def _token(self, piece: str) -> dict[str, Any]:
        value = text.encode(piece)
        return {"id": value[0] if value else 0, "text": piece, "logprob": -0.25, "special": False}

    def token(self, choice: Choice, at: int) -> bytes:
        last = at == choice.plan.length - 1
        event: dict[str, Any] = {
            "index": at + 1,
            "token": self._token(choice.plan.pieces[at]),
            "generated_text": self._text(choice) if last else None,
            "details": self._details(choice) if last else None,
        }
        return b"data:" + encode(event) + b"\n\n"

    def closing(self, choice: Choice) -> bytes:
        return b""

    def _text(self, choice: Choice) -> str:
        prompt = choice.prompt.decode(errors="replace") if self.full_text else ""
        return prompt + "".join(choice.plan.pieces)

    def _details(self, choice: Choice) -> dict[str, Any]:
        length, prompt = choice.plan.length, choice.generation.prompt
        return {
            "finish_reason": finish_reason(choice),
            "generated_tokens": length,
            "seed": None,
            "input_length": prompt,
        }

    def whole(self) -> bytes:
        choice = self.choices[0]
        answer: dict[str, Any] = {"generated_text": self._text(choice)}
        if self.details:
            details = self._details(choice)
            del details["input_length"]
            tokens = [self._token(piece) for piece in choice.plan.pieces]
            answer["details"] = {**details, "prefill": [], "tokens": tokens}
        return encode([answer] if self.listed else answer)
