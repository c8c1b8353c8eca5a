"""The `bench` command: load against any OpenAI URL. (IO)

Invariant: exit code 0 means every request was answered and judged right; 1 that one was not (or nothing could be sent);
2 that the options make no sense together or that a result could not be written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .workload import Target, Workload, parse_target

if TYPE_CHECKING:
    from .drive import Plan

_OPEN_CONNECTIONS = 4096


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _target(text: str) -> Target:
    try:
        return parse_target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from None


def add_arguments(parser: argparse.ArgumentParser, *, alone: bool = True) -> None:
    """Declare the options of `bench`. Not ``alone``: the parser has commands beside, which need no --url."""
    _add_request_arguments(parser.add_argument_group("requests"), alone)
    _add_load_arguments(parser.add_argument_group("load"))
    out = parser.add_argument_group("results")
    out.add_argument("--check", choices=("quick", "full"), default="quick", help="full parses every event (slower)")
    out.add_argument("--expect-numbered", action="store_true", help="with --check full: token texts must count 0, 1, 2")
    out.add_argument("--allow-errors", action="store_true", help="exit 0 even if requests failed")
    out.add_argument("--json", metavar="FILE", help="write the result as JSON (- for stdout, instead of the text)")
    out.add_argument("--plot", metavar="FILE", help="write cumulative distributions as a picture (needs matplotlib)")
    out.add_argument("--no-progress", action="store_true", help="no progress bar")


def _add_request_arguments(group: argparse._ArgumentGroup, alone: bool) -> None:
    group.add_argument("--url", type=_target, required=alone, help="base URL; /v1 is added when it has no path")
    group.add_argument("--model", help="model name (default: the first of /v1/models)")
    group.add_argument("--api", choices=("chat", "completions", "embeddings"), default="chat", help="what is asked for")
    group.add_argument("--stream", action=argparse.BooleanOptionalAction, default=True, help="stream the answers")
    group.add_argument("--usage", action=argparse.BooleanOptionalAction, default=True, help="ask for a usage event")
    group.add_argument("--prompt-tokens", type=_count, default=32, metavar="N", help="about so long (default 32)")
    group.add_argument("--max-tokens", type=_count, default=128, metavar="N", help="default 128")
    group.add_argument("--extra", type=_object, default={}, metavar="JSON", help='members to add: {"ignore_eos": true}')
    group.add_argument("--api-key", metavar="K", help="sent as Authorization: Bearer K")
    group.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    group.add_argument("--ca-file", metavar="FILE", help="authorities to verify it against, PEM")


def _add_load_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--mode", choices=("closed", "open"), help="default: open if --rate is given, else closed")
    group.add_argument("--connections", type=_count, metavar="N", help="closed: concurrency (32); open: ceiling (4096)")
    group.add_argument("--rate", type=_positive, metavar="R", help="open: requests per second (default 10)")
    group.add_argument(
        "--arrival", choices=("poisson", "constant", "gamma"), default="poisson", help="gaps between requests"
    )
    group.add_argument("--burstiness", type=_positive, default=0.5, help="gamma shape: 1 is Poisson, less is burstier")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--duration", type=_positive, metavar="S", help="measured seconds (default 10)")
    length.add_argument("--requests", type=_count, metavar="N", help="stop after so many requests")
    group.add_argument("--warmup", type=float, default=0.0, metavar="S", help="seconds not measured, first")
    group.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="wait so long for open requests at the end"
    )
    group.add_argument("--timeout", type=_positive, default=600.0, metavar="S", help="for each request (default 600)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts and arrivals (default 0)")


def plan_of(args: argparse.Namespace) -> Plan:
    """The load that the options ask for."""
    from .drive import Plan

    mode: Literal["closed", "open"] = args.mode or ("open" if args.rate else "closed")
    return Plan(
        mode=mode,
        connections=args.connections or (_OPEN_CONNECTIONS if mode == "open" else 32),
        rate=args.rate or 10.0,
        arrival=args.arrival,
        burstiness=args.burstiness,
        duration_s=None if args.requests else args.duration or 10.0,
        requests=args.requests,
        warmup_s=max(0.0, args.warmup),
        drain_s=max(0.0, args.drain),
        timeout_s=args.timeout,
    )


def _setup(args: argparse.Namespace, workload: Workload, plan: Plan) -> dict[str, Any]:
    """What was asked for, for the head of the result."""
    target: Target = args.url
    if plan.mode == "open":
        loop = f"open loop, {plan.rate:g} requests/s, {plan.arrival}"
    else:
        loop = f"closed loop, {plan.connections} connections"
    return {
        "url": f"{'https' if target.tls else 'http'}://{target.authority}{target.prefix}",
        "api": workload.api,
        "model": workload.model,
        "stream": workload.streamed,
        "loop": loop,
        "prompt_tokens_asked": workload.prompt_tokens,
        "max_tokens": workload.max_tokens,
        "check": args.check,
        "seed": args.seed,
        "plan": msgspec.to_builtins(plan),
    }


def _misused(args: argparse.Namespace) -> str | None:
    """What is wrong with the options together, found before anything is sent; None if nothing is."""
    if args.url is None:
        return "the following arguments are required: --url"
    if args.expect_numbered and (args.check != "full" or not args.stream or args.api == "embeddings"):
        return "--expect-numbered needs --check full and a stream"
    return unwritable(args)


def unwritable(args: argparse.Namespace) -> str | None:
    """Why a result cannot be written where --json and --plot say; None if it can, as far as one can tell."""
    for option, name in (("--json", args.json), ("--plot", args.plot)):
        if name in (None, "-"):
            continue
        if Path(name).is_dir():
            return f"{option}: {name} is a directory"
        if not Path(name).parent.is_dir():
            return f"{option}: there is no directory {Path(name).parent}"
    return None


def main(args: argparse.Namespace) -> int:
    """Run the load and report; returns the exit code."""
    # Here and not above: the gateway's own start does not pay for the load generator.
    import trio

    from . import plot, report, session

    misused = _misused(args)
    if misused is not None:
        return _complain(misused, 2)
    try:
        if args.plot:
            plot.require()
        drive, window, workload = trio.run(session.run, args, plan_of(args))
    except (plot.NoPlot, session.Refused) as refused:
        return _complain(refused, 1)
    result = report.values(_setup(args, workload, drive.plan), drive.measured, window)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
    sys.stdout.write(encoded.decode() if args.json == "-" else report.text(result))
    sys.stdout.flush()
    try:
        if args.json not in (None, "-"):
            Path(args.json).write_bytes(encoded)
        if args.plot:
            plot.save(args.plot, f"{result['model']}: {result['loop']}", drive.measured)
    except OSError as error:
        return _complain(f"the result cannot be written: {error}", 2)
    nothing = not drive.measured.ok and not drive.measured.unfinished
    return 0 if args.allow_errors or not (drive.measured.failed or nothing) else 1


def _complain(what: object, code: int) -> int:
    sys.stderr.write(f"infer-gateway bench: {what}\n")
    return code
