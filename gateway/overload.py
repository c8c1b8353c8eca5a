"""How much the process lets itself be burdened with: bytes held for requests, descriptors, work that piles up. (P)

Invariant: who is nearest to the end has the most room. Large bodies are refused first, then small ones, and answers of
requests that were let in last; clients are turned away before engines cannot be reached any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

SMALL: Final = 65536
"""Bodies up to this many bytes come in one read: they are refused later than larger ones."""

MOST_SHED: Final = 0.95
"""Of new requests, however long turns are: what is never tried is never found to work again."""

_WINDOW_S: Final = 0.1
_WINDOW_TURNS: Final = 8
_IDLE: Final = 0.05
_STEP: Final = 0.08
_DECAY: Final = 0.9
_LEAST: Final = 0.02
_ENGINES: Final = 4
_KEPT: Final = 320


class Buffered:
    """Bytes held for requests: bodies from their first byte until the request is done, answers that are collected or
    that clients and engines do not take. ``held`` is added to by whoever holds them; ``most``: the bound; beyond
    ``small`` there is no room for another request's body, however small.
    """

    __slots__ = ("_large", "held", "most", "small")

    def __init__(self, most: float = math.inf) -> None:
        self.held = 0
        self.limit(most)

    def limit(self, most: float) -> None:
        """``most`` from now on."""
        self.most = most
        self.small = most - most / 8 if most < math.inf else most
        self._large = most - most / 4 if most < math.inf else most

    @property
    def tight(self) -> bool:
        """Whether bodies that are long in coming stand in others' way: half of it all is taken."""
        return 2 * self.held > self.most

    @property
    def spent(self) -> bool:
        """Whether not even answers may be kept."""
        return self.held > self.most

    def room(self, more: int, size: int) -> bool:
        """Whether ``more`` bytes may come of a body that has ``size`` in all, as far as is known."""
        return self.held + more <= (self.small if size <= SMALL else self._large)


class Descriptors(msgspec.Struct, frozen=True):
    """How many sockets there may be where the process may open ``limit`` descriptors.

    Some are kept for files, listeners and the admin plane; a quarter of the others for connections to engines.
    """

    limit: float = math.inf

    @property
    def sockets(self) -> float:
        """Of clients and engines, together."""
        return self.limit - min(_KEPT, self.limit // 4)

    @property
    def clients(self) -> float:
        """So many sockets, and no more clients are taken."""
        return self.sockets - self.sockets // _ENGINES if self.limit < math.inf else math.inf


class Pace:
    """Whether the processor keeps up, and what share of new requests is refused if not.

    Whoever comes waits for three turns of the scheduler before anything is done for them: of those that accept, of
    those that look who has news, of those before them. Judged is, as CoDel judges a queue, the least work that three
    turns had in each tenth of a second. One long turn (garbage, a reload) is among short ones and says nothing; neither
    does a tenth of a second in which there was also rest. Where it is more than ``target`` seconds twice in a row,
    ``share`` grows by how much more, up to `MOST_SHED`, and shrinks where it is not. What counts is work: that others
    have the processor is not mended by refusing. ``target`` 0: nothing is ever refused. ``rested``: seconds of rest
    until now, since some moment.
    """

    __slots__ = ("_began", "_credit", "_last", "_least", "_rest", "_rested", "_standing", "_turns", "share", "target")

    def __init__(self, target: float = 0.0, rested: Callable[[], float] = lambda: 0.0) -> None:
        self.target = target
        self.share = 0.0
        self._rested = rested
        self._rest = 0.0
        self._credit = 0.0
        self._last = 0.0, 0.0
        self._standing = False
        self._open(-math.inf)

    def _open(self, now: float) -> None:
        self._began = now
        self._turns = 0
        self._least = math.inf

    def turned(self, now: float, work: float) -> None:
        """A turn with ``work`` seconds of work has ended."""
        self._turns += 1
        first, second = self._last
        self._last = second, work
        if first + second + work < self._least:
            self._least = first + second + work
        if now - self._began >= _WINDOW_S and self._turns >= _WINDOW_TURNS:
            self._judge(now)

    def _judge(self, now: float) -> None:
        before, self._rest = self._rest, self._rested()
        idle = self._rest - before > _IDLE * (now - self._began)
        long = self._least > self.target > 0
        if idle:
            self.share *= 0.5
        elif not long:
            self.share *= _DECAY
        elif self._standing:
            self.share = min(MOST_SHED, self.share + _STEP * min(3.0, self._least / self.target))
        self._standing = long and not idle
        if self.share < _LEAST:
            self.share = self._credit = 0.0
        self._open(now)

    def refuses(self) -> bool:
        """Whether the request that comes now is one of those to be refused: every so many, evenly."""
        if not self.share:
            return False
        self._credit += self.share
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True
