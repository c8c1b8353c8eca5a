"""A made-up trace for where no recorded one is at hand: conversations that begin alike and grow. (P)

Invariant: the same seed gives the same trace; a request's blocks begin with all full blocks of its conversation so far.
A request's client is its conversation.

Shaped after public traces of chat services: three and a half requests a second of some 11,000 tokens, of which a
perfect cache would save not quite half; a few openings are shared by many, most by few; lengths are log-normal.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from conformance.replay.traces import Request, Trace

NAME = "synthetic"
_BLOCK = 512
_REQUESTS, _RATE = 4000, 3.5
_TURNS = 1.8
_OPENINGS, _OPENING_BLOCKS = 40, 4
_FIRST, _QUESTION, _ANSWER = 8000.0, 2500.0, 320.0
_SIGMA = 1.0
_THINK_S = 40.0


def conversations(seed: int = 0, requests: int = _REQUESTS) -> Trace:
    """``requests`` of them, as many conversations as that takes."""
    rng = random.Random(f"{seed}/conversations")
    ids = itertools.count()
    openings = [_take(ids, rng.randint(0, _OPENING_BLOCKS)) for _ in range(_OPENINGS)]
    weights = [1 / (rank + 1) for rank in range(_OPENINGS)]
    turns: list[tuple[float, int, int, tuple[int, ...], str]] = []
    begun, talks = 0.0, itertools.count()
    while len(turns) < 2 * requests:  # the later half is cut off: conversations are under way at the end
        begun += rng.expovariate(_RATE / _TURNS)
        client = f"conversation {next(talks)}"
        turns.extend((*turn, client) for turn in _conversation(rng, begun, rng.choices(openings, weights)[0], ids))
    turns.sort()
    start = turns[0][0]
    kept = (
        Request(i, at - start, prompt, answer, blocks, client)
        for i, (at, prompt, answer, blocks, client) in enumerate(turns[:requests])
    )
    return Trace(NAME, _BLOCK, tuple(kept))


def _conversation(
    rng: random.Random, at: float, opening: tuple[int, ...], ids: Iterator[int]
) -> Iterator[tuple[float, int, int, tuple[int, ...]]]:
    """Its turns as (seconds, prompt, answer, blocks), each prompt going on from the last and its answer."""
    full = opening
    prompt = len(opening) * _BLOCK + _length(rng, _FIRST)
    while True:
        full += _take(ids, prompt // _BLOCK - len(full))
        answer = _length(rng, _ANSWER)
        rest = _take(ids, 1) if prompt % _BLOCK else ()  # filled differently next time
        yield at, prompt, answer, full + rest
        if rng.random() < 1 / _TURNS:
            return
        at += 0.02 * answer + rng.expovariate(1 / _THINK_S)
        prompt += answer + _length(rng, _QUESTION)


def _take(ids: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(itertools.islice(ids, count))


def _length(rng: random.Random, mean: float) -> int:
    """Tokens, log-normal with this mean, 20 times as many at most."""
    return max(1, int(min(20.0, rng.lognormvariate(-_SIGMA * _SIGMA / 2, _SIGMA)) * mean))
