"""What a replay plays: a fleet's size and speed, and what goes wrong in it. (P)

The numbers by default: eight engines that prefill 12,000 tokens a second in steps of 8,192 tokens at most, with 64
requests in a batch; a step of decoding takes 8 ms and 0.15 ms for every request in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from conformance.engines.batch import Pace
from conformance.replay.traces import Trace


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """``speed``: arrivals come so many times as fast. ``capacity``: the fleet's prefix caches together, as a fraction
    of the trace's distinct blocks. ``slow``: an engine's times are so many times longer. ``hang``: from this second of
    the replay on, an engine does nothing. Other times in seconds: an attempt without a token for ``timeout`` fails;
    each of ``gateways`` asks every engine every ``interval`` for its load, and has the answer after ``delay``; every
    ``sharing`` it tells the others what it has under way, which they hear after ``delay``, or never if that is 0.
    """

    speed: float = 1.0
    capacity: float = 0.4
    engines: int = 8
    gateways: int = 1
    slow: Mapping[int, float] = {}
    hang: Mapping[int, float] = {}
    timeout: float = math.inf
    attempts: int = 3
    interval: float = 0.2
    sharing: float = 0.0
    delay: float = 0.005
    max_running: int = 64
    chunk: int = 8192
    prefill_rate: float = 12_000.0
    step: float = 0.008
    step_growth: float = 0.000_15
    seed: int = 0

    def pace(self, engine: int) -> Pace:
        slow = self.slow.get(engine, 1.0)
        return Pace(0.0, self.step * slow, self.step_growth * slow, self.prefill_rate / slow, self.chunk)

    def blocks(self, trace: Trace) -> int:
        """KV blocks of one engine: its share of the prefix cache, and what full batches need for their answers.

        A prefix cache is not a part of an engine's memory but what running requests leave of it: prompts that run are
        in it, and room that no answer takes is used for prefixes. The longest request fits in any case.
        """
        share = trace.full_blocks() * self.capacity / self.engines
        answers = sum(request.output for request in trace.requests) / len(trace.requests)
        private = self.max_running * math.ceil((answers + trace.block / 2) / trace.block)
        return max(int(share), 64, -(-trace.longest() // trace.block)) + private
