"""How much of a fleet's traffic is ours, and what the rest of it may have left in the caches. (P)

Invariant: a gateway that is alone comes to 1 and expects nothing of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.ports import Candidate
from gateway.schedule.home import Homes
from gateway.types import Load

_KEEP: Final = 0.998
_ENOUGH: Final = 20_000.0
_LEAST: Final = 0.05
_MOST: Final = 0.9
_HIDDEN: Final = 1.35


class _Seen:
    """Of one endpoint: prompt tokens we sent, and all it counted, both forgetting (half of it in 70 s of scrapes)."""

    __slots__ = ("all", "counted", "ours", "placed")

    def __init__(self) -> None:
        self.ours = self.all = self.placed = 0.0
        self.counted = -1.0


class Shared:
    """``ours``: the part of the fleet's prompt tokens that this gateway sent, as far as engines count them."""

    def __init__(self) -> None:
        self.ours = 1.0
        self._seen: dict[str, _Seen] = {}
        self._sent = self._counted = 0.0
        self._homes = Homes()

    def placed(self, endpoint: str, tokens: float) -> None:
        seen = self._seen.get(endpoint)
        if seen is None:
            seen = self._seen[endpoint] = _Seen()
        seen.placed += tokens

    def corrected(self, endpoint: str, tokens: float) -> None:
        """A prompt was so many tokens longer than estimated, as the engine told at its end."""
        seen = self._seen.get(endpoint)
        if seen is not None and tokens < _ENOUGH:
            seen.placed += tokens

    def loaded(self, endpoint: str, load: Load) -> float:
        """Compare with what the endpoint counted itself; the part of it that was ours."""
        seen = self._seen.get(endpoint)
        if seen is None:
            return 1.0
        if seen.counted >= 0.0 and load.prompt_tokens >= seen.counted:
            self._take_out(seen)
            seen.ours = seen.ours * _KEEP + seen.placed
            seen.all = seen.all * _KEEP + load.prompt_tokens - seen.counted
            seen.placed = 0.0
            self._sent += seen.ours
            self._counted += seen.all
        seen.counted = load.prompt_tokens
        self.ours = _part(self._sent, self._counted, 1.0)
        return _part(seen.ours, seen.all, self.ours)

    def _take_out(self, seen: _Seen) -> None:
        """Of the sums over all endpoints, which are kept: there is a load of some endpoint every few milliseconds."""
        self._sent -= seen.ours
        self._counted -= seen.all

    def expected(
        self, hashes: Sequence[int], candidates: Sequence[Candidate], most: float, held: Mapping[str, float]
    ) -> dict[str, float]:
        """``held`` with what others have probably placed where the conversation belongs.

        More than what is likely of a prompt that nobody has seen: it is how those to come find its cache.
        """
        key = self._homes.key(hashes, len(candidates))
        if not key:
            return dict(held)
        home = self._homes.of(key, candidates)
        known = held.get(home, 0.0)
        return {**held, home: known + min(_MOST, _HIDDEN * (1.0 - self.ours)) * (most - known)}

    def forget(self, endpoint: str) -> None:
        seen = self._seen.pop(endpoint, None)
        if seen is not None:
            self._take_out(seen)


def _part(ours: float, everything: float, unknown: float) -> float:
    return min(1.0, max(_LEAST, ours / everything)) if everything > _ENOUGH else unknown
