"""SGLang's way of writing answers, member by member as 0.5.23 sends them, and its native ``/generate``. (P)"""

from __future__ import annotations

from typing import Any, ClassVar

from conformance.engines import text
from conformance.engines.chat import Chat, Completion
from conformance.engines.forms import DONE, Choice, Form, encode, event, logprob
from conformance.engines.messages import Messages

Usage = dict[str, Any]


def _usage(form: Form, prompt: int, completion: int, details: bool) -> Usage:
    cached = {"cached_tokens": form.cached_tokens} if details else None
    thoughts = form.reasoning_tokens
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": cached,
        "reasoning_tokens": thoughts,
        "completion_tokens_details": {"reasoning_tokens": thoughts} if thoughts else None,
    }


def _metadata(form: Form) -> dict[str, Any]:
    longest = max(choice.plan.length for choice in form.choices)
    return {"weight_version": "default", "weight_versions": [{"version": "default", "start": 0, "end": longest}]}


class SglangChat(Chat):
    """``details`` is --enable-cache-report."""

    headers_first: ClassVar[bool] = False
    details: ClassVar[bool] = True

    def choice(self, choice: Choice, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        matched = choice.plan.matched if finish is not None else None
        return {**super().choice(choice, delta, logprobs, finish), "matched_stop": matched}

    def role_delta(self) -> dict[str, Any]:
        return {"reasoning_content": None, "role": "assistant", "content": ""}

    def text_delta(self, piece: str) -> dict[str, Any]:
        return {"reasoning_content": None, "content": piece}

    def end_delta(self) -> dict[str, Any]:
        return {"reasoning_content": None}

    def call_delta(self, call: dict[str, Any]) -> dict[str, Any]:
        function = {"name": None, **call["function"]}
        return {
            "reasoning_content": None,
            "tool_calls": [{"id": None, "type": "function", **call, "function": function}],
        }

    def continuous(self, choice: Choice, made: int) -> dict[str, Any]:
        return super().continuous(choice, made) if made else {}

    def usage(self, prompt: int, completion: int) -> Usage:
        return _usage(self, prompt, completion, self.details)

    def logprob(self, piece: str) -> dict[str, Any]:
        def order(entry: dict[str, Any]) -> dict[str, Any]:
            return {name: entry[name] for name in ("token", "bytes", "logprob")}

        return logprob(piece, self.ask.logprobs or 0, order)

    def message(self, choice: Choice) -> dict[str, Any]:
        plan = choice.plan
        message: dict[str, Any] = {
            "role": "assistant",
            "content": plan.content if plan.tool is None else None,
            "reasoning_content": plan.thoughts or None,
        }
        if plan.tool is not None:
            message["tool_calls"] = [{**self.tool_call(choice), "index": 0}]
        return message

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return {**super().whole_choice(choice), "matched_stop": choice.plan.matched}

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        return {**super().answer(choices), "metadata": _metadata(self)}


class SglangCompletion(Completion):
    headers_first: ClassVar[bool] = False
    details: ClassVar[bool] = True

    def choice(self, choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        matched = choice.plan.matched if finish is not None else None
        return {**super().choice(choice, text, logprobs, finish), "matched_stop": matched}

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        return super().chunk(choice, choices, **(more or {"usage": None}))

    def usage(self, prompt: int, completion: int) -> Usage:
        return _usage(self, prompt, completion, self.details)

    def final_usage(self) -> Usage:
        usage = self.usage(self.prompt_tokens, self.completion_tokens)
        return {name: value for name, value in usage.items() if value is not None} if self.ask.stream else usage

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        return {**super().answer(choices), "metadata": _metadata(self)}


class SglangMessages(Messages):
    def start_message(self) -> dict[str, Any]:
        message = super().start_message()
        del message["stop_reason"], message["stop_sequence"]
        return message

    def stop_delta(self) -> dict[str, Any]:
        return {name: value for name, value in super().stop_delta().items() if value is not None}

    def stop_usage(self) -> dict[str, int]:
        return {"output_tokens": self.completion_tokens}


class Generate(Form):
    """``/generate``: every event repeats the whole text so far."""

    batched = False
    """The request held a list of prompts, so the answer is a list."""

    def _state(self, choice: Choice, made: int) -> dict[str, Any]:
        plan = choice.plan
        reason: dict[str, Any] | None = None
        if made == plan.length and plan.finish == "length":
            reason = {"type": "length", "length": plan.length}
        elif made == plan.length:
            reason = {"type": "stop", "matched": plan.matched}
        said = "".join(plan.pieces[:made])
        meta = {
            "id": choice.id,
            "finish_reason": reason,
            "prompt_tokens": choice.generation.prompt,
            "weight_version": "default",
            "completion_tokens": made,
            "cached_tokens": choice.generation.cached,
            "e2e_latency": 0.0,
        }
        return {"text": said, "output_ids": text.encode(said), "meta_info": meta}

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        index = {"index": choice.index} if self.batched else {}
        return b"".join(event({**self._state(choice, made), **index}) for made in range(start + 1, stop + 1))

    def end(self) -> bytes:
        return DONE

    def whole(self) -> bytes:
        states = [self._state(choice, choice.plan.length) for choice in self.choices]
        return encode(states if self.batched else states[0])
