"""The engine that the example of an adapter is for: repeats what it heard, word by word."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.process import ROOT

EXAMPLE = ROOT / "examples" / "adapter"


class Parrot(BaseHTTPRequestHandler):
    """``GET /birds``, ``GET /feathers``, ``POST /talk``; says "enough" to whoever sends the word."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/birds":
            self._say(200, {"birds": [{"called": "polly", "remembers": 2048}]})
        elif self.path == "/feathers":
            self._send(200, "text/plain", b"parrot_talking 0\nparrot_waiting 0\n")
        else:
            self._say(404, {"squawk": "no such perch"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        heard = " ".join(line["says"] for line in asked["lines"])
        words = heard.split()
        if set(asked) - {"bird", "lines", "most", "whims", "live"} or "enough" in words:
            return self._say(429, {"squawk": "enough!"})
        said = words[: asked.get("most", len(words))]
        end = {"heard": len(words), "said": len(said), "fell": "asleep" if len(said) < len(words) else "silent"}
        if not asked["live"]:
            return self._say(200, {"says": " ".join(said), **end})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for index, word in enumerate(said):
            self._event({"says": word if not index else f" {word}"})
        if "choke" in words:
            return self._event({"squawk": "a nut went down the wrong way"})
        return self._event(end)

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: %b\n\n" % json.dumps(event).encode())
        self.wfile.flush()
        time.sleep(0.001)
        self.close_connection = True

    def _say(self, status: int, document: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def install(site: Path) -> None:
    """The example's module in ``site``, and what its pyproject makes an installer write down."""
    (site / "parrot.py").write_text((EXAMPLE / "parrot.py").read_text())
    info = site / "infer_gateway_parrot-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: infer-gateway-parrot\nVersion: 1.0\n")
    points = re.search(r'entry-points\."([\w.]+)"\]\n(\w+) = "([\w.:]+)"', (EXAMPLE / "pyproject.toml").read_text())
    assert points is not None
    (info / "entry_points.txt").write_text("[{}]\n{} = {}\n".format(*points.groups()))


@contextmanager
def perched() -> Iterator[str]:
    """One such engine; its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
