"""Chat completions and completions in OpenAI's shape, with the places where engines differ left open. (P)"""

from __future__ import annotations

from typing import Any, ClassVar

from conformance.engines.forms import Choice, Stream, encode, legacy_logprobs, logprob


class Enveloped(Stream):
    """What chat completions and completions have in common: the envelope around choices, and usage."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    """``object`` of the whole answer and of a chunk."""

    def chunk_id(self, choice: Choice) -> str:
        return self.id

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        """``more`` are members that come after the choices: usage."""
        return {
            "id": self.chunk_id(choice),
            "object": self.chunk_kind,
            "created": self.created,
            "model": self.ask.model,
            "choices": choices,
            **more,
        }

    def usage(self, prompt: int, completion: int) -> dict[str, Any]:
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def final_usage(self) -> dict[str, Any]:
        return self.usage(self.prompt_tokens, self.completion_tokens)

    def continuous(self, choice: Choice, made: int) -> dict[str, Any]:
        """Members a chunk has when usage is asked for all along."""
        return {"usage": self.usage(choice.generation.prompt, made)} if self.ask.continuous_usage else {}

    def end(self) -> bytes:
        if not self.ask.include_usage:
            return self.done
        return self.event(self.chunk(self.choices[0], [], usage=self.final_usage())) + self.done

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.ask.model,
            "choices": choices,
            "usage": self.final_usage(),
        }

    def whole(self) -> bytes:
        return encode(self.answer([self.whole_choice(choice) for choice in self.choices]))


class Chat(Enveloped):
    """``/v1/chat/completions``. Subclasses say how their engine writes chunks, choices and usage."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    reasoning_field: ClassVar[tuple[str, ...]] = ("reasoning_content",)
    forced_finish: ClassVar[str] = "tool_calls"
    """The finish reason after a call of a tool named by ``tool_choice``."""

    # -- what engines differ in ---------------------------------------------------------------------------------

    def choice(self, choice: Choice, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def chunk_id(self, choice: Choice) -> str:
        return choice.id

    def role_delta(self) -> dict[str, Any]:
        return {"role": "assistant", "content": ""}

    def text_delta(self, piece: str) -> dict[str, Any]:
        return {"content": piece}

    def thought_delta(self, piece: str) -> dict[str, Any]:
        return dict.fromkeys(self.reasoning_field, piece)

    def call_delta(self, call: dict[str, Any]) -> dict[str, Any]:
        return {"tool_calls": [call]}

    def end_delta(self) -> dict[str, Any]:
        return {}

    def call_opening(self, choice: Choice) -> dict[str, Any]:
        function = {"name": choice.plan.tool, "arguments": ""}
        return {"index": 0, "id": choice.call_id, "type": "function", "function": function}

    # -- events -------------------------------------------------------------------------------------------------

    def finish(self, choice: Choice) -> str:
        plan = choice.plan
        if plan.tool is not None and plan.finish == "stop":
            return self.forced_finish if self.ask.tool_forced else "tool_calls"
        return plan.finish

    def opening(self, choice: Choice) -> bytes:
        made = self.continuous(choice, 0)
        return self.event(self.chunk(choice, [self.choice(choice, self.role_delta(), None, None)], **made))

    def text(self, choice: Choice, piece: str) -> bytes:
        return self.event(self.chunk(choice, [self.choice(choice, self.text_delta(piece), None, None)]))

    def token(self, choice: Choice, at: int) -> bytes:
        plan = choice.plan
        out = b""
        if plan.tool is not None and at == plan.reasoning:
            out = self._delta(choice, self.call_delta(self.call_opening(choice)), at, None)
        return out + self._delta(choice, self._made(choice, at), at, None)

    def last(self, choice: Choice) -> bytes:
        at = choice.plan.length - 1
        return self._delta(choice, self._made(choice, at), at, self.finish(choice))

    def closing(self, choice: Choice) -> bytes:
        return self.event(self.chunk(choice, [self.choice(choice, self.end_delta(), None, self.finish(choice))]))

    def _made(self, choice: Choice, at: int) -> dict[str, Any]:
        plan = choice.plan
        piece = plan.pieces[at]
        if at < plan.reasoning:
            return self.thought_delta(piece)
        if plan.tool is not None:
            return self.call_delta({"index": 0, "function": {"arguments": piece}})
        return self.text_delta(piece)

    def _delta(self, choice: Choice, delta: dict[str, Any], at: int, finish: str | None) -> bytes:
        probabilities = None
        if self.ask.logprobs is not None and "tool_calls" not in delta:
            probabilities = {"content": [self.logprob(choice.plan.pieces[at])]}
        made = self.continuous(choice, at + 1)
        return self.event(self.chunk(choice, [self.choice(choice, delta, probabilities, finish)], **made))

    def logprob(self, piece: str) -> dict[str, Any]:
        return logprob(piece, self.ask.logprobs or 0)

    # -- the whole answer ---------------------------------------------------------------------------------------

    def message(self, choice: Choice) -> dict[str, Any]:
        plan = choice.plan
        message: dict[str, Any] = {"role": "assistant", "content": plan.content if plan.tool is None else None}
        if plan.reasoning:
            message |= dict.fromkeys(self.reasoning_field, plan.thoughts)
        if plan.tool is not None:
            message["tool_calls"] = [self.tool_call(choice)]
        return message

    def tool_call(self, choice: Choice) -> dict[str, Any]:
        function = {"name": choice.plan.tool, "arguments": choice.plan.content}
        return {"id": choice.call_id, "type": "function", "function": function}

    def logprobs(self, choice: Choice) -> dict[str, Any] | None:
        if self.ask.logprobs is None:
            return None
        return {"content": [self.logprob(piece) for piece in choice.plan.pieces[choice.plan.reasoning :]]}

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": self.message(choice),
            "logprobs": self.logprobs(choice),
            "finish_reason": self.finish(choice),
        }


