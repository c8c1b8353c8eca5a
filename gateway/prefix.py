"""Which endpoint holds which prompt's beginning: chained block hashes, and a bounded index of who has them. (P)

Invariant: a block is only ever claimed for an endpoint where it was placed, with every block before it, and where all
that was placed since still leaves room for it.

Everything here leans on that closure. Along a chain the holders can only become fewer and the last use only older, so
equal values at two blocks mean equal values between them, and a chain is read in runs rather than block by block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Final

import msgspec
import xxhash

ENTRIES: Final = 200_000
"""Blocks an endpoint may have in the index, whatever their size: some 30 MB."""

_MEMO: Final = 512
_NONE: Final = array("Q")
_BITS: Final = bytes(48) + b"\0\1" + bytes(206)  # "0" and "1" as false and true


class Blocks(msgspec.Struct, frozen=True):
    """How a text is cut: ``size`` bytes a block; with ``growth`` a block also grows to a ``growth``-th of what precedes
    it (a power of two times ``size``), so that long prompts take few hashes; ``limit`` blocks at most, 0 for no limit.

    ``published``: chained as Kthena does, the parent's hash in decimal before the block, blocks of one size and the
    last one cut short; otherwise the parent is the seed, and an incomplete block, which engines do not share, is left
    out.
    """

    size: int = 256
    growth: int = 64
    limit: int = 0
    published: bool = False

    def step(self, position: int) -> int:
        """Bytes of the block that begins at ``position``: where a block begins depends on nothing else."""
        if self.published or not self.growth:
            return self.size
        return self.size << max(0, (position // (self.size * self.growth)).bit_length() - 1)

    def stages(self, length: int) -> Iterator[range]:
        """Where the whole blocks of ``length`` bytes begin: one range for each size of block, which is its step."""
        start, room = 0, self.limit or length
        while room and start + (step := self.step(start)) <= length:
            stop = length if step == self.step(length) else 2 * step * self.growth
            stage = range(start, min(stop, length - step + 1), step)[:room]
            yield stage
            start, room = stage[-1] + step, room - len(stage)


class Holdings(msgspec.Struct, frozen=True):
    """What an index has: ``blocks`` counts one for each endpoint that holds it; ``bytes``: text of whatever kind."""

    endpoints: int
    blocks: int
    bytes: int


class _Placement(msgspec.Struct, gc=False):
    """What was last used by one placement: the blocks of its chain from number ``start`` on, then ``extra`` bytes.

    ``known``, ``last``: how much of the chain was there already, and its last hash, which together say which it was.
    Without blocks it is anonymous.
    """

    start: int
    known: int
    last: int
    hashes: array[int]
    extra: int


def chain(text: bytes, seed: bytes, blocks: Blocks) -> Sequence[int]:
    """One hash per block of ``text``, each covering everything before it; equal hashes mean equal beginnings."""
    if blocks.published:
        return _published(text, seed, blocks)
    digest, parent = xxhash.xxh64_intdigest, xxhash.xxh64_intdigest(seed)
    hashes: list[int] = []
    append = hashes.append
    for stage in blocks.stages(len(text)):
        step = stage.step
        for start in stage:
            parent = digest(text[start : start + step], parent)
            append(parent)
    return hashes


def _published(text: bytes, seed: bytes, blocks: Blocks) -> list[int]:
    digest, size, parent = xxhash.xxh64_intdigest, blocks.size, xxhash.xxh64_intdigest(seed)
    stop = min(len(text), blocks.limit * size) if blocks.limit else len(text)
    hashes: list[int] = []
    append = hashes.append
    for start in range(0, stop, size):
        parent = digest(b"%d%b" % (parent, text[start : start + size]))
        append(parent)
    return hashes


def _runs(get: Callable[[int], int | None], hashes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Value, first and end of each run of blocks with one value, until one has none: O(runs · log blocks) look-ups."""
    start, count = 0, len(hashes)
    while start < count and (value := get(hashes[start])) is not None:
        low, high, leap = start, start + 1, 1
        while high < count and get(hashes[high]) == value:
            low, leap = high, 2 * leap
            high = low + leap
        high = min(high, count)
        while high - low > 1:
            middle = (low + high) // 2
            if get(hashes[middle]) == value:
                low = middle
            else:
                high = middle
        yield value, start, high
        start = high


