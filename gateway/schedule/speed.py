"""How fast an endpoint is, learned from what it does: seconds a prompt token, seconds between two tokens. (P)

Invariant: both stay finite and positive whatever is observed, and one odd observation moves them little.
"""

from __future__ import annotations

from typing import Final

DEFAULT_PREFILL: Final = 1 / 8000
"""Seconds a token until something is known: a mid-sized model on one accelerator."""
_FASTEST, _SLOWEST = 1e-7, 0.05
_KEEP: Final = 0.97
_STEADY: Final = 250_000.0
_CLIP: Final = 5.0
_ENOUGH: Final = 2000.0


class Speed:
    """``prefill``: seconds that a prompt token which is not cached takes. ``step``: what any prompt takes beside.
    ``decode``: seconds between two tokens of a stream; 0 while unknown.

    The first two are a regression of service times on tokens that forgets: an observation's weight falls to half in
    some twenty others. Where prompts hardly differ in length the slope cannot be seen and stays near what it was.
    """

    __slots__ = ("_busy_s", "_busy_tokens", "_n", "_s", "_x", "_xs", "_xx", "answers", "decode", "prefill", "step")

    def __init__(self, prefill: float = DEFAULT_PREFILL, decode: float = 0.0) -> None:
        self.prefill = prefill
        self.step = 0.0
        self.decode = decode
        self.answers = 0
        self._n = self._x = self._s = self._xx = self._xs = 0.0
        self._busy_s = self._busy_tokens = 0.0

    def served(self, tokens: float, seconds: float) -> None:
        """A prompt of which ``tokens`` were computed took the endpoint ``seconds``, waiting for others not counted."""
        self.answers += 1
        if self.answers > 3:  # before that, what was expected is only a guess
            seconds = min(seconds, _CLIP * (self.step + tokens * self.prefill) + 0.05)
        self._n = self._n * _KEEP + 1.0
        self._x = self._x * _KEEP + tokens
        self._s = self._s * _KEEP + seconds
        self._xx = self._xx * _KEEP + tokens * tokens
        self._xs = self._xs * _KEEP + tokens * seconds
        x, s = self._x / self._n, self._s / self._n
        covariance, variance = self._xs - self._x * s, self._xx - self._x * x
        slope = (covariance + _STEADY * self.prefill) / (variance + _STEADY)
        self.prefill = min(max(slope, _FASTEST), _SLOWEST)
        self.step = min(max(s - self.prefill * x, 0.0), s)

    def computed(self, tokens: float, seconds: float) -> None:
        """The engine itself counted ``tokens`` computed in ``seconds`` of uninterrupted work."""
        self._busy_tokens = self._busy_tokens * _KEEP + max(0.0, tokens)
        self._busy_s = self._busy_s * _KEEP + seconds
        if self._busy_tokens > _ENOUGH:
            self.prefill = min(max(self._busy_s / self._busy_tokens, _FASTEST), _SLOWEST)

    def streamed(self, gap: float) -> None:
        """A stream went at ``gap`` seconds a token."""
        self.decode += (0.1 if self.decode else 1.0) * (min(gap, 10.0) - self.decode)
