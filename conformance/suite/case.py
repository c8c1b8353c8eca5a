"""What a case is, and how a profile collects its own. (P)

Invariant: a case's id is unique over all profiles and begins with its profile's short name.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.suite.target import Target

Function = Callable[["Target"], Awaitable[None]]
"""Returns if the requirement holds; raises `check.Failure` if not, `check.Skip` where it does not apply."""


EXTRAS: Mapping[str, Callable[[str], Any]] = {
    "first_token_timeout": float,
    "full_at": int,
    "limit": str,
    "limited_key": str,
    "patience": float,
    "steering": str,
}
"""What ``--set`` gives to single cases, by name, and how it is read."""


class Level(enum.StrEnum):
    """MUST: clients or the adapter break without it. SHOULD: they cope. INFO: told, never held against anybody."""

    MUST = "must"
    SHOULD = "should"
    INFO = "info"


@dataclass(frozen=True)
class Case:
    """One requirement. ``source`` says who demands it: a section of a specification, a version, a protocol's text.

    ``alone``: it measures load or breaks things, so nothing else may run meanwhile. ``needs``: what the command line or
    the server has to provide, see `Target.lacks`; without it the case is skipped by name. ``timeout`` in seconds
    replaces the run's where a case has to wait longer.
    """

    id: str
    title: str
    source: str
    level: Level
    profile: str
    run: Function
    alone: bool = False
    needs: tuple[str, ...] = ()
    timeout: float | None = None


@dataclass(frozen=True)
class Profile:
    """Cases that belong together. ``deviations``: patterns of case ids, of any profile, that this kind of server is
    known not to meet, each with the reason: what its adapter mends, refuses or works around. Such a failure is told
    as a deviation and held against nobody.
    """

    name: str
    title: str
    deviations: Mapping[str, str] = field(default_factory=dict)
    cases: dict[str, Case] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """What its cases' ids begin with: "vllm" of "engine/vllm"."""
        return self.name.rpartition("/")[2]

    def case(
        self,
        name: str,
        title: str,
        *,
        source: str,
        level: Level = Level.MUST,
        alone: bool = False,
        needs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Callable[[Function], Function]:
        """Register the function below as ``{short}.{name}``; it stays a plain function."""

        def register(function: Function) -> Function:
            prefix = f"{self.short}."
            id = name if name.startswith(prefix) else prefix + name
            if id in self.cases:
                raise ValueError(f"two cases are called {id}")
            self.cases[id] = Case(id, title, source, level, self.name, function, alone, tuple(needs), timeout)
            return function

        return register

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases.values())

    def __len__(self) -> int:
        return len(self.cases)
