"""Print what a decision costs, in microseconds, and the prefix index's memory. (P)

Run it as `python benchmarks/decisions.py`; it asserts nothing, as times depend on the machine.
"""

from __future__ import annotations

import random
import sys
import timeit
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.openai import OpenAI
from gateway.config.decode import Decoder
from gateway.config.scheduler import Scheduler
from gateway.config.snapshot import Policy
from gateway.member import Member
from gateway.pool import Placement, Pool
from gateway.prefix import Blocks, PrefixIndex, chain
from gateway.schedule.build import build
from gateway.schedule.parts import Parts
from gateway.types import Endpoint, InferenceRequest, Load, Operation, Usage

T = TypeVar("T")
OWN = Blocks()
PUBLISHED = Blocks(64, 0, 128, published=True)
PROMPT = 32 << 10  # bytes: some 8k tokens
FLEETS = (8, 64, 512)
ROOM = 64 << 20
MIB = 1 << 20


def show(what: str, call: Callable[[], object]) -> None:
    timer = timeit.Timer(call)
    number = max(1, timer.autorange()[0] // 10)
    print(f"{what:<66} {min(timer.repeat(5, number)) / number * 1e6:9.2f} µs")


def show_hashes() -> None:
    for length in (PROMPT, 512 << 10):
        text = random.randbytes(length)
        for name, blocks in (("own", OWN), ("published", PUBLISHED)):
            count = len(chain(text, b"model", blocks))
            what = f"hash: {length >> 10} KB, {name}, {count} blocks"
            show(what, lambda text=text, blocks=blocks: chain(text, b"model", blocks))  # type: ignore[misc]


def fleet(endpoints: int, shared: int) -> tuple[PrefixIndex, list[list[int]]]:
    """An index where everybody holds the first ``shared`` bytes and one conversation after it; and these chains."""
    index, head = PrefixIndex(OWN, ROOM), random.randbytes(shared)
    chains = [list(chain(head + random.randbytes(PROMPT - shared), b"model", OWN)) for _ in range(endpoints)]
    for number, hashes in enumerate(chains):
        index.place(f"endpoint-{number}", hashes, PROMPT)
    return index, chains


def scattered(endpoints: int) -> tuple[PrefixIndex, list[int]]:
    """The worst for a match: each endpoint holds another length of one prompt."""
    index, hashes = PrefixIndex(OWN, ROOM), list(chain(random.randbytes(PROMPT), b"model", OWN))
    for number in range(endpoints):
        count = 1 + number * len(hashes) // endpoints
        index.place(f"endpoint-{number}", hashes[:count], OWN.size * count)
    return index, hashes


def show_index(endpoints: int) -> None:
    index, chains = fleet(endpoints, PROMPT // 2)
    own, other = chains[0], chains[1]
    turn = own + list(chain(random.randbytes(2048), b"turn", OWN))
    show(f"match: {endpoints} endpoints, all hold the head, one the rest", lambda: index.match(own))
    index_of_all, (everybodys, *_) = fleet(endpoints, PROMPT)
    show(f"match: {endpoints} endpoints, all hold all of it", lambda: index_of_all.match(everybodys))
    apart, hashes = scattered(endpoints)
    show(f"match: {endpoints} endpoints, each holds another length", lambda: apart.match(hashes))

    def again() -> None:
        index.withdraw("endpoint-0", turn, index.place("endpoint-0", turn, PROMPT + 2048))

    show(f"place: {endpoints} endpoints, all known", lambda: index.place("endpoint-1", other, PROMPT))
    show(f"place and withdraw: {endpoints} endpoints, 8 blocks of 136 new", again)


def show_eviction() -> None:
    index, fresh = PrefixIndex(OWN, ROOM), iter(range(1 << 62))
    for _ in range(ROOM // PROMPT):
        index.place("endpoint", [next(fresh) for _ in range(128)], PROMPT)
    hashes = [next(fresh) for _ in range(10_000 * 128)]
    at = iter(range(0, len(hashes), 128))

    def place() -> None:
        start = next(at)
        index.place("endpoint", hashes[start : start + 128], PROMPT)

    print(f"{'place: 128 new blocks, 128 evicted':<66} {timeit.timeit(place, number=10_000) / 10_000 * 1e6:9.2f} µs")
    show("resize: unchanged", lambda: index.resize("endpoint", ROOM))


def show_memory(chain_length: int) -> None:
    """A million blocks over eight endpoints, no two the same, placed in chains of so many."""
    tracemalloc.start()
    index = PrefixIndex(Blocks(growth=0), 1 << 40)
    for number in range(1_000_000 // chain_length):
        hashes = [random.getrandbits(64) for _ in range(chain_length)]
        index.place(f"endpoint-{number % 8}", hashes, chain_length * 256)
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    what = f"memory: {index.holdings.blocks:,} blocks in chains of {chain_length}"
    print(f"{what:<66} {used / MIB:9.1f} MiB, {peak / MIB:.1f} at most")


class View(msgspec.Struct, frozen=True):
    text: str

    def prompt_text(self) -> str:
        return self.text


def pool_of(endpoints: int, profile: str) -> Pool:
    """A pool of endpoints that are all there, placed by the built-in profile or a published one."""
    scheduler = Decoder().build(PROFILES[profile], Scheduler)
    members = [Member("bench", Endpoint("vllm", "http", f"endpoint-{n}", 8000), OpenAI()) for n in range(endpoints)]
    for member in members:
        member.up = True
    return Pool("bench", members, Policy(), build(scheduler, Parts(random.Random(1))))


PROFILES: dict[str, dict[str, object]] = {
    "built-in": {},
    "published": {
        "plugins": {
            "Filter": {"enabled": ["least-request"]},
            "Score": {"enabled": ["least-request", "kv-cache", "least-latency", "prefix-cache"]},
        }
    },
}


def show_decision(endpoints: int, profile: str) -> None:
    """Ranking, dispatch and end of requests of 8k tokens, of which 7k are shared by twenties; their text once read."""
    pool = pool_of(endpoints, profile)
    heads = [random.randbytes(PROMPT * 7 // 16).hex() for _ in range(20)]
    loads = [Load(at=0.0, waiting=float(n % 3), running=2.0, kv_usage=0.5, ttft=1.0, tpot=0.01) for n in range(3)]
    for number, member in enumerate(pool.members):
        pool.loaded(member, loads[number % 3])
    times: dict[str, list[float]] = {"rank": [], "place": [], "end": []}
    under_way: list[Placement] = []
    for now in range(1500):
        text = random.choice(heads) + random.randbytes(PROMPT // 16).hex()
        request = InferenceRequest("id", Operation.CHAT, "m", text.encode(), stream=True, view=View(text))
        ask = pool.ask(request, "m", now / 20)
        for blocks in (OWN, PUBLISHED):
            ask.chain(blocks)
        ranked = _timed(times["rank"], lambda ask=ask: next(iter(pool.rank(ask))))  # type: ignore[misc]
        under_way.append(_timed(times["place"], lambda ask=ask, at=ranked, now=now: pool.place(ask, at, now / 20)))  # type: ignore[misc]
        if len(under_way) > 2 * endpoints:
            over = under_way.pop(0)
            _timed(times["end"], lambda over=over, now=now: _end(over, now / 20))  # type: ignore[misc]
    for what, values in times.items():
        if values:
            print(f"{f'{what}: {profile}, {endpoints} endpoints':<66} {median(values) * 1e6:9.2f} µs")


def _timed(times: list[float], call: Callable[[], T]) -> T:
    began = perf_counter()
    made = call()
    times.append(perf_counter() - began)
    return made


def _end(placement: Placement, now: float) -> None:
    placement.answered(now)
    placement.left(now, Usage(8000, 100))


def main() -> None:
    for profile in PROFILES:
        for endpoints in FLEETS:
            show_decision(endpoints, profile)
    show_hashes()
    for endpoints in FLEETS:
        show_index(endpoints)
    show_eviction()
    for chain_length in (128, 8):
        show_memory(chain_length)


if __name__ == "__main__":
    main()
