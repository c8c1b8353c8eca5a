"""A feed of whatever states a test wants, with the page beside it: for fleets that nobody has at hand. (IO)"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import protocols.admin

STATIC = Path(protocols.admin.__file__).parent / "static"
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
STATES = ("ready", "unknown", "slow-start", "half-open", "open", "hung", "down", "draining")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
TOTALS = {
    "inflight": 12, "queued": 3, "streams": 9, "rps": 34.5, "errors": 0.0, "refused": 0.5, "tokens_in": 4.1e4,
    "tokens_out": 8600.0, "ttft_p50": 0.14, "ttft_p90": 0.3, "ttft_p99": 0.5, "tpot_p50": 0.02, "hit_ratio": 0.6,
    "connections": {"http": 3},
}  # fmt: skip

State = dict[str, Any]


def endpoint(number: int, at: float, **more: object) -> State:
    """One that is well, whose figures change with every second."""
    busy = (number * 7 + int(at)) % 16
    made = {
        "id": f"10.0.{number // 64}.{number % 64}:8000", "pool": f"pool-{number % 3}", "engine": "vllm",
        "state": "ready", "why": "", "inflight": busy, "running": busy, "waiting": number % 3, "kv": busy / 16,
        "hit": 0.5, "age": 0.1, "rps": 1.0, "tokens_out": 40.0, "models": ["llama"],
    }  # fmt: skip
    return {**made, **more}


def decision(number: int, **more: object) -> State:
    seen = {"inFlight": 3, "pending": 0, "foreign": 0.0, "load": None, "scores": {"cost": 0.9}, "costSeconds": 0.2}
    ends = [("10.0.0.0:8000", 1024, 0.9), ("10.0.0.3:8000", 0, 0.5)]
    candidates = [
        {**seen, "endpoint": name, "hitTokens": hit, "score": score, "waitSeconds": 0.0, "promptTokensPerSecond": 9000}
        for name, hit, score in ends
    ]
    made = {
        "id": f"req-{number}", "model": "llama", "pool": "pool-0", "profile": "default", "tried": ["10.0.0.0:8000"],
        "promptTokens": 1300, "ttftSeconds": 0.1, "candidates": candidates, "leftOut": {"10.0.0.6:8000": "state"},
    }  # fmt: skip
    return {**made, **more}


def state(endpoints: list[Any], **more: object) -> State:
    names = sorted({str(each["pool"]) for each in endpoints if isinstance(each, dict) and each.get("pool")})
    pools = [
        {"name": name, "saturation": 0.5, "ready": 1, "members": 1, "inflight": 5, "queued": 0, "rps": 3.0}
        for name in names
    ]
    made = {
        "at": time.time(), "uptime": 93.0, "ready": True, "draining": False, "generation": 1, "problems": [],
        "verdict": [], "totals": TOTALS, "pools": pools, "endpoints": endpoints, "flows": [],
        "routes": [], "decisions": [],
    }  # fmt: skip
    return {**made, **more}


def history(points: int = 300) -> list[list[float]]:
    now = time.time()
    return [[now - at, 30.0 + at % 7, at % 3, 4e4, 8e3, 0.1, 0.4, 12, at % 5] for at in range(points, 0, -1)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    made: Callable[[], State]
    config: object
    every: float


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        file = STATIC / ("index.html" if path == "/" else path.removeprefix("/static/"))
        if path == "/api/live":
            self._live()
        elif path == "/api/config":
            self._answer(json.dumps(self.server.config).encode(), "application/json")
        elif path == "/api/decisions":
            self._answer(json.dumps(self.server.made().get("decisions")).encode(), "application/json")
        elif path == "/login":
            self._answer((STATIC / "login.html").read_bytes(), "text/html")
        elif file.parent == STATIC and file.exists():
            self._answer(file.read_bytes(), TYPES[file.suffix])
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", f"{kind}; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def _live(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        hello = {"version": "0.0", "started": 0, "interval": 1.0, "history": history(), "state": self.server.made()}
        name, value = "hello", hello
        try:
            while True:
                self.wfile.write(f"event: {name}\ndata: {json.dumps(value)}\n\n".encode())
                time.sleep(self.server.every)
                name, value = "state", self.server.made()
        except OSError:
            pass  # the page was closed

    def log_message(self, *_: object) -> None: ...


@contextmanager
def served(made: Callable[[], State], *, config: object = None, every: float = 1.0) -> Iterator[str]:
    """The URL of a page whose feed says what ``made`` returns, every so many seconds."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.made, server.config, server.every = made, config or {}, every
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
