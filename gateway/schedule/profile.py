"""A profile: filters, weighted scorers, a picker; and what its plugins learn as requests come and go. (P)

Invariant: `rank` yields every candidate that the filters leave, once, best first; nothing in it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from gateway.errors import Overloaded
from gateway.ports import Candidate, Filter, Picker, Scorer
from gateway.schedule.ask import Ask
from gateway.types import Usage

C = TypeVar("C", bound=Candidate)
_HOOKS = ("placed", "left", "loaded", "forget")


class Weighted(msgspec.Struct, frozen=True):
    """A scorer under its configured name. Its scores count ``weight`` times."""

    name: str
    scorer: Scorer
    weight: float = 1.0


class Named(msgspec.Struct, frozen=True):
    name: str
    filter: Filter


class Profile:
    """One way of choosing. An instance belongs to one pool: its scorers learn that pool's endpoints.

    ``made_of`` is the configuration it was built from, so that a reload can tell whether it still fits.
    """

    def __init__(
        self,
        filters: Sequence[Named],
        scorers: Sequence[Weighted],
        picker: Picker,
        *,
        name: str = "",
        made_of: object = None,
    ) -> None:
        self.name = name
        self.made_of = made_of
        self.filters = tuple(filters)
        self.scorers = tuple(scorers)
        self.picker = picker
        plugins: list[object] = [part.filter for part in self.filters]
        plugins += [part.scorer for part in self.scorers]
        plugins.append(picker)
        self._hooks: dict[str, tuple[Callable[..., Any], ...]] = {
            hook: tuple(getattr(plugin, hook) for plugin in plugins if hasattr(plugin, hook)) for hook in _HOOKS
        }

    def rank(self, ask: Ask, candidates: Sequence[C]) -> Iterable[C]:
        """Best first. Raises Overloaded naming the filter that left nothing."""
        left = self._filtered(ask, candidates)
        ranked = left if len(left) == 1 else self.picker(left, self._scores(ask, left))
        return cast(Iterable[C], ranked)  # what plugins are given they give back

    def _filtered(self, ask: Ask, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        for part in self.filters:
            candidates = part.filter(ask, candidates)
            if not candidates:
                raise Overloaded(f"every endpoint was left out by the filter {part.name}", retry_after=1.0)
        return candidates

    def _scores(self, ask: Ask, candidates: Sequence[Candidate]) -> Sequence[float]:
        first, *others = self.scorers or (None,)
        if first is None:
            return [0.0] * len(candidates)
        total = first.scorer(ask, candidates)
        if first.weight != 1.0:
            total = [first.weight * score for score in total]
        for part in others:
            weight = part.weight
            total = [so_far + weight * score for so_far, score in zip(total, part.scorer(ask, candidates), strict=True)]
        return total

    # -- what plugins learn from -----------------------------------------------------------------------------------

    def placed(self, ask: Ask, candidate: Candidate) -> None:
        for hook in self._hooks["placed"]:
            hook(ask, candidate)

    def left(self, ask: Ask, candidate: Candidate, usage: Usage | None) -> None:
        for hook in self._hooks["left"]:
            hook(ask, candidate, usage)

    def loaded(self, candidate: Candidate) -> None:
        for hook in self._hooks["loaded"]:
            hook(candidate)

    def forget(self, endpoint: str) -> None:
        for hook in self._hooks["forget"]:
            hook(endpoint)
