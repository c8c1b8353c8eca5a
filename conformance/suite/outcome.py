"""What a run found out: of each case, and of all together. (P)

Invariant: every selected case has exactly one result, whatever happened to it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence

import msgspec

from conformance.suite.case import Case, Level


class Kind(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    DEVIATED = "deviated"  # failed as its engine's profile foretells
    NOTED = "noted"  # an INFO that is otherwise than asked: worth knowing, no more
    SKIPPED = "skipped"


class Exchange(msgspec.Struct, frozen=True):
    """One request of a case and its answer, as the wire had them, fit to be shown: keys are not in it.

    ``command`` repeats it by hand. ``error``: what went wrong below HTTP. ``seconds`` until the answer's end.
    """

    method: str
    url: str
    request: str
    status: int | None
    headers: tuple[tuple[str, str], ...]
    answer: str
    error: str
    command: str
    seconds: float


class Result(msgspec.Struct, frozen=True):
    """``message`` says what is wrong, why it was skipped or why the deviation is known. ``notes``: what was learned."""

    case: str
    title: str
    source: str
    level: Level
    profile: str
    kind: Kind
    seconds: float
    message: str = ""
    expected: str | None = None
    got: str | None = None
    notes: tuple[str, ...] = ()
    exchanges: tuple[Exchange, ...] = ()

    @property
    def held(self) -> bool:
        """Whether this counts against the server: a MUST that failed."""
        return self.kind is Kind.FAILED and self.level is Level.MUST


def result(case: Case, kind: Kind, seconds: float = 0.0, message: str = "", **more: object) -> Result:
    return Result(case.id, case.title, case.source, case.level, case.profile, kind, seconds, message, **more)  # type: ignore[arg-type]


class Server(msgspec.Struct, frozen=True):
    """What was tested: what the command line named, and what the server said of itself."""

    url: str
    engine: str
    version: str = ""
    model: str = ""
    models: tuple[str, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """``started`` in seconds since the epoch. ``note``: what cut the run short, if anything did. ``selected``: the
    expression that chose among the profiles' cases, "" if all were asked.
    """

    server: Server
    profiles: tuple[str, ...]
    results: tuple[Result, ...]
    seconds: float
    started: float
    suite: str
    note: str = ""
    selected: str = ""

    def count(self) -> Counter[Kind]:
        return Counter(result.kind for result in self.results)

    def wrong(self, strict: bool = False) -> Sequence[Result]:
        """What the exit code is about: failed MUSTs, with ``strict`` SHOULDs too."""
        levels = (Level.MUST, Level.SHOULD) if strict else (Level.MUST,)
        return [r for r in self.results if r.kind is Kind.FAILED and r.level in levels]

    def badge(self) -> str:
        """One line to paste: what passed of what was asked."""
        found = self.count()
        asked = sum(found.values()) - found[Kind.SKIPPED] - found[Kind.NOTED]
        what = " ".join(filter(None, (self.server.engine, self.server.version)))
        extra = f", {counted(found[Kind.DEVIATED], 'known deviation')}" if found[Kind.DEVIATED] else ""
        extra += f"; only {self.selected}" if self.selected else ""
        verdict = "conforms" if asked and not self.wrong() else "does not conform"
        return f"{what} {verdict}: {found[Kind.PASSED]}/{asked} ({', '.join(self.profiles)}{extra})"


def counted(number: int, what: str) -> str:
    """ "1 case", "2 cases"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
