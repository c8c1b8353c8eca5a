"""`infer-gateway …`: the command line. (IO)

Each command imports what it needs when it runs, so that `serve` is ready in a fraction of a second. Exit codes:
0 stopped as asked, 1 bad configuration, 2 bad usage, 3 cannot bind, 4 crashed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gateway

CRASHED = 4


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # `infer-gateway … | head`
        return 0
    except Exception:  # noqa: BLE001 — the process's outermost boundary: the traceback is the message
        import traceback

        traceback.print_exc()
        return CRASHED


def parser() -> argparse.ArgumentParser:
    """The whole command line; also what documentation is checked against."""
    top = argparse.ArgumentParser(
        prog="infer-gateway", description="A gateway for LLM inference: OpenAI HTTP in front, engines behind."
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands.add_parser("serve", help="run the gateway"))
    _add_demo(commands.add_parser("demo", help="the gateway with simulated engines behind it, nothing else needed"))
    _add_simulate(commands.add_parser("simulate", help="run one simulated engine"))
    _add_bench(commands.add_parser("bench", help="put load on any OpenAI URL and measure"))
    check = commands.add_parser("check", help="validate configuration files")
    check.add_argument("files", nargs="+", metavar="FILE", type=Path)
    check.set_defaults(run=_check)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return top


def _add_serve(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-c", "--config", action="append", default=[], type=Path, metavar="FILE|DIR", help="configuration; repeatable"
    )
    command.add_argument(
        "--backend", action="append", default=[], metavar="ENGINE=URL", help="an engine to discover; repeatable"
    )
    _add_addresses(command)
    command.add_argument("--ext-proc", type=_address, metavar="ADDR", help=argparse.SUPPRESS)
    command.add_argument("--kubernetes", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--access-log", action="store_true", help="log every request to stderr, not only failed ones")
    command.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    command.set_defaults(run=_serve)


def _add_addresses(command: argparse.ArgumentParser) -> None:
    for name, what in (("http", "OpenAI HTTP"), ("grpc", "gRPC"), ("admin", "admin plane")):
        command.add_argument(f"--{name}", type=_address, metavar="HOST:PORT", help=f"address of the {what} listener")


def _add_demo(command: argparse.ArgumentParser) -> None:
    _add_addresses(command)
    command.add_argument("--access-log", action="store_true", help="log every request to stderr, not only failed ones")
    command.add_argument("--log-level", default="warning", choices=["debug", "info", "warning", "error"])
    command.set_defaults(run=_demo)


def _add_simulate(command: argparse.ArgumentParser) -> None:
    from conformance.engines.cli import add_arguments

    add_arguments(command)
    command.set_defaults(run=_simulate)


def _add_bench(command: argparse.ArgumentParser) -> None:
    from conformance.load.cli import add_arguments

    add_arguments(command)
    command.set_defaults(run=_bench)


def _address(text: str) -> tuple[str, int]:
    from gateway.config.settings import split_address

    try:
        return split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _serve(arguments: argparse.Namespace) -> int:
    from gateway import app

    options = app.Options(
        config=tuple(arguments.config),
        backends=tuple(arguments.backend),
        http=arguments.http,
        grpc=arguments.grpc,
        admin=arguments.admin,
        access_log=arguments.access_log,
        log_level=arguments.log_level,
        unserved=tuple(
            flag
            for flag, given in (("--ext-proc", arguments.ext_proc), ("--kubernetes", arguments.kubernetes))
            if given
        ),
    )
    return app.run(options)


def _demo(arguments: argparse.Namespace) -> int:
    from gateway import app, demo

    options = app.Options(
        http=arguments.http,
        grpc=arguments.grpc,
        admin=arguments.admin,
        access_log=arguments.access_log,
        log_level=arguments.log_level,
    )
    return demo.run(options)


def _simulate(arguments: argparse.Namespace) -> int:
    from conformance.engines import cli

    return cli.run(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    from conformance.load import cli

    return cli.main(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from gateway.sources.check import check

    code, lines = check(arguments.files)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


def _version(arguments: argparse.Namespace) -> int:
    print(f"infer-gateway {gateway.__version__}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
