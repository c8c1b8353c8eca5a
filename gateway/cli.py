"""`infer-gateway …`: the command line. (IO)

Each command imports what it needs when it runs, so that `serve` is ready in a fraction of a second. Exit codes:
0 stopped as asked, 1 bad configuration, 2 bad usage, 3 cannot bind, 4 crashed.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in `typing`, which is not imported: every millisecond before `main` is one without handlers
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

    from gateway.app import Options

BAD_USAGE, CRASHED = 2, 4
LEVELS = ("debug", "info", "warning", "error")
_CLUSTER = ("namespace", "config-map", "service", "lease", "gateway-ports", "kubeconfig", "context")


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    before = _stop_quietly()
    if argv is None and words[:1] in (["serve"], ["demo"]):
        _hold_back()
    code = 0
    try:
        code = _run(parser().parse_args(words))
        return code
    finally:
        _say_the_last()
        for number, handler in before.items():
            # without ``argv`` the process ends, and does so as it was about to, however often it is told to
            signal.signal(number, (lambda *_: os._exit(code)) if argv is None else handler)


def _run(arguments: argparse.Namespace) -> int:
    try:
        return int(arguments.run(arguments))
    except (KeyboardInterrupt, BrokenPipeError):  # the latter: `infer-gateway … | head`
        return 0
    except BaseExceptionGroup as group:
        return _ended(group, group.split(KeyboardInterrupt)[1])
    except Exception as error:  # noqa: BLE001 — the process's outermost boundary: the traceback is the message
        return _ended(error, error)


def _say_the_last() -> None:
    """What is left for stdout; nobody who reads it any more is no reason to fail, as it is to the interpreter."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # closed from the start, or a full disk: the interpreter tells that
        pass


