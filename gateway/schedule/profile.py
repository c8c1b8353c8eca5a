"""A profile: filters, weighted scorers, a picker; and what its plugins learn as requests come and go. (P)

Invariant: `rank` yields every candidate that the filters leave, once, best first; nothing in it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gateway.ports import Candidate, Filter, Picker, Scorer
from gateway.prefix import Holdings, PrefixIndex
from gateway.schedule.affinity import Sessions
from gateway.schedule.ask import Ask
from gateway.types import Usage

if TYPE_CHECKING:
    from gateway.replicas import Placed

C = TypeVar("C", bound=Candidate)
_HOOKS = ("placed", "heard", "left", "loaded", "forget")


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

    ``sessions``: a request whose session has a home goes there first, the rest of the ranking is as it would be.
    ``made_of`` is the configuration it was built from, so that a reload can tell whether it still fits.
    """

    def __init__(
        self,
        filters: Sequence[Named],
        scorers: Sequence[Weighted],
        picker: Picker,
        *,
        sessions: Sessions | None = None,
        name: str = "",
        made_of: object = None,
    ) -> None:
        self.name = name or "default"
        self.made_of = made_of
        self.filters = tuple(filters)
        self.scorers = tuple(scorers)
        self.picker = picker
        self.sessions = sessions
        plugins: list[object] = [part.filter for part in self.filters]
        plugins += [part.scorer for part in self.scorers]
        plugins += [picker, sessions]
        indexes = (getattr(plugin, "index", None) for plugin in plugins)
        self._indexes = [index for index in indexes if isinstance(index, PrefixIndex)]
        self._knows: Callable[[Ask], Mapping[str, float]] | None = next(
            (part.scorer.held for part in self.scorers if hasattr(part.scorer, "held")), None
        )
        self._hooks: dict[str, tuple[Callable[..., Any], ...]] = {
            hook: tuple(getattr(plugin, hook) for plugin in plugins if hasattr(plugin, hook)) for hook in _HOOKS
        }

    def rank(self, ask: Ask, candidates: Sequence[C]) -> Iterable[C]:
        """Best first; nobody if a filter leaves nobody, and ``ask.left_out`` names it."""
        return self.order(ask, self.filtered(ask, candidates))

    def at_home(self, ask: Ask, left: Sequence[C]) -> bool:
        """Whether the request goes to its session's endpoint, whatever scores say."""
        return self.sessions is not None and bool(left) and self.sessions.home(ask, left) is not None

    def order(self, ask: Ask, left: Sequence[C]) -> Iterable[C]:
        """Those that the filters left, best first."""
        if len(left) < 2 and ask.explanation is None:
            ranked: Iterable[Any] = left  # what plugins are given they give back
        else:
            ranked = self.picker(left, self._scores(ask, left)) if left else left
        home = None if self.sessions is None else self.sessions.home(ask, left)
        if home is not None:
            ranked = _first(left[home], ranked)
        return ranked

    def filtered(self, ask: Ask, candidates: Sequence[C]) -> Sequence[C]:
        """Those that no filter leaves out."""
        for part in self.filters:
            try:
                left: Sequence[Any] = part.filter(ask, candidates)
            except Exception as error:
                error.add_note(f"raised by the filter {part.name} of the profile {self.name}")
                raise
            if ask.explanation is not None:
                ask.explanation.filtered(part.name, candidates, left)
            if not left:
                ask.left_out = part.name
                return left
            candidates = left
        return candidates

    def holdings(self) -> Holdings:
        """How much its plugins believe to be where, for metrics: a walk over the endpoints."""
        held = [index.holdings for index in self._indexes]
        return Holdings(
            max((each.endpoints for each in held), default=0),
            sum(each.blocks for each in held),
            sum(each.bytes for each in held),
        )

    def hits(self, ask: Ask) -> Mapping[str, float]:
        """Prompt tokens each endpoint is believed to hold, as the first scorer that knows has it."""
        return {} if self._knows is None else self._knows(ask)

    def _scores(self, ask: Ask, candidates: Sequence[Candidate]) -> Sequence[float]:
        total: Sequence[float] | None = None
        for part in self.scorers:
            try:
                scores, weight = part.scorer(ask, candidates), part.weight
                if len(scores) != len(candidates):
                    raise ValueError(f"{len(scores)} scores for {len(candidates)} candidates")
            except Exception as error:
                error.add_note(f"raised by the scorer {part.name} of the profile {self.name}")
                raise
            if ask.explanation is not None:
                ask.explanation.scored(part.name, scores)
            if total is None:
                total = scores if weight == 1.0 else [weight * score for score in scores]
            else:
                total = [so_far + weight * score for so_far, score in zip(total, scores, strict=True)]
        if total is None:
            total = [0.0] * len(candidates)
        if ask.explanation is not None:
            ask.explanation.weighed(ask, candidates, total, [part.scorer for part in self.scorers])
        return total

    # -- what plugins learn from -----------------------------------------------------------------------------------

    def placed(self, ask: Ask, candidate: Candidate) -> None:
        for hook in self._hooks["placed"]:
            hook(ask, candidate)

    def heard(self, placed: Placed, candidate: Candidate, now: float) -> None:
        """Another replica has placed a request there."""
        for hook in self._hooks["heard"]:
            hook(placed, candidate, now)

    def left(self, ask: Ask, candidate: Candidate, usage: Usage | None) -> None:
        for hook in self._hooks["left"]:
            hook(ask, candidate, usage)

    def loaded(self, candidate: Candidate) -> None:
        for hook in self._hooks["loaded"]:
            hook(candidate)

    def forget(self, endpoint: str) -> None:
        for hook in self._hooks["forget"]:
            hook(endpoint)


def _first(home: Candidate, ranked: Iterable[Candidate]) -> Iterator[Candidate]:
    yield home
    for candidate in ranked:
        if candidate is not home:
            yield candidate
