"""The built-in scorer: what placing a request somewhere costs everybody, in seconds. (P)

    cost = wait + own · price + decode
    wait:   until the endpoint has computed the prompts it already owes, ours by our own count, others' by its load
    own:    the prompt's tokens it does not hold, at the rate this endpoint has shown
    price:  1 + how many requests wait behind such work on average: what is computed twice delays them all
    decode: what the streams already running there and this one will cost each other, a step being shared

Every term is a time, so nothing has to be weighed against anything; what is not known drops out. See docs/scheduling.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.config.decode import Section
from gateway.ports import Candidate
from gateway.prefix import Blocks, PrefixIndex
from gateway.schedule.ask import BYTES_PER_TOKEN, Ask
from gateway.types import Usage

_BLOCKS: Final = Blocks()
_CAPACITY: Final = 4_000_000
"""Bytes of prompt an endpoint is believed to hold until it says how many blocks it has: a million tokens."""
_DECODE: Final = 0.05


class Cost(Section, frozen=True):
    """No parameters: everything is learned."""

    def scorer(self, parts: object) -> Costs:
        return Costs()


class Costs:
    """The running scorer of one pool. Scores are 1 / (1 + cost in seconds)."""

    def __init__(self) -> None:
        self.index = PrefixIndex(_BLOCKS, _CAPACITY)
        self._bytes_per_token = BYTES_PER_TOKEN

    def __call__(self, ask: Ask, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [1.0 / (1.0 + cost) for cost in self.costs(ask, candidates)]

    def costs(self, ask: Ask, candidates: Sequence[Candidate]) -> list[float]:
        """Seconds, aligned with ``candidates``."""
        hits = ask.hits = self._hits(ask)
        now, tokens = ask.now, ask.tokens
        # An endpoint late by some time is expected to stay so for as long again: one that hangs repels.
        waits = [
            (abs(c.until - now) if c.pending else c.until - now if c.until > now else 0.0)
            + c.foreign_backlog * c.speed.prefill
            for c in candidates
        ]
        price = 1.0 + 6.0 * sum(waits) / len(waits)
        if not hits:
            work = price * tokens
            return [
                wait + work * c.speed.prefill + _DECODE * (c.inflight - c.pending + c.foreign)
                for wait, c in zip(waits, candidates, strict=True)
            ]
        get = hits.get
        return [
            wait + price * (tokens - get(c.id, 0.0)) * c.speed.prefill + _DECODE * (c.inflight - c.pending + c.foreign)
            for wait, c in zip(waits, candidates, strict=True)
        ]

    def _hits(self, ask: Ask) -> dict[str, float]:
        """Prompt tokens each endpoint is believed to hold."""
        self._bytes_per_token = ratio = ask.bytes_per_token
        hashes = ask.chain(_BLOCKS)
        if not hashes:
            return {}
        # the last token of a prompt is always computed
        most = ask.tokens - 1.0
        return {id: min(held / ratio, most) for id, held in self.index.match(hashes).items()}

    # -- learning ----------------------------------------------------------------------------------------------------

    def placed(self, ask: Ask, candidate: Candidate) -> None:
        hashes = ask.chain(_BLOCKS)
        if hashes:
            ask.known[self, candidate.id] = self.index.place(candidate.id, hashes, len(ask.text))

    def left(self, ask: Ask, candidate: Candidate, usage: Usage | None) -> None:
        if usage is None:
            self.index.withdraw(candidate.id, ask.chain(_BLOCKS), ask.known.get((self, candidate.id), 0))
        elif usage.completion:
            self.index.fill(candidate.id, int(usage.completion * ask.bytes_per_token))

    def loaded(self, candidate: Candidate) -> None:
        load = candidate.load
        if load is not None and load.blocks and load.block_size:
            self.index.resize(candidate.id, int(load.blocks * load.block_size * self._bytes_per_token))

    def forget(self, endpoint: str) -> None:
        self.index.forget(endpoint)

    def explain(self, ask: Ask, candidate: Candidate) -> dict[str, object]:
        return {
            "hitTokens": round(ask.hits.get(candidate.id, 0.0)),
            "promptTokens": round(ask.tokens),
            "wait": max(0.0, candidate.until - ask.now),
            "secondsPerToken": candidate.speed.prefill,
        }
