"""How fast an endpoint is, learned from what it does: seconds a prompt token, seconds between two tokens. (P)

Invariant: all values stay finite and none turns negative whatever is observed, and one odd observation moves them
little.
"""

from __future__ import annotations

from typing import Final

DEFAULT_PREFILL: Final = 1 / 8000
"""Seconds a token until something is known: a mid-sized model on one accelerator."""
DEFAULT_CROWDING: Final = 1.5e-4
_FASTEST, _SLOWEST = 1e-7, 0.05
_KEEP: Final = 0.97
_CLIP: Final = 5.0
_ENOUGH: Final = 2000.0


class Line:
    """A line through observations that forgets: an observation's weight falls to half in some twenty others.

    ``steady`` is the spread of x (as a sum of squares) against which the slope moves slowly: where all x are alike it
    cannot be seen, and stays what it was.
    """

    __slots__ = ("_n", "_steady", "_x", "_xx", "_xy", "_y", "intercept", "slope")

    def __init__(self, slope: float, steady: float) -> None:
        self.slope = slope
        self.intercept = 0.0
        self._steady = steady
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        self._n = self._n * _KEEP + 1.0
        self._x = self._x * _KEEP + x
        self._y = self._y * _KEEP + y
        self._xx = self._xx * _KEEP + x * x
        self._xy = self._xy * _KEEP + x * y
        mean_x, mean_y = self._x / self._n, self._y / self._n
        covariance, variance = self._xy - self._x * mean_y, max(0.0, self._xx - self._x * mean_x)
        self.slope = max(0.0, (covariance + self._steady * self.slope) / (variance + self._steady))
        self.intercept = min(max(mean_y - self.slope * mean_x, 0.0), mean_y)


class Speed:
    """``prefill``: seconds that a prompt token which is not cached takes. ``step``: what any prompt takes beside.
    ``decode``: seconds between two tokens of a stream, 0 while unknown; ``crowding``: what each further stream adds.
    """

    __slots__ = ("_answers", "_busy_s", "_busy_tokens", "_gaps", "_services", "crowding", "decode", "prefill", "step")

    def __init__(self, prefill: float = DEFAULT_PREFILL) -> None:
        self.prefill = prefill
        self.step = self.decode = 0.0
        self.crowding = DEFAULT_CROWDING
        self._services = Line(prefill, 250_000.0)
        self._gaps = Line(DEFAULT_CROWDING, 20.0)
        self._answers = 0
        self._busy_s = self._busy_tokens = 0.0

    def served(self, tokens: float, seconds: float) -> None:
        """A prompt of which ``tokens`` were computed took the endpoint ``seconds``, waiting for others not counted."""
        self._answers += 1
        if self._answers > 3:  # before that, what was expected is only a guess
            seconds = min(seconds, _CLIP * (self.step + tokens * self.prefill) + 0.05)
        self._services.add(tokens, seconds)
        self.prefill = min(max(self._services.slope, _FASTEST), _SLOWEST)
        self.step = self._services.intercept

    def computed(self, tokens: float, seconds: float) -> None:
        """The engine itself counted ``tokens`` computed in ``seconds`` of uninterrupted work."""
        self._busy_tokens = self._busy_tokens * _KEEP + max(0.0, tokens)
        self._busy_s = self._busy_s * _KEEP + seconds
        if self._busy_tokens > _ENOUGH:
            self.prefill = min(max(self._busy_s / self._busy_tokens, _FASTEST), _SLOWEST)

    def streamed(self, gap: float, streams: float) -> None:
        """A stream went at ``gap`` seconds a token among so many."""
        gap = min(gap, _CLIP * self.decode + 0.05 if self.decode else 10.0)
        self.decode += (0.1 if self.decode else 1.0) * (gap - self.decode)
        self._gaps.add(streams, gap)
        self.crowding = self._gaps.slope
