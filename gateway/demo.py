"""`infer-gateway demo`: simulated engines and the gateway in front of them, in one process, with no network. (IO)"""

from __future__ import annotations

from typing import Final

import trio

from conformance.engines import Settings, serve_engine
from gateway import app, logs
from gateway.types import Endpoint

ENGINES: Final = (
    ("vllm", Settings(models=("demo-vllm",), loras=("demo-lora",), itl=0.02)),
    ("vllm", Settings(models=("demo-vllm",), loras=("demo-lora",), itl=0.02)),
    ("sglang", Settings(models=("demo-sglang",), itl=0.02)),
    ("tgi", Settings(models=("demo-tgi",), itl=0.02)),
    ("openai", Settings(models=("demo-openai",), itl=0.02)),
)


def run(options: app.Options) -> int:
    """Until told to stop; the exit code."""
    logs.configure(options.log_level, form=options.log_format)
    return trio.run(_main, options)


async def _main(options: app.Options) -> int:
    async with trio.open_nursery() as engines:
        backends: list[Endpoint] = []
        for kind, settings in ENGINES:
            served = await engines.start(serve_engine, kind, settings, "127.0.0.1", 0)
            backends.append(Endpoint(kind, "http", served.host, served.port))
        code = await app.Program(options, backends).main()
        engines.cancel_scope.cancel()
    return code
