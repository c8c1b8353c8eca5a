"""How fast a queue moves: what those who were let in take until they end, and how sure that is. (P)

Invariant: nothing is said of the rate until a few have ended; ``margin`` is 1 or more.

Counted is what has ended for each second that a request was under way, whether anybody waited or not. So what is known
holds for a queue that has just begun, and endpoints that go take their part of the rate with them. It says the same
of requests that end one by one and of those that begin and end together, whose releases come in bursts.
"""

from __future__ import annotations

import math
from typing import Final

_FROM: Final = 4.0
_LEAST: Final = 64.0
_ROUNDS: Final = 4.0
_SURELY: Final = 2.0
_SPREAD: Final = (0.4, 1.5)
_RISE: Final = 4.0
_LATE: Final = 0.004
_MOST: Final = 8.0


class Turnover:
    """``margin``: how much less is let in than would be served in time if turns came in the order of arrival.

    It grows when somebody who was let in has waited in vain, because others came first or engines became slower, and
    shrinks with everybody who was not, so that no more than four in a thousand do.
    """

    __slots__ = ("_at", "_done", "_each", "_held", "_spent", "_squares", "margin")

    def __init__(self) -> None:
        self.margin = 1.0
        self._at = -math.inf
        self._done = self._spent = self._held = self._squares = 0.0
        self._each = 0.0

    def passed(self, now: float, inflight: int) -> None:
        """So many were under way until now. To be told before there are more or fewer."""
        if now > self._at:
            if inflight:
                self._spent += inflight * (now - self._at)
            self._at = now

    def ended(self, inflight: int, held: float) -> None:
        """One of so many, after so many seconds. What was four rounds ago counts for little."""
        keep = 1.0 - 1.0 / max(_LEAST, _ROUNDS * inflight)
        self._done = self._done * keep + 1.0
        self._held = self._held * keep + held
        self._squares = self._squares * keep + held * held
        self._spent *= keep
        if self._done >= _FROM and self._spent > 0.0:
            self._each = self._done / self._spent

    def rate(self, inflight: int) -> float:
        """How many end in a second while so many are under way; 0 where that is not known."""
        return self._each * inflight

    def wait(self, ahead: int, rate: float) -> float:
        """Seconds in which one more than ``ahead`` are let in almost surely, at ``rate`` or somewhat less."""
        count = ahead + 1.0
        spread = self._spread() * math.sqrt(1.0 / count + 1.0 / max(self._done, 1.0))
        return count / rate * (1.0 + _SURELY * spread)

    def _spread(self) -> float:
        """Of the times that requests take: standard deviation by mean."""
        least, most = _SPREAD
        if self._done < _FROM or self._held <= 0.0:
            return most
        square = self._squares * self._done / (self._held * self._held) - 1.0
        return min(max(math.sqrt(max(square, 0.0)), least), most)

    def timely(self, queued: int) -> None:
        """One of so many that waited has been let in."""
        self.margin = max(1.0, self.margin * (1.0 - _LATE * _gain(queued)))

    def late(self, queued: int) -> None:
        """One of so many was let in where its turn should have come in time, and it has not."""
        self.margin = min(_MOST, self.margin + _gain(queued))


def _gain(queued: int) -> float:
    """By how much one counts: what all do who wait for as long as anybody may is about the same."""
    return _RISE / (16.0 + queued)
