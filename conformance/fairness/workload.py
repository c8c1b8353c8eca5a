"""Who asks for what, and of how large a fleet: the workloads that fairness is measured on. (P)

Invariant: the same seed gives the same workload; clients of a workload have names, none of them empty.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping

import msgspec

from conformance.replay import synthetic
from conformance.replay.scenario import Scenario
from conformance.replay.traces import Request, Trace
from gateway.config.sharing import Fairness, Tier

LIGHT, FLOOD, EARLIER = "light", "flood", "earlier"
SLOTS = 8
BEGIN_S = 1.0
"""Engines have been heard before anybody comes."""
_BLOCK = 16
_TOKEN_S = 0.0092  # of a full engine's step
_ROOM = 8.0  # prefix caches so many times what they need: memory is not what these workloads are about


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of named clients before a fleet. ``tiers``: by client, "" for those that are not named."""

    name: str
    trace: Trace
    scenario: Scenario
    fairness: Fairness
    tiers: Mapping[str, str] = {}

    def tier(self, client: str) -> Tier:
        return self.fairness.tiers.get(self.tiers.get(client, ""), Tier())

    def weighted(self, request: Request) -> float:
        """What a request is worth in the end: its weighted tokens."""
        return request.prompt * self.fairness.input_token_weight + request.output * self.fairness.output_token_weight

    def clients(self) -> list[str]:
        """In the order of their first request."""
        return list(dict.fromkeys(request.client for request in self.trace.requests))

    def only(self, client: str) -> Workload:
        """The same with nobody else there."""
        rows = [(r.at, r.prompt, r.output, client) for r in self.trace.requests if r.client == client]
        return msgspec.structs.replace(self, trace=made(self.trace.name, rows))

    def under(self, **changes: object) -> Workload:
        """The same with other settings of fairness."""
        return msgspec.structs.replace(self, fairness=msgspec.structs.replace(self.fairness, **changes))


