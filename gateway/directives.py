"""What objects beside a pool say of requests to it: how urgent they are, and which model answers for another. (P)

Invariant: `Directives` never change; the same request with the same chance always gets the same model.
Semantics are those of the inference extension's InferenceObjective and InferenceModelRewrite.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, TypeVar

import msgspec


class Objective(msgspec.Struct, frozen=True):
    """``name``, ``pool``: "namespace/name". ``priority``: higher goes first, below 0 is refused rather than made to
    wait. ``legacy``: of the group that the kind was in before; it yields to one of its name.
    """

    name: str
    pool: str
    priority: int = 0
    legacy: bool = False


class RewriteRule(msgspec.Struct, frozen=True):
    """``models``: those it is for, none meaning any; ``targets``: each with its weight, above 0."""

    models: tuple[str, ...]
    targets: tuple[tuple[str, int], ...]


class Rewrite(msgspec.Struct, frozen=True):
    """As `Objective`; ``age`` sorts, oldest first."""

    name: str
    pool: str
    rules: tuple[RewriteRule, ...]
    age: tuple[float, int, str] = (0.0, 0, "")
    legacy: bool = False


class Rewritten(msgspec.Struct, frozen=True, gc=False):
    """``model`` is to be asked instead, as the object ``by`` says. ``exact``: it names the model it is for."""

    model: str
    by: str
    exact: bool


class _Choice:
    """A rule ready to pick from."""

    __slots__ = ("_steps", "_targets")

    def __init__(self, by: str, rule: RewriteRule, *, exact: bool) -> None:
        self._targets = [Rewritten(model, by, exact) for model, _ in rule.targets]
        self._steps = tuple(accumulate(weight for _, weight in rule.targets))

    def pick(self, chance: float) -> Rewritten:
        return self._targets[bisect_right(self._steps, chance * self._steps[-1])]


class Directives:
    """All of them, by pool."""

    __slots__ = ("_any", "_exact", "_priorities")

    def __init__(self, objectives: Iterable[Objective] = (), rewrites: Iterable[Rewrite] = ()) -> None:
        self._priorities: Final = {
            (each.pool, each.name.partition("/")[2]): each.priority for each in _current(objectives)
        }
        self._exact: Final[dict[tuple[str, str], _Choice]] = {}
        self._any: Final[dict[str, _Choice]] = {}
        for each in sorted(_current(rewrites), key=lambda rewrite: (rewrite.age, rewrite.name)):
            for rule in each.rules:
                for model in rule.models:
                    self._exact.setdefault((each.pool, model), _Choice(each.name, rule, exact=True))
                if not rule.models:
                    self._any.setdefault(each.pool, _Choice(each.name, rule, exact=False))

    def priority(self, pool: str, objective: str) -> int:
        """Of a request to ``pool`` that names ``objective``; 0 for what is not known there."""
        return self._priorities.get((pool, objective), 0) if objective else 0

    def rewritten(self, pool: str, model: str, chance: float) -> Rewritten | None:
        """What ``pool`` is asked for instead of ``model``. ``chance`` is uniform in [0, 1).

        A rule that names the model comes before one for any; then the oldest object, then its first rule.
        """
        choice = self._exact.get((pool, model)) or self._any.get(pool)
        return None if choice is None else choice.pick(chance)

    def names(self, pool: str, model: str) -> bool:
        """Whether a rewrite of ``pool`` names ``model``."""
        return (pool, model) in self._exact

    @property
    def rewrites(self) -> bool:
        """Whether there are any rewrites."""
        return bool(self._exact or self._any)


_Either = TypeVar("_Either", Objective, Rewrite)


def _current(objects: Iterable[_Either]) -> list[_Either]:
    """Of two of one name, the one that is not legacy."""
    found: dict[str, _Either] = {}
    for each in objects:
        if each.name not in found or not each.legacy:
            found[each.name] = each
    return list(found.values())
