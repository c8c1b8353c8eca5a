"""``infer-gateway simulate``: its options, and the process that serves one engine until it is told to stop. (IO)"""

from __future__ import annotations

import argparse
import math
import signal
import sys

import trio

from conformance.engines.rates import PERIOD_S
from conformance.engines.serve import ENGINES, Served, build, serve_engine
from conformance.engines.settings import Settings, release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``simulate``. Times in seconds."""
    parser.add_argument("engine", metavar="ENGINE", choices=tuple(ENGINES), help=", ".join(ENGINES))
    parser.add_argument("--host", default="127.0.0.1", help="where it listens")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="0 picks a free one (default)")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="served model; repeatable")
    parser.add_argument("--lora", action="append", default=[], metavar="NAME", help="loaded LoRA; repeatable")
    parser.add_argument("--api-key", default="", metavar="KEY", help="demand this key")
    parser.add_argument("--engine-version", type=_version, default="", metavar="V", help="behave like this release")
    parser.add_argument("--fail", action="append", default=[], metavar="SPEC", help="KIND[:ARG][@SELECTOR]; repeatable")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of texts and of faults by chance")
    _add_pace(parser)
    _add_sizes(parser)


def _add_pace(parser: argparse.ArgumentParser) -> None:
    pace = parser.add_argument_group("speed")
    pace.add_argument("--ttft", type=_time, default=0.0, metavar="S", help="added to every prefill")
    pace.add_argument("--itl", type=_time, default=0.0, metavar="S", help="one decode step; 0 is as fast as it goes")
    pace.add_argument(
        "--itl-growth", type=_time, default=0.0, metavar="S", help="more per further sequence in the step"
    )
    pace.add_argument("--prefill-rate", type=_rate, default=math.inf, metavar="TOK/S", help="tokens per second")
    pace.add_argument(
        "--chunk-tokens", type=_count, default=0, metavar="N", help="prefill in chunks: prompts slow decoding down"
    )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_argument_group("size")
    sizes.add_argument("--kv-blocks", type=_count, default=8192, metavar="N", help="of its cache")
    sizes.add_argument("--block-size", type=_count, default=16, metavar="N", help="tokens per block")
    sizes.add_argument("--max-running", type=_count, default=256, metavar="N", help="sequences in a batch")
    sizes.add_argument("--max-queued", type=int, default=None, metavar="N", help="waiting requests; unset: no limit")
    sizes.add_argument("--max-model-len", type=int, default=0, metavar="N", help="longest prompt and answer together")

    limits = parser.add_argument_group("limits of providers")
    limits.add_argument("--rate-limit-requests", type=_count, default=0, metavar="N", help="further ones get a 429")
    limits.add_argument("--rate-limit-tokens", type=_count, default=0, metavar="N", help="prompts and answers together")
    limits.add_argument("--rate-limit-period", type=_period, default=PERIOD_S, metavar="S", help="60 unless told")


def settings(args: argparse.Namespace) -> Settings:
    return Settings(
        models=tuple(args.model),
        loras=tuple(args.lora),
        api_key=args.api_key,
        version=args.engine_version,
        fail=tuple(args.fail),
        seed=args.seed,
        instance=f"{args.host}:{args.port}",
        ttft=args.ttft,
        itl=args.itl,
        itl_growth=args.itl_growth,
        prefill_rate=args.prefill_rate,
        chunk_tokens=args.chunk_tokens,
        kv_blocks=args.kv_blocks,
        block_size=args.block_size,
        max_running=args.max_running,
        max_queued=args.max_queued,
        max_model_len=args.max_model_len,
        rate_limit_requests=args.rate_limit_requests,
        rate_limit_tokens=args.rate_limit_tokens,
        rate_limit_period=args.rate_limit_period,
    )


def run(args: argparse.Namespace) -> int:
    """The process: `main` on a fresh event loop."""
    return trio.run(main, args)


async def main(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Exit codes: 0 stopped, 2 bad usage, 3 cannot bind."""
    wanted = settings(args)
    try:
        build(args.engine, wanted)
    except ValueError as error:
        _complain(error)
        return 2
    code = 0
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            try:
                served: Served = await nursery.start(serve_engine, args.engine, wanted, args.host, args.port)
            except OSError as error:
                _complain(error)
                code = 3
            else:
                sys.stdout.write(f"ready http={served}\n")
                sys.stdout.flush()
                await signals.__anext__()
            nursery.cancel_scope.cancel()
    return code


def _complain(error: Exception) -> None:
    sys.stderr.write(f"infer-gateway simulate: {error}\n")


def _port(value: str) -> int:
    port = int(value)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return port


def _version(value: str) -> str:
    if value and not release(value):
        raise argparse.ArgumentTypeError(f"{value!r} is no version; one looks like 0.11.2")
    return value


def _time(value: str) -> float:
    seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError("a time in seconds is wanted")
    return seconds


def _period(value: str) -> float:
    seconds = _time(value)
    if not seconds:
        raise argparse.ArgumentTypeError("a time above 0 is wanted")
    return seconds


def _rate(value: str) -> float:
    rate = float(value)
    if not rate > 0:
        raise argparse.ArgumentTypeError("a positive rate is wanted")
    return rate


def _count(value: str) -> int:
    count = int(value)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1 is wanted")
    return count
