"""How fast endpoints are, learned from what they do: seconds a prompt token, seconds between two tokens. (P)

A pool's endpoints are taken for alike until they show otherwise: one line for all of them, a factor for each. So one
that is new or idle is judged by its peers, and the chance of few observations does not make one look better.
Invariant: all values stay finite and none turns negative whatever is observed; one odd observation moves them little.
"""

from __future__ import annotations

import math
from typing import Final

DEFAULT_PREFILL: Final = 1 / 8000
"""Seconds a token until something is known: a mid-sized model on one accelerator."""
DEFAULT_CROWDING: Final = 1.5e-4
"""Seconds that one more stream adds to the time between two tokens of all."""
LATE_S: Final = 0.5
"""Seconds past the time at which it should have computed what it owes, from which on an endpoint counts as late."""
_MOST_CROWDING: Final = 0.002
_FASTEST, _SLOWEST = 1e-7, 0.05
_KEEP_POOL: Final = 0.998
_KEEP: Final = 0.98
_FADE: Final = 0.9994
_PRIOR: Final = 4.0
_CLIP: Final = 5.0
_STRETCH: Final = 20_000.0
_TOO_MANY: Final = 1e6  # between two questions: a counter that was missing is back, as after one that fell


class Line:
    """A line through observations that forgets: an observation weighs ``keep`` times as much with every other.

    ``steady`` is the spread of x (as a sum of squares) against which the slope moves slowly: where all x are alike it
    cannot be seen, and stays what it was.
    """

    __slots__ = ("_keep", "_n", "_steady", "_x", "_xx", "_xy", "_y", "intercept", "slope")

    def __init__(self, slope: float, steady: float, keep: float = _KEEP_POOL) -> None:
        self.slope = slope
        self.intercept = 0.0
        self._keep = keep
        self._steady = steady
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        keep = self._keep
        self._n = self._n * keep + 1.0
        self._x = self._x * keep + x
        self._y = self._y * keep + y
        self._xx = self._xx * keep + x * x
        self._xy = self._xy * keep + x * y
        mean_x, mean_y = self._x / self._n, self._y / self._n
        covariance, variance = self._xy - self._x * mean_y, max(0.0, self._xx - self._x * mean_x)
        self.slope = max(0.0, (covariance + self._steady * self.slope) / (variance + self._steady))
        self.intercept = min(max(mean_y - self.slope * mean_x, 0.0), mean_y)


class Pace:
    """What the endpoints of a pool have in common. ``prefill``, ``step``, ``crowding`` as in `Speed`."""

    __slots__ = ("_gaps", "_services", "crowding", "prefill", "service", "step")

    def __init__(self) -> None:
        self.prefill = DEFAULT_PREFILL
        self.step = 0.0
        self.crowding = DEFAULT_CROWDING
        self.service = 0.0
        self._services = Line(DEFAULT_PREFILL, 1_000_000.0)
        self._gaps = Line(DEFAULT_CROWDING, 50_000.0)

    def served(self, tokens: float, seconds: float) -> None:
        """``tokens`` would have taken an endpoint of factor 1 ``seconds``."""
        self._services.add(tokens, seconds)
        self.prefill = min(max(self._services.slope, _FASTEST), _SLOWEST)
        self.step = self._services.intercept
        self.service += (0.02 if self.service else 1.0) * (seconds - self.service)

    def rested(self) -> None:
        """No tokens take no time. To be said with observations that are all about as large: their noise has no slope,
        and what a prompt takes beside cannot be told from what its tokens take.
        """
        self._services.add(0.0, 0.0)

    def streamed(self, gap: float, streams: float) -> None:
        """A stream among so many had ``gap`` seconds between two tokens, prefills in between not counted."""
        self._gaps.add(streams, min(gap, 1.0))
        self.crowding = min(self._gaps.slope, _MOST_CROWDING)


class Speed:
    """One endpoint. ``factor``: how much longer it takes than its pool; ``decode``: seconds between two tokens of a
    stream there, 0 while unknown.
    """

    __slots__ = (
        "_answers", "_counted_at", "_expected", "_seen", "_stretch_s", "_stretch_tokens", "decode", "factor", "pace",
    )  # fmt: skip

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = Pace() if pace is None else pace
        self.factor = 1.0
        self.decode = 0.0
        self._seen = self._expected = 0.0
        self._answers = 0
        self._stretch_s = self._stretch_tokens = 0.0
        self._counted_at = math.nan

    @property
    def prefill(self) -> float:
        """Seconds that a prompt token which is not cached takes."""
        return self.pace.prefill * self.factor

    @property
    def step(self) -> float:
        """Seconds that any prompt takes beside."""
        return self.pace.step * self.factor

    def takes(self, tokens: float, prompts: float = 1.0) -> float:
        """Seconds to compute so many tokens, those of so many prompts."""
        return (prompts * self.pace.step + tokens * self.pace.prefill) * self.factor

    def served(self, tokens: float, seconds: float) -> None:
        """A prompt of which ``tokens`` were computed took the endpoint ``seconds``, waiting for others not counted."""
        pace = self.pace
        usual = pace.step + tokens * pace.prefill
        self._answers += 1
        if self._answers > 3:  # before that, what was expected is only a guess
            seconds = min(seconds, _CLIP * usual * self.factor + 0.05)
        pace.served(tokens, seconds / self.factor)
        self._seen = self._seen * _KEEP + seconds
        self._expected = self._expected * _KEEP + usual
        self._judge()

    def _judge(self) -> None:
        prior = _PRIOR * self.pace.service
        self.factor = min(max((self._seen + prior) / (self._expected + prior), 0.02), 50.0)

    def fade(self) -> None:
        """Asked at every load while nothing is under way: what was seen of an endpoint that gets nothing any more is
        believed ever less (half of it after some four minutes of five loads a second), so that it is tried again.
        """
        if self._expected:
            self._seen *= _FADE
            self._expected *= _FADE
            self._judge()

    def computed(self, tokens: float, now: float, busy: bool) -> None:
        """The engine counted ``tokens`` more of prompts it has done; ``busy``: others waited all the while.

        From one such moment to the next it computed what it then counted, and nothing else.
        """
        if not busy or not 0.0 <= tokens <= _TOO_MANY:
            self._counted_at = math.nan
        elif tokens > 0.0:
            if self._counted_at == self._counted_at:  # not nan
                self._stretch_tokens += tokens
                self._stretch_s += now - self._counted_at
            self._counted_at = now
        if self._stretch_tokens > _STRETCH:
            self.pace.rested()
            self.served(self._stretch_tokens, self._stretch_s)
            self._stretch_s = self._stretch_tokens = 0.0

    def streamed(self, gap: float) -> None:
        """A stream went at ``gap`` seconds a token."""
        gap = min(gap, _CLIP * self.decode + 0.05 if self.decode else 10.0)
        self.decode += (0.1 if self.decode else 1.0) * (gap - self.decode)
