"""``infer-gateway conformance record``: what was asked for becomes a folder of recordings. (IO)

Invariant: exit code 0 means that everything asked for was written; 1 that something was not; 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.record.requests import Request
    from conformance.suite.target import Setup

FAILED, BAD_USAGE = 1, 2
_NOT_SECRET = frozenset(("127.0.0.1", "localhost", "::1"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="", help="base URL, as SDKs take it or without /v1")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the recordings go")
    parser.add_argument("--engine", default="auto", metavar="ENGINE", help="default: what the server looks like")
    parser.add_argument("--model", default="", help="default: the first that is listed")
    parser.add_argument("--api-key-env", default="", metavar="NAME", help="environment variable that holds the key")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="'chat*'; repeatable")
    parser.add_argument(
        "--replace",
        action="append",
        default=[],
        type=_pair,
        metavar="TEXT=BY",
        help="what else must not be told, a path",
    )
    parser.add_argument("--load", type=int, default=16, metavar="N", help="requests under way for the metrics page")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="for each exchange (default 60)")
    parser.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    parser.add_argument("--list", action="store_true", help="list the exchanges and stop")


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code."""
    import trio

    from conformance.record.requests import requests

    if args.list:
        sys.stdout.write("".join(f"{r.name:<34} {r.method} {r.path}\n" for r in _chosen(requests("MODEL"), args.only)))
        return 0
    try:
        if not args.url or not args.out:
            raise ValueError("--url and --out are needed: where is the server, and where do recordings go?")
        setup = _setup(args)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"infer-gateway conformance record: {error}\n")
        return BAD_USAGE
    return trio.run(_main, args, setup)


async def _main(args: argparse.Namespace, setup: Setup) -> int:
    from conformance.record import requests
    from conformance.record.recorder import Recorder, record
    from conformance.record.secrets import Scrubber
    from conformance.suite.detect import detect

    setup, odd = await detect(setup)
    if odd:
        sys.stderr.write(f"infer-gateway conformance record: {odd}\n")
    hosts = {setup.address.host, socket.gethostname()} - _NOT_SECRET
    scrubber = Scrubber(setup.key, hosts, dict(args.replace))
    recorder = Recorder(setup, args.out, scrubber, _tell)
    await recorder.about(time.strftime("%Y-%m-%d", time.gmtime()))
    page = requests.PAGES.get(setup.engine, "")
    if page and _wanted("metrics-idle", args.only):
        await recorder.page(page, "metrics-idle")
    await record(recorder, _chosen(requests.requests(setup.model), args.only))
    if page and args.load and _wanted("metrics", args.only):
        await recorder.busy_page(page, requests.load(setup.model), args.load)
    _tell(
        f"{recorder.kept} exchanges with {setup.engine} {setup.version} in {args.out}, {recorder.failed} not recorded"
    )
    return FAILED if recorder.failed or not recorder.kept else 0


def _setup(args: argparse.Namespace) -> Setup:
    """Raises ValueError for what makes no sense."""
    from conformance.suite.target import Setup
    from conformance.suite.wire import address

    key = os.environ.get(args.api_key_env, "")
    if args.api_key_env and not key:
        raise ValueError(f"the environment variable {args.api_key_env} is not set")
    where = address(args.url, insecure=args.insecure)
    return Setup(address=where, engine=args.engine, model=args.model, key=key, timeout=args.timeout)


def _chosen(requests: list[Request], patterns: list[str]) -> list[Request]:
    return [request for request in requests if _wanted(request.name, patterns)]


def _wanted(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not old or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not TEXT=BY")
    return old, new


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
