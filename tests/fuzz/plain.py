"""One target under Hypothesis, where there is no atheris: `python -m tests.fuzz.plain NAME SECONDS`. (IO)

Says how many inputs were tried; the first finding ends it with its traceback, the input as small as it gets.
"""

from __future__ import annotations

import sys
import time

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.inputs import kept, near, target

_ROUND = 2000


def main(name: str, seconds: float) -> None:
    tried = 0
    run = target(name)
    inputs = near([path.read_bytes() for path in kept(name)] or [b""])

    @settings(max_examples=_ROUND, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def rounds(data: bytes) -> None:
        nonlocal tried
        tried += 1
        run(data)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seed(time.monotonic_ns())(rounds)()
        print(f"#{tried} tried", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
