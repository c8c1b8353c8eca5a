"""What targets share: bytes cut in pieces, and JSON values made of bytes. (P)

Invariant: the same bytes give the same pieces, so that a finding can be tried again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """``data`` in pieces; by ``seed`` 0 of one byte each, else of sizes that differ with it."""
    if not seed:
        yield from (data[at : at + 1] for at in range(len(data)))
        return
    sizes, at = random.Random(seed), 0
    while at < len(data):
        end = at + sizes.choice((1, 2, 3, 5, 8, 30, 200))
        yield data[at:end]
        at = end


def fields(data: bytes, count: int) -> list[bytes]:
    """``data`` as so many fields, which zero bytes divide; those that are missing are empty."""
    found = data.split(b"\0", count - 1)
    return found + [b""] * (count - len(found))
