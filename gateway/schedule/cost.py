"""The built-in scorer: what placing a request somewhere costs everybody, in seconds. (P)

    cost = wait + own · (price + stall) + decode
    wait:   until the endpoint has computed the prompts it already owes, ours by our own count, others' by its load;
            and those that other replicas send there at this very moment
    own:    the prompt's tokens it does not hold, at the rate this endpoint has shown
    price:  1 + Q / (1 - ρ), the requests that a second of work delays: Q wait at an endpoint (here, but no more than on
            average), and until the queue has drained others come; what is computed twice delays them all
    stall:  each stream that runs there stands still meanwhile; a second of that counts as a tenth of one of waiting
    decode: what the streams already running there will cost this one, a step being shared

Every term is a time, so nothing has to be weighed against anything; what is not known drops out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING, Final

from gateway.config.decode import Section
from gateway.ports import Candidate
from gateway.prefix import Blocks, PrefixIndex
from gateway.schedule.ask import BYTES_PER_TOKEN, Ask
from gateway.schedule.shared import Shared
from gateway.schedule.speed import LATE_S
from gateway.types import Usage

if TYPE_CHECKING:
    from gateway.replicas import Placed

_BLOCKS: Final = Blocks()
_CAPACITY: Final = 4_000_000
"""Bytes of prompt an endpoint is believed to hold until it says how many blocks it has: a million tokens."""
_WINDOW_S: Final = 60.0
_MOST_BUSY: Final = 0.92
_MOST_BEHIND: Final = 16.0
"""Beyond that a fleet is overloaded for long, and a queue's length must not outweigh the wait it means."""
_TELLING, _LEAST_TRUST = 256.0, 0.1
_STALL: Final = 0.1
_ALONE: Final = 0.9
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
        self._block = 1
        self._several = False
        self._explained: dict[str, float] = {}
        self._trust, self._told = 1.0, False
        self._offered = 0.0
        self._offered_at = 0.0
        self._shared = Shared()

    def __call__(self, ask: Ask, candidates: Sequence[Candidate]) -> Sequence[float]:
        costs = self.costs(ask, candidates)
        if ask.explanation is not None:
            self._explained = {c.id: cost for c, cost in zip(candidates, costs, strict=True)}
        return [1.0 / (1.0 + cost) if cost > 0.0 else 1.0 for cost in costs]

    def costs(self, ask: Ask, candidates: Sequence[Candidate]) -> list[float]:
        """Seconds, aligned with ``candidates``."""
        self._several = self._several or len(candidates) > 1
        now, tokens, pace = ask.now, ask.tokens, candidates[0].speed.pace
        held = self._held(ask, candidates)
        behind, delayed = self._behind(now, candidates)
        prefill, stream = pace.prefill, pace.crowding * self._answer
        costs = []
        for c in candidates:
            late = now - c.until
            # late by some time, an endpoint is expected to stay so for as long again: one that hangs repels
            wait = -late if late < 0.0 else late - LATE_S if c.pending and late > LATE_S else 0.0
            queue = c.pending + c.foreign_pending + 1.0
            price = 1.0 + delayed * (queue if queue < behind else behind)  # noqa: FURB136 — min() takes three times as long
            wait += c.unheard
            own = (tokens - held[c.id] if c.id in held else tokens) * prefill * c.speed.factor
            streams = c.inflight - c.pending + c.foreign - c.foreign_pending
            costs.append(wait + own * (price + _STALL * streams) + streams * stream)
        return costs

    def _behind(self, now: float, candidates: Sequence[Candidate]) -> tuple[float, float]:
        """(requests that wait at an endpoint on average, requests a second of work delays for each of them)."""
        count = len(candidates)
        # the mean of roots, squared: a queue that stands at a few endpoints alone is not the fleet's
        root = sum([(c.pending + c.foreign_pending) ** 0.5 for c in candidates]) / count
        if not root:
            return 0.0, 0.0
        busy = self._offered * exp((self._offered_at - now) / _WINDOW_S) / count
        return min(root * root, _MOST_BEHIND), 1.0 / (1.0 - min(busy / self._shared.ours, _MOST_BUSY))

    def held(self, ask: Ask) -> dict[str, float]:
        """Prompt tokens endpoints are believed to hold, by id."""
        ratio = ask.bytes_per_token
        hashes = ask.chain(_BLOCKS)
        if not hashes:
            return {}
        most, block = ask.tokens - 1.0, self._block  # the last token of a prompt is always computed
        return {
            id: min(size / ratio // block * block * self._trust, most) for id, size in self.index.match(hashes).items()
        }

    def _held(self, ask: Ask, candidates: Sequence[Candidate]) -> dict[str, float]:
        """Prompt tokens each endpoint is believed, or likely, to hold."""
        self._bytes_per_token += 0.02 * (ask.bytes_per_token - self._bytes_per_token)  # of prompts counted exactly, too
        hashes = ask.chain(_BLOCKS)
        if not hashes:
            return {}
        held = ask.hits = self.held(ask)
        if self._shared.ours < _ALONE:
            held = self._shared.expected(hashes, candidates, ask.tokens - 1.0, held)
        return held

    # -- learning ----------------------------------------------------------------------------------------------------

    def placed(self, ask: Ask, candidate: Candidate) -> None:
        if not self._several:
            return  # where there is nothing to choose nothing need be known
        self._offer(ask.now, ask.uncached(candidate.id) * candidate.speed.prefill)
        self._shared.placed(candidate.id, ask.tokens)
        hashes = ask.chain(_BLOCKS)
        if hashes:
            ask.known[self, candidate.id] = self.index.place(candidate.id, hashes, len(ask.text))

    def heard(self, placed: Placed, candidate: Candidate, now: float) -> None:
        """What another replica has placed is known as if it were ours; of its answer, only that there will be one."""
        if not self._several:
            return
        self._offer(now, placed.uncached * candidate.speed.prefill)
        self._shared.placed(candidate.id, placed.tokens)
        hashes = placed.chain(_BLOCKS)
        if hashes:
            self.index.place(candidate.id, hashes, placed.length)
            self.index.fill(candidate.id, int(self._answer * self._bytes_per_token))

    def _offer(self, now: float, seconds: float) -> None:
        """``_offered``: how many endpoints' whole time our work takes, over the last minute or so."""
        now = max(now, self._offered_at)  # a request that is tried again was asked for before
        self._offered = self._offered * exp((self._offered_at - now) / _WINDOW_S) + seconds / _WINDOW_S
        self._offered_at = now

    def left(self, ask: Ask, candidate: Candidate, usage: Usage | None) -> None:
        if usage is not None and usage.completion and usage.prompt:  # one cut short ends without the engine's word
            self._answer += 0.02 * (usage.completion - self._answer)
        known = ask.known.get((self, candidate.id))
        if known is None:  # too short, placed by another profile before a reload, or with nothing to choose from
            return
        if usage is None:
            self.index.withdraw(candidate.id, ask.chain(_BLOCKS), known)
            return
        if usage.prompt:
            self._shared.corrected(candidate.id, usage.prompt - ask.tokens)
            self._compare(ask.hits.get(candidate.id, 0.0), usage.cached)
        if usage.completion:
            self.index.fill(candidate.id, int(usage.completion * ask.bytes_per_token))

    def _compare(self, believed: float, cached: int) -> None:
        """What an engine says it had cached, where engines say so: what they evicted is not to be believed in."""
        self._told = self._told or cached > 0
        if self._told and believed >= _TELLING:
            found = min(1.0, cached * self._trust / believed)
            self._trust = max(_LEAST_TRUST, self._trust + 0.02 * (found - self._trust))

    def loaded(self, candidate: Candidate) -> None:
        load = candidate.load
        if load is None:
            return
        ours = self._shared.loaded(candidate.id, load)
        self._block = load.block_size or self._block
        if load.blocks and load.block_size:
            # of a cache that others fill too, what we placed has the part that it is of all
            room = load.blocks * load.block_size * self._bytes_per_token
            self.index.resize(candidate.id, int(room * ours))

    def forget(self, endpoint: str) -> None:
        self.index.forget(endpoint)
        self._shared.forget(endpoint)

    def explain(self, ask: Ask, candidate: Candidate) -> dict[str, object]:
        """Of the decision just made: the whole cost, the wait in it, and the speed it was reckoned with."""
        return {
            "costSeconds": round(self._explained.get(candidate.id, 0.0), 6),
            "waitSeconds": round(max(0.0, candidate.until - ask.now), 6),
            "promptTokensPerSecond": round(1.0 / candidate.speed.prefill),
        }
