"""Where a prompt belongs if nobody knows better: what gateways that share a fleet agree on without talking. (P)

Of several gateways each sees a part of the requests, and its index knows only where it sent those. So that a
conversation which reaches them in turn finds its cache again, all prefer the same endpoint for it: the one with the
highest hash of conversation and endpoint (rendezvous hashing: when an endpoint goes, only its conversations move).
A conversation is known by its beginning, up to a depth where beginnings are no longer shared by many.
Invariant: memory is bounded, and gateways that see samples of the same traffic come to the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import xxhash

from gateway.ports import Candidate

_DEPTHS: Final = (3, 7, 15, 31, 63, 95, 127)
"""Blocks that a beginning has, less one: 1, 2, 4, 8, 16, 32 and 64 KB with the blocks of the built-in scorer."""
_WINDOW: Final = 4000
_KEPT: Final = 20_000


class Homes:
    """``key`` counts what it is asked for: a beginning of more than a half endpoint's share of requests is shared."""

    __slots__ = ("_counts", "_endpoints", "_homes", "_total")

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self._total = 0.0
        self._endpoints: tuple[str, ...] = ()
        self._homes: dict[int, str] = {}

    def key(self, hashes: Sequence[int], endpoints: int) -> int:
        """What the conversation is known by; 0 for a prompt too short to have one."""
        counts, found = self._counts, 0
        self._total += 1.0
        if self._total >= _WINDOW or len(counts) >= _KEPT:
            self._age()
        shared, settled = self._total / (2.0 * endpoints) + 2.0, False
        for depth in _DEPTHS:
            if depth >= len(hashes):
                break
            # all are counted: were the longer ones only from when the shorter are popular, they would lag for thousands
            beginning = hashes[depth]
            counts[beginning] = count = counts.get(beginning, 0.0) + 1.0
            if not settled:
                found, settled = beginning, count < shared
        return found

    def _age(self) -> None:
        """What was seen counts half as much; what was seen once is forgotten."""
        self._total /= 2.0
        self._counts = {found: count / 2.0 for found, count in self._counts.items() if count > 1.5}

    def of(self, key: int, candidates: Sequence[Candidate]) -> str:
        """The id of the endpoint where the conversation belongs."""
        endpoints = tuple([candidate.id for candidate in candidates])
        if endpoints != self._endpoints or len(self._homes) >= _KEPT:
            self._endpoints, self._homes = endpoints, {}
        home = self._homes.get(key)
        if home is None:
            home = max(endpoints, key=lambda endpoint: xxhash.xxh64_intdigest(endpoint.encode(), key))
            self._homes[key] = home
        return home