class _Cache:
    """What one endpoint is believed to hold, in the order in which an engine drops it: least recently used first, a
    chain's tail before its head.

    Invariant: each block stands in the log once, with the placement that used it last. ``broken`` when it does not:
    two texts share a hash, by malice if at all, and there is nothing to do but start again.
    """

    __slots__ = ("bit", "broken", "bytes", "capacity", "entries", "log", "newest", "oldest", "ticks")

    def __init__(self, bit: int, capacity: int, entries: int) -> None:
        self.bit = bit
        self.capacity = capacity
        self.entries = entries
        self.empty()

    def empty(self) -> None:
        """Nothing is held."""
        self.broken = False
        self.bytes = self.oldest = self.newest = 0
        self.ticks: dict[int, int] = {}  # block → the placement that used it last
        self.log: dict[int, _Placement] = {}

    @property
    def over(self) -> bool:
        """Whether something has to go."""
        entries = self.entries
        return self.bytes > self.capacity or len(self.ticks) > entries or len(self.log) > entries

    def touch(self, hashes: Sequence[int], length: int, ends: Sequence[int]) -> int:
        """The whole chain and what follows it is used now; how many leading blocks were there already."""
        known, extra = 0, max(0, length - ends[len(hashes)])
        for tick, _, known in _runs(self.ticks.get, hashes):
            self._take(tick, known, hashes[known - 1])
        self.newest += 1
        self.ticks.update(dict.fromkeys(hashes, self.newest))
        self.log[self.newest] = _Placement(0, known, hashes[-1], array("Q", hashes), extra)
        self.bytes += ends[len(hashes)] - ends[known] + extra
        return known

    def add(self, extra: int) -> None:
        """Bytes that no block tells of are used now."""
        last = self.log.get(self.newest)
        if last is not None and not last.hashes:
            last.extra += extra
        else:
            self.newest += 1
            self.log[self.newest] = _Placement(0, 0, -1, _NONE, extra)
        self.bytes += extra

    def drop(self, ends: Sequence[int]) -> array[int]:
        """Take out of the oldest placement what is too much, or all of it; the blocks that went."""
        while (oldest := self.log.get(self.oldest)) is None:
            self.oldest += 1
        too_many = len(self.log) > self.entries
        blocks, excess = len(self.ticks) - self.entries, self.bytes - self.capacity
        extra = oldest.extra if too_many or blocks > 0 else min(oldest.extra, excess)
        oldest.extra -= extra
        self.bytes -= extra
        stop = oldest.start + len(oldest.hashes)
        keep = stop - max(blocks, 0)
        if excess > extra:
            keep = min(keep, bisect_right(ends, ends[stop] - excess + extra) - 1)
        return self.cut(self.oldest, oldest, oldest.start if too_many else keep, ends)

    def cut(self, tick: int, placement: _Placement, keep: int, ends: Sequence[int]) -> array[int]:
        """Leave the first ``keep`` blocks of a placement's chain; the blocks that went."""
        start, stop = placement.start, placement.start + len(placement.hashes)
        keep = min(max(keep, start), stop)
        gone = placement.hashes[keep - start :]
        del placement.hashes[keep - start :]
        for block in gone:
            self.ticks.pop(block, None)
        self.bytes -= ends[stop] - ends[keep]
        if not placement.hashes and not placement.extra:
            del self.log[tick]
        return gone

    def _take(self, tick: int, end: int, block: int) -> None:
        """The blocks of a placement up to ``block``, which is the last before number ``end``, are a newer one's now."""
        former = self.log.get(tick)
        count = 0 if former is None else end - former.start
        if former is None or not 0 < count <= len(former.hashes) or former.hashes[count - 1] != block:
            self.broken = True
            return
        del former.hashes[:count]
        former.start = end
        if not former.hashes:  # repeated or continued: what followed its chain is the newer one's too
            self.bytes -= former.extra
            del self.log[tick]