def _stop_quietly() -> dict[signal.Signals, signal._HANDLER]:
    """Until a command handles signals itself, the first one ends the process: nothing runs yet that could be lost.

    A handler that raised would end inside some import and print its traceback. Returns the handlers that were there.
    """
    try:
        return {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are not ours
        return {}


def _hold_back() -> None:
    """Signals that are not to end the process wait until it heeds them (`gateway.life`); once it does not any more,
    they mean nothing.
    """
    signals = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for number in signals:
        signal.signal(number, lambda *_: None)


def _stop(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def _ended(error: BaseException, crash: BaseException | None) -> int:
    """The exit code after ``error``, of which ``crash`` is what nobody asked for."""
    if crash is None:
        return 0
    from gateway import logs

    if not logs.crashed(error):
        import traceback

        traceback.print_exception(error)
    return CRASHED


def parser() -> argparse.ArgumentParser:
    """The whole command line; also what documentation is checked against."""
    import argparse
    from pathlib import Path

    import gateway

    top = argparse.ArgumentParser(
        prog="infer-gateway", description="A gateway for LLM inference: OpenAI HTTP in front, engines behind."
    )
    top.add_argument("--version", action="version", version=f"infer-gateway {gateway.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands.add_parser("serve", help="run the gateway"))
    _add_demo(commands.add_parser("demo", help="the gateway with simulated engines behind it, nothing else needed"))
    _add_top(commands.add_parser("top", help="a running gateway live in the terminal"))
    _add_simulate(commands.add_parser("simulate", help="run one simulated engine"))
    _add_bench(commands.add_parser("bench", help="put load on any OpenAI URL and measure; or replay a trace"))
    _add_conformance(commands.add_parser("conformance", help="test whether an engine or a gateway behaves as assumed"))
    check = commands.add_parser("check", help="validate configuration files")
    check.add_argument("files", nargs="+", metavar="FILE", type=Path, help="a file, or a directory of them")
    check.set_defaults(run=_check)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return top


def _add_serve(command: argparse.ArgumentParser) -> None:
    from pathlib import Path

    command.add_argument(
        "-c", "--config", action="append", default=[], type=Path, metavar="FILE|DIR", help="configuration; repeatable"
    )
    command.add_argument(
        "--backend", action="append", default=[], metavar="ENGINE=URL", help="an engine to discover; repeatable"
    )
    _add_addresses(command)
    command.add_argument(
        "--ext-proc", type=_address, metavar="HOST:PORT", help="address of the endpoint picker for Envoy (ext_proc)"
    )
    command.add_argument(
        "--pool",
        type=_reference,
        metavar="[NS/]NAME",
        help="the one pool that the endpoint picker picks from, whatever routes say",
    )
    _add_cluster(command)
    _add_logs(command, "info")
    command.set_defaults(run=_serve)


def _add_cluster(command: argparse.ArgumentParser) -> None:
    from pathlib import Path

    cluster = command.add_argument_group("Kubernetes")
    cluster.add_argument("--kubernetes", action="store_true", help="read resources and pods from a cluster")
    cluster.add_argument(
        "--namespace",
        action="append",
        default=[],
        type=_namespace,
        metavar="NS",
        help="a namespace to read; repeatable; default: all",
    )
    cluster.add_argument(
        "--config-map",
        type=_reference,
        metavar="[NS/]NAME",
        help="the ConfigMap that holds the configuration (infer-gateway-config)",
    )
    cluster.add_argument(
        "--service",
        type=_reference,
        metavar="[NS/]NAME",
        help="the Service in front: its addresses are those of Gateways served here",
    )
    cluster.add_argument(
        "--gateway-ports", action="store_true", help="listen on the ports of Gateways, too, from 1024 up"
    )
    cluster.add_argument(
        "--lease", metavar="NAME", help="by which replicas elect who writes statuses (infer-gateway-status)"
    )
    cluster.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="default: the pod's own access, $KUBECONFIG, ~/.kube/config",
    )
    cluster.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")


def _add_addresses(command: argparse.ArgumentParser) -> None:
    for name, what in (
        ("http", "OpenAI HTTP listener"),
        ("grpc", "gRPC listener, or off"),
        ("admin", "admin listener, which asks nobody who they are"),
    ):
        kind = _address_or_off if name == "grpc" else _address
        command.add_argument(f"--{name}", type=kind, metavar="HOST:PORT", help=f"address of the {what}")


def _add_logs(command: argparse.ArgumentParser, level: str) -> None:
    command.add_argument(
        "--access-log", action="store_true", help="log every request, not only failed ones, whatever the file says"
    )
    command.add_argument("--log-level", default=level, choices=LEVELS, help="least of what is logged")
    command.add_argument("--log-format", default="text", choices=["text", "json"], help="how messages are written")


def _add_demo(command: argparse.ArgumentParser) -> None:
    _add_addresses(command)
    _add_logs(command, "warning")
    command.set_defaults(run=_demo)


def _add_top(command: argparse.ArgumentParser) -> None:
    from pathlib import Path

    command.add_argument(
        "--admin", default="http://127.0.0.1:9090", metavar="URL", help="the gateway's admin listener (%(default)s)"
    )
    command.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="the admin listener's token; default: $INFER_GATEWAY_ADMIN_TOKEN",
    )
    command.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to trust instead of the system's")
    command.add_argument("--once", action="store_true", help="print one snapshot; so does output to no terminal")
    command.add_argument("--json", action="store_true", help="print one snapshot as JSON")
    command.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="draw so often (1)")
    command.add_argument("--sort", default="", metavar="COLUMN", help="sort the panels that have it by a column")
    command.set_defaults(run=_top)


def _interval(text: str) -> float:
    import argparse

    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"no time between 0 and 3600 s: {text!r}")
    return seconds


def _add_simulate(command: argparse.ArgumentParser) -> None:
    from conformance.engines.cli import add_arguments

    add_arguments(command)
    command.set_defaults(run=_simulate)


def _add_bench(command: argparse.ArgumentParser) -> None:
    from conformance.load.cli import add_arguments

    add_arguments(command, alone=False)
    command.set_defaults(run=_bench)
    kinds = command.add_subparsers(metavar="[replay|fairness|limits]", required=False)
    _add_replay(kinds)
    _add_shared(kinds)


def _add_conformance(command: argparse.ArgumentParser) -> None:
    from conformance.record import cli as record
    from conformance.suite.cli import add_arguments

    add_arguments(command)
    command.set_defaults(run=_conformance)
    kinds = command.add_subparsers(metavar="[record]", required=False)
    recording = kinds.add_parser("record", help="write down how a live engine answers, without keys and hosts")
    record.add_arguments(recording)
    recording.set_defaults(run=record.run)


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from conformance.replay.cli import add_arguments

    replay = commands.add_parser("replay", help="scheduling policies side by side on a trace, in virtual time or live")
    add_arguments(replay)
    replay.set_defaults(run=_replay)


