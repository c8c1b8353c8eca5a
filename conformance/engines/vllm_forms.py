"""vLLM's way of writing answers, member by member as 0.32 and 0.33 send them. (P)"""

from __future__ import annotations

from typing import Any, ClassVar

from conformance.engines.chat import Chat, Completion
from conformance.engines.forms import Choice
from conformance.engines.messages import Messages
from conformance.engines.responses import Responses

Usage = dict[str, Any]


class VllmUsage:
    """How vLLM reports tokens; ``details`` is --enable-prompt-tokens-details."""

    details: ClassVar[bool] = True
    fingerprint: ClassVar[str] = ""

    def numbers(self, prompt: int, completion: int) -> Usage:
        return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}

    def cached(self, cached: int, prompt: int, block: int = 16) -> Usage:
        return {"cached_tokens": cached, "created_cache_tokens": max(0, prompt - cached) // block * block}

    def extended(self, answer: dict[str, Any], about_prompt: dict[str, Any]) -> dict[str, Any]:
        """An answer with what vLLM has around and after its usage."""
        usage = answer.pop("usage")
        around = {"service_tier": None, "system_fingerprint": self.fingerprint, "usage": usage}
        after = dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))
        return {**answer, **around, **about_prompt, **after}


class VllmChat(VllmUsage, Chat):
    merges_finish: ClassVar[bool] = True
    forced_finish: ClassVar[str] = "stop"
    reasoning_field: ClassVar[tuple[str, ...]] = ("reasoning",)

    def choice(self, choice: Choice, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        made = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        if finish is not None:
            made["stop_reason"] = choice.plan.matched
        if "role" not in delta:
            made["token_ids"] = None
        return made

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        chunk = super().chunk(choice, choices, **more)
        if choices and "role" in choices[0]["delta"]:
            return {**chunk, "prompt_token_ids": None, "prompt_text": None}
        ended = not choices or choices[0]["finish_reason"] is not None
        if ended and self.ask.include_usage == (not choices):
            chunk["system_fingerprint"] = self.fingerprint
        return chunk

    def usage(self, prompt: int, completion: int) -> Usage:
        return {**self.numbers(prompt, completion), "completion_tokens_details": None}

    def final_usage(self) -> Usage:
        usage = self.numbers(self.prompt_tokens, self.completion_tokens)
        if self.ask.stream:
            if self.details:
                usage["prompt_tokens_details"] = self.cached(self.cached_tokens, self.prompt_tokens)
            if self.reasoning_tokens:
                usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
            return usage
        cached = self.cached(self.cached_tokens, self.prompt_tokens) if self.details else None
        thoughts = {"reasoning_tokens": self.reasoning_tokens} if self.reasoning_tokens else None
        return {**usage, "prompt_tokens_details": cached, "completion_tokens_details": thoughts}

    def call_delta(self, call: dict[str, Any]) -> dict[str, Any]:
        return {"content": None, "tool_calls": [call]}

    def call_opening(self, choice: Choice) -> dict[str, Any]:
        return {"id": choice.call_id, "type": "function", "index": 0, "function": {"name": choice.plan.tool}}

    def message(self, choice: Choice) -> dict[str, Any]:
        plan = choice.plan
        message: dict[str, Any] = {
            "role": "assistant",
            "content": plan.content if plan.tool is None else "",
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if plan.tool is not None:
            message["tool_calls"] = [self.tool_call(choice)]
        return message | dict.fromkeys(self.reasoning_field, plan.thoughts or None)

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            **super().whole_choice(choice),
            "stop_reason": choice.plan.matched,
            "token_ids": None,
            "routed_experts": None,
        }

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        about_prompt = dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text"))
        return self.extended(super().answer(choices), about_prompt)


class VllmCompletion(VllmUsage, Completion):
    def choice(self, choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {
            **super().choice(choice, text, logprobs, finish),
            "stop_reason": choice.plan.matched if finish is not None else None,
            "prompt_token_ids": None,
            "token_ids": None,
        }

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        chunk = super().chunk(choice, choices, **more)
        return chunk if choices else {**chunk, "system_fingerprint": self.fingerprint}

    def usage(self, prompt: int, completion: int) -> Usage:
        return self.numbers(prompt, completion)

    def final_usage(self) -> Usage:
        usage = self.numbers(self.prompt_tokens, self.completion_tokens)
        cached = self.cached(self.cached_tokens, self.prompt_tokens) if self.details else None
        if self.ask.stream:
            return {**usage, "prompt_tokens_details": cached} if cached else usage
        return {**usage, "prompt_tokens_details": cached, "completion_tokens_details": None}

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": self.whole_text(choice),
            "logprobs": self.logprobs(choice),
            "finish_reason": self.finish(choice),
            "stop_reason": choice.plan.matched,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        return self.extended(super().answer(choices), {})


class VllmMessages(Messages):
    def block_event(self, name: str, index: int, **members: Any) -> bytes:
        return self.event(name, **members, index=index)


class VllmResponses(Responses):
    def usage(self) -> Usage:
        usage = super().usage()
        usage["input_tokens_details"] |= {"input_tokens_per_turn": [], "cached_tokens_per_turn": []}
        usage["output_tokens_details"] |= {
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        }
        return usage

    def response(self, status: str, output: list[Any], usage: Usage | None) -> dict[str, Any]:
        made = super().response(status, output, usage)
        made |= {"metadata": None, "reasoning": None, "text": None, "service_tier": "auto", "tool_choice": "none"}
        extra = ("prompt", "max_tool_calls", "top_logprobs", "kv_transfer_params", "ec_transfer_params")
        made |= dict.fromkeys((*extra, "input_messages", "output_messages"))
        made |= {"background": False, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        del made["error"], made["store"]
        return made
