"""What a live replay needs around it: simulated engines and gateways as processes on loopback, scaled down. (IO)

Scaled by N, a prompt, an answer, a block, a step's budget and a prefill rate are N times smaller, and a step takes N
times as long. Every time but that of a step stays what it is, at an N-th of the work for this machine.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from conformance.load.client import Broken, Connection, resolve
from conformance.load.workload import Target, message, parse_target
from conformance.replay.policies import PROFILES
from conformance.replay.processes import NotStarted, Program, running
from conformance.replay.scenario import Scenario
from conformance.replay.traces import Request, Trace

MODEL = "replayed"
MOST = 64
_BLOCK = 16
_LEAST_BLOCK = 4  # tokens: a block's text has to hold its id
_READY_S = 30.0
_RANDOM = b"""
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
scheduler:
  plugins:
    Filter: {disabled: ["*"]}
    Score: {enabled: [random]}
"""
CONFIGURATIONS: Mapping[str, bytes] = {"random": _RANDOM, **PROFILES}
"""Policies that a gateway can be configured to follow; the others are for virtual time only."""


class Stage(msgspec.Struct, frozen=True):
    """``gateways`` are where requests go; ``engines`` are theirs."""

    gateways: list[Target]
    engines: list[Program]


def scaled(trace: Trace, scale: int) -> Trace:
    """Every length ``scale`` times shorter, sharing what they shared. Raises ValueError where blocks do not divide."""
    block = trace.block // scale
    if trace.block % scale or block < _LEAST_BLOCK:
        raise ValueError(f"--scale {scale}: blocks of {trace.block} tokens cannot be made so many times smaller")
    return Trace(trace.name, block, tuple(_scaled(request, scale, block) for request in trace.requests))


def _scaled(request: Request, scale: int, block: int) -> Request:
    prompt, output = max(1, request.prompt // scale), max(1, round(request.output / scale))
    blocks = request.blocks[: -(-prompt // block)]
    return msgspec.structs.replace(request, prompt=prompt, output=output, blocks=blocks)


def engine(trace: Trace, scenario: Scenario, index: int, scale: int) -> list[str]:
    """The command of one engine of the scenario. ``trace`` is not scaled."""
    pace = scenario.pace(index)
    block = min(_BLOCK, trace.block // scale)
    options = {
        "model": MODEL,
        "itl": pace.itl * scale,
        "itl-growth": pace.itl_growth * scale,
        "prefill-rate": pace.prefill_rate / scale,
        "chunk-tokens": max(1, pace.chunk // scale),
        "max-running": scenario.max_running,
        "block-size": block,
        "kv-blocks": -(-scenario.blocks(trace) * trace.block // (scale * block)) + 1,
        "max-model-len": trace.longest() + 1,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "conformance.engines", "vllm", *words]


def configuration(scheduler: bytes, scenario: Scenario) -> bytes:
    """The gateway's: a scheduler and the times of the scenario."""
    head = {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration"}
    times = {
        **head,
        "scraping": {"interval": f"{round(scenario.interval * 1000)}ms"},
        "retry": {"attempts": scenario.attempts},
    }
    if scenario.timeout < math.inf:
        times["timeouts"] = {"firstToken": f"{round(scenario.timeout * 1000)}ms"}
    return msgspec.json.encode(times) + b"\n---\n" + scheduler


@asynccontextmanager
async def staged(trace: Trace, scenario: Scenario, scale: int, scheduler: bytes) -> AsyncIterator[Stage]:
    """Engines with empty caches and gateways that know them. Raises NotStarted."""
    commands = [engine(trace, scenario, index, scale) for index in range(scenario.engines)]
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        path = Path(folder) / "gateway.yaml"
        path.write_bytes(configuration(scheduler, scenario))
        async with running(*commands) as engines:
            backends = [word for each in engines for word in ("--backend", f"vllm=http://{each.ready['http']}")]
            serve = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(path), "--log-level", "error"]
            addresses = ["--http", "127.0.0.1:0", "--grpc", "off", "--admin", "127.0.0.1:0"]
            async with running(*[[*serve, *addresses, *backends]] * scenario.gateways) as gateways:
                for each in gateways:
                    await _knows_its_engines(each)
                yield Stage([parse_target(f"http://{each.ready['http']}") for each in gateways], engines)


async def _knows_its_engines(gateway: Program) -> None:
    admin = msgspec.structs.replace(parse_target(f"http://{gateway.ready['admin']}"), prefix="")
    with trio.move_on_after(_READY_S):
        while True:
            if (await fetched(admin, "/readyz"))[0] == 200:
                return
            await trio.sleep(0.05)
    raise NotStarted("a gateway does not find its engines")


async def fetched(target: Target, path: str) -> tuple[int, bytes]:
    """Status and body of one GET. Raises Broken."""
    (address, *_) = await resolve(target.host, target.port, None)
    connection = Connection(address, memoryview(bytearray(1 << 16)))
    parts: list[bytes] = []
    try:
        return await connection.exchange(message(target, "GET", path), parts.append), b"".join(parts)
    finally:
        connection.close()


async def computed(engine: Program) -> int | None:
    """Prompt tokens that were not in its cache; None where it does not answer."""
    target = msgspec.structs.replace(parse_target(f"http://{engine.ready['http']}"), prefix="")
    with trio.move_on_after(2.0):
        try:
            _, page = await fetched(target, "/metrics")
        except Broken:
            return None
        asked, hit = (_counted(page, f"vllm:prefix_cache_{name}_total".encode()) for name in ("queries", "hits"))
        return asked - hit
    return None


def _counted(page: bytes, name: bytes) -> int:
    return sum(int(float(line.rpartition(b" ")[2])) for line in page.splitlines() if line.startswith(name))
