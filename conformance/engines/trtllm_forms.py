"""trtllm-serve's way of writing answers: chats without nulls, completions with all of them. (P)"""

from __future__ import annotations

from typing import Any, ClassVar

from conformance.engines.chat import Chat, Completion, Enveloped
from conformance.engines.forms import Choice, encode

Usage = dict[str, Any]
_NULLS = ("token_ids", "logprobs", "context_logits", "finish_reason", "stop_reason", "disaggregated_params")


class _TrtUsage(Enveloped):
    def chunk_id(self, choice: Choice) -> str:
        return self.id

    def final_usage(self) -> Usage:
        counted = self.usage(self.prompt_tokens, self.completion_tokens)
        return {**counted, "prompt_tokens_details": {"cached_tokens": self.cached_tokens}}

    def continuous(self, choice: Choice, made: int) -> dict[str, Any]:
        if not (self.ask.continuous_usage and self.ask.include_usage):
            return {}
        counted = self.usage(choice.generation.prompt, made)
        return {"usage": {**counted, "prompt_tokens_details": {"cached_tokens": choice.generation.cached}}}

    def usage(self, prompt: int, completion: int) -> Usage:
        return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


class TrtChat(_TrtUsage, Chat):
    merges_finish: ClassVar[bool] = True
    headers_first: ClassVar[bool] = False
    forced_finish: ClassVar[str] = "stop"

    def choice(self, choice: Choice, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        members = {"logprobs": logprobs, "finish_reason": finish, "stop_reason": finish and choice.plan.matched}
        return {"index": choice.index, "delta": delta} | {k: v for k, v in members.items() if v is not None}

    def role_delta(self) -> dict[str, Any]:
        return {"role": "assistant"}

    def text_delta(self, piece: str) -> dict[str, Any]:
        return {"content": piece, "reasoning_content": ""}

    def thought_delta(self, piece: str) -> dict[str, Any]:
        return {"content": "", "reasoning_content": piece}

    def call_delta(self, call: dict[str, Any]) -> dict[str, Any]:
        return {"content": "", "reasoning_content": "", "tool_calls": [{"type": "function", **call}]}

    def end_delta(self) -> dict[str, Any]:
        return {"content": "", "reasoning_content": ""}

    def opening(self, choice: Choice) -> bytes:
        """The first event of each choice has a space before its end."""
        made = self.chunk(choice, [self.choice(choice, self.role_delta(), None, None)], **self.continuous(choice, 0))
        return self.prefix + encode(made) + b" \n\n"

    def message(self, choice: Choice) -> dict[str, Any]:
        plan = choice.plan
        calls = [self.tool_call(choice)] if plan.tool is not None else []
        content = "" if calls else plan.content
        return {"role": "assistant", "content": content, "reasoning_content": plan.thoughts, "tool_calls": calls}

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        more = {"stop_reason": choice.plan.matched, "mm_embedding_handle": None, "disaggregated_params": None}
        return {**super().whole_choice(choice), **more, "avg_decoded_tokens_per_iter": None}

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        return {**super().answer(choices), "prompt_token_ids": None}


class TrtCompletion(_TrtUsage, Completion):
    def choice(self, choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        members = {"logprobs": logprobs, "finish_reason": finish, "stop_reason": finish and choice.plan.matched}
        nulls = dict.fromkeys(_NULLS) | members
        return {"index": choice.index, "text": text, **nulls, "avg_decoded_tokens_per_iter": None}

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {**super().chunk(choice, choices), "usage": None, **more}

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        return {**super().answer(choices), "prompt_token_ids": None}
