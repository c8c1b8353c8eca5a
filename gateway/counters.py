"""Virtual token counters: who of several parties has had least, when only those who want something count. (P)

Invariant: counters are finite, a ring's floor never falls, and each share with somebody waiting has one live entry in
its ring's heap, whose key is at most the share's counter.

A counter that rises leaves its entry where it is, which is put right when it comes to the top; one that falls gets a
new entry at once, and the former is dead.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final, Generic, TypeVar

SLOTS: Final = 16
"""Parts that a window is kept in. What is remembered reaches back between 15 and 16 of them."""

LEAST: Final = 1e-6
MOST: Final = 1e9
"""Weighted tokens that anything dispatched costs at least, and that anything may cost."""

_SPARE: Final = 64
_EMPTY: Final = [0.0] * SLOTS


def finite(amount: float) -> float:
    """Nothing that a counter cannot bear: NaN is nothing, and whatever is more than ``MOST`` is that."""
    if -MOST <= amount <= MOST:
        return amount
    return 0.0 if amount != amount else math.copysign(MOST, amount)


class Party:
    """Somebody who is served: a tenant, or a caller. ``total`` is what it was served in the ``SLOTS`` parts of the
    window up to number ``slot``; ``touched``: the part in which it was last served; ``shares`` by band.
    """

    __slots__ = ("amounts", "shares", "slot", "total", "touched")

    def __init__(self, slot: int) -> None:
        self.slot = self.touched = slot
        self.total = 0.0
        self.amounts = _EMPTY.copy()
        self.shares: dict[int, Any] = {}

    def add(self, amount: float) -> None:
        """Served now, in the part of the window that the party has been rolled to."""
        self.amounts[self.slot % SLOTS] += amount
        self.total += amount

    def roll(self, slot: int) -> None:
        """Time has come to this part: forget what is older than the window."""
        gap = slot - self.slot
        if gap <= 0:
            return
        amounts = self.amounts
        if gap >= SLOTS:
            amounts[:] = _EMPTY
        else:
            for past in range(self.slot + 1, slot + 1):
                amounts[past % SLOTS] = 0.0
        self.slot = slot
        self.total = math.fsum(amounts)

    def restart(self, slot: int) -> None:
        """The window has another length, and parts other numbers: all that is remembered counts as of now."""
        total = self.total
        self.amounts[:] = _EMPTY
        self.amounts[slot % SLOTS] = total
        self.slot = self.touched = slot


class Share:
    """A party's part of what one ring hands out. ``queued``: how many wait for it; ``weight``: its latest."""

    __slots__ = ("counter", "entry", "party", "queued", "ring", "weight")

    def __init__(self, party: Party, ring: Ring[Any]) -> None:
        self.party = party
        self.ring = ring
        self.counter = ring.floor
        self.queued = 0
        self.weight = 1.0
        self.entry: tuple[float, int, Any] | None = None

    @property
    def excess(self) -> float:
        """How far above the floor it would be if it wanted something now."""
        return max(0.0, min(self.counter, self.ceiling()) - self.ring.floor)

    def ceiling(self) -> float:
        """What the counter is at most: above the floor by what the party, which has been rolled, had in the window."""
        total = self.party.total
        return self.ring.floor + total / self.weight if total > 0.0 else self.ring.floor

    def lift(self) -> None:
        """It wants something again: the time in which it did not is neither to its credit nor remembered too long."""
        floor = self.ring.floor
        if self.counter < floor:
            self.counter = floor
        elif self.counter > (ceiling := self.ceiling()):
            self.counter = ceiling

    def charge(self, amount: float) -> None:
        """Normalised weighted tokens, of either sign. Whatever is charged moves the counter, however large it is."""
        counter = self.counter + amount
        if counter == self.counter and amount > 0.0:
            counter = math.nextafter(counter, math.inf)
        self.counter = counter
        if amount < 0.0 and self.queued:
            self.ring.place(self)

    def fade(self) -> None:
        """The window has moved on, over one who waits."""
        if self.counter > (ceiling := self.ceiling()):
            self.counter = ceiling
            self.ring.place(self)


S = TypeVar("S", bound=Share)


class Ring(Generic[S]):
    """Shares that compete. ``active`` of them have somebody waiting; ``floor`` is the least counter of those when
    something was last handed out.
    """

    __slots__ = ("_heap", "_tick", "active", "floor")

    def __init__(self) -> None:
        self.active = 0
        self.floor = 0.0
        self._heap: list[tuple[float, int, S]] = []
        self._tick = 0

    def enter(self, share: S) -> None:
        """The share's first waiter has come."""
        share.lift()
        self.active += 1
        self.place(share)

    def leave(self) -> None:
        """The last waiter of one of the shares is gone."""
        self.active -= 1

    def place(self, share: S) -> None:
        """See that there is an entry that is low enough."""
        entry = share.entry
        if entry is None or share.counter < entry[0]:
            heap = self._heap
            if len(heap) > 2 * self.active + _SPARE:
                self._compact()
            self._tick = tick = self._tick + 1
            share.entry = entry = (share.counter, tick, share)
            heappush(heap, entry)

    def _compact(self) -> None:
        heap = self._heap
        live = []
        for entry in heap:
            share = entry[2]
            if share.entry is entry:
                if share.queued:
                    live.append(entry)
                else:
                    share.entry = None
        heapify(live)
        heap[:] = live

    def least(self) -> S | None:
        """The share whose turn it is: the least counter, and of equal ones the one that has had it for longest."""
        heap = self._heap
        while heap:
            entry = heap[0]
            share = entry[2]
            if share.entry is not entry:
                heappop(heap)
            elif not share.queued:
                heappop(heap)
                share.entry = None
            elif share.counter > entry[0]:
                self._tick = tick = self._tick + 1
                share.entry = fresh = (share.counter, tick, share)
                heapreplace(heap, fresh)
            else:
                return share
        return None

    def ascending(self) -> Generator[S, None, None]:
        """The shares with waiters in the order of their turns. To be closed before anything else is done here."""
        heap, taken = self._heap, []
        try:
            while (share := self.least()) is not None:
                taken.append(heappop(heap))
                yield share
        finally:
            for entry in taken:
                heappush(heap, entry)

    def advance(self) -> None:
        """Something is handed out now."""
        least = self.least()
        if least is not None and least.counter > self.floor:
            self.floor = least.counter

    def pass_by(self, share: S) -> None:
        """Something is handed out now to a share in which nobody waits, and what it has had is free so far as nobody
        else who waits has had less.
        """
        if not share.queued:
            share.lift()
        counter = share.counter
        if self.active and (least := self.least()) is not None and least.counter < counter:
            counter = least.counter
        if counter > self.floor:
            self.floor = counter
