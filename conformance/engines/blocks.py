"""A paged KV cache as bookkeeping only: which blocks are referenced, which are kept for reuse, how many are free. (P)

Invariant: referenced + private + kept + free == capacity after every call, and a hit is only ever claimed for a block
that is referenced or kept at that moment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


def chain(data: bytes, block_bytes: int, seed: object = None) -> list[int]:
    """One hash per full block of ``data``, each covering all before it: equal hashes mean equal prefixes."""
    hashes: list[int] = []
    parent = hash(seed)
    for start in range(0, len(data) - block_bytes + 1, block_bytes):
        parent = hash((parent, data[start : start + block_bytes]))
        hashes.append(parent)
    return hashes


class BlockPool:
    """Blocks known by the chained hash of their content, and private ones that nobody else can share.

    A block nobody references is kept in least-recently-used order until room is needed. Nothing here waits: a request
    for blocks is granted whole or refused.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a KV cache needs at least one block")
        self.capacity = capacity
        self.free = capacity
        self.private = 0
        self.evicted = 0
        self._references: dict[int, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def used(self) -> int:
        """Blocks that some sequence holds."""
        return len(self._references) + self.private

    @property
    def kept(self) -> int:
        """Blocks that nobody holds, still good for a hit."""
        return len(self._kept)

    def hits(self, hashes: Sequence[int]) -> int:
        """How many leading blocks of ``hashes`` are in the cache now."""
        for count, block in enumerate(hashes):
            if block not in self._references and block not in self._kept:
                return count
        return len(hashes)

    def acquire(self, hashes: Sequence[int], private: int = 0) -> bool:
        """Reference every block of ``hashes`` (those missing are made) and take ``private`` more. All or nothing."""
        missing = kept = 0
        for block in hashes:
            if block in self._kept:
                kept += 1
            elif block not in self._references:
                missing += 1
        if missing + private > self.free + len(self._kept) - kept:
            return False
        for block in hashes:
            if block in self._kept:
                del self._kept[block]
                self._references[block] = 1
            elif block in self._references:
                self._references[block] += 1
        self._take(missing + private)
        self.private += private
        for block in hashes:
            self._references.setdefault(block, 1)
        return True

    def release(self, hashes: Sequence[int], private: int = 0) -> None:
        """Give back what `acquire` granted. The tail of a prefix becomes evictable before its head."""
        self.private -= private
        self.free += private
        for block in reversed(hashes):
            self._references[block] -= 1
            if not self._references[block]:
                del self._references[block]
                self._kept[block] = None

    def share(self, hashes: Sequence[int]) -> None:
        """Make private blocks known by their content; one that is known already takes the place of the private one."""
        for block in hashes:
            if block in self._kept:
                del self._kept[block]
                self.free += 1
            elif block in self._references:
                self.free += 1
            self._references[block] = self._references.get(block, 0) + 1
        self.private -= len(hashes)

    def clear(self) -> None:
        """Forget everything kept for reuse."""
        self.free += len(self._kept)
        self._kept.clear()

    def _take(self, count: int) -> None:
        while self.free < count:
            self._kept.popitem(last=False)
            self.free += 1
            self.evicted += 1
        self.free -= count
