"""How Anthropic's API writes messages: pings, signed thoughts, and usage split by what the cache had. (P)

Invariant: input, cache reads and cache creation add up to the prompt, in every usage that is shown.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any, ClassVar

from conformance.engines.forms import Choice, event
from conformance.engines.messages import Messages

PING = event({"type": "ping"}, "ping")


def signature(thoughts: str) -> str:
    """What the API signs a thinking block with, and knows again when the block comes back."""
    data = thoughts.encode()
    return base64.b64encode(
        b"sim" + zlib.crc32(data).to_bytes(4, "big") + zlib.adler32(data).to_bytes(4, "big")
    ).decode()


class AnthropicMessages(Messages):
    """``block`` is the cache's granularity in tokens, ``caching`` whether the client asked for caching."""

    always_stop_sequence: ClassVar[bool] = True
    headers_first: ClassVar[bool] = False
    block: ClassVar[int] = 16
    caching: ClassVar[bool] = False

    def signature(self, choice: Choice) -> str:
        return signature(choice.plan.thoughts)

    def block_start(self, choice: Choice, block: int, at: int) -> bytes:
        start = super().block_start(choice, block, at)
        return start + PING if at == 0 else start

    def failure(self, message: str) -> bytes:
        return b""

    def start_message(self) -> dict[str, Any]:
        return {**super().start_message(), "usage": self._usage(min(1, self.completion_tokens))}

    def stop_usage(self) -> dict[str, Any]:
        usage = self._usage(self.completion_tokens)
        return {name: usage[name] for name in usage if name not in ("cache_creation", "service_tier")}

    def whole_usage(self) -> dict[str, Any]:
        return self._usage(self.completion_tokens)

    def _usage(self, output: int) -> dict[str, Any]:
        prompt = self.prompt_tokens
        read = self.cached_tokens if self.caching else 0
        created = max(0, prompt // self.block * self.block - read) if self.caching else 0
        return {
            "input_tokens": prompt - read - created,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": read,
            "cache_creation": {"ephemeral_5m_input_tokens": created, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"thinking_tokens": min(output, self.reasoning_tokens)},
            "service_tier": "standard",
        }

    def _reason(self) -> str:
        plan = self.choices[0].plan
        wanted = self.ask.limit
        if plan.finish == "length" and wanted is not None and plan.length < wanted:
            return "model_context_window_exceeded"
        return super()._reason()
