"""All tests: side by side what needs a core and hardly more, then alone what starts programs and waits for them. (IO)

Arguments go to pytest. Where they name tests, those are run and nothing else. The exit code is the worst there was.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

ALONE = ("tests/whole", "tests/kube", "tests/engines", "tests/sdk", "tests/dashboard", "tests/docs")
BESIDE = (("tests/conformance",), ("tests/charts", "tests/monitoring"))
"""Runs beside that of all other tests."""


def main(arguments: list[str]) -> int:
    if any(not word.startswith("-") for word in arguments):
        return subprocess.run(_pytest(arguments)).returncode
    elsewhere = [folder for group in (ALONE, *BESIDE) for folder in group]
    with ExitStack() as stack:
        beside = [_started(stack, [*arguments, *folders]) for folders in BESIDE]
        codes = [subprocess.run(_pytest([*arguments, *(f"--ignore={folder}" for folder in elsewhere)])).returncode]
        codes += [_ended(run, said) for run, said in beside]
    codes.append(subprocess.run(_pytest([*arguments, *ALONE])).returncode)
    return max(map(abs, codes))


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