def _add_shared(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from conformance.fairness.cli import add_fairness, add_limits

    fairness = commands.add_parser("fairness", help="who is served when engines are full, beside other orders")
    add_fairness(fairness)
    fairness.set_defaults(run=_fairness)
    limits = commands.add_parser("limits", help="how exact limits are under concurrency, and what admission costs")
    add_limits(limits)
    limits.set_defaults(run=_limits)


def _address(text: str) -> tuple[str, int]:
    import argparse

    from gateway.config.settings import split_address

    try:
        return split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _namespace(text: str) -> str:
    """An empty one would mean all of them, which nobody means by it."""
    import argparse
    import re

    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"no name of a namespace: {text!r}")
    return text


def _reference(text: str) -> str:
    import argparse

    namespace, slash, name = text.rpartition("/")
    if not name or (slash and not namespace) or "/" in namespace:
        raise argparse.ArgumentTypeError(f"neither NAME nor NAMESPACE/NAME: {text!r}")
    return text


def _address_or_off(text: str) -> tuple[str, int] | str:
    return text if text == "off" else _address(text)


def _serve(arguments: argparse.Namespace) -> int:
    from gateway import app, stdio

    stdio.mend()
    more: dict[str, Any] = {
        "config": tuple(arguments.config),
        "backends": tuple(arguments.backend),
        "pool": arguments.pool,
    }
    if arguments.kubernetes:
        from gateway.sources.kube.options import LEASE
        from gateway.sources.kube.options import Options as Cluster

        more["cluster"] = Cluster(
            namespaces=tuple(dict.fromkeys(arguments.namespace)),
            config_map=arguments.config_map or "",
            service=arguments.service or "",
            lease=arguments.lease or LEASE,
            gateway_ports=arguments.gateway_ports,
            kubeconfig="" if arguments.kubeconfig is None else str(arguments.kubeconfig),
            context=arguments.context or "",
        )
    elif unused := [f"--{name}" for name in _CLUSTER if getattr(arguments, name.replace("-", "_"))]:
        sys.stderr.write(f"infer-gateway: {', '.join(unused)}: of use with --kubernetes only\n")
        return BAD_USAGE
    return app.run(_options(arguments, **more))


def _options(arguments: argparse.Namespace, **more: Any) -> Options:
    """What `serve` and `demo` have in common, and ``more``."""
    from gateway import app

    return app.Options(
        listen=app.Wanted(arguments.http, arguments.grpc, arguments.admin, getattr(arguments, "ext_proc", None)),
        access_log=arguments.access_log,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        **more,
    )


def _demo(arguments: argparse.Namespace) -> int:
    from gateway import demo, stdio

    stdio.mend()
    return demo.run(_options(arguments))


def _top(arguments: argparse.Namespace) -> int:
    from gateway.top import run as top
    from gateway.top.address import TOKEN

    if arguments.sort and arguments.sort not in top.SORTS:
        sys.stderr.write(f"infer-gateway: --sort {arguments.sort!r} is none of: {', '.join(top.SORTS)}\n")
        return BAD_USAGE
    options = top.Options(
        admin=arguments.admin,
        token=os.environ.get(TOKEN, "").strip(),
        token_file=arguments.token_file,
        ca_file=arguments.ca_file,
        once=arguments.once,
        json=arguments.json,
        interval=arguments.interval,
        sort=arguments.sort,
    )
    return top.run(options)


def _simulate(arguments: argparse.Namespace) -> int:
    from conformance.engines import cli

    return cli.run(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    from conformance.load import cli

    return cli.main(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from conformance.replay import cli

    return cli.main(arguments)


def _fairness(arguments: argparse.Namespace) -> int:
    from conformance.fairness import cli

    return cli.fairness(arguments)


def _limits(arguments: argparse.Namespace) -> int:
    from conformance.fairness import cli

    return cli.limits(arguments)


def _conformance(arguments: argparse.Namespace) -> int:
    from conformance.suite import cli

    return cli.run(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from gateway.sources.check import check

    code, lines = check(arguments.files)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


def _version(arguments: argparse.Namespace) -> int:
    import gateway

    print(f"infer-gateway {gateway.__version__}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
