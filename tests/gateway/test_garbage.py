"""Garbage that has grown old is found once there is much of it, and nobody looks while there is none."""

from __future__ import annotations

import sys
import weakref

import pytest
import trio
import trio.testing

from gateway.garbage import Garbage

MUCH = 150_000  # an object and its dictionary each


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self
        self.more: list[Knot] = []


pytestmark = pytest.mark.usefixtures("uncollected")  # as if all garbage had grown old


async def watched(garbage: Garbage, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await garbage.watch()


def test_much_garbage_is_found() -> None:
    async def main() -> None:
        garbage = Garbage()
        knot = weakref.ref(Knot())
        for _ in range(MUCH):
            Knot()
        assert knot() is not None
        blocks = sys.getallocatedblocks()
        await watched(garbage, 11)
        assert knot() is None
        assert garbage.looked == 1
        assert sys.getallocatedblocks() < blocks - MUCH

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_is_in_use_is_looked_at_once() -> None:
    """Looking costs time, whatever it finds."""

    async def main() -> None:
        garbage = Garbage()
        await watched(garbage, 100)
        assert garbage.looked == 0
        used = [Knot() for _ in range(MUCH)]
        await watched(garbage, 1000)
        assert garbage.looked == 1
        assert len(used) == MUCH

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