def made(name: str, rows: Iterable[tuple[float, int, int, str]], common: float = 0.0) -> Trace:
    """A trace of (seconds, prompt, output, client). ``common``: the part of a prompt that is the same in all of its
    client's, as far as they reach."""
    fresh = itertools.count()
    openings: dict[str, tuple[int, ...]] = {}
    requests = []
    for index, (at, prompt, output, client) in enumerate(sorted(rows, key=lambda row: row[0])):
        blocks = -(-prompt // _BLOCK)
        opening = openings.get(client, ())
        opening += tuple(itertools.islice(fresh, max(0, int(common * blocks) - len(opening))))
        openings[client] = opening
        shared = opening[: int(common * blocks)]
        own = tuple(itertools.islice(fresh, blocks - len(shared)))
        requests.append(Request(index, at, prompt, output, shared + own, client))
    return Trace(name, _BLOCK, tuple(requests))


def _slots(engines: int = 1, slow: float = 1.0, seed: int = 0) -> Scenario:
    paces = dict.fromkeys(range(engines), slow)
    return Scenario(engines=engines, max_running=SLOTS, capacity=_ROOM, slow=paces, seed=seed)


def _fair(**changes: object) -> Fairness:
    return msgspec.structs.replace(Fairness(enabled=True), **changes)


# --- two flows -------------------------------------------------------------------------------------------------------


def flood(seed: int = 0, requests: int = 200, *, engines: int = 1, known: bool = True) -> Workload:
    """One client sends all of its long requests at once, another a light one every six seconds or so.

    A long answer takes some nine seconds, a light one under half a second: its client stays far below half of the
    engine, the fair share of two. ``known``: engines have been full once before, by a third client's requests.
    """
    rng = random.Random(f"{seed}/flood")
    start = 3 * BEGIN_S if not known else 10 * BEGIN_S
    rows = [(start, rng.randint(50, 150), rng.randint(600, 1400), FLOOD) for _ in range(requests)]
    until = start + 0.9 * sum(output for _, _, output, _ in rows) / (SLOTS * engines) * _TOKEN_S
    if known:
        rows += [(BEGIN_S, rng.randint(50, 150), rng.randint(100, 300), EARLIER) for _ in range(3 * SLOTS * engines)]
    at = start + 3.0
    while at < until:
        rows.append((at, rng.randint(900, 1100), rng.randint(20, 40), LIGHT))
        at += rng.uniform(5.0, 7.0)
    return Workload(name="flood", trace=made("flood", rows), scenario=_slots(engines, seed=seed), fairness=_fair())


def weights(seed: int = 0, requests: int = 600) -> Workload:
    """Two clients alike but for their weights, 4 and 1, with all of their requests there from the start."""
    rng = random.Random(f"{seed}/weights")
    rows = [
        (BEGIN_S, _length(rng, 300, 2000), _length(rng, 250, 1000), client)
        for client, count in (("four", requests), ("one", requests))
        for _ in range(count)
    ]
    rng.shuffle(rows)
    tiers = {"heavy": Tier(weight=4.0), "plain": Tier(weight=1.0)}
    return Workload(
        name="weights",
        trace=made("weights", rows),
        scenario=_slots(seed=seed),
        fairness=_fair(tiers=tiers),
        tiers={"four": "heavy", "one": "plain"},
    )


def backlogged(seed: int = 0, clients: int = 5, seconds: float = 120.0) -> Workload:
    """Clients of random weights, lengths and prefixes, all of which always have something to wait for."""
    rng = random.Random(f"{seed}/backlogged")
    names = [f"client {i}" for i in range(clients)]
    tiers = {name: Tier(weight=rng.choice((0.5, 1.0, 2.0, 4.0))) for name in names}
    total = sum(tier.weight for tier in tiers.values())
    rows = []
    for name in names:
        prompt, output = rng.choice(((50, 400), (1500, 60), (400, 250), (100, 30)))
        # each wants twice its share
        wanted = 2.0 * 2 * SLOTS / _TOKEN_S * seconds * tiers[name].weight / total
        while wanted > 0:
            row = (
                BEGIN_S + rng.uniform(0, 0.1 * seconds),
                _length(rng, prompt, 4000),
                _length(rng, output, 2000),
                name,
            )
            rows.append(row)
            wanted -= row[1] + 2 * row[2]
    return Workload(
        name="backlogged",
        trace=made("backlogged", rows, common=0.5),
        scenario=_slots(engines=2, slow=2.0, seed=seed),
        fairness=_fair(tiers=tiers),
        tiers={name: name for name in names},
    )


def _length(rng: random.Random, mean: float, most: int) -> int:
    """Tokens, log-normal about this mean."""
    return max(1, min(most, int(rng.lognormvariate(-0.32, 0.8) * mean)))


# --- many clients ----------------------------------------------------------------------------------------------------

_SECONDS, _CLIENTS, _RATE = 600.0, 27, 2.5
_SHARES = (0.222, 0.199, 0.134, 0.063, 0.047)


def skewed(seed: int = 0) -> Trace:
    """A made-up trace of an arena of models: 27 clients over 600 s, 2.5 requests a second, of which the first five
    make two thirds of the weighted tokens (Jain index 0.31); prompts short, some long, answers of 256 tokens."""
    rng = random.Random(f"{seed}/skewed")
    rest = [0.78**rank for rank in range(_CLIENTS - len(_SHARES))]
    scale = (1 - sum(_SHARES)) / sum(rest)
    shares = [*_SHARES, *(scale * share for share in rest)]
    rows = []
    for client, share in enumerate(shares):
        for _ in range(max(1, round(share * _RATE * _SECONDS))):
            prompt = rng.randint(8, 60) if rng.random() < 0.6 else rng.randint(100, 600)
            rows.append((rng.uniform(0, _SECONDS), prompt, _length(rng, 260, 977), f"client {client}"))
    return made("skewed", rows)


def clients(trace: Trace, slow: float = 1.0) -> Workload:
    """A trace with clients before two engines; a trace's own times, and engines so many times slower."""
    named = [(r.at, r.prompt, r.output, r.client or "nobody") for r in trace.requests]
    return Workload(
        name="clients", trace=made(trace.name, named), scenario=_slots(engines=2, slow=slow), fairness=_fair()
    )


def at_once(workload: Workload) -> Workload:
    """All of its requests at the start: what the fleet can do at most."""
    rows = [(BEGIN_S, r.prompt, r.output, r.client) for r in workload.trace.requests]
    return msgspec.structs.replace(workload, trace=made(workload.trace.name, rows))


# --- shared prefixes -------------------------------------------------------------------------------------------------

_TALKERS = 10


def talks(seed: int = 0, requests: int = 1500, speed: float = 4.0) -> Workload:
    """Conversations that begin alike and grow, of ten clients, the first of whom has most of them."""
    rng = random.Random(f"{seed}/talks")
    names = [f"client {rank}" for rank in range(_TALKERS)]
    shares = [1 / (rank + 1) for rank in range(_TALKERS)]
    trace = synthetic.conversations(seed, requests)
    whose = {each: rng.choices(names, shares)[0] for each in dict.fromkeys(r.client for r in trace.requests)}
    rows = tuple(msgspec.structs.replace(request, client=whose[request.client]) for request in trace.requests)
    return Workload(
        name="talks",
        trace=Trace(trace.name, trace.block, rows),
        scenario=Scenario(engines=8, max_running=2 * SLOTS, speed=speed, seed=seed),
        fairness=_fair(),
    )
