"""`python -m tests.faults.leap FILE …`: `infer-gateway …` where the time of day is off by what FILE says, in seconds.
(IO)
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

from tests.process import ANY_PORT, InferGateway


class Leaping(InferGateway):
    """One that serves; ``off`` is by how much."""

    def __init__(self, file: Path, *arguments: str) -> None:
        super().__init__("serve", *ANY_PORT, *arguments)
        self._file = file
        self.off(0)
        self.argv = ("-m", "tests.faults.leap", str(file), *self.argv[2:])

    def off(self, seconds: float) -> None:
        next_ = self._file.with_suffix(".next")
        next_.write_text(str(seconds))
        next_.replace(self._file)


def _leap(file: Path) -> None:
    real = time.time
    time.time = lambda: real() + float(file.read_text())


if __name__ == "__main__":
    _, file, *sys.argv[1:] = sys.argv
    _leap(Path(file))
    runpy.run_module("gateway.cli", run_name="__main__", alter_sys=True)
