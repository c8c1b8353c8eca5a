"""Two published schedulers as the products run them, to be measured against: Kthena's router and the endpoint picker
of the Gateway API Inference Extension. (P)

Invariant: nothing here is shared with the gateway's own plugins of the same names, which read the same configurations
and mend the same defects. Sources: volcano-sh/kthena `pkg/kthena-router/scheduler` (main, August 2026), llm-d-router
0.10 and the Inference Extension 1.x `pkg/epp/scheduling`.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from conformance.engines.blocks import chain
from conformance.replay.choosers import Counting
from conformance.replay.fleet import Fleet
from conformance.replay.scenario import Scenario
from conformance.replay.traces import TOKEN_BYTES, Request
from gateway.types import Load


class Kthena(Counting):
    """Kthena's chart default: a filter and four scores of 0 to 100 that count alike, and the five best in order.

    - filter: fewer than 10 waiting. Nobody left is an error to the client.
    - least-request: ``base = mine + 100 · max(mine − running, 0)`` of the router's own count and the scraped one;
      ``(max − base) / max``. One request more than an idle neighbour has is thus worth all 100 points.
    - gpu-usage: 1 − KV usage.
    - least-latency: TTFT and TPOT over the last scrape in which there were any, each as
      ``(max − x) / (max − min)``, half and half; 50 where one of them is not known.
    - prefix-cache: chained hashes of 64-byte blocks, the first 128 of them: 8 KB of prompt. An engine's match is the
      last block it has, over all blocks of the request; the search from the end stops at five engines. An engine is
      known to have a prompt when its answer is through, at most 50,000 blocks each, and no eviction is noticed.

    Scraped once a second, in rounds that wait for the slowest: an engine that hangs (5 s for each of two pages) makes
    everybody's numbers 10 s old. Old numbers count for ever.
    """

    WAITING, BLOCK_BYTES, BLOCKS, KEPT, TOP_MATCHES, TOP = 10, 64, 128, 50_000, 5, 5
    ROUND_S = 10.0

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(fleet, rng)
        count = len(fleet.engines)
        self._loads = [Load(at=0.0, waiting=0.0, running=0.0, kv_usage=0.0)] * count
        self._paces = [(0.0, 0.0)] * count
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(count)]
        self._hashes: dict[int, list[int]] = {}
        self._frozen = 0.0

    def choose(self, request: Request, now: float) -> Iterable[int]:
        hashes = self._hashes[request.index] = hashed(self.fleet, request, self.BLOCK_BYTES, self.BLOCKS)
        engines = [i for i, load in enumerate(self._loads) if _known(load.waiting) < self.WAITING]
        totals = dict.fromkeys(engines, 0)
        for scores in (self._requests(engines), self._usage(engines), self._latency(engines)):
            for engine, score in zip(engines, scores, strict=True):
                totals[engine] += int(score)
        for engine, blocks in self._matches(engines, hashes).items():
            totals[engine] += int(100 * blocks / len(hashes))
        return sorted(self.rng.sample(engines, len(engines)), key=lambda i: -totals[i])[: self.TOP]

    def _requests(self, engines: Sequence[int]) -> list[float]:
        mine = [self.inflight[i] for i in engines]
        base = [m + 100 * max(m - _known(self._loads[i].running), 0.0) for i, m in zip(engines, mine, strict=True)]
        top = max(base, default=0.0)
        return [(top - value) / top * 100 if top else 100.0 for value in base]

    def _usage(self, engines: Sequence[int]) -> list[float]:
        return [100 * (1 - _known(self._loads[i].kv_usage)) for i in engines]

    def _latency(self, engines: Sequence[int]) -> list[float]:
        paces = [self._paces[i] for i in engines]
        first, each = (_fallen([pace[k] for pace in paces]) for k in (0, 1))
        return [50.0 if min(pace) <= 0 else 50 * a + 50 * b for pace, a, b in zip(paces, first, each, strict=True)]

    def _matches(self, engines: Sequence[int], hashes: Sequence[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for count in range(len(hashes), 0, -1):
            for engine in engines:
                if engine not in found and hashes[count - 1] in self._held[engine]:
                    found[engine] = count
                    if len(found) == self.TOP_MATCHES:
                        return found
        return found

    def ended(self, request: Request, engine: int, now: float, cached: int | None) -> None:
        super().ended(request, engine, now, cached)
        if cached is not None:  # learned only now; the tail first, so that the head is kept longest
            remember(self._held[engine], reversed(self._hashes.pop(request.index)), self.KEPT)

    def scraped(self, engine: int, load: Load | None, now: float) -> None:
        if now < self._frozen:
            return
        if load is None:
            self._frozen = now + self.ROUND_S
            return
        before, pace = self._loads[engine], self._paces[engine]
        first = _mean(before.ttft_sum, before.ttft_count, load.ttft_sum, load.ttft_count) or pace[0]
        each = _mean(before.tpot_sum, before.tpot_count, load.tpot_sum, load.tpot_count) or pace[1]
        self._loads[engine], self._paces[engine] = load, (first, each)


class EndpointPicker(Counting):
    """The endpoint picker with nothing configured: queue 2, KV usage 2, prefix 3, and the one endpoint that is best.

    - queue-scorer: scraped waiting requests as ``(max − q) / (max − min)``, 1 where all are equal: what was sent since
      the last scrape does not count, nor does what runs.
    - kv-cache-utilization-scorer: 1 − KV usage.
    - prefix-cache-scorer: matched blocks over all blocks of the request. Chained hashes of blocks as large as the
      engine's but of 64 tokens at least, as many of them for each endpoint as the engine has (31,250 where it does not
      say), noted at dispatch.

    Scraped every 50 ms; a page that does not come leaves the old numbers. Ties are broken at random. There is one
    endpoint in the answer, so nobody else is tried when it fails.
    """

    BLOCK_TOKENS, BLOCKS, KEPT = 64, 2048, 31_250

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(fleet, rng)
        batch = fleet.engines[0].batch  # its page tells both, and the first engine's are taken for all
        self._block = TOKEN_BYTES * max(self.BLOCK_TOKENS, batch.block_size)
        self._kept = batch.pool.capacity or self.KEPT
        count = len(fleet.engines)
        self._loads = [Load(at=0.0, waiting=0.0, kv_usage=0.0)] * count
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(count)]
        self._hashes: dict[int, list[int]] = {}

    def choose(self, request: Request, now: float) -> Iterable[int]:
        hashes = self._hashes[request.index] = hashed(self.fleet, request, self._block, self.BLOCKS)
        queues = _fallen([_known(load.waiting) for load in self._loads])
        matches = self._matches(hashes)
        totals = [
            2 * queue + 2 * (1 - _known(load.kv_usage)) + 3 * match / len(hashes)
            for queue, load, match in zip(queues, self._loads, matches, strict=True)
        ]
        return [max(self.rng.sample(range(len(totals)), len(totals)), key=totals.__getitem__)]

    def _matches(self, hashes: Sequence[int]) -> list[int]:
        """How many blocks each has, up to the first that nobody has."""
        found = [0] * len(self._held)
        for block in hashes:
            owners = [i for i, held in enumerate(self._held) if block in held]
            if not owners:
                break
            for i in owners:
                found[i] += 1
        return found

    def placed(self, request: Request, engine: int, now: float) -> None:
        super().placed(request, engine, now)
        remember(self._held[engine], self._hashes.pop(request.index), self._kept)

    def scraped(self, engine: int, load: Load | None, now: float) -> None:
        if load is not None:
            self._loads[engine] = load


def hashed(fleet: Fleet, request: Request, block: int, most: int) -> list[int]:
    """Chained hashes of the prompt's blocks of ``block`` bytes, the last maybe in part, ``most`` at most."""
    data = fleet.trace.text(request).encode()[: block * most]
    whole = chain(data, block)
    rest = data[len(whole) * block :]
    return [*whole, hash((whole[-1] if whole else None, rest))] if rest else whole


