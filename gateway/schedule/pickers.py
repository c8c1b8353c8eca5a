"""Scores → a ranking: best first, by chance, or the better of two. (P)

Invariant: each yields every candidate once, whatever the scores are; what only the tail needs is computed only when the
tail is asked for.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Annotated

from msgspec import Meta

from gateway.config.decode import Section
from gateway.ports import Candidate, Picker, Scorer
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Parts, Random


class Picking(Section, frozen=True):
    """``max_num_of_endpoints`` is published and read; a ranking always names all of them."""

    max_num_of_endpoints: Annotated[int, Meta(ge=1)] = 1


class MaxScore(Picking, frozen=True):
    """By score; equal ones in random order."""

    def picker(self, parts: Parts) -> Picker:
        rng = parts.rng

        def pick(candidates: Sequence[Candidate], scores: Sequence[float], /) -> Iterator[Candidate]:
            best = max(scores)
            # a score that is not a number equals none, not even itself
            tied = [index for index, score in enumerate(scores) if score == best] or [0]
            first = tied[_below(rng, len(tied))]
            yield candidates[first]
            yield from _by_score(candidates, scores, first, rng)

        return pick


class WeightedRandom(Picking, frozen=True):
    """Each place is drawn in proportion to the scores of who is left; who scores nothing comes last."""

    def picker(self, parts: Parts) -> Picker:
        rng = parts.rng

        def pick(candidates: Sequence[Candidate], scores: Sequence[float], /) -> Iterator[Candidate]:
            weights = [max(0.0, score) for score in scores]
            steps = list(accumulate(weights))
            if not 0.0 < steps[-1] < math.inf:
                weights, steps = [1.0] * len(weights), list(range(1, len(weights) + 1))
            first = bisect_right(steps, rng.random() * steps[-1], hi=len(steps) - 1)
            yield candidates[first]
            # Efraimidis and Spirakis, algorithm A-Res: by U^(1/weight); here by its logarithm, which does not underflow
            keys = [_log(rng.random()) / weight if weight else -math.inf for weight in weights]
            keys[first] = math.inf
            for index in sorted(range(len(keys)), key=keys.__getitem__, reverse=True)[1:]:
                yield candidates[index]

        return pick


class PowerOfTwo(Picking, frozen=True):
    """Of two drawn at random the better one, then the others by score: no herd runs to one stale maximum."""

    def picker(self, parts: Parts) -> Picker:
        rng = parts.rng

        def pick(candidates: Sequence[Candidate], scores: Sequence[float], /) -> Iterator[Candidate]:
            count = len(candidates)
            if count == 1:
                yield candidates[0]
                return
            one, other = _below(rng, count), _below(rng, count - 1)
            other += other >= one
            first = other if scores[other] > scores[one] else one
            yield candidates[first]
            yield from _by_score(candidates, scores, first, rng)

        return pick


class RandomChoice(Picking, frozen=True):
    """As a picker: whatever the scores say, any order. As a scorer: any score."""

    def picker(self, parts: Parts) -> Picker:
        rng = parts.rng

        def pick(candidates: Sequence[Candidate], scores: Sequence[float], /) -> Iterator[Candidate]:
            first = _below(rng, len(candidates))
            yield candidates[first]
            rest = [index for index in range(len(candidates)) if index != first]
            while rest:
                at = _below(rng, len(rest))
                rest[at], rest[-1] = rest[-1], rest[at]
                yield candidates[rest.pop()]

        return pick

    def scorer(self, parts: Parts) -> Scorer:
        draw = parts.rng.random

        def score(ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]:
            return [draw() for _ in candidates]

        return score


def _below(rng: Random, count: int) -> int:
    return int(rng.random() * count)


def _log(chance: float) -> float:
    return math.log(chance or 5e-324)


def _by_score(candidates: Sequence[Candidate], scores: Sequence[float], taken: int, rng: Random) -> Iterable[Candidate]:
    rest = [(-scores[index], rng.random(), index) for index in range(len(candidates)) if index != taken]
    rest.sort()
    return [candidates[index] for _, _, index in rest]
