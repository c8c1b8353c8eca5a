"""Many callers at one limit: what they were granted, and how that compares with what the limit allows. (T)

Invariant: what is counted as granted was granted, and what counts as held is held at least for so long; so nothing that
is found to be too much is an error of measurement.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import trio

from gateway.ports import Store
from gateway.types import Demand, Taken

CALLERS = 200


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """What each request takes of the one account, the part of it that it does not use, and how long it lasts: at most
    ``hold`` seconds, half of it at least. Who is refused comes again after the wait it was told and ``again`` seconds
    at most; who was told nothing better than that a place is taken, after ``again`` alone.
    """

    name: str
    demand: Demand
    unused: float = 0.0
    hold: float = 0.0
    again: float = 0.05
    seconds: float = 12.0

    @property
    def places(self) -> bool:
        return not self.demand.rate

    @property
    def used(self) -> float:
        """What a request uses in the end."""
        return self.demand.amount - self.unused


CONTESTS = (
    Contest(name="requests", demand=Demand("bench/requests", 1.0, 100.0, 200.0)),
    Contest(
        name="tokens, half of them given back",
        demand=Demand("bench/tokens", 100.0, 5_000.0, 10_000.0),
        unused=50.0,
        hold=0.1,
    ),
    Contest(name="requests at a time", demand=Demand("bench/places", 1.0, 0.0, 50.0), hold=0.8),
)


class Grant(NamedTuple):
    """``at`` on the store's clock; ``start`` and ``end`` on ours: from when until when it was certainly held."""

    at: float
    start: float
    end: float


async def contend(store: Store, contest: Contest, callers: int, until: float, seed: str) -> list[Grant]:
    """Have so many callers ask again and again until that time on Trio's clock; what they got, in any order."""
    grants: list[Grant] = []
    async with trio.open_nursery() as nursery:
        for caller in range(callers):
            nursery.start_soon(_call, store, contest, until, random.Random(f"{seed}/{caller}"), grants)
    return grants


async def _call(store: Store, contest: Contest, until: float, rng: random.Random, grants: list[Grant]) -> None:
    demands = (contest.demand,)
    while (now := trio.current_time()) < until:
        taken = store.take_nowait(demands, now)
        if taken is None:
            taken = await store.take(demands)
        if not taken.granted:
            wait = (0.0 if contest.places else taken.wait) + contest.again * rng.uniform(0.5, 1.0)
            await trio.sleep(max(0.0, min(wait, until - now)))
            continue
        grants.append(await _held(store, contest, taken, rng))


async def _held(store: Store, contest: Contest, taken: Taken, rng: random.Random) -> Grant:
    start = trio.current_time()
    await trio.sleep(contest.hold * rng.uniform(0.5, 1.0))
    end = trio.current_time()
    back = contest.demand.amount if contest.places else contest.unused
    if back:
        store.settle((contest.demand,), taken, (back,), end)
    return Grant(taken.at, start, end)


class Score(NamedTuple):
    """``over``: the most by which more was granted than is allowed, in requests, over any interval. ``under``: the part
    of what was allowed that nobody got though they all wanted it."""

    granted: int
    over: float
    under: float


def score(contest: Contest, grants: Sequence[Grant], start: float, end: float) -> Score:
    """``start`` and ``end`` of the contest on our clock."""
    return (_places if contest.places else _rate)(contest, grants, start, end)


def _rate(contest: Contest, grants: Sequence[Grant], start: float, end: float) -> Score:
    rate, burst, used = contest.demand.rate, contest.demand.burst, contest.used
    over, least = -math.inf, math.inf
    for count, at in enumerate(sorted(grant.at for grant in grants)):
        least = min(least, count * used - rate * at)
        over = max(over, (count + 1) * used - rate * at - least - burst)
    allowed = burst + rate * (end - start)
    return Score(len(grants), over / used, 1.0 - len(grants) * used / allowed)


def _places(contest: Contest, grants: Sequence[Grant], start: float, end: float) -> Score:
    """The first second does not count: nobody is there yet."""
    held = most = 0
    area, before = 0.0, start + 1.0
    moments = sorted([(grant.end, -1) for grant in grants] + [(grant.start, 1) for grant in grants])
    for at, change in moments:
        if before < at <= end:
            area += held * (at - before)
            before = at
        held += change
        most = max(most, held)
    area += held * max(0.0, end - before)
    burst = contest.demand.burst
    return Score(len(grants), most - burst, 1.0 - area / (burst * (end - start - 1.0)))