class PrefixIndex:
    """``capacity``: bytes of prompt text believed to fit an endpoint, until `resize` says what really does.

    ``entries``: blocks an endpoint may have here at most, which bounds the memory. Text that no hash covers (after the
    last whole block, or beyond the limit) takes room too, until its chain is placed again or continued.
    """

    def __init__(self, blocks: Blocks, capacity: int, entries: int = ENTRIES) -> None:
        self.blocks = blocks
        self.capacity = capacity
        self.entries = entries
        self._holders: dict[int, int] = {}  # block → one bit for each endpoint that holds it
        self._caches: dict[str, _Cache] = {}
        self._used = 0  # the bits given out
        self._names: list[str] = []  # by number of the bit
        self._decoded: dict[int, tuple[str, ...]] = {}
        self._ends = [0]  # bytes that so many blocks cover

    @property
    def holdings(self) -> Holdings:
        """How much is believed to be where, for metrics: a walk over the endpoints."""
        caches = self._caches.values()
        return Holdings(len(caches), sum(len(cache.ticks) for cache in caches), sum(cache.bytes for cache in caches))

    def match(self, hashes: Sequence[int]) -> dict[str, int]:
        """Endpoint → bytes of the longest beginning it holds, for all that hold the first block; one pass."""
        found: dict[str, int] = {}
        holders = length = 0
        for fewer, _, end in _runs(self._holders.get, hashes):
            if holders:
                found |= dict.fromkeys(self._decode(holders & ~fewer), length)
            holders, length = fewer, self._ends[end]
        return found | dict.fromkeys(self._decode(holders), length)

    def place(self, endpoint: str, hashes: Sequence[int], length: int) -> int:
        """``length`` bytes of text with these hashes go to ``endpoint``; how many leading blocks it had already."""
        cache = self._caches.get(endpoint) or self._admit(endpoint)
        if not hashes:
            self.fill(endpoint, length)
            return 0
        ends = self._ends
        while len(ends) <= len(hashes):
            ends.append(ends[-1] + self.blocks.step(ends[-1]))
        known = cache.touch(hashes, length, ends)
        self._mark(hashes[known:], cache.bit)
        if cache.broken:
            self._clear_each(cache)
            cache.empty()
            return 0
        self._settle(cache)
        return known

    def withdraw(self, endpoint: str, hashes: Sequence[int], known: int) -> None:
        """The request failed uncomputed: forget the blocks after the first ``known``, unless placed again since."""
        cache = self._caches.get(endpoint)
        if cache is None:
            return
        tick = 0
        for tick, _, _ in _runs(cache.ticks.get, hashes):  # noqa: B007 -- the last one is wanted
            pass
        placement = cache.log.get(tick)
        if placement is not None and placement.last == hashes[-1] and placement.known == known:
            cache.bytes -= placement.extra
            placement.extra = 0
            self._clear(cache.cut(tick, placement, known, self._ends), cache.bit)

    def fill(self, endpoint: str, length: int) -> None:
        """``length`` bytes of something else (generated tokens) went through the endpoint's cache."""
        cache = self._caches.get(endpoint)
        if cache is not None and length > 0:
            cache.add(length)
            self._settle(cache)

    def forget(self, endpoint: str) -> None:
        """The endpoint restarted or is gone."""
        cache = self._caches.pop(endpoint, None)
        if cache is None:
            return
        self._clear_each(cache)
        self._used &= ~cache.bit
        self._decoded.clear()

    def resize(self, endpoint: str, capacity: int) -> None:
        """What this endpoint really has room for, in bytes of text."""
        cache = self._caches.get(endpoint) or self._admit(endpoint)
        if cache.capacity != capacity:
            cache.capacity = capacity
            self._settle(cache)

    def _admit(self, endpoint: str) -> _Cache:
        bit = ~self._used & (self._used + 1)
        self._used |= bit
        number = bit.bit_length() - 1
        self._names[number : number + 1] = [endpoint]
        cache = self._caches[endpoint] = _Cache(bit, self.capacity, self.entries)
        return cache

    def _settle(self, cache: _Cache) -> None:
        while cache.over and cache.log:
            self._clear(cache.drop(self._ends), cache.bit)

    def _mark(self, hashes: Sequence[int], bit: int) -> None:
        holders, end = self._holders, 0
        for mask, start, end in _runs(holders.get, hashes):
            holders.update(dict.fromkeys(hashes[start:end], mask | bit))
        holders.update(dict.fromkeys(hashes[end:], bit))

    def _clear(self, hashes: Sequence[int], bit: int) -> None:
        holders = self._holders
        for mask, start, end in _runs(holders.get, hashes):
            if rest := mask & ~bit:
                holders.update(dict.fromkeys(hashes[start:end], rest))
            else:
                for block in hashes[start:end]:
                    holders.pop(block, None)

    def _clear_each(self, cache: _Cache) -> None:
        holders, others = self._holders, ~cache.bit
        for block in cache.ticks:
            if rest := holders.get(block, 0) & others:
                holders[block] = rest
            else:
                holders.pop(block, None)

    def _decode(self, mask: int) -> tuple[str, ...]:
        """The endpoints of a mask. Those of a system prompt that all hold come back with every request."""
        names = self._decoded.get(mask)
        if names is None:
            if len(self._decoded) >= _MEMO:
                self._decoded.clear()
            names = self._decoded[mask] = tuple(compress(self._names, f"{mask:b}"[::-1].encode().translate(_BITS)))
        return names
