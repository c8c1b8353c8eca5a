"""Asking many again and again: one task keeps the times, and only questions under way have a task of their own. (T)

Invariant: what hangs delays no other; of what was given up nothing goes on. A waiting task takes 7 kB, which at
thousands of endpoints would be most of the memory; an entry here takes 200 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, KeysView
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Generic, TypeVar

import trio

from gateway.supervise import supervise

Key = TypeVar("Key", bound=Hashable)

RATE: Final = 500.0
"""Questions begun a second at most, however many are due at once: thousands of connections would hold up requests."""
_AT_ONCE: Final = 4.0
_UNDER_WAY: Final = 8
_YOUNG_S: Final = 0.006
"""No more than `_UNDER_WAY` are begun within this: their answers may all come in one turn, which requests wait for."""

_SELDOM_S: Final = 2.0
_GRAIN_S: Final = 1 / 64
"""Those that are asked seldom are asked together with who else is due by then: at hundreds a second, waking for each
one, and for each one's answer, is a good part of what it costs."""


class _Entry(Generic[Key]):
    """One key. ``due``: when it is asked next, NaN while it is being asked; ``again``: at once after that."""

    __slots__ = ("again", "due", "key", "scope")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.due = math.nan
        self.again = False
        self.scope: trio.CancelScope | None = None


class Rounds(Generic[Key]):
    """``ask(key)`` asks once and gives the seconds until it is to be asked again; when it fails it is supervised.
    ``name(key)`` is what logs call it.
    """

    def __init__(self, ask: Callable[[Key], Awaitable[float]], name: Callable[[Key], str], rate: float = RATE) -> None:
        self._ask = ask
        self._name = name
        self._rate = rate
        self._entries: dict[Key, _Entry[Key]] = {}
        self._due: list[tuple[float, int, _Entry[Key]]] = []
        self._count = count()
        self._sooner = trio.Event()
        self._young: dict[_Entry[Key], float] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def keys(self) -> KeysView[Key]:
        return self._entries.keys()

    def keep(self, keys: Iterable[Key]) -> set[Key]:
        """Ask these from now on, and no others; the ones given up."""
        wanted = dict.fromkeys(keys)
        gone = self._entries.keys() - wanted.keys()
        for key in gone:
            self.drop(key)
        for key in wanted:
            self.add(key)
        return gone

    def add(self, key: Key, wait: float = 0.0) -> None:
        """Ask it, too, after so many seconds; nothing if it is asked already."""
        if key not in self._entries:
            entry = self._entries[key] = _Entry(key)
            self._set(entry, _now() + wait)

    def drop(self, key: Key) -> None:
        """Ask it no more."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.due = math.nan
            if entry.scope is not None:
                entry.scope.cancel()

    def hurry(self, key: Key, wait: float = 0.0) -> None:
        """Ask it in so many seconds at the latest; if it is being asked, once more after that."""
        entry = self._entries.get(key)
        if entry is None:
            return
        if entry.scope is not None:
            entry.again = True
        elif _now() + wait < entry.due:
            self._set(entry, _now() + wait)

    def _set(self, entry: _Entry[Key], due: float) -> None:
        entry.due = due
        if len(self._due) > 2 * len(self._entries) + 64:  # mostly of those that were given up or hurried
            self._due = [place for place in self._due if place[0] == place[2].due]
            heapify(self._due)
        if not self._due or due < self._due[0][0]:
            self._sooner.set()
        heappush(self._due, (due, next(self._count), entry))

    async def run(self) -> None:
        """Until cancelled. Keys that were there before are asked from now on."""
        async with trio.open_nursery() as self._nursery:
            credit, last = _AT_ONCE, trio.current_time()
            while True:
                await self._wait()
                now = trio.current_time()
                credit, last = min(_AT_ONCE, credit + (now - last) * self._rate), now
                while credit >= 1.0 and self._due and self._due[0][0] <= now and self._has_room(now):
                    credit -= self._begin(now)
                if credit < 1.0 or not self._has_room(now):
                    await trio.sleep(_AT_ONCE / self._rate)

    async def _wait(self) -> None:
        """Until the next is due."""
        while not self._due or self._due[0][0] > trio.current_time():
            self._sooner = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else math.inf):
                await self._sooner.wait()

    def _has_room(self, now: float) -> bool:
        young = self._young
        while young and len(young) >= _UNDER_WAY:
            oldest = next(iter(young))
            if young[oldest] > now - _YOUNG_S:
                return False
            del young[oldest]
        return True

    def _begin(self, now: float) -> int:
        """Ask the one that is due first; 0 if there is no such any more."""
        due, _, entry = heappop(self._due)
        if due != entry.due or self._nursery is None:
            return 0
        entry.due = math.nan
        entry.scope = trio.CancelScope()
        self._young[entry] = now
        self._nursery.start_soon(self._question, entry, entry.scope)
        return 1

    async def _question(self, entry: _Entry[Key], scope: trio.CancelScope) -> None:
        wait = 0.0

        async def ask() -> None:
            nonlocal wait
            wait = await self._ask(entry.key)

        with scope:
            await supervise(ask, name=self._name(entry.key))
        entry.scope = None
        self._young.pop(entry, None)
        if self._entries.get(entry.key) is entry:
            wait = 0.0 if entry.again else wait
            due = _now() + wait
            self._set(entry, due if wait < _SELDOM_S else math.ceil(due / _GRAIN_S) * _GRAIN_S)
        entry.again = False


def _now() -> float:
    """Keys may be given before Trio runs; they are due at once, then."""
    try:
        return trio.current_time()
    except RuntimeError:
        return -math.inf
