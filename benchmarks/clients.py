"""The load of the benchmarks: the cheapest client there is, and what it measured in one shape. (IO)

Invariant: a figure says which client took it; the load never runs on the core of the thing measured.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from processes import LOAD_CORE, ROOT, Failed, pin

_WRK_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"m","messages":[{"role":"user","content":"Hello there, tell me a story."}],"max_tokens":16}'
"""


@dataclass(frozen=True)
class Load:
    """One measurement: rates per second, gaps in seconds."""

    client: str
    answers_per_s: float
    events_per_s: float
    errors: int
    gap_p50_s: float = 0.0
    gap_p99_s: float = 0.0
    gap_max_s: float = 0.0


class Clients:
    """Picks a client for each kind of load: wrk or load.c where they can be had, else the project's own in Python."""

    def __init__(self, binary: Path | None, folder: Path) -> None:
        self.binary = binary
        self._wrk = shutil.which("wrk")
        self._script = folder / "post.lua"
        self._script.write_text(_WRK_SCRIPT)

    def plain(self, port: int, connections: int, seconds: float) -> Load:
        """Small chat completions, not streamed."""
        if self._wrk:
            return self._run_wrk(port, connections, seconds)
        return self.stream(port, connections, seconds, tokens=0)

    def stream(self, port: int, connections: int, seconds: float, *, tokens: int, warmup: float = 0.5) -> Load:
        """Streams of ``tokens`` each, one after another on each connection; 0 for plain answers."""
        if self.binary:
            argv = [str(self.binary), str(port), str(connections), str(seconds), str(warmup), str(tokens), "m"]
            got = json.loads(_output(argv))
            fields = ("answers_per_s", "events_per_s", "gap_p50_s", "gap_p99_s", "gap_max_s")
            errors = got["refused"] + got["broken"]
            return Load("load.c", errors=errors, **{field: got[field] for field in fields})
        return self._run_python(port, connections, seconds, tokens, warmup)

    def _run_wrk(self, port: int, connections: int, seconds: float) -> Load:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        argv = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(self._script), url]
        text = _output([self._wrk or "wrk", *argv])
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        if rate is None:
            raise Failed(f"wrk said:\n{text}")
        bad = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
        bad += sum(int(count) for line in re.findall(r"Socket errors:.*", text) for count in re.findall(r"\d+", line))
        return Load("wrk", float(rate[1]), 0.0, bad)

    def _run_python(self, port: int, connections: int, seconds: float, tokens: int, warmup: float) -> Load:
        url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "conformance.load", "--url", url, "--model", "m", "--json", "-", "--allow-errors"]
        argv += ["--connections", str(connections), "--duration", str(seconds), "--warmup", str(warmup), "--drain", "0"]
        argv += ["--max-tokens", str(tokens)] if tokens else ["--no-stream", "--max-tokens", "16"]
        got = json.loads(_output(argv))
        itl = got["itl_s"]
        return Load(
            "infer-gateway bench",
            got["requests_per_s"],
            got["events_per_s"],
            got["requests"]["failed"],
            itl.get("p50", 0.0),
            itl.get("p99", 0.0),
            itl.get("max", 0.0),
        )


def _output(argv: list[str]) -> str:
    """What a client printed."""
    done = subprocess.run(pin(LOAD_CORE, argv), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
