"""Which requests are followed, and where what is known of them goes when they are over: the `ports.Tracer`. (IO)

Invariant: a request that is not followed costs two ids and a header; one that is, a place in a queue. Nothing here
waits for a collector.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from gateway.config.document import ConfigError
from gateway.config.observing import Tracing as Settings
from gateway.meter import Record
from gateway.spans import Followed
from gateway.trace import Sampling, Trace, parse
from gateway.types import Headers, InferenceRequest

if TYPE_CHECKING:
    from gateway.otlp import Pipeline

FLUSH_S: Final = 3.0
_CONTENT_MAX: Final = 256 * 1024
"""Bytes of a request whose content is looked at; of one that is larger nothing is shown."""
_CONTENT_WAITING: Final = 64
"""Requests with content that may wait to be sent; of more only their figures are."""
_MISSING: Final = "tracing needs OpenTelemetry's SDK and exporter: pip install 'infer-gateway[otel]'"
_SAMPLERS: Final = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}
"""OTEL_TRACES_SAMPLER: whether a caller's word counts; the ratio, None for that of OTEL_TRACES_SAMPLER_ARG."""


class Follower:
    """The `ports.Tracer`. ``wall`` is seconds since the epoch; ``sampling`` and ``content`` may change at any time."""

    def __init__(self, pipeline: Pipeline, sampling: Sampling, *, content: bool, wall: Callable[[], float]) -> None:
        self.pipeline = pipeline
        self.sampling = sampling
        self.content = content
        self._wall = wall
        self._getrandbits = random.Random().getrandbits

    def begin(self, request: InferenceRequest, now: float, /) -> Trace:
        trace = self._begun(request.headers)
        if trace.sampled:
            trace.request = request
        return trace

    def _begun(self, headers: Headers) -> Trace:
        parent = parse(headers)
        trace_id = self._random(128) if parent is None else parent.trace_id
        sampled = self.sampling.wanted(parent, trace_id)
        return Trace(parent, trace_id, sampled, self._random, sampled and self.content)

    def end(self, trace: Trace, record: Record, /) -> None:
        request, trace.request = trace.request, None
        followed = Followed(trace, record)
        if request is not None:
            followed = Followed(trace, record, request.model[:256], request.path[:1024], self._body(trace, request))
        self.pipeline.add(followed, self._wall() - trio.current_time())

    def _body(self, trace: Trace, request: InferenceRequest) -> bytes:
        """What is shown of it; less, and nothing of its answer, where too many wait with theirs."""
        if not trace.content:
            return b""
        if self.pipeline.waiting >= _CONTENT_WAITING:
            trace.content, trace.said = False, bytearray()
        return request.body if trace.content and len(request.body) <= _CONTENT_MAX else b""

    def refused(self, headers: Headers, record: Record) -> Record:
        """Of a request that was refused before it was a call; followed if its caller is, and the record says so."""
        trace = self._begun(headers)
        if trace.sampled and trace.parent is not None:
            record = msgspec.structs.replace(record, trace_id=trace.id, sampled=True)
            self.end(trace, record)
        return record

    def _random(self, bits: int) -> int:
        return self._getrandbits(bits) or 1


class Tracing:
    """Traces as they are configured. ``tracer`` is None where nobody asks for them; ``warnings`` say why not, where
    that is not what was meant.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, wall: Callable[[], float] = time.time) -> None:
        self.tracer: Follower | None = None
        self.warnings: tuple[str, ...] = ()
        self._environment = environment
        self._wall = wall
        self._key: object = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Requests whose spans were lost so far."""
        return self._dropped + (0 if self.tracer is None else self.tracer.pipeline.dropped)

    def check(self, settings: Settings) -> None:
        """Raises ConfigError where they cannot be put in force."""
        if not self._wanted(settings):
            return
        fields(settings.headers_file)
        if not _installed() and (settings.enabled or settings.endpoint):
            raise ConfigError([_MISSING])

    def refused(self, headers: Headers, record: Record) -> Record:
        """What is known of a request that was refused before it was a call, with its trace."""
        return record if self.tracer is None else self.tracer.refused(headers, record)

    def apply(self, settings: Settings) -> None:
        """Put them in force; what is queued for where traces went before is sent there. Never waits."""
        self.warnings = ()
        wanted = self._wanted(settings)
        if wanted and not _installed():
            wanted, self.warnings = False, (_MISSING,)
        former = self.tracer
        try:
            headers = fields(settings.headers_file) if wanted else {}
        except ConfigError as error:  # it was there when it was checked
            self.warnings = tuple(error.problems)
            return
        key = (settings.endpoint, headers, settings.timeout, settings.service_name) if wanted else None
        if former is not None and key == self._key:
            former.sampling, former.content = self._sampling(settings), settings.content
        else:
            self.tracer = self._follower(settings, headers) if wanted else None
        self._key = key
        if former is not None and former is not self.tracer:
            self._dropped += former.pipeline.dropped
            threading.Thread(target=former.pipeline.close, daemon=True).start()

    async def close(self) -> None:
        """Send what is left, if that can be done in `FLUSH_S`."""
        if self.tracer is not None:
            with trio.move_on_after(FLUSH_S, shield=True):
                await trio.to_thread.run_sync(self.tracer.pipeline.close, abandon_on_cancel=True)

    def _wanted(self, settings: Settings) -> bool:
        environment = self._environment
        if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return False
        if settings.enabled is not None:
            return settings.enabled
        if settings.endpoint:
            return True
        if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
            return False
        names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        return any(environment.get(name) for name in names)

    def _follower(self, settings: Settings, headers: Mapping[str, str]) -> Follower | None:
        from gateway.otlp import Pipeline

        endpoint = f"{settings.endpoint.rstrip('/')}/v1/traces" if settings.endpoint else None
        try:
            pipeline = Pipeline(endpoint, headers, settings.timeout, settings.service_name)
        except (ValueError, RuntimeError, OSError) as error:  # a variable of the environment
            self.warnings = (f"no traces: {error}",)
            return None
        return Follower(pipeline, self._sampling(settings), content=settings.content, wall=self._wall)

    def _sampling(self, settings: Settings) -> Sampling:
        if settings.sample_ratio is not None:
            return Sampling.of(settings.sample_ratio)
        name = self._environment.get("OTEL_TRACES_SAMPLER", "").strip().lower()
        by_parent, ratio = _SAMPLERS.get(name, (True, 1.0))
        return Sampling.of(_ratio(self._environment) if ratio is None else ratio, by_parent=by_parent)


def fields(path: str) -> dict[str, str]:
    """Header fields as a file says them, a ``name=value`` a line. Raises ConfigError."""
    if not path:
        return {}
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError([f"tracing.headersFile: cannot read {path}: {error}"]) from error
    found = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.partition("=")
        if not equals and line.strip():
            raise ConfigError([f"tracing.headersFile: {path}: line {number} is not name=value"])
        if equals:
            found[name.strip().lower()] = value.strip()
    return found


def _ratio(environment: Mapping[str, str]) -> float:
    """As the SDK has it: 1 where the argument makes no sense."""
    try:
        ratio = float(environment.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:
        return 1.0
    return ratio if 0 <= ratio <= 1 else 1.0


def _installed() -> bool:
    try:
        import gateway.otlp  # noqa: F401
    except ImportError:
        return False
    return True
