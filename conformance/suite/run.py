"""Runs cases against a server: side by side, each within its time, whatever they meet. (T)

Invariant: `run` returns one result for every case, in the order given, within the limit and a moment; a case that
raises what it should not, hangs or never gets its turn has a result that says so.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import trio

from conformance.suite import shown
from conformance.suite.case import Case, Level
from conformance.suite.check import Failure, Skip
from conformance.suite.outcome import Kind, Result, result
from conformance.suite.target import Setup, Target

Tell = Callable[[Result], None]
"""Called with each result as it comes."""

_IMPATIENT = 2.0
"""Seconds for a case while the server has never sent a byte and some case has waited in vain for its full time."""
_SHOWN = 12
"""Exchanges of a failed case that reports keep: the last ones."""


class Runner:
    """One run. ``deviations``: patterns of case ids with the reasons why failing them is foretold."""

    def __init__(
        self, setup: Setup, deviations: Mapping[str, str] | None = None, tell: Tell = lambda result: None
    ) -> None:
        self.setup = setup
        self.secrets = shown.Secrets(setup)
        self.deviations = deviations or {}
        self.tell = tell
        self.heard = False
        self.hanging = False
        self.ended_by = ""  # why the run was over before its cases were
        self._scope: trio.CancelScope | None = None

    async def run(self, cases: Sequence[Case], *, parallel: int = 8, limit: float = math.inf) -> list[Result]:
        """``limit``: seconds for all of them; what has not begun by then is reported as not run."""
        found: dict[str, Result] = {}
        with self.until_stopped(limit) as scope:
            await self._together([case for case in cases if not case.alone], parallel, found)
            await self._together([case for case in cases if case.alone], 1, found)
        if scope.cancelled_caught and not self.ended_by:
            self.ended_by = "the run's time was over (--limit)"
        for case in cases:
            if case.id not in found:
                found[case.id] = result(case, Kind.FAILED, message=f"not finished: {self.ended_by}")
                self.tell(found[case.id])
        return [found[case.id] for case in cases]

    def stop(self, why: str) -> None:
        """End the run now; what has not finished is reported as such."""
        self.ended_by = self.ended_by or why
        if self._scope is not None:
            self._scope.cancel()

    @contextmanager
    def until_stopped(self, limit: float = math.inf) -> Iterator[trio.CancelScope]:
        """What is done inside ends after ``limit`` seconds, or when the run is stopped."""
        with trio.move_on_after(max(0.0, limit)) as scope:
            self._scope = scope
            if self.ended_by:
                scope.cancel()
            yield scope

    async def _together(self, cases: Sequence[Case], parallel: int, found: dict[str, Result]) -> None:
        waiting = iter(cases)

        async def worker() -> None:
            for case in waiting:
                found[case.id] = await self.play(case)
                self.tell(found[case.id])

        async with trio.open_nursery() as nursery:
            for _ in range(min(parallel, len(cases))):
                nursery.start_soon(worker)

    async def play(self, case: Case) -> Result:
        """One case and what came of it."""
        target = Target(self.setup)
        missing = target.lacks(case.needs)
        if missing:
            return result(case, Kind.SKIPPED, message=f"needs {missing}")
        began = trio.current_time()
        kind, message, expected, got = Kind.PASSED, "", None, None
        try:
            await self._within(case, target)
        except Skip as skipped:
            kind, message = Kind.SKIPPED, str(skipped)
        except Failure as failure:
            kind, message, expected, got = Kind.FAILED, failure.message, failure.expected, failure.got
        except Exception as error:  # noqa: BLE001 — an answer no case foresaw must not end the run
            kind, message = Kind.FAILED, _unforeseen(error)
        self.heard = self.heard or target.heard
        if target.heard:
            kind, message = self._judged(case, kind, message)
        now = trio.current_time()
        traces = target.traces[-_SHOWN:] if kind in (Kind.FAILED, Kind.DEVIATED, Kind.NOTED) else []
        hide = self.secrets.hide
        return result(
            case,
            kind,
            now - began,
            hide(message),
            expected=None if expected is None else hide(expected),
            got=None if got is None else hide(got),
            notes=tuple(map(hide, target.notes)),
            exchanges=tuple(shown.exchange(trace, self.secrets, now) for trace in traces),
        )

    async def _within(self, case: Case, target: Target) -> None:
        """Raises Failure once the case's time is over: while nothing was ever heard of the server, sooner."""
        timeout = case.timeout or self.setup.timeout
        if self.hanging and not self.heard:
            timeout = min(timeout, _IMPATIENT)
        with trio.move_on_after(timeout) as scope:
            try:
                await case.run(target)
            except BaseExceptionGroup as group:
                _raise_what_counts(group)
        if scope.cancelled_caught:
            self.hanging = True
            raise Failure(f"not done after {timeout:g} s{_waiting_for(target)}")

    def _judged(self, case: Case, kind: Kind, message: str) -> tuple[Kind, str]:
        """A failure that the engine's profile foretells is a deviation; an INFO is never held against anybody."""
        if kind is Kind.FAILED and case.level is Level.INFO:
            return Kind.NOTED, message
        reason = next((why for pattern, why in self.deviations.items() if fnmatchcase(case.id, pattern)), None)
        if reason is None or kind is Kind.SKIPPED:
            return kind, message
        if kind is Kind.PASSED:
            return kind, f"foretold to deviate, but does not: {reason}"
        return Kind.DEVIATED, f"{reason} [{message}]"


def _raise_what_counts(group: BaseExceptionGroup[BaseException]) -> None:
    """Of what a case's tasks raised, the failure if there is one."""
    failures = _leaves(group)
    for kind in (Failure, Skip, Exception):
        for error in failures:
            if isinstance(error, kind):
                raise error
    raise group


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _waiting_for(target: Target) -> str:
    if not target.traces:
        return ""
    trace = target.traces[-1]
    state = (
        "no answer yet" if trace.answer is None else f"its answer not at an end after {len(trace.answer.body)} bytes"
    )
    return f"; last: {trace.method} {trace.url}, {state}" if trace.answer is None or not trace.answer.ended else ""


def _unforeseen(error: Exception) -> str:
    """What to tell of an exception that is no Failure: most often an answer of a shape that no case expects."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" (in {frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return f"the answer could not be understood: {type(error).__name__}: {error}{at}"
