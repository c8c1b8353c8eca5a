"""An OpenTelemetry collector that keeps what it is sent, or behaves badly. (IO)"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.process import eventually


class Span:
    """``attributes`` as Python has them, ids as they are written; ``parent`` "" for none."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name = span.name
        self.trace = span.trace_id.hex()
        self.id = span.span_id.hex()
        self.parent = span.parent_span_id.hex()
        self.kind = {1: "internal", 2: "server", 3: "client"}[span.kind]
        self.failed = span.status.code == 2
        self.state = span.trace_state
        self.started, self.ended = span.start_time_unix_nano, span.end_time_unix_nano
        self.events = [event.name for event in span.events]
        self.attributes = _plain(span.attributes)
        self.resource = resource

    def __repr__(self) -> str:
        return f"{self.name} {self.id}<{self.parent} {self.attributes}"


class Collector:
    """``status`` is what it answers; while ``hold`` is set it does not answer at all."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.status = 200
        self.body = b""
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        self.released.set()

    @property
    def spans(self) -> list[Span]:
        return [
            Span(span, _plain(part.resource.attributes))
            for body in self.bodies
            for part in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in part.scope_spans
            for span in scope.spans
        ]

    def request(self, name: str = "", count: int = 1) -> list[Span]:
        """The spans of the last request whose own has this request id (or any), children in order of time."""

        def roots() -> list[Span]:
            found = [span for span in self.spans if span.kind == "server"]
            return [span for span in found if not name or span.attributes.get("infer_gateway.request_id") == name]

        assert eventually(lambda: len(roots()) >= count), self.spans
        own = roots()[-1]
        return [own, *sorted((s for s in self.spans if s.parent == own.id), key=lambda span: span.started)]


@contextmanager
def collector(port: int = 0) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collecting.released.wait(30)
            if collecting.status == 200 and self.path == "/v1/traces":
                zipped = self.headers.get("content-encoding") == "gzip"
                collecting.bodies.append(gzip.decompress(body) if zipped else body)
                collecting.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(collecting.status)
            self.send_header("content-length", str(len(collecting.body)))
            self.end_headers()
            self.wfile.write(collecting.body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Who was kept waiting may have gone."""

    with Server(("127.0.0.1", port), Handler) as server:
        collecting = Collector(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield collecting
        finally:
            collecting.released.set()
            server.shutdown()
            thread.join()


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}
