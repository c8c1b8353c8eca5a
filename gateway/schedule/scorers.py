"""Scorers by what an endpoint says of itself: KV usage, latency, speed, LoRAs, context lengths. (P)

Invariant: every score is in [0, 1], whatever a load holds; an endpoint of which nothing is known scores 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Annotated, Final

from msgspec import Meta, field

from gateway.config.decode import Section
from gateway.ports import Candidate, Filter, Scorer
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Parts
from gateway.schedule.queues import UNKNOWN

RANGE_LABEL: Final = "llm-d.ai/context-length-range"


class KVCache(Section, frozen=True):
    """1 − KV usage, published as gpu-usage and as kv-cache-utilization-scorer.

    What was sent since counts: prompt tokens under way, as a share of the engine's blocks where it says how many.
    """

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        usages = [
            None
            if (load := c.load) is None or (used := load.kv_usage) is None
            else used + c.backlog / room
            if (room := load.blocks * load.block_size)
            else used
            for c in candidates
        ]
        return [
            UNKNOWN if used is None else 0.0 if used >= 1.0 else 1.0 - used if used > 0.0 else 1.0 for used in usages
        ]


class LeastLatency(Section, frozen=True):
    """Kthena's: the mean TTFT and TPOT an engine shows, each as (max − x) / (max − min), 1 where all are equal.

    ``ttft_tpot_weight_factor`` is the share of TTFT. An endpoint that lacks one of them scores 0.5.
    """

    ttft_tpot_weight_factor: Annotated[float, Meta(ge=0, le=1)] = field(default=0.5, name="TTFTTPOTWeightFactor")

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        pairs = [
            (ttft, tpot)
            if (load := c.load) is not None
            and (ttft := load.ttft) is not None
            and (tpot := load.tpot) is not None
            and ttft > 0.0 < tpot
            else None
            for c in candidates
        ]
        known = [pair for pair in pairs if pair is not None]
        if not known:
            return [UNKNOWN] * len(pairs)
        share = self.ttft_tpot_weight_factor
        top, span = _span([ttft for ttft, _ in known])
        top_tpot, span_tpot = _span([tpot for _, tpot in known])
        return [
            UNKNOWN
            if pair is None
            else share * ((top - pair[0]) / span if span else 1.0)
            + (1.0 - share) * ((top_tpot - pair[1]) / span_tpot if span_tpot else 1.0)
            for pair in pairs
        ]


def _span(values: Sequence[float]) -> tuple[float, float]:
    top = max(values)
    return top, top - min(values)


class Heterogeneous(Section, frozen=True):
    """By how soon each endpoint would be done, at the speed it has shown: the best time as a share of its own.

    Its time is what it owes and what it would compute of this prompt, at its seconds a prompt token, and
    ``output_tokens`` at its seconds between tokens; where that is unknown, at the mean of those who have one.
    """

    output_tokens: Annotated[int, Meta(ge=0)] = 128

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        speeds = [c.speed for c in candidates]
        gaps = [gap for speed in speeds if (gap := speed.decode) > 0.0]
        usual, output = sum(gaps) / len(gaps) if gaps else 0.0, float(self.output_tokens)
        tokens, held = ask.tokens, ask.hits.get
        work: Iterable[float] = repeat(tokens)
        if ask.hits:
            work = [left if (left := tokens - held(c.id, 0.0)) > 1.0 else 1.0 for c in candidates]
        times = [
            (c.backlog + left) * speed.prefill + output * (speed.decode or usual)
            for c, speed, left in zip(candidates, speeds, work, strict=False)
        ]
        best = min(times)
        return [best / time for time in times]


class LoRAAffinity(Section, frozen=True):
    """As a filter, Kthena's: where the model asked for is a LoRA, endpoints that have it; else everybody.

    As a scorer, EPP's: 1 where it runs, 0.8 where there is room for it, 0.6 where it waits, else 0; 0.5 where the
    engine tells nothing of LoRAs.
    """

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        if len(candidates) == 1:
            return candidates
        model = ask.model
        holders = {c.id: card.parent for c in candidates for card in c.cards if card.id == model}
        running = [c.id for c in candidates if (load := c.load) is not None and load.loras and model in load.loras]
        if not running and all(parent is None for parent in holders.values()):
            return candidates
        holders.update(dict.fromkeys(running))
        return [c for c in candidates if c.id in holders]

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        model = ask.model
        return [
            UNKNOWN
            if (load := c.load) is None or (active := load.loras) is None
            else 1.0
            if model in active
            else 0.8
            if len(active) + len(load.waiting_loras) < load.max_loras
            else 0.6
            if model in load.waiting_loras
            else 0.0
            for c in candidates
        ]


class ContextLengthAware(Section, frozen=True):
    """EPP's: by the label ``label``, "min-max" in tokens. The prompt's length in range: above 0.3, the more the
    narrower the range; out of range: below 0.3, the less the farther; without the label 0.5.

    As a filter it leaves those in range and those without the label, everybody if there is none;
    ``enable_filtering`` makes it one.
    """

    label: str = RANGE_LABEL
    enable_filtering: bool = False

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def scorer(self, parts: Parts) -> Scorer:
        return self._score

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        if not self.enable_filtering:
            return candidates
        tokens, label = ask.tokens, self.label
        ranges = [(c, _range(c, label)) for c in candidates]
        return [c for c, bounds in ranges if bounds is None or bounds[0] <= tokens <= bounds[1]] or candidates

    def _score(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
        tokens, label = ask.tokens, self.label
        return [_fit(tokens, _range(c, label)) for c in candidates]


def _range(candidate: Candidate, wanted: str) -> tuple[float, float] | None:
    for name, text in candidate.endpoint.labels:
        if name == wanted:
            least, dash, most = text.partition("-")
            if dash and least.strip().isdecimal() and most.strip().isdecimal():
                return float(least), float(most)
    return None


def _fit(tokens: float, bounds: tuple[float, float] | None) -> float:
    if bounds is None:
        return UNKNOWN
    least, most = bounds
    if least <= tokens <= most:
        return 0.3 + 0.7 * tokens / (tokens + most - least)
    away = least - tokens if tokens < least else tokens - most
    return 0.3 * tokens / (tokens + away)
