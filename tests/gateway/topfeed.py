"""A live feed as the gateway sends it, and a server that sends it, or whatever else a test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AT = 1_700_000_000.0


def endpoint(id: str, **members: object) -> dict[str, Any]:
    known = {"pool": "default/llama", "engine": "vllm", "state": "ready", "why": "", "inflight": 3, "running": 12}
    more = {"waiting": 1, "kv": 0.5, "hit": 0.25, "age": 0.1, "rps": 20.5, "tokens_out": 2000.0, "models": ["llama"]}
    return {"id": id, **known, **more, **members}


def target(pool: str, weight: float, share: float | None, model: str | None = None) -> dict[str, Any]:
    return {"pool": pool, "model": model, "weight": weight, "share": share, "rps": 9.0, "errors": 0.0}


def flow(caller: str, **members: object) -> dict[str, Any]:
    known = {"pool": "default/llama", "tenant": "acme", "tier": "free", "queued": 12, "inflight": 20}
    return {"caller": caller, **known, "served": 1e6, "share": 0.75, "fair": 0.5, "wait": 2.5, **members}


def decision(id: str) -> dict[str, Any]:
    load = {"waiting": 0, "running": 2, "kvUsage": 0.16, "ageSeconds": 0.1}
    seen = {"endpoint": "10.0.0.1:8000", "hitTokens": 512, "inFlight": 3, "load": load, "score": -0.2, "scores": {}}
    known = {"model": "llama", "pool": "default/llama", "tried": ["10.0.0.1:8000"], "promptTokens": 600}
    return {"id": id, **known, "ttftSeconds": 0.11, "candidates": [seen, {**seen, "endpoint": "b", "score": -0.3}]}


def state(**members: object) -> dict[str, Any]:
    totals = {"inflight": 37, "queued": 12, "streams": 30, "rps": 123.4, "errors": 0.0, "refused": 1.5}
    more = {"tokens_in": 45678.0, "tokens_out": 12345.6, "ttft_p50": 0.12, "ttft_p90": 0.4, "ttft_p99": 1.3}
    pool = {"name": "default/llama", "saturation": 0.8, "ready": 2, "members": 2, "inflight": 30, "queued": 12}
    figures = {"rps": 100.0, "tokens_out": 10000.0, "ttft_p50": 0.1, "ttft_p99": 1.3, "hit_ratio": 0.6}
    targets = [target("default/llama", 0.9, 0.88), target("default/qwen", 0.1, 0.12, "qwen-2")]
    return {
        "at": AT,
        "uptime": 12345.0,
        "ready": True,
        "draining": False,
        "generation": 4,
        "problems": [],
        "totals": {**totals, **more, "tpot_p50": 0.021, "hit_ratio": 0.61, "connections": {"http": 60, "grpc": 2}},
        "pools": [{**pool, **figures}],
        "endpoints": [endpoint("10.0.0.1:8000"), endpoint("10.0.0.2:8000", kv=0.96)],
        "flows": [flow("batch"), flow("alice", queued=0, share=0.25, wait=None)],
        "flows_left_out": 3,
        "routes": [{"name": "default/chat", "match": "model llama-*", "targets": targets}],
        "decisions": [decision("req-1"), decision("req-2")],
        **members,
    }


def hello(shown: object = None, **members: object) -> dict[str, Any]:
    points = [[AT - 9 + at, 10.0 * at, 0.0, 1.0, 2.0, 0.1, None, at, 0] for at in range(10)]
    whole = {"version": "0.9", "started": 1.0, "interval": 1.0, "history": points}
    return {**whole, "state": state() if shown is None else shown, **members}


def event(name: str, value: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Admin:
    """Says ``first`` to whoever connects, then ``again()`` every ``every`` seconds until `hang_up`, or nothing more.
    ``asked`` holds the requests.
    """

    def __init__(self, first: bytes, again: Callable[[], bytes] | None, every: float) -> None:
        self.first, self.again, self.every = first, again, every
        self.asked: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection, self._over))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, over: threading.Event) -> None:
        with connection:
            try:
                asked = connection.recv(65536)
                self.asked.append(asked)
                connection.sendall(self.first)
                while self.again is not None and not over.wait(self.every):
                    connection.sendall(self.again())
            except OSError:
                return

    def hang_up(self) -> None:
        """End all connections; new ones are served."""
        over, self._over = self._over, threading.Event()
        over.set()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def serving(first: bytes, again: Callable[[], bytes] | None = None, every: float = 0.05) -> Iterator[Admin]:
    admin = Admin(first, again, every)
    accepting = threading.Thread(target=admin.accept)
    accepting.start()
    try:
        yield admin
    finally:
        admin.close()
        accepting.join()