class Completion(Enveloped):
    """``/v1/completions``: text without roles."""

    kind = chunk_kind = "text_completion"
    merges_finish: ClassVar[bool] = True

    def choice(self, choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def finish(self, choice: Choice) -> str:
        return choice.plan.finish

    def opening(self, choice: Choice) -> bytes:
        return self.text(choice, choice.prompt.decode(errors="replace")) if self.ask.echo else b""

    def text(self, choice: Choice, piece: str) -> bytes:
        return self.event(self.chunk(choice, [self.choice(choice, piece, None, None)]))

    def token(self, choice: Choice, at: int) -> bytes:
        return self._token(choice, at, None)

    def last(self, choice: Choice) -> bytes:
        return self._token(choice, choice.plan.length - 1, self.finish(choice))

    def closing(self, choice: Choice) -> bytes:
        return self.event(self.chunk(choice, [self.choice(choice, "", None, self.finish(choice))]))

    def _token(self, choice: Choice, at: int, finish: str | None) -> bytes:
        piece = choice.plan.pieces[at]
        probabilities = None
        if self.ask.logprobs is not None:
            probabilities = legacy_logprobs([piece], self.ask.logprobs, len("".join(choice.plan.pieces[:at])))
        made = self.continuous(choice, at + 1)
        return self.event(self.chunk(choice, [self.choice(choice, piece, probabilities, finish)], **made))

    def logprobs(self, choice: Choice) -> dict[str, Any] | None:
        return None if self.ask.logprobs is None else legacy_logprobs(choice.plan.pieces, self.ask.logprobs)

    def whole_text(self, choice: Choice) -> str:
        prompt = choice.prompt.decode(errors="replace") if self.ask.echo else ""
        return prompt + "".join(choice.plan.pieces)

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return self.choice(choice, self.whole_text(choice), self.logprobs(choice), self.finish(choice))
