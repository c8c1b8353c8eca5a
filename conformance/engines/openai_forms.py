"""How OpenAI's API and DeepSeek's write answers. (P)"""

from __future__ import annotations

from typing import Any, ClassVar

from conformance.engines.chat import Chat, Completion
from conformance.engines.forms import Choice

Usage = dict[str, Any]


class OpenAIChat(Chat):
    """Thoughts are counted and not shown. With usage asked for, every other chunk says ``usage: null``."""

    fingerprint: ClassVar[str] = "fp_0000000000"
    padding: ClassVar[str | None] = "fGq3Zr"

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        chunk = super().chunk(choice, choices)
        chunk = {**chunk, "service_tier": "default", "system_fingerprint": self.fingerprint}
        if self.ask.include_usage:
            chunk["usage"] = None
        chunk |= more
        if self.padding is not None:
            chunk["obfuscation"] = self.padding
        return chunk

    def continuous(self, choice: Choice, made: int) -> dict[str, Any]:
        return {}

    def role_delta(self) -> dict[str, Any]:
        return {"role": "assistant", "content": "", "refusal": None}

    def token(self, choice: Choice, at: int) -> bytes:
        return super().token(choice, at) if at >= choice.plan.reasoning else b""

    def final_usage(self) -> Usage:
        usage = self.usage(self.prompt_tokens, self.completion_tokens)
        prompt = {"cached_tokens": self.cached_tokens, "audio_tokens": 0}
        completion = {"reasoning_tokens": self.reasoning_tokens, "audio_tokens": 0}
        predicted = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
        return {**usage, "prompt_tokens_details": prompt, "completion_tokens_details": {**completion, **predicted}}

    def message(self, choice: Choice) -> dict[str, Any]:
        plan = choice.plan
        message: dict[str, Any] = {"role": "assistant", "content": plan.content if plan.tool is None else None}
        if plan.tool is not None:
            message["tool_calls"] = [self.tool_call(choice)]
        return {**message, "refusal": None, "annotations": []}

    def logprobs(self, choice: Choice) -> dict[str, Any] | None:
        made = super().logprobs(choice)
        return made and {**made, "refusal": None}

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        return {**super().answer(choices), "service_tier": "default", "system_fingerprint": self.fingerprint}


class OpenAICompletion(Completion):
    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        null = {"usage": None} if self.ask.include_usage else {}
        return super().chunk(choice, choices, **{**null, **more})

    def continuous(self, choice: Choice, made: int) -> dict[str, Any]:
        return {}


class DeepSeekChat(OpenAIChat):
    """Thoughts are shown, and usage splits the prompt into what the cache had and what it had not."""

    padding: ClassVar[str | None] = None
    reasoning_field: ClassVar[tuple[str, ...]] = ("reasoning_content",)

    def token(self, choice: Choice, at: int) -> bytes:
        return Chat.token(self, choice, at)

    def thought_delta(self, piece: str) -> dict[str, Any]:
        return {"content": None, "reasoning_content": piece}

    def message(self, choice: Choice) -> dict[str, Any]:
        return Chat.message(self, choice)

    def final_usage(self) -> Usage:
        cached, prompt = self.cached_tokens, self.prompt_tokens
        return {
            **self.usage(prompt, self.completion_tokens),
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "prompt_cache_hit_tokens": cached,
            "prompt_cache_miss_tokens": prompt - cached,
        }
