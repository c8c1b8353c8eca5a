"""One engine that can be told to fail, behind a gateway that knows who asks: how failures reach SDKs. (IO)"""

from __future__ import annotations

import hashlib
import json
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import pool, settings, state, written

KEY, NARROW_KEY = "sk-ann-0123456789", "sk-bob-0123456789"
"""The one may ask for every model, the other for none that there is."""
ITL_S = 0.01
SAID = 'Grüße, 世界 🌍👩‍👩‍👧 \u2028 é\u0301 \\ "quoted" \n\r end'
"""What is hard to put together from pieces."""


class Troubled(NamedTuple):
    """The engine serves `m`, slowly enough to be caught at it, and has room for prompts of megabytes."""

    engine: InferGateway
    gateway: InferGateway

    @property
    def url(self) -> str:
        return self.gateway.url

    @contextmanager
    def failing(self, *specs: str) -> Iterator[None]:
        """The engine fails as ``specs`` say, in this block."""
        self._fail(specs)
        yield
        self._fail(())

    def _fail(self, specs: tuple[str, ...]) -> None:
        answer = raw.exchange(self.engine.address, raw.post("/sim/fail", {"fail": specs}))
        assert answer is not None
        assert answer.status == 200, answer

    @contextmanager
    def relieved(self) -> Iterator[None]:
        """In this block the engine begins one request that nobody waits for in the end: it stops working for it."""
        before = state(self.engine)
        yield
        assert eventually(lambda: state(self.engine)["aborted"] == before["aborted"] + 1), state(self.engine)
        assert state(self.engine)["running"] == 0


@contextmanager
def troubled(directory: Path) -> Iterator[Troubled]:
    keys = [_key("ann", KEY), _key("bob", NARROW_KEY, "nothing-*")]
    sections = settings(auth={"apiKeys": keys}, health={"consecutiveFailures": 1_000_000})
    slow = ("--itl", str(ITL_S), "--kv-blocks", "70000", "--max-model-len", "1000000")
    with simulate("vllm", "m", *slow) as engine:
        file = written(directory, pool("m", [engine]), sections)
        with together(gateway := serve("-c", file)):
            yield Troubled(engine, gateway)


def _key(name: str, secret: str, *models: str) -> dict[str, object]:
    return {"name": name, "keySha256": hashlib.sha256(secret.encode()).hexdigest(), "models": models}


# --- an engine that cuts what it says into single bytes --------------------------------------------------------------


class _Cutting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    said: list[bytes]

    def do_GET(self) -> None:
        listing = (
            b'{"object": "list", "data": [{"id": "cut", "object": "model", "created": 1, "owned_by": "somebody"}]}'
        )
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(listing)))
        self.end_headers()
        self.wfile.write(listing)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in self.said:
            for byte in event:
                self.wfile.write(b"1\r\n%c\r\n" % byte)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def cutting(said: str) -> Iterator[str]:
    """The URL of an engine that serves `cut` and answers chats by saying this twice, the second time in ASCII.

    Each byte is a chunk and a write of its own.
    """
    texts = (_chunk({"content": said}), _chunk({"content": said}, escaped=True))
    events = (_chunk({"role": "assistant", "content": ""}), *texts, _chunk({}, "stop"), b"[DONE]")
    handler = type("Cutting", (_Cutting,), {"said": [b"data: %b\n\n" % event for event in events]})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _chunk(delta: dict[str, str], finish: str | None = None, *, escaped: bool = False) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "cut"}
    return json.dumps({**about, "choices": [choice]}, ensure_ascii=escaped).encode()
