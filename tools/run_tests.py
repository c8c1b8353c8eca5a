"""All tests: side by side what needs a core and hardly more, then what starts programs and waits for them. (IO)

Arguments go to pytest. Where they name tests, those are run and nothing else. The exit code is the worst there was.

Two runs of those that wait share a machine with the programs they start. Where a few of them fail, each is run once
more when nothing else is: a defect fails again, and what only lost a race is named as such, to be mended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

WAITING = (
    ("tests/whole",),
    ("tests/faults", "tests/kube", "tests/engines", "tests/sdk", "tests/dashboard", "tests/docs"),
)
BESIDE = (("tests/conformance",), ("tests/charts", "tests/monitoring"))
"""Runs beside that of all other tests."""
AGAIN = 3
"""Tests of one run; where more of them fail it is no accident."""
FAILED = 1
"""pytest's code where tests failed and nothing else went wrong."""


def main(arguments: list[str]) -> int:
    if any(not word.startswith("-") for word in arguments):
        return subprocess.run(_pytest(arguments)).returncode
    others = [f"--ignore={folder}" for group in (*WAITING, *BESIDE) for folder in group]
    codes = _side_by_side(arguments, others, *BESIDE)
    with tempfile.TemporaryDirectory() as kept:
        notes = [Path(kept, str(index)) for index in range(len(WAITING))]
        lanes = [(*lane, "-o", f"cache_dir={note}") for lane, note in zip(WAITING, notes, strict=True)]
        first = _side_by_side(arguments, *lanes)
        codes += [_again(arguments, code, note) for code, note in zip(first, notes, strict=True)]
    return max(map(abs, codes))


def _again(arguments: Sequence[str], code: int, note: Path) -> int:
    """The code of a run that ended with ``code`` and left its ``note``, once the few that failed had another try."""
    if code != FAILED:
        return code
    failed = [*json.loads((note / "v/cache/lastfailed").read_text())]
    if len(failed) > AGAIN:
        return code
    told = "\n  ".join(failed)
    print(f"run once more, by themselves:\n  {told}", flush=True)
    code = subprocess.run(_pytest([*arguments, *failed])).returncode
    if code == 0:
        print(f"FAILED BESIDE OTHERS, PASSED ALONE:\n  {told}", flush=True)
    return code


def _side_by_side(arguments: Sequence[str], first: Sequence[str], *rest: Sequence[str]) -> list[int]:
    """The codes of several runs; the first is shown as it goes on, the others when they are over."""
    with ExitStack() as stack:
        beside = [_started(stack, [*arguments, *folders]) for folders in rest]
        code = subprocess.run(_pytest([*arguments, *first])).returncode
        return [code, *(_ended(run, said) for run, said in beside)]


def _started(stack: ExitStack, arguments: Sequence[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """A run, and where it says what."""
    said = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    run = subprocess.Popen(_pytest(arguments), stdout=said, stderr=subprocess.STDOUT)
    stack.callback(run.kill)
    return run, said


def _ended(run: subprocess.Popen[bytes], said: IO[bytes]) -> int:
    """Its code, once everything it said has been shown."""
    code = run.wait()
    said.seek(0)
    sys.stdout.write(said.read().decode(errors="replace"))
    sys.stdout.flush()
    return code


def _pytest(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", "-rs", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
