"""The `bench replay` command: policies side by side on a trace, in virtual time or live. (IO)

Invariant: in virtual time the same options give the same bytes, however many processes share the work. Exit codes:
0 every replay ran to its end; 1 not all did, or a file cannot be read; 2 trace or options make no sense, or a result
cannot be written.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from conformance.load.workload import Target
    from conformance.replay.jobs import Job, Source
    from conformance.replay.scenario import Scenario

_HANG_TIMEOUT_S = 30.0
_LIVE_REQUESTS = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench replay`."""
    parser.add_argument(
        "trace", metavar="TRACE",
        help="Mooncake or Bailian JSON lines, or a CSV table; 'synthetic' or 'synthetic:SEED' makes one up",
    )  # fmt: skip
    parser.add_argument("--requests", type=_count, metavar="N", help="only the first N of the trace")
    parser.add_argument(
        "--policy", action="append", metavar="NAME", help="all (default), or one of them by its name; repeatable"
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="a scheduler configuration, as one more policy")
    parser.add_argument(
        "--reuse", action=argparse.BooleanOptionalAction, help="only the trace as it is; only without shared prefixes"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of ties and of what is drawn (default 0)")
    parser.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, metavar="N", help="processes to use")
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON (- for stdout, instead of the table)")
    parser.add_argument("--plot", metavar="FILE", help="write TTFT distributions as a picture (needs matplotlib)")
    parser.add_argument(
        "--suite", action="store_true", help="the runs that the scheduler is judged by, with the figures to reach"
    )
    parser.add_argument("--quick", action="store_true", help="with --suite: at one speed and capacity only")
    _add_fleet(parser.add_argument_group("fleet"))
    _add_faults(parser.add_argument_group("what goes wrong"))
    _add_live(parser.add_argument_group("in real time"))


def _add_fleet(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speed", type=_positive, nargs="+", default=[1.0], metavar="X", help="arrivals X times as fast; several: each"
    )
    group.add_argument(
        "--capacity", type=_positive, nargs="+", default=[0.4], metavar="F",
        help="prefix caches together, as a fraction of the distinct blocks; several: each (default 0.4)",
    )  # fmt: skip
    group.add_argument("--engines", type=_count, default=8, metavar="N", help="default 8")
    group.add_argument("--gateways", type=_count, default=1, metavar="K", help="each seeing its part of the requests")
    group.add_argument(
        "--sharing", type=_positive, default=0.0, metavar="S", help="gateways tell each other every S seconds"
    )
    group.add_argument(
        "--block-tokens", type=_count, metavar="N", help="tokens of a block, where the trace's are others"
    )
    group.add_argument("--interval", type=_positive, default=0.2, metavar="S", help="between scrapes (default 0.2)")
    group.add_argument("--max-running", type=_count, default=64, metavar="N", help="requests in a batch (default 64)")
    group.add_argument("--chunk-tokens", type=_count, default=8192, metavar="N", help="of a step (default 8192)")
    group.add_argument("--prefill-rate", type=_positive, default=12_000.0, metavar="TOK/S", help="default 12000")


def _add_faults(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--slow", type=_slow, action="append", default=[], metavar="ENGINE=FACTOR", help="takes so many times as long"
    )
    group.add_argument(
        "--hang", type=_hang, action="append", default=[], metavar="ENGINE@S", help="does nothing from then on"
    )
    group.add_argument(
        "--timeout", type=_positive, metavar="S", help="an attempt without a token fails (default: 30 with --hang)"
    )


