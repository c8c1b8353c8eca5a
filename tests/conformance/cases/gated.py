"""The gateway as cases meet it: the program before two simulated engines, with keys and a picker. (IO)"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from conformance.suite.case import Case
from conformance.suite.outcome import Result
from conformance.suite.run import Runner
from conformance.suite.target import Setup
from conformance.suite.wire import address
from tests.process import eventually, serve, simulate, together
from tests.whole.fleet import endpoints, pool, settings, written

MODEL = "m"
KEY = "conformance-test-key"
LIMITED = "conformance-limited-key"
FIRST_TOKEN_S = 3


def _key(key: str, tier: str) -> dict[str, str]:
    return {"name": tier, "keySha256": hashlib.sha256(key.encode()).hexdigest(), "tier": tier}


@contextmanager
def gated(directory: Path, kind: str = "vllm") -> Iterator[Setup]:
    """What a command line would name of it, all options given. ``kind``: of the engines."""
    engines = [simulate(kind, MODEL, "--itl", "0.005") for _ in range(2)]
    sections = settings(
        auth={"apiKeys": [_key(KEY, "free"), _key(LIMITED, "limited")]},
        limits=[{"match": {"tier": "limited"}, "requestsPerMinute": 3}],
        health={"consecutiveFailures": 1_000_000},  # engines fail here for hours, and are asked for hours
        timeouts={"firstToken": f"{FIRST_TOKEN_S}s"},
        listeners={"extProc": {"address": "127.0.0.1:0", "healthAddress": "127.0.0.1:0", "steering": True}},
    )
    with together(*engines):
        config = written(directory, pool(MODEL, engines, kind=kind), sections)
        with serve("-c", config) as gateway:
            assert eventually(lambda: all(seen["models"] for seen in endpoints(gateway).values()))
            yield Setup(
                address=address(gateway.url),
                engine="gateway",
                model=MODEL,
                key=KEY,
                behind=tuple(address(engine.url) for engine in engines),
                grpc=address(gateway.ready["grpc"]),
                ext_proc=address(gateway.ready["ext_proc"]),
                extra={"limited_key": LIMITED, "first_token_timeout": str(FIRST_TOKEN_S), "steering": "yes"},
            )


def played(setup: Setup, *cases: Case) -> list[Result]:
    """What the runner says of them."""

    async def run() -> list[Result]:
        return await Runner(setup, {}).run(cases, parallel=4)

    return trio.run(run)
