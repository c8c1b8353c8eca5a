"""Scorers and filters by which endpoint holds a prompt's beginning, published ones. (P)

Invariant: what is learned is learned at dispatch, so that identical prompts sent at once meet on one endpoint; it is
unlearned where the request failed before anything was computed, and where the engine restarted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from gateway.config.decode import Section
from gateway.ports import Candidate, Filter, Scorer
from gateway.prefix import Blocks, PrefixIndex
from gateway.schedule.ask import BYTES_PER_TOKEN, Ask
from gateway.schedule.parts import Parts, Random
from gateway.types import Usage

if TYPE_CHECKING:
    from gateway.replicas import Placed

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
_TOKEN_BYTES: Final = int(BYTES_PER_TOKEN)


class _Memory:
    """What one plugin believes the endpoints of its pool to hold: at most ``capacity`` bytes of text each."""

    def __init__(self, blocks: Blocks, capacity: int) -> None:
        self.blocks = blocks
        self.capacity = capacity
        self.index = PrefixIndex(blocks, capacity)

    def match(self, ask: Ask) -> dict[str, int]:
        """Endpoint → bytes of the prompt's beginning it holds. Tells ``ask`` how many tokens that is."""
        hashes = ask.chain(self.blocks)
        held = self.index.match(hashes) if hashes else {}
        most, ratio = ask.tokens - 1.0, ask.bytes_per_token
        # the lengths are few, whoever many hold them
        tokens = {length: min(length / ratio, most) for length in set(held.values())}
        ask.hits = {id: tokens[length] for id, length in held.items()}
        return held

    def held(self, ask: Ask) -> dict[str, float]:
        """The same in tokens."""
        self.match(ask)
        return ask.hits

    def share(self, ask: Ask, length: int) -> float:
        """Of the prompt's blocks, those that ``length`` bytes cover; the last block may be short."""
        total = len(ask.chain(self.blocks))
        return min(-(-length // self.blocks.size), total) / total

    def placed(self, ask: Ask, candidate: Candidate) -> None:
        hashes, blocks = ask.chain(self.blocks), self.blocks
        if hashes:
            length = min(len(ask.text), len(hashes) * blocks.size)
            ask.known[self, candidate.id] = self.index.place(candidate.id, hashes, length)

    def heard(self, placed: Placed, candidate: Candidate, now: float) -> None:
        """Known by those that cut prompts in the same way, which replicas of one configuration do."""
        hashes = placed.chain(self.blocks)
        if hashes:
            self.index.place(candidate.id, hashes, min(placed.length, len(hashes) * self.blocks.size))

    def left(self, ask: Ask, candidate: Candidate, usage: Usage | None) -> None:
        known = ask.known.get((self, candidate.id))
        if usage is None and known is not None:
            self.index.withdraw(candidate.id, ask.chain(self.blocks), known)

    def loaded(self, candidate: Candidate) -> None:
        """The engine's own number of blocks bounds what is believed, never raises it."""
        load = candidate.load
        if load is not None and load.blocks and load.block_size:
            self.index.resize(candidate.id, min(self.capacity, load.blocks * load.block_size * _TOKEN_BYTES))

    def forget(self, endpoint: str) -> None:
        self.index.forget(endpoint)

    def explain(self, ask: Ask, candidate: Candidate) -> dict[str, object]:
        return {"hitTokens": round(ask.hits.get(candidate.id, 0.0)), "promptTokens": round(ask.tokens)}


class PrefixCache(Section, frozen=True):
    """Kthena's prefix-cache: matched blocks as a share of the prompt's, of the ``top_k_matches`` longest matches.

    Blocks of ``block_size_to_hash`` bytes, the first ``max_blocks_to_match`` of a prompt; ``max_hash_cache_size`` of
    them are kept for each endpoint, fewer where the engine says that it holds fewer.
    """

    block_size_to_hash: Count = 64
    max_blocks_to_match: Count = 128
    max_hash_cache_size: Count = 50_000
    top_k_matches: Count = 5

    def scorer(self, parts: Parts) -> Scorer:
        return _Matched(self)


class _Matched(_Memory):
    def __init__(self, of: PrefixCache) -> None:
        blocks = Blocks(of.block_size_to_hash, growth=0, limit=of.max_blocks_to_match, published=True)
        super().__init__(blocks, of.max_hash_cache_size * of.block_size_to_hash)
        self.top = of.top_k_matches

    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        held = self.match(ask)
        get = held.get
        lengths = [get(c.id, 0) for c in candidates] if held else []
        if not any(lengths):
            return [0.0] * len(candidates)
        # of equal matches none is preferred by chance
        least = sorted(lengths, reverse=True)[min(self.top, len(lengths)) - 1]
        shares = {length: self.share(ask, length) if length >= least else 0.0 for length in set(lengths)}
        return [shares[length] for length in lengths]


class ApproxPrefixCache(Section, frozen=True):
    """EPP's approx-prefix-cache-producer: how prompts are cut. Blocks are in tokens, 4 bytes each, 64 tokens at least.

    With ``auto_tune`` an engine's own number of blocks bounds ``lru_capacity_per_server``. Releases before had the
    block size as ``hash_block_size`` or ``block_size``, in characters.
    """

    auto_tune: bool = True
    block_size_tokens: Annotated[int, Meta(ge=0)] = 16
    max_prefix_tokens_to_match: Annotated[int, Meta(ge=0)] = 131_072
    max_prefix_blocks_to_match: Annotated[int, Meta(ge=0)] = 2048
    lru_capacity_per_server: Count = 31_250
    hash_block_size: Annotated[int, Meta(ge=0)] = 0
    block_size: Annotated[int, Meta(ge=0)] = 0

    def cut(self) -> Blocks:
        size = self.hash_block_size or self.block_size or max(64, self.block_size_tokens) * _TOKEN_BYTES
        by_tokens = self.max_prefix_tokens_to_match * _TOKEN_BYTES // size
        return Blocks(size, growth=0, limit=max(1, by_tokens or self.max_prefix_blocks_to_match))


class PrefixCacheScorer(ApproxPrefixCache, frozen=True):
    """EPP's prefix-cache-scorer: w · min(1, tokens held / S)² + (1 − w) · blocks held / blocks."""

    match_length_weight: Share = 0.0
    match_length_scale_tokens: Annotated[float, Meta(gt=0)] = 8192
    prefix_match_info_producer_name: str = ""

    def scorer(self, parts: Parts) -> Scorer:
        return _Ratio(self)


class _Ratio(_Memory):
    def __init__(self, of: PrefixCacheScorer) -> None:
        blocks = of.cut()
        super().__init__(blocks, of.lru_capacity_per_server * blocks.size)
        self.of = of

    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        held = self.match(ask)
        if not held:
            return [0.0] * len(candidates)
        get, weight, scale = held.get, self.of.match_length_weight, self.of.match_length_scale_tokens * _TOKEN_BYTES
        scores = {
            length: weight * min(1.0, length / scale) ** 2 + (1.0 - weight) * self.share(ask, length)
            for length in {0, *held.values()}
        }
        return [scores[get(c.id, 0)] for c in candidates]

    def loaded(self, candidate: Candidate) -> None:
        if self.of.auto_tune:
            super().loaded(candidate)


class PrefixCacheAffinity(ApproxPrefixCache, frozen=True):
    """EPP's prefix-cache-affinity-filter: endpoints that hold at least ``affinity_threshold`` of the prompt, if any.

    Everybody stays with ``exploration_probability``, and where the best of those that hold it would answer more than
    ``max_ttft_penalty_ms`` later than the best of all, reckoned by the prompt tokens each still owes.
    """

    affinity_threshold: Share = 0.8
    exploration_probability: Share = 0.0
    max_ttft_penalty_ms: Annotated[float, Meta(ge=0)] = 18_000.0
    ttft_source: str = "prefillThroughput"
    peak_prefill_throughput: Annotated[float, Meta(gt=0)] = 15_928.0
    prefix_match_info_producer_name: str = ""

    def filter(self, parts: Parts) -> Filter:
        return _Holders(self, parts.rng)


class _Holders(_Memory):
    def __init__(self, of: PrefixCacheAffinity, rng: Random) -> None:
        blocks = of.cut()
        super().__init__(blocks, of.lru_capacity_per_server * blocks.size)
        self.of = of
        self.rng = rng

    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        held = self.match(ask)
        enough = {length for length in set(held.values()) if self.share(ask, length) >= self.of.affinity_threshold}
        holders = [c for c in candidates if held.get(c.id) in enough] if enough else []
        if not holders or self.rng.random() < self.of.exploration_probability:
            return candidates
        penalty = min(self._ttft(ask, c) for c in holders) - min(self._ttft(ask, c) for c in candidates)
        return candidates if penalty * 1000.0 > self.of.max_ttft_penalty_ms else holders

    def _ttft(self, ask: Ask, candidate: Candidate) -> float:
        """Seconds."""
        owed = candidate.backlog + ask.uncached(candidate.id)
        return owed / self.of.peak_prefill_throughput

    def loaded(self, candidate: Candidate) -> None:
        if self.of.auto_tune:
            super().loaded(candidate)


class NoHitLRU(Section, frozen=True):
    """EPP's no-hit-lru-scorer: a prompt that nobody holds goes where the last such prompt lies longest ago, 1 … 0.

    0.5 for all where somebody holds its beginning, as the prefix scorers before it found. ``lru_size`` bounds what is
    remembered; ``prefix_plugin_type`` and ``prefix_plugin_name`` are read, but any prefix scorer will do.
    """

    lru_size: Count = 1024
    prefix_plugin_type: str = ""
    prefix_plugin_name: str = ""
    prefix_match_info_producer_name: str = ""

    def scorer(self, parts: Parts) -> Scorer:
        return _ColdLast(self.lru_size)


class _ColdLast:
    def __init__(self, size: int) -> None:
        self.size = size
        self._last: OrderedDict[str, None] = OrderedDict()

    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        count = len(candidates)
        if ask.hits or count == 1:
            return [0.5 if ask.hits else 1.0] * count
        ages = {id: age for age, id in enumerate(self._last, 1)}
        order = sorted(range(count), key=lambda index: ages.get(candidates[index].id, 0))
        scores = [0.0] * count
        for rank, index in enumerate(order):
            scores[index] = 1.0 - rank / (count - 1)
        return scores

    def placed(self, ask: Ask, candidate: Candidate) -> None:
        if not ask.hits:
            self._last[candidate.id] = None
            self._last.move_to_end(candidate.id)
            if len(self._last) > self.size:
                self._last.popitem(last=False)

    def forget(self, endpoint: str) -> None:
        self._last.pop(endpoint, None)
