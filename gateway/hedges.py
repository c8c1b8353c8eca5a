"""When a first token is so late that another endpoint is asked, too, and what that may cost. (P)

Invariants: a delay is learned from no fewer observations than its quantile needs; what is taken of a budget is given
back or spent, once, and while it is in debt nothing is lent.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Final, Protocol

_KEPT: Final = 512
_AGE_S: Final = 1800.0
_TELLING: Final = 3.0
_SHORTEST_S: Final = 0.001
_CREDIT_S: Final = 300.0


class Terms(Protocol):
    """By which hedges are made (`gateway.config.settings.Hedging`)."""

    @property
    def quantile(self) -> float: ...
    @property
    def budget(self) -> float: ...
    @property
    def min_delay(self) -> float: ...
    @property
    def max_delay(self) -> float: ...


class Window:
    """The last values, 512 of half an hour at most, in order: their quantiles are exact."""

    __slots__ = ("_came", "_sorted")

    def __init__(self) -> None:
        self._came: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._came)

    def add(self, value: float, now: float) -> None:
        self._came.append((now, value))
        insort(self._sorted, value)
        self._forget(now, _KEPT)

    def _forget(self, now: float, most: int) -> None:
        came = self._came
        while came and (len(came) > most or came[0][0] < now - _AGE_S):
            del self._sorted[bisect_left(self._sorted, came.popleft()[1])]

    def quantile(self, part: float, now: float) -> float | None:
        """The smallest value that ``part`` of all do not exceed; None where fewer than three would."""
        self._forget(now, _KEPT)
        count = len(self._sorted)
        if count * (1.0 - part) < _TELLING - 1e-9:
            return None
        return self._sorted[math.ceil(part * count - 1e-9) - 1]


class Waits:
    """How many times longer than expected first tokens take, each doubling of what was expected by itself: noise that
    grows with a prompt and noise that does not then come to the same share of late ones at every size.
    """

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        self._windows: dict[int, Window] = {}

    def observe(self, expected: float, observed: float, now: float) -> None:
        """A first token came ``observed`` seconds after dispatch. Of one that was not waited for to its end, the time
        it was waited for is enough: that it lies beyond the quantile is all the quantile asks.
        """
        expected = max(expected, _SHORTEST_S)
        octave = math.frexp(expected)[1]
        window = self._windows.get(octave)
        if window is None:
            window = self._windows[octave] = Window()
        window.add(observed / expected, now)

    def delay(self, expected: float, part: float, now: float) -> float | None:
        """Seconds within which ``part`` of those have their first token that are expected to take so long; None while
        nobody knows. Where few took so long, as at an engine that is getting stuck, that is judged by the nearest
        shorter ones, whose noise counts for more, or else is what the nearest longer ones are given.
        """
        expected = max(expected, _SHORTEST_S)
        octave = math.frexp(expected)[1]
        for at in sorted(self._windows, key=lambda each: (each > octave, abs(each - octave))):
            ratio = self._windows[at].quantile(part, now)
            if ratio is not None:
                return ratio * (expected if at <= octave else math.ldexp(0.5, at))
        return None


class Account:
    """Tokens that may be spent: a share of what is earned. Credit that is not used leaks away within minutes, so that a
    quiet hour pays for no storm; a debt does not.
    """

    __slots__ = ("_at", "_credit", "lent")

    def __init__(self) -> None:
        self._credit = self.lent = 0.0
        self._at = -math.inf

    def credit(self, now: float) -> float:
        """What could be lent now; below 0: a debt."""
        if self._credit > 0.0 and now > self._at:
            self._credit *= math.exp((self._at - now) / _CREDIT_S)
        self._at = max(self._at, now)
        return self._credit

    def earn(self, tokens: float, now: float) -> None:
        self._credit = self.credit(now) + tokens

    def lend(self, tokens: float, now: float) -> bool:
        """Take so many beforehand, if there are so many."""
        if self.credit(now) < tokens:
            return False
        self._credit -= tokens
        self.lent += tokens
        return True

    def settle(self, lent: float, spent: float, now: float) -> None:
        """What was lent came to ``spent``."""
        self.lent -= lent
        self._credit = self.credit(now) + lent - spent


class Hedges:
    """What a pool knows: how long first tokens take, by kind of request, and what hedges may still cost."""

    __slots__ = ("_waits", "account")

    def __init__(self) -> None:
        self._waits: dict[tuple[str, bool], Waits] = {}
        self.account = Account()

    def observe(self, kind: tuple[str, bool], expected: float, observed: float, now: float) -> None:
        """``kind``: the operation, and whether the answer is streamed."""
        waits = self._waits.get(kind)
        if waits is None:
            waits = self._waits[kind] = Waits()
        waits.observe(expected, observed, now)

    def knows(self, kind: tuple[str, bool]) -> bool:
        """Whether anything of the kind was seen yet."""
        return kind in self._waits

    def delay(self, kind: tuple[str, bool], expected: float, terms: Terms, now: float) -> float | None:
        """Seconds after dispatch at which a hedge is due, None: never."""
        waits = self._waits.get(kind)
        delay = None if waits is None else waits.delay(expected, terms.quantile, now)
        return None if delay is None else min(max(delay, terms.min_delay), max(terms.min_delay, terms.max_delay))
