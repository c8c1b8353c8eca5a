"""The ``conformance`` command: what was asked for becomes a run, its results go to the terminal and into files. (IO)

Invariant: exit code 0 means that every MUST held; 1 that one did not, or that nothing could be asked; 2 bad usage.
Reports are written whatever happened.
"""

from __future__ import annotations

import argparse
import os
import signal
import ssl
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import trio

from conformance import cases
from conformance.suite import reports, select
from conformance.suite.case import Case, Profile
from conformance.suite.detect import detect
from conformance.suite.outcome import Run, Server
from conformance.suite.run import Runner
from conformance.suite.target import Setup
from conformance.suite.terminal import Terminal
from conformance.suite.wire import Address, address

FAILED, BAD_USAGE = 1, 2
_OPENAIS = ("gpt-", "o1", "o3", "o4", "text-embedding-")
"""What OpenAI's models are called."""
_NOWHERE = Address("127.0.0.1", 1)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code."""
    try:
        setup = _setup(args)
        selects = select.parse(args.select)
        if args.list:
            return _list(_profiles(args, setup.engine), selects)
    except ValueError as error:
        sys.stderr.write(f"infer-gateway conformance: {error}\n")
        return BAD_USAGE
    return trio.run(_main, args, setup, selects)


async def _main(args: argparse.Namespace, setup: Setup, selects: select.Selects) -> int:
    """A signal ends the run early: whoever stops it wants its report, and no success."""
    code = FAILED
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            runner = Runner(setup)

            async def listen() -> None:
                async for number in signals:
                    runner.stop(f"{signal.Signals(number).name} ended the run")

            nursery.start_soon(listen)
            code = await _tested(runner, args, selects)
            nursery.cancel_scope.cancel()
    return code


async def _tested(runner: Runner, args: argparse.Namespace, selects: select.Selects) -> int:
    started, began = time.time(), trio.current_time()
    note = ""
    if args.url:
        with runner.until_stopped(args.limit):
            runner.setup, note = await detect(runner.setup)
    setup = runner.setup
    if setup.engine == "auto" and not args.profile:  # stopped before anything was learned
        runner.setup = setup = msgspec.structs.replace(setup, engine="openai")
    profiles = _profiles(args, "" if args.engine in ("", "auto") and _only_like_openai(setup) else setup.engine)
    chosen = [case for profile in profiles for case in profile if selects(case)]
    if not chosen:
        sys.stderr.write(f"infer-gateway conformance: no case is selected by {args.select!r}\n")
        return BAD_USAGE
    terminal = Terminal(len(chosen), verbose=args.verbose)
    told = runner.secrets.hide(_told(setup, args))
    terminal.write(f"{len(chosen)} cases of {', '.join(p.name for p in profiles)} against {told}")
    runner.deviations, runner.tell = _deviations(profiles), terminal.tell
    with terminal:
        results = await runner.run(chosen, parallel=args.parallel, limit=args.limit + began - trio.current_time())
    hide = runner.secrets.hide
    run = Run(
        server=Server(
            _url_of(setup, args), setup.engine, hide(setup.version), hide(setup.model), tuple(map(hide, setup.models))
        ),
        profiles=tuple(profile.name for profile in profiles),
        results=tuple(results),
        seconds=trio.current_time() - began,
        started=started,
        suite=suite_version(),
        note=hide("; ".join(filter(None, (note, runner.ended_by)))),
        selected=" ".join(args.select.split()),
    )
    terminal.end(run)
    return _save(run, args.report) or (FAILED if run.wrong(args.strict) else 0)


def _save(run: Run, paths: Sequence[Path]) -> int:
    code = 0
    for path in paths:
        try:
            reports.save(run, path)
        except OSError as error:
            sys.stderr.write(f"infer-gateway conformance: {path} cannot be written: {error.strerror}\n")
            code = FAILED
    return code


def _list(profiles: Sequence[Profile], selects: select.Selects) -> int:
    lines = [_line(case) for profile in profiles for case in profile if selects(case)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _line(case: Case) -> str:
    return f"{case.id:<48} {case.level:<6} {case.title}  [{case.source}]"


def _setup(args: argparse.Namespace) -> Setup:
    """Raises ValueError for options that make no sense together."""
    if not (args.url or args.grpc or args.ext_proc or args.list):
        raise ValueError("--url is needed: where is the server? (or --grpc, --ext-proc)")
    where = address(args.url, insecure=args.insecure, ca=_authorities(args.ca_file)) if args.url else _NOWHERE
    _check_reports(args.report)
    gateways = {"gateway", "grpc", "epp"} & set(args.profile)
    return Setup(
        address=where,
        engine=args.engine or ("gateway" if gateways or not (args.url or args.list) else "auto"),
        model=args.model,
        key=_key(args),
        lora=args.lora,
        lora_path=args.lora_path,
        embedding_model=args.embedding_model,
        behind=tuple(args.behind),
        grpc=args.grpc,
        ext_proc=args.ext_proc,
        timeout=args.timeout,
        extra=dict(args.set),
    )


def _key(args: argparse.Namespace) -> str:
    """Raises ValueError. A file's last line break comes along in many an environment variable."""
    key = (args.api_key or os.environ.get(args.api_key_env, "")).strip()
    if args.api_key_env and not key:
        raise ValueError(f"the environment variable {args.api_key_env} is not set")
    if not all(" " <= char <= "~" for char in key):
        raise ValueError("the key has characters that a header cannot carry")
    return key


def _authorities(path: str) -> str:
    """``path``, if there are certificates in it. Raises ValueError."""
    try:
        if path:
            ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"--ca-file {path}: {error.strerror or error}") from None
    return path


def _check_reports(paths: Sequence[Path]) -> None:
    """Raises ValueError for a file that could not be written, before a minute is spent on what it should tell."""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}") from None
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be written")


def _profiles(args: argparse.Namespace, engine: str) -> list[Profile]:
    """What was named; else what fits the engine; with gRPC and ext_proc wherever an address is given."""
    names = list(args.profile)
    if not names and (args.url or args.list):
        names = ["openai", "gateway" if engine == "gateway" else f"engine/{engine}"] if engine else ["openai"]
        names = names[1:] if engine == "anthropic" else names  # it speaks Messages, nothing of OpenAI's
        if engine == "auto":
            names = list(cases.MODULES)
    names += ["grpc"] if args.grpc else []
    names += ["epp"] if args.ext_proc else []
    return [cases.profile(name) for name in dict.fromkeys(names)]


def _only_like_openai(setup: Setup) -> bool:
    """Whether it speaks OpenAI's API without being OpenAI: then nothing is asked that only OpenAI itself does."""
    named = any(name.startswith(_OPENAIS) for name in setup.models)
    return setup.engine == "openai" and not named and not setup.address.host.endswith("openai.com")


def _deviations(profiles: Sequence[Profile]) -> dict[str, str]:
    """Those of the engine's own profile; where a gateway's or none is asked for, nothing is forgiven."""
    found: dict[str, str] = {}
    for profile in profiles:
        found |= profile.deviations
    return {} if any(profile.name == "gateway" for profile in profiles) else found


def _told(setup: Setup, args: argparse.Namespace) -> str:
    version = f" {setup.version}" if setup.version else ""
    return f"{setup.engine}{version} at {_url_of(setup, args)}, model {setup.model!r}"


def _url_of(setup: Setup, args: argparse.Namespace) -> str:
    where = setup.address if args.url else setup.grpc or setup.ext_proc or setup.address
    return where.origin + where.root


def suite_version() -> str:
    try:
        return version("infer-gateway")
    except PackageNotFoundError:
        return "unknown"
