"""What becomes of requests when there are far more than can be served: of engines' slots, of the gateway's core. (IO)

An open loop sends 1, 2, 5 and 10 times what was served at most, and takes each time from when a request was due. The
gateway has core 0; engines and load share the other one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fronts import canned_engine
from processes import ENGINE_CORE, FRONT_CORE, LOAD_CORE, ROOT, Program, pin

PROGRAM = [sys.executable, "-m", "gateway.cli"]
ANY = [word for name in ("http", "grpc", "admin") for word in (f"--{name}", "127.0.0.1:0")]
HEAD = {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration", "accessLog": {"requests": "off"}}
TIMES = (1, 2, 5, 10)
SLOTS, ANSWER_TOKENS, STEP_S = 8, 20, 0.02


def load(url: str, *options: str, seconds: float) -> dict[str, Any]:
    """What the load generator says."""
    argv = [
        *PROGRAM,
        "bench",
        "--url",
        url,
        "--model",
        "m",
        "--json",
        "-",
        "--allow-errors",
        "--no-progress",
        "--no-usage",
    ]
    argv += ["--duration", str(seconds), "--warmup", "1.5", "--drain", "5", *options]
    done = subprocess.run(pin(LOAD_CORE, argv), cwd=ROOT, stdout=subprocess.PIPE, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@contextlib.contextmanager
def gateway(folder: Path, backends: list[str], **sections: object) -> Iterator[tuple[str, Program]]:
    """Its URL."""
    config = folder / "overload.yaml"
    config.write_text(json.dumps({**HEAD, **sections}))
    backing = [word for url in backends for word in ("--backend", f"vllm={url}")]
    with Program("gateway", [*PROGRAM, "serve", *ANY, "-c", str(config), *backing], FRONT_CORE) as program:
        yield f"http://{program.word('http')}", program


def stepped(url: str, program: Program, peak: float, seconds: float, *options: str) -> list[dict[str, float]]:
    """At each multiple of ``peak``: rates a second, times in milliseconds, the share of the gateway's core."""
    found = []
    for times in TIMES:
        before = program.cpu_s()
        told = load(url, "--rate", f"{times * peak:.1f}", *options, seconds=seconds)
        used = program.cpu_s() - before
        found.append(
            {
                "times": times,
                "rate": times * peak,
                "served_per_s": told["requests_per_s"],
                "refused_per_s": told["failed_per_s"],
                "refused_p99_ms": 1000 * (told["refused_s"].get("p99") or 0.0),
                "ttft_p50_ms": 1000 * (told["ttft_s"].get("p50") or 0.0),
                "ttft_p99_ms": 1000 * (told["ttft_s"].get("p99") or 0.0),
                "late_p99_ms": 1000 * (told["late_s"].get("p99") or 0.0),
                "cores": used / (seconds + 2.0),
                "other_errors": sum(n for kind, n in told["errors"].items() if kind != "http_503"),
            }
        )
    return found


def engines(folder: Path, seconds: float) -> list[dict[str, float]]:
    """Two engines of eight slots; whoever would wait for longer than two seconds is refused."""
    argv = [
        *PROGRAM,
        "simulate",
        "vllm",
        "--port",
        "0",
        "--model",
        "m",
        "--itl",
        str(STEP_S),
        "--max-running",
        str(SLOTS),
    ]
    with contextlib.ExitStack() as stack:
        urls = [f"http://{stack.enter_context(Program('engine', argv, ENGINE_CORE)).word('http')}" for _ in range(2)]
        url, program = stack.enter_context(gateway(folder, urls, fairness={"enabled": True, "queueTimeout": "2s"}))
        asked = ("--max-tokens", str(ANSWER_TOKENS))
        peak = load(url, "--connections", str(4 * SLOTS), *asked, seconds=seconds)["requests_per_s"]
        return stepped(url, program, peak, seconds, *asked)


def core(folder: Path, seconds: float) -> list[dict[str, float]]:
    """Prompts of 8,000 tokens for an engine that answers at once: reading and placing them is the gateway's work."""
    asked = ("--no-stream", "--max-tokens", "16", "--prompt-tokens", "8000")
    with canned_engine(folder) as port:
        backend = [f"http://127.0.0.1:{port}"]
        with gateway(folder, backend, listeners={"maxLateness": "0"}) as (url, _):
            peak = load(url, "--connections", "16", *asked, seconds=seconds)["requests_per_s"]
        with gateway(folder, backend) as (url, program):
            return stepped(url, program, peak, seconds, *asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--only", choices=("engines", "core"), help="one of the two")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        found = {}
        if args.only != "core":
            found["engines"] = engines(folder, args.seconds)
        if args.only != "engines":
            found["core"] = core(folder, args.seconds)
    if args.json:
        print(json.dumps(found))
        return
    for what, rows in found.items():
        for row in rows:
            print(what, {name: round(value, 2) for name, value in row.items()})


if __name__ == "__main__":
    main()
