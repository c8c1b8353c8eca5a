"""What a run tells in a terminal: each failure as it comes, all of it at the end. (IO)

Invariant: control characters of a server's answers never reach the terminal.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from conformance.suite.case import Level
from conformance.suite.outcome import Kind, Result, Run, counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_STYLES = {
    Kind.PASSED: "green",
    Kind.FAILED: "bold red",
    Kind.DEVIATED: "yellow",
    Kind.NOTED: "blue",
    Kind.SKIPPED: "dim",
}


def plain(text: str) -> str:
    """``text`` without what would steer a terminal."""
    return _CONTROL.sub("\ufffd", text)


def mute(stream: TextIO) -> None:
    """What is still written to it goes nowhere; the interpreter flushes it when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Terminal:
    """Entered while cases run. ``verbose`` lists cases that pass, too."""

    def __init__(self, cases: int, *, verbose: bool = False, out: TextIO | None = None) -> None:
        from rich.console import Console

        class Mute(Console):
            """Says nothing more once nobody reads: the run goes on, for its reports and its exit code."""

            def on_broken_pipe(self) -> None:
                self.quiet = True
                self.file = io.StringIO()
                mute(out or sys.stdout)

        self.cases = cases
        self.verbose = verbose
        self.found: Counter[Kind] = Counter()
        stream = out or sys.stdout
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without ─ and × gets question marks
        self.console: Console = Mute(file=stream, highlight=False, markup=False, emoji=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Terminal:
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[state]}"))
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task("", total=self.cases, state="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def tell(self, result: Result) -> None:
        """One result, at once if it is worth a line."""
        self.found[result.kind] += 1
        if result.kind is Kind.FAILED or self.verbose:
            self.line(result)
        if self._progress is not None and self._task is not None:
            state = ", ".join(f"{count} {kind}" for kind, count in self.found.items())
            self._progress.update(self._task, advance=1, state=state)

    def line(self, result: Result) -> None:
        from rich.text import Text

        level = "" if result.level is Level.MUST else f" ({result.level})"
        text = Text(f"{result.kind:<9}", style=_STYLES[result.kind])
        text.append(f"{result.case}{level}: {plain(result.title)}", style="default not bold")
        if result.message:
            text.append(f"\n          {plain(result.message)}", style="not bold")
        self.console.print(text, soft_wrap=True)

    def write(self, text: str = "") -> None:
        self.console.print(plain(text), soft_wrap=True)

    def end(self, run: Run) -> None:
        """Everything once more in order: what is wrong with how to see it again, what deviates, what was skipped."""
        for text in _closing(run):
            self.write(text)


def _closing(run: Run) -> Iterator[str]:
    failed = [result for result in run.results if result.kind is Kind.FAILED]
    for result in failed:
        yield from _failure(result)
    deviated = [result for result in run.results if result.kind is Kind.DEVIATED]
    if deviated:
        yield f"\n{counted(len(deviated), 'known deviation')} of {run.server.engine}, which its adapter makes good:"
        yield from _deviated(deviated)
    noted = [result for result in run.results if result.kind is Kind.NOTED]
    if noted:
        yield f"\n{len(noted)} worth knowing:"
        yield from (f"  {result.case}: {result.title} – {_short(result)}" for result in noted)
    skipped = Counter(result.message for result in run.results if result.kind is Kind.SKIPPED)
    if skipped:
        yield f"\n{sum(skipped.values())} skipped:"
        yield from (f"  {count} × {why}" for why, count in skipped.most_common())
    yield f"\n{run.note}" if run.note else ""
    yield f"{run.badge()}   [{run.seconds:.1f} s, suite {run.suite}]"


def _deviated(results: Sequence[Result]) -> Iterator[str]:
    """Cases by the reason they have in common; what each one found is in the reports."""

    def reason(result: Result) -> str:
        return result.message.partition(" [")[0]

    for why, group in groupby(sorted(results, key=reason), key=reason):
        yield f"  {why}:"
        yield from (f"    {result.case}" for result in group)


def _short(result: Result) -> str:
    got = f" (got {result.got[:120]})" if result.got else ""
    return f"not so: {result.message}{got}"


def _failure(result: Result) -> Iterator[str]:
    yield f"\n{'─' * 8} {result.case} ({result.level}) — {result.title}"
    yield f"  required by: {result.source}"
    yield f"  {result.message}"
    if result.expected is not None:
        yield f"  expected: {result.expected}"
    if result.got is not None:
        yield f"  got:      {result.got}"
    yield from (f"  noted: {note}" for note in result.notes)
    if result.exchanges:
        last = result.exchanges[-1]
        yield f"  again:    {last.command}"
        yield f"  answer:   {last.error or f'{last.status} {last.answer[:400]}'}"
