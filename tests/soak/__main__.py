"""`make soak`: the figures on stdout; the exit code is 1 where an answer ended as none may. (IO)"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Plan, soak


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    default = Plan()
    parser.add_argument("--streams", type=int, default=default.streams)
    parser.add_argument("--at-once", type=int, default=default.at_once)
    parser.add_argument("--engines", type=int, default=default.engines)
    parser.add_argument("--pause", type=float, default=default.pause, help="seconds between two troubles, about")
    parser.add_argument("--seed", type=int, default=default.seed)
    plan = Plan(**vars(parser.parse_args(arguments)))
    with tempfile.TemporaryDirectory() as directory:
        report = soak(plan, Path(directory))
    print("\n".join(report.lines()))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