def _add_live(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--live", action="store_true", help="real gateways before simulated engines, over HTTP")
    group.add_argument("--url", type=_target, metavar="URL", help="this OpenAI server instead, whatever it is")
    group.add_argument(
        "--scale", type=_count, metavar="N", help="lengths and rates N times smaller (default 4, with --url 1)"
    )
    group.add_argument("--seconds", type=_positive, default=600.0, metavar="S", help="of a run at most (default 600)")
    group.add_argument("--model", metavar="NAME", help="with --url; default: the first that it lists")
    group.add_argument("--api-key", metavar="K", help="with --url; sent as Authorization: Bearer K")


def _target(text: str) -> Target:
    from conformance.load.workload import parse_target

    try:
        return parse_target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _slow(text: str) -> tuple[int, float]:
    return _pair(text, "=")


def _hang(text: str) -> tuple[int, float]:
    return _pair(text, "@")


def _pair(text: str, sign: str) -> tuple[int, float]:
    engine, found, number = text.partition(sign)
    try:
        if found:
            return int(engine), _positive(number)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not ENGINE{sign}NUMBER")


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """What the options ask for: the trace at every capacity and speed, and once more without reuse where it has any."""
    from conformance.replay.jobs import Job
    from conformance.replay.policies import NAMES

    policies, source = _policies(args, NAMES), _source(args)
    trace = source.trace()
    both = (True, False) if trace.has_reuse() else (True,)
    for reuse in both if args.reuse is None else (args.reuse,):
        for capacity in args.capacity if reuse else args.capacity[:1]:  # without reuse the cache makes no difference
            for speed in args.speed:
                scenario = _scenario(args, speed, capacity)
                for name, profile in policies.items():
                    yield Job(source, reuse, scenario, name, profile)


def _source(args: argparse.Namespace) -> Source:
    from conformance.replay.jobs import Source

    return Source(args.trace, args.block_tokens, args.requests)


def _policies(args: argparse.Namespace, names: Sequence[str]) -> dict[str, bytes | None]:
    """By name, ``names`` are all; each with its configuration if it has one of its own; the oracle last."""
    from conformance.replay.policies import ORACLE, policy

    asked: list[str] = args.policy or ([] if args.profile else ["all"])
    found: dict[str, bytes | None] = {name: None for each in asked for name in (names if each == "all" else (each,))}
    if args.profile:
        found[args.profile.name] = args.profile.read_bytes()
    for name, profile in found.items():
        policy(name, profile)
    return dict(sorted(found.items(), key=lambda item: item[0] == ORACLE))


def _scenario(args: argparse.Namespace, speed: float, capacity: float) -> Scenario:
    from conformance.replay.scenario import Scenario

    for option, pairs in (("--slow", args.slow), ("--hang", args.hang)):
        for engine, _ in pairs:
            if not 0 <= engine < args.engines:
                raise ValueError(f"{option}: there is no engine {engine}, they are 0 to {args.engines - 1}")
    return Scenario(
        speed=speed,
        capacity=capacity,
        engines=args.engines,
        gateways=args.gateways,
        sharing=args.sharing,
        slow=dict(args.slow),
        hang=dict(args.hang),
        timeout=args.timeout or (_HANG_TIMEOUT_S if args.hang else math.inf),
        interval=args.interval,
        max_running=args.max_running,
        chunk=args.chunk_tokens,
        prefill_rate=args.prefill_rate,
        seed=args.seed,
    )


def main(args: argparse.Namespace) -> int:
    """Play everything and report; returns the exit code."""
    from conformance.replay.stop import STOPPED, interrupting

    if _is_live(args):
        return _reported(args)  # handles signals itself
    try:
        with interrupting():
            return _reported(args)
    except KeyboardInterrupt:  # before the first replay or after the last
        return _complain(STOPPED, 1)


def _is_live(args: argparse.Namespace) -> bool:
    return args.live or args.url is not None


def _reported(args: argparse.Namespace) -> int:
    from conformance.load.plot import NoPlot
    from gateway.config.document import ConfigError

    try:
        _refuse(args)
        result = (_live if _is_live(args) else _suite if args.suite else _side_by_side)(args)
    except ValueError as error:
        return _complain(error, 2)
    except OSError as error:
        return _complain(f"cannot read {error.filename}: {error.strerror}" if error.filename else error, 1)
    except (ConfigError, NoPlot) as error:
        return _complain(error, 1)
    try:
        _write(args, result)
    except OSError as error:
        return _complain(f"the result cannot be written: {error}", 2)
    return 0 if result.missing is None else _complain(result.missing, 1)


def _refuse(args: argparse.Namespace) -> None:
    """What cannot end well, before anything is played. Raises ValueError, NoPlot."""
    from conformance.load.cli import unwritable
    from conformance.load.plot import require
    from conformance.replay.plot import unknown

    if args.suite and _is_live(args):
        raise ValueError("--suite is for virtual time only")
    if why := unwritable(args) or (unknown(args.plot) if args.plot else None):
        raise ValueError(why)
    if args.plot:
        require()


class Result(NamedTuple):
    """``rows`` are what a plot shows; ``value`` is what is written as JSON; ``missing``: why there is no more of it."""

    rows: list[dict[str, Any]]
    text: str
    value: object
    missing: str | None = None


def _side_by_side(args: argparse.Namespace) -> Result:
    from conformance.replay import report
    from conformance.replay.jobs import played

    rows, missing = played(list(jobs(args)), args.jobs)
    return Result(rows, report.text(rows) if rows else "", rows, missing)


def _suite(args: argparse.Namespace) -> Result:
    from conformance.replay import report, suite
    from conformance.replay.jobs import Job, played

    source, base = _source(args), _scenario(args, 1.0, 0.4)
    asked = suite.quick(base) if args.quick else suite.Suite(base)
    trace = source.trace()
    runs = dict(asked.runs(trace))
    wanted = [Job(source, run.reuse, run.scenario, key.policy) for key, run in runs.items()]
    rows, missing = played(wanted, args.jobs)
    if missing is not None:
        return Result(rows, report.text(rows) if rows else "", {"rows": rows, "verdicts": []}, missing)
    verdicts = list(asked.verdicts(dict(zip(runs, rows, strict=True)), trace.has_reuse()))
    value = {"rows": rows, "verdicts": [verdict.values() for verdict in verdicts]}
    return Result(rows, f"{report.text(rows)}\n{suite.text(verdicts)}", value)


def _live(args: argparse.Namespace) -> Result:
    from conformance.replay import live, report
    from conformance.replay.stage import scaled

    trace = msgspec.structs.replace(_source(args), requests=args.requests or _LIVE_REQUESTS).trace()
    if args.reuse is False:
        trace = trace.without_reuse()
    setup = live.Live(trace, args.scale or (1 if args.url else 4), args.seconds, args.model, args.api_key)
    scaled(trace, setup.scale)  # or refused before anything is started
    scenarios = [_scenario(args, speed, capacity) for capacity in args.capacity for speed in args.speed]
    policies = {} if args.url else _configurations(args)
    rows, missing = live.rows(setup, scenarios, policies, args.url)
    return Result(rows, report.text(rows) if rows else "", rows, missing)


def _configurations(args: argparse.Namespace) -> dict[str, bytes]:
    """Policies as configurations of a gateway."""
    from conformance.replay.stage import CONFIGURATIONS, MOST

    if max(args.engines, args.gateways) > MOST:
        raise ValueError(f"--live: {MOST} engines or gateways at most")
    if args.sharing:
        raise ValueError("--live: --sharing is for virtual time only")
    chosen = _policies(args, tuple(CONFIGURATIONS)).items()
    found = {name: CONFIGURATIONS.get(name) if profile is None else profile for name, profile in chosen}
    for name, configured in found.items():
        if configured is None:
            raise ValueError(f"--live: {name} is for virtual time only; there are {', '.join(CONFIGURATIONS)}")
    return {name: configured for name, configured in found.items() if configured is not None}


def _write(args: argparse.Namespace, result: Result) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(result.value), indent=2) + b"\n"
    sys.stdout.write(encoded.decode() if args.json == "-" else result.text)
    sys.stdout.flush()
    if args.json not in (None, "-"):
        Path(args.json).write_bytes(encoded)
    if args.plot and result.rows:
        from conformance.replay import plot

        plot.save(args.plot, result.rows)


def _complain(what: object, code: int) -> int:
    sys.stderr.write(f"infer-gateway bench replay: {what}\n")
    return code
