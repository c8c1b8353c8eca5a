"""``infer-gateway conformance``: its options. What they lead to is imported when it runs. (IO)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from conformance import cases
from conformance.suite.case import EXTRAS

if TYPE_CHECKING:
    from conformance.suite.wire import Address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    _add_target(parser.add_argument_group("what is tested"))
    _add_choice(parser.add_argument_group("which cases"))
    out = parser.add_argument_group("results")
    out.add_argument("--report", action="append", default=[], type=_report, metavar="FILE", help=".json, .xml or .html")
    out.add_argument("--strict", action="store_true", help="failed SHOULDs make the exit code 1, too")
    out.add_argument("-v", "--verbose", action="store_true", help="list every case, not only those that fail")


def _add_target(group: argparse._ArgumentGroup) -> None:
    engines = ("auto", "gateway", *cases.ENGINES)
    group.add_argument("--url", help="base URL, as SDKs take it or without /v1")
    group.add_argument("--engine", default="", choices=engines, metavar="ENGINE", help=", ".join(engines))
    group.add_argument("--model", default="", help="default: the first that is listed")
    group.add_argument("--api-key", default="", metavar="KEY", help="for servers that demand one")
    group.add_argument("--api-key-env", default="", metavar="NAME", help="environment variable that holds the key")
    group.add_argument("--grpc", type=_url, metavar="HOST:PORT", help="an inference.v1 server: profile grpc")
    group.add_argument("--ext-proc", type=_url, metavar="HOST:PORT", help="an endpoint picker: profile epp")
    group.add_argument(
        "--behind",
        action="append",
        default=[],
        type=_url,
        metavar="URL",
        help="an engine behind the gateway under test",
    )
    group.add_argument("--lora", default="", metavar="NAME", help="a LoRA to load, or loaded, under this name")
    group.add_argument("--lora-path", default="", metavar="PATH", help="where the engine finds it")
    group.add_argument("--embedding-model", default="", metavar="NAME", help="for embeddings, where it is another")
    group.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    group.add_argument("--ca-file", default="", metavar="FILE", help="authorities to verify it against, PEM")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help=f"what single cases ask for: {', '.join(EXTRAS)}",
    )


def _add_choice(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--profile", action="append", default=[], choices=tuple(cases.MODULES), metavar="NAME",
        help="repeatable; default: openai and the engine's own",
    )  # fmt: skip
    group.add_argument(
        "--select", default="", metavar="EXPR", help="'stream and not (tools or level:info)', 'openai.*'"
    )
    group.add_argument("--list", action="store_true", help="list the cases and stop")
    group.add_argument("--parallel", type=_count, default=8, metavar="N", help="cases at once (default 8)")
    group.add_argument("--timeout", type=_seconds, default=20.0, metavar="S", help="for each case (default 20)")
    group.add_argument("--limit", type=_seconds, default=300.0, metavar="S", help="for all of them (default 300)")


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code."""
    from conformance.suite import command

    return command.run(args)


def _url(text: str) -> Address:
    from conformance.suite.wire import address

    try:
        return address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _report(text: str) -> Path:
    from conformance.suite import reports

    path = Path(text)
    try:
        reports.kind(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if name not in EXTRAS:
        raise argparse.ArgumentTypeError(f"no case asks for {name!r}, only for {', '.join(EXTRAS)}")
    try:
        EXTRAS[name](value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: {value!r} is not a number") from None
    return name, value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return value
