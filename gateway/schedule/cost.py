"""The built-in scorer: what placing a request somewhere costs everybody, in seconds. (P)

    cost = wait + own · price + decode
    wait:   until the endpoint has computed the prompts it already owes, ours by our own count, others' by its load
    own:    the prompt's tokens it does not hold, at the rate this endpoint has shown
    price:  1 + Q / (1 - ρ), the requests that a second of work delays: Q wait at an endpoint on average, and until the
            queue has drained others come; what is computed twice delays them all
    decode: what the streams already running there will cost this one, a step being shared

Every term is a time, so nothing has to be weighed against anything; what is not known drops out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Final

from gateway.config.decode import Section
from gateway.ports import Candidate
from gateway.prefix import Blocks, PrefixIndex
from gateway.schedule.ask import BYTES_PER_TOKEN, Ask
from gateway.types import Usage

_BLOCKS: Final = Blocks()
_CAPACITY: Final = 4_000_000
"""Bytes of prompt an endpoint is believed to hold until it says how many blocks it has: a million tokens."""
_WINDOW_S: Final = 60.0
_MOST_BUSY: Final = 0.92
_SLACK: Final = 0.5
_ANSWER: Final = 300.0
"""Tokens of an answer until it is known."""


class Cost(Section, frozen=True):
    """No parameters: everything is learned."""

    def scorer(self, parts: object) -> Costs:
        return Costs()


class Costs:
    """The running scorer of one pool. Scores are 1 / (1 + cost in seconds)."""

    def __init__(self) -> None:
        self.index = PrefixIndex(_BLOCKS, _CAPACITY)
        self._bytes_per_token = BYTES_PER_TOKEN
        self._answer = _ANSWER
        self._offered = 0.0
        self._offered_at = 0.0
        self._endpoints = 1
        self.price = 1.0

    def __call__(self, ask: Ask, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [1.0 / (1.0 + cost) for cost in self.costs(ask, candidates)]

    def costs(self, ask: Ask, candidates: Sequence[Candidate]) -> list[float]:
        """Seconds, aligned with ``candidates``."""
        hits = ask.hits = self._hits(ask)
        now, pace = ask.now, candidates[0].speed.pace
        price = self.price = self._price(now, candidates)
        own = price * ask.tokens * pace.prefill
        stream = pace.crowding * self._answer
        costs = [
            # late by some time, an endpoint is expected to stay so for as long again: one that hangs repels
            (
                c.until - now
                if c.until > now
                else now - c.until - _SLACK
                if c.pending and now - c.until > _SLACK
                else 0.0
            )
            + own * c.speed.factor
            + (c.inflight - c.pending + c.foreign) * stream
            for c in candidates
        ]
        if hits:
            saved, get = price * pace.prefill, hits.get
            for index, candidate in enumerate(candidates):
                held = get(candidate.id)
                if held is not None:
                    costs[index] -= saved * held * candidate.speed.factor
        return costs

    def _price(self, now: float, candidates: Sequence[Candidate]) -> float:
        """What a second of computing costs everybody together, in seconds."""
        self._endpoints = count = len(candidates)
        # the mean of roots, squared: a queue that stands at a few endpoints alone is not the fleet's
        waiting = sum([(c.pending + c.foreign_pending) ** 0.5 for c in candidates]) / count
        if not waiting:
            return 1.0
        busy = self._offered * exp((self._offered_at - now) / _WINDOW_S) / count
        foreign = sum([c.foreign for c in candidates])
        if foreign:
            busy *= 1.0 + foreign / max(1, sum([c.inflight for c in candidates]))
        return 1.0 + waiting * waiting / (1.0 - min(busy, _MOST_BUSY))

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
        self._offer(ask.now, ask.uncached(candidate.id) * candidate.speed.prefill)
        hashes = ask.chain(_BLOCKS)
        if hashes:
            ask.known[self, candidate.id] = self.index.place(candidate.id, hashes, len(ask.text))

    def _offer(self, now: float, seconds: float) -> None:
        """``_offered / _endpoints``: the share of their time that endpoints have work, over the last minute or so."""
        self._offered = self._offered * exp((self._offered_at - now) / _WINDOW_S) + seconds / _WINDOW_S
        self._offered_at = now

    def left(self, ask: Ask, candidate: Candidate, usage: Usage | None) -> None:
        if usage is None:
            self.index.withdraw(candidate.id, ask.chain(_BLOCKS), ask.known.get((self, candidate.id), 0))
        elif usage.completion:
            self._answer += 0.02 * (usage.completion - self._answer)
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
