"""Which endpoint holds which prompt's beginning: chained block hashes, and a bounded index of who has them. (P)

Invariant: a block is only ever claimed for an endpoint where it was placed, with every block before it, and where all
that was placed since still leaves room for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import xxhash


class Blocks(msgspec.Struct, frozen=True):
    """How a text is cut: ``size`` bytes a block; with ``growth`` a block also grows to a ``growth``-th of what precedes
    it (a power of two times ``size``), so that long prompts take few hashes; ``limit`` blocks at most, 0 for no limit.

    ``published``: chained as Kthena does, the parent's hash in decimal before the block; otherwise it is the seed.
    """

    size: int = 256
    growth: int = 64
    limit: int = 0
    published: bool = False


def chain(text: bytes, seed: bytes, blocks: Blocks) -> Sequence[int]:
    """One hash per block of ``text``, each covering everything before it; equal hashes mean equal beginnings."""
    parent = xxhash.xxh64_intdigest(seed)
    hashes = []
    for start in range(0, len(text), blocks.size):
        parent = xxhash.xxh64_intdigest(text[start : start + blocks.size], parent)
        hashes.append(parent)
    return hashes


class PrefixIndex:
    """``capacity``: bytes of prompt text believed to fit an endpoint, until `resize` says what really does."""

    def __init__(self, blocks: Blocks, capacity: int) -> None:
        self.blocks = blocks
        self.capacity = capacity

    def match(self, hashes: Sequence[int]) -> dict[str, int]:
        """Endpoint → bytes of the longest beginning it holds, for all that hold the first block; one pass."""
        return {}

    def place(self, endpoint: str, hashes: Sequence[int], length: int) -> int:
        """``length`` bytes of text with these hashes go to ``endpoint``; how many leading blocks it had already."""
        return 0

    def withdraw(self, endpoint: str, hashes: Sequence[int], known: int) -> None:
        """The request failed uncomputed: forget the blocks after the first ``known``, unless placed again since."""

    def fill(self, endpoint: str, length: int) -> None:
        """``length`` bytes of something else (generated tokens) went through the endpoint's cache."""

    def forget(self, endpoint: str) -> None:
        """The endpoint restarted or is gone."""

    def resize(self, endpoint: str, capacity: int) -> None:
        """What this endpoint really has room for, in bytes of text."""
