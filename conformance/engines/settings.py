"""What one simulated engine is like: its models, its speed, its memory, its failures. (P)"""

from __future__ import annotations

import math

import msgspec

from conformance.engines.batch import Pace
from conformance.engines.rates import PERIOD_S


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, rates in tokens per second, lengths in tokens. Defaults answer at once.

    ``max_queued`` counts requests that wait, on top of ``max_running``; None is no limit. ``max_model_len`` 0 is what
    the KV cache holds, at most 32768. ``instance`` goes into made-up ids, so that replicas with the same ``seed`` give
    the same text under different ids. ``version`` "" is the newest the dialect knows. ``chunk_tokens`` is the budget of
    a step; 0 computes prompts beside the decoding, at no cost to it. ``rate_limit_requests`` and ``rate_limit_tokens``
    are what a provider allows in a minute, or in ``rate_limit_period``; 0 is more than anybody needs. Engines that are
    no providers have no limits.
    """

    models: tuple[str, ...] = ()
    ttft: float = 0.0
    itl: float = 0.0
    itl_growth: float = 0.0
    prefill_rate: float = math.inf
    chunk_tokens: int = 0
    kv_blocks: int = 8192
    block_size: int = 16
    max_running: int = 256
    max_queued: int | None = None
    max_model_len: int = 0
    api_key: str = ""
    loras: tuple[str, ...] = ()
    max_loras: int = 4
    version: str = ""
    seed: int = 0
    instance: str = ""
    fail: tuple[str, ...] = ()
    usage_details: bool = True
    tool_parser: bool = True
    keep_alive_comment: float = 0.0
    rate_limit_requests: int = 0
    rate_limit_tokens: int = 0
    rate_limit_period: float = PERIOD_S

    @property
    def pace(self) -> Pace:
        return Pace(self.ttft, self.itl, self.itl_growth, self.prefill_rate, self.chunk_tokens)

    @property
    def model_len(self) -> int:
        """The longest sequence, prompt and answer together."""
        held = self.kv_blocks * self.block_size
        return min(self.max_model_len or 32768, held)


def release(version: str) -> tuple[int, ...]:
    """A version as numbers: "0.10.1.post2" is (0, 10, 1)."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