def remember(held: OrderedDict[int, None], hashes: Iterable[int], most: int) -> None:
    """Note blocks as used in this order, and forget those used longest ago."""
    for block in hashes:
        held[block] = None
        held.move_to_end(block)
    while len(held) > most:
        held.popitem(last=False)


def _known(value: float | None) -> float:
    return value or 0.0


def _fallen(values: Sequence[float]) -> list[float]:
    """1 for the least, 0 for the most; 1 where all are equal."""
    top, low = max(values, default=0.0), min(values, default=0.0)
    return [(top - value) / (top - low) if top > low else 1.0 for value in values]


def _mean(was: float | None, count_was: float | None, now: float | None, count: float | None) -> float:
    """Of what was observed between two pages; 0 if nothing was."""
    seen = _known(count) - _known(count_was)
    return (_known(now) - _known(was)) / seen if seen > 0 else 0.0


PUBLISHED: Mapping[str, type[Kthena | EndpointPicker]] = {
    "kthena-published": Kthena,
    "epp-published": EndpointPicker,
}
_INTERVALS: Mapping[str, float] = {"kthena-published": 1.0, "epp-published": 0.05}


def paced(name: str, scenario: Scenario) -> Scenario:
    """The scenario with engines scraped as often as the policy of that name does, where that belongs to it."""
    return msgspec.structs.replace(scenario, interval=_INTERVALS.get(name, scenario.interval))
