"""The `bench fairness` and `bench limits` commands. (IO)

Exit codes: 0 everything was measured (with --strict: and every figure reached); 1 not everything, or not every figure;
2 options make no sense, or a result cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from conformance.fairness.experiments import Extent, Part

EXPERIMENTS = ("flood", "weights", "bound", "clients", "prefixes")
KINDS = ("store", "cost")


def add_fairness(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench fairness`."""
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="a table of requests of several clients; default: made up"
    )
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="one experiment; repeatable")
    parser.add_argument("--quick", action="store_true", help="fewer requests and seeds: rough figures in seconds")
    _add_output(parser)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench limits`."""
    parser.add_argument("--only", action="append", choices=KINDS, help="how exact they are, or what they cost")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="of each contest before Redis (default 12)")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a figure is not reached")


def _seconds(text: str) -> float:
    value = float(text)
    if not 2.0 <= value <= 3600.0:
        raise argparse.ArgumentTypeError(f"{text} is not from 2 to 3600")
    return value


def fairness(args: argparse.Namespace) -> int:
    """Play the experiments and report; returns the exit code."""
    return _run(args, "fairness", lambda: _played(args))


def limits(args: argparse.Namespace) -> int:
    """Have limits contested and their cost measured, and report; returns the exit code."""
    return _run(args, "limits", lambda: _contested(args))


def _run(args: argparse.Namespace, name: str, measure: Callable[[], Sequence[Part]]) -> int:
    from conformance.fairness import report
    from conformance.replay.quiet import quiet
    from conformance.replay.stop import STOPPED, interrupting

    try:
        with interrupting(), quiet():
            parts = measure()
    except KeyboardInterrupt:
        return _complain(name, STOPPED, 1)
    except ValueError as error:
        return _complain(name, error, 2)
    except OSError as error:
        return _complain(name, f"cannot read {error.filename}: {error.strerror}" if error.filename else error, 1)
    sys.stdout.write(report.text(parts))
    if args.report is not None:
        try:
            args.report.write_bytes(msgspec.json.format(msgspec.json.encode(report.values(parts)), indent=2) + b"\n")
        except OSError as error:
            return _complain(name, f"the result cannot be written: {error}", 2)
    return 1 if args.strict and not report.met(parts) else 0


def _played(args: argparse.Namespace) -> list[Part]:
    from conformance.fairness.experiments import EXPERIMENTS as known

    extent = _extent(args)
    return [known[name](extent) for name in args.only or EXPERIMENTS]


def _extent(args: argparse.Namespace) -> Extent:
    from conformance.fairness.experiments import Extent
    from conformance.replay.traces import read

    trace = None if args.trace is None else read(args.trace.name, args.trace.read_bytes())
    return Extent(seeds=2, flood=100, talks=700, trace=trace) if args.quick else Extent(trace=trace)


def _contested(args: argparse.Namespace) -> list[Part]:
    kinds = args.only or KINDS
    parts = [_exact(args)] if "store" in kinds else []
    return [*parts, _costs()] if "cost" in kinds else parts


def _exact(args: argparse.Namespace) -> Part:
    from conformance.fairness.contest import CALLERS
    from conformance.fairness.experiments import Part
    from conformance.fairness.limits import rows

    found = list(rows(args.seconds, lambda what: sys.stderr.write(f"{what}\n")))
    verdicts = [verdict for _, each in found for verdict in each]
    return Part(f"{CALLERS} callers at one limit", [row for row, _ in found], verdicts)


def _costs() -> Part:
    from conformance.fairness import cost
    from conformance.fairness.experiments import Part

    return Part("What admission costs", *cost.rows(cost.costs()))


def _complain(name: str, what: object, code: int) -> int:
    sys.stderr.write(f"infer-gateway bench {name}: {what}\n")
    return code
