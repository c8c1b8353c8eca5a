"""Print what it costs a request to be counted, logged and traced, in microseconds: each by itself, and together. (IO)

Run it as `python benchmarks/observing.py`; it asserts nothing, as times depend on the machine. `--sink` is a collector
that forgets what it is sent, for whoever measures a whole gateway.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource

from gateway import otlp
from gateway.access_log import AccessLog
from gateway.config.observing import AccessLog as LogSettings
from gateway.meter import Record, Totals
from gateway.spans import Followed
from gateway.trace import Sampling, Trace
from gateway.tracing import Follower
from gateway.types import InferenceRequest, Operation

NUMBER, ROUNDS = 20_000, 7
PARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-%b")
NAMES = (b"host", b"user-agent", b"accept", b"content-type", b"content-length", b"authorization", b"x-request-id")
FIELDS = tuple((name, b"x" * 12) for name in NAMES)
RECORD = Record(
    model="m", pool="default/m", endpoint="10.0.0.1:8000", operation=Operation.CHAT, stream=True, started=1.0,
    ended=3.0, ttft_s=0.2, tokens_in=500, tokens_out=100, attempts=1, user="ann", id="req-0123456789abcdef",
    tenant="acme", tier="gold", route="default/m", queue_s=0.0, engine="vllm", sampled=True,
    trace_id="0af7651916cd43dd8448eb211c80319c",
)  # fmt: skip


class Kept:
    """A pipeline that has room for ever."""

    waiting = dropped = 0

    def add(self, followed: Followed, offset: float) -> None:
        self.last = otlp.Queued(followed, offset)


class Parts:
    """What a request goes through, apart from being served."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._errors = AccessLog(LogSettings(requests="errors"))
        self._all = AccessLog(LogSettings(requests="all", file="/dev/null"))
        self._follower = Follower(Kept(), Sampling.of(0.0), content=False, wall=time.time)  # type: ignore[arg-type]
        self._request = InferenceRequest("r", Operation.CHAT, "m", b"{}", FIELDS)
        self._out, self._in = (
            msgspec.structs.replace(self._request, headers=(*FIELDS, (PARENT[0], PARENT[1] % flags)))
            for flags in (b"00", b"01")
        )

    def metrics(self) -> None:
        totals = self._totals
        totals.decided("default/m", 2e-5, 500.0, 300.0)
        totals.attempted("default/m", "10.0.0.1:8000", "ok")
        totals.finished(RECORD)

    def log_errors(self) -> None:
        self._errors.log(RECORD)

    def log_all(self) -> None:
        self._all.log(RECORD)
        self._all.journal.lines._lines.clear()  # as if a thread had written it

    def sampled_out(self) -> None:
        self._begun(self._request)

    def sampled_out_by_its_caller(self) -> None:
        self._begun(self._out)

    def sampled_in(self) -> None:
        trace = self._begun(self._in)
        self._follower.end(trace, RECORD)

    def together(self) -> None:
        self.metrics()
        self.log_errors()
        self.sampled_out()

    def _begun(self, request: InferenceRequest) -> Trace:
        """As calls and attempts do it."""
        trace = self._follower.begin(request, 1.0)
        step = None
        if trace.sampled:
            schedule = trace.step("schedule", trio.current_time())
            schedule.attributes["infer_gateway.pool"] = "default/m"
            step = trace.step("attempt", trio.current_time())
            step.attributes |= {"server.address": "10.0.0.1", "server.port": 8000, "gen_ai.request.model": "m"}
            step.ended = trio.current_time()
        headers = trace.headers(request.headers, step)
        if headers is not request.headers:
            msgspec.structs.replace(request, headers=headers)
        assert trace.id
        return trace

    def sent(self) -> None:
        """What the thread that sends does for each request that is sampled."""
        encode_spans(otlp._made(self._queued, Resource({}))).SerializeToString()

    def prepare(self) -> None:
        self.sampled_in()
        pipeline = self._follower.pipeline
        assert isinstance(pipeline, Kept)
        self._queued = pipeline.last


def took(part: Callable[[], None], number: int = NUMBER) -> float:
    """Microseconds, of the best round: whatever is more was somebody else's."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(number):
            part()
        rounds.append((time.perf_counter() - began) / number * 1e6)
    return min(rounds)


async def measured() -> dict[str, float]:
    parts = Parts()
    parts.prepare()
    nothing = took(lambda: None)
    return {
        "metrics": took(parts.metrics) - nothing,
        "access log, errors only": took(parts.log_errors) - nothing,
        "access log, all requests": took(parts.log_all) - nothing,
        "trace, sampled out": took(parts.sampled_out) - nothing,
        "trace, sampled out by its caller": took(parts.sampled_out_by_its_caller) - nothing,
        "trace, sampled": took(parts.sampled_in) - nothing,
        "trace, sampled: in the thread that sends": took(parts.sent, NUMBER // 20) - nothing,
        "metrics, access log, sampled out": took(parts.together) - nothing,
    }


def sink() -> None:
    """Take what comes, on a port of the system's choosing, until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(f"ready http=127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sink", action="store_true")
    args = parser.parse_args()
    if args.sink:
        sink()
        return
    said = trio.run(measured)
    if args.json:
        print(json.dumps(said))
        return
    for what, value in said.items():
        print(f"{what:<44} {value:8.2f} µs")


if __name__ == "__main__":
    main()
