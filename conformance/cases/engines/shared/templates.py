"""Cases still without an engine: what holds for every engine, once its names are known. (P)

Invariant: `Templates.add` registers under a profile exactly the cases whose signals that engine has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from conformance.cases.engines.shared.signals import Signals
from conformance.suite.case import Function, Level, Profile
from conformance.suite.target import Target

Template = Callable[[Target, Signals], Awaitable[None]]


class Templates:
    """``group`` begins the names: "metrics" of "vllm.metrics.running"."""

    def __init__(self, group: str) -> None:
        self.group = group
        self._made: list[tuple[str, str, Level, bool, tuple[str, ...], Template]] = []

    def case(
        self, name: str, title: str, *, level: Level = Level.MUST, alone: bool = False, uses: tuple[str, ...] = ()
    ) -> Callable[[Template], Template]:
        """As `Profile.case`. ``uses``: members of `Signals` without which there is no such case."""

        def keep(template: Template) -> Template:
            self._made.append((f"{self.group}.{name}", title, level, alone, uses, template))
            return template

        return keep

    def add(self, profile: Profile, signals: Signals, source: str) -> None:
        for name, title, level, alone, uses, template in self._made:
            if all(getattr(signals, each) for each in uses):
                profile.case(name, title, source=source, level=level, alone=alone)(_bound(template, signals))


def _bound(template: Template, signals: Signals) -> Function:
    async def case(target: Target) -> None:
        await template(target, signals)

    return case
