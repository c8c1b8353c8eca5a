"""Finished requests on their way to a collector: OpenTelemetry's SDK queues and sends them, in a thread. (IO)

Invariant: `Pipeline.add` never waits. What is kept for a collector that is slow or away is bounded; what is lost is
counted, and told of now and then. Nothing that a request holds can keep another's spans from being sent.

Needs the extra ``otel``; imported only where traces are wanted.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway import __version__, spans
from gateway.trace import SAMPLED

if TYPE_CHECKING:
    from gateway.otlp_session import Session

_log: Final = logging.getLogger("infer_gateway.tracing")
_PROVIDERS: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)
_SCOPE: Final = InstrumentationScope("infer-gateway", __version__)
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_ANY: Final = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(SAMPLED))
_QUEUE: Final = ("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
_BATCH: Final = 128
_DELAY_MS: Final = ("OTEL_BSP_SCHEDULE_DELAY", 5000)
_AT_ONCE: Final = 4
_PAUSE_S: Final = 20e-6
_SELDOM_S: Final = 60.0


class Queued(ReadableSpan):
    """A finished request as the SDK's queue holds it; it is taken apart in the thread that sends. ``offset``: what
    makes its times seconds since the epoch.
    """

    def __init__(self, followed: spans.Followed, offset: float) -> None:
        self._context = _ANY  # all that a processor looks at
        self.followed = followed
        self.offset = offset


class Pipeline:
    """One collector's. ``endpoint`` None, and whatever ``fields`` lack: as the environment says. ``dropped`` counts
    requests whose spans were not sent.
    """

    def __init__(self, endpoint: str | None, fields: Mapping[str, str], timeout: float | None, service: str) -> None:
        """Raises ValueError where the environment asks for what cannot be."""
        self._heard = _quiet()
        session = _session()
        sender = OTLPSpanExporter(endpoint=endpoint, headers=dict(fields), timeout=timeout, session=session)
        self._queue = queue = _number(*_QUEUE)
        self._added = self._overflown = 0
        self._told = -math.inf
        self._collector = _collector(endpoint, os.environ)
        self._out = _Out(sender, _resource(service), self._heard, self._collector, session)
        self._processor = BatchSpanProcessor(
            self._out, queue, _number(*_DELAY_MS), max_export_batch_size=min(_BATCH, queue)
        )

    @property
    def dropped(self) -> int:
        return self._overflown + self._out.lost

    @property
    def waiting(self) -> int:
        """Requests that nobody has begun to send."""
        return self._added - self._out.taken

    def add(self, followed: spans.Followed, offset: float) -> None:
        if self.waiting >= self._queue:
            self._overflow()
        else:
            self._added += 1
            self._processor.on_end(Queued(followed, offset))

    def _overflow(self) -> None:
        self._overflown += 1
        now = time.monotonic()
        if now - self._told >= _SELDOM_S:
            self._told = now
            _log.warning("traces are lost: more requests are followed than %s takes", self._collector)

    def close(self) -> None:
        """Send what is left and end. Blocks, as long as the collector takes."""
        shutdown: Callable[[], None] = self._processor.shutdown
        shutdown()


class _Out(SpanExporter):
    """What the SDK's thread sends by. Its counters are written by that thread alone."""

    def __init__(
        self, sender: SpanExporter, resource: Resource, heard: _Heard, collector: str, session: Session | None = None
    ) -> None:
        self.taken = self.lost = 0
        self._collector = collector
        self._sender = sender
        self._resource = resource
        self._heard = heard
        self._session = session
        self._failing = False

    def export(self, queued: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(queued)
        self._heard.first = ""
        made = _Unhurried()
        for one in queued:
            if isinstance(one, Queued):
                made.extend(_made(one, self._resource))
                time.sleep(_PAUSE_S)
        result = self._sender.export(made)
        self._told(result is SpanExportResult.SUCCESS, len(queued))
        return result

    def _told(self, sent: bool, requests: int) -> None:
        if not sent:
            self.lost += requests
            if not self._failing:
                why = (self._session and self._session.fault) or self._heard.first or "no reason given"
                _log.error("traces cannot be sent to %s, they are lost: %s", self._collector, why)
        elif self._failing:
            _log.warning("traces are sent again; those of %d requests were lost", self.lost)
        self._failing = not sent

    def shutdown(self) -> None:
        self._sender.shutdown()


class _Unhurried(list[ReadableSpan]):
    """Whoever goes through it lets the thread that serves requests go first, every few spans: Python would have it
    wait for 5 ms.
    """

    def __iter__(self) -> Iterator[ReadableSpan]:
        for index, span in enumerate(super().__iter__()):
            if index % _AT_ONCE == 0:
                time.sleep(_PAUSE_S)
            yield span


def _made(queued: Queued, resource: Resource) -> list[ReadableSpan]:
    """A request's spans as the SDK has them."""
    trace, offset = queued.followed.trace, queued.offset
    state = TraceState.from_header([trace.state.decode("ascii", "replace")]) if trace.state else None
    flags = TraceFlags(trace.flags)

    def context(span_id: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(trace.trace_id, span_id, remote, flags, state)

    return [
        ReadableSpan(
            span.name,
            context(span.span_id),
            context(span.parent_id, remote=span.kind == "server") if span.parent_id else None,
            resource,
            span.attributes,
            [Event(name, None, _nanoseconds(at + offset)) for name, at in span.events],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=_nanoseconds(span.started + offset),
            end_time=_nanoseconds(span.ended + offset),
            instrumentation_scope=_SCOPE,
        )
        for span in spans.of(queued.followed)
    ]


def _session() -> Session | None:
    """None where the environment names a provider of sessions."""
    if any(os.environ.get(name) for name in _PROVIDERS):
        return None
    from gateway.otlp_session import Session

    return Session()


def _collector(endpoint: str | None, environment: Mapping[str, str]) -> str:
    """Where traces go, without what may be a credential."""
    given = endpoint or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318").rstrip("/")
    parts = urlsplit(given or f"{base}/v1/traces")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _number(name: str, default: int) -> int:
    """A whole number above zero from the environment; the SDK would end the process over another."""
    given = os.environ.get(name, "").strip()
    return int(given) if given.isascii() and given.isdigit() and int(given) > 0 else default


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _resource(service: str) -> Resource:
    """Who we are: ``service`` where it is given, the environment's word, or our own name."""
    attributes = {"service.version": __version__} | ({SERVICE_NAME: service} if service else {})
    resource = Resource.create(attributes)
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "infer-gateway"}))
    return resource


class _Heard(logging.Handler):
    """The first thing the SDK complained of, for our own line about it: it would have many, and its last word is that
    it has tried enough.
    """

    first = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()[:500]


_ears: Final = _Heard(logging.WARNING)


def _quiet() -> _Heard:
    """The SDK logs nothing by itself from now on."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.setLevel(logging.WARNING)  # whatever the gateway itself is to log
    if _ears not in logger.handlers:
        logger.addHandler(_ears)
    return _ears
