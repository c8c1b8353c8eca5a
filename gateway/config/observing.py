"""Sections of a GatewayConfiguration on what is told of requests: the access log, traces. (P)"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gateway.config.decode import Duration, Fault, Section
from gateway.config.url import endpoint

Share = Annotated[float, Meta(ge=0, le=1)]


class AccessLog(Section, frozen=True):
    """A line a finished request. ``requests``: of those that failed by a server's fault (errors), of all, or of none
    (off). ``format``: one JSON object, or text for people. ``file``: appended there, "": to stderr.
    """

    requests: Literal["off", "errors", "all"] = "errors"
    format: Literal["json", "text"] = "json"
    file: str = ""


class Tracing(Section, frozen=True):
    """Spans by OpenTelemetry's protocol over HTTP (OTLP); needs the extra ``otel``. What is not set here is taken from
    OpenTelemetry's variables in the environment.

    ``enabled``: unset where ``endpoint`` decides, or OTEL_EXPORTER_OTLP_ENDPOINT in the environment. ``endpoint``: a
    collector's URL without path, as in that variable. ``headers_file``: lines of ``name=value``, such as credentials
    for the collector. ``sample_ratio``: the share of those requests that come without a trace, all by default; others
    are followed if their caller's span is. ``content``: prompts and answers go into spans. ``service_name``: what spans
    say they are from, infer-gateway by default. ``timeout``: of one export, 10 s by default.
    """

    enabled: bool | None = None
    endpoint: str = ""
    headers_file: str = ""
    sample_ratio: Share | None = None
    content: bool = False
    service_name: str = ""
    timeout: Duration | None = None

    def __post_init__(self) -> None:
        if self.endpoint:
            try:
                endpoint(self.endpoint, "otlp", keep_version=True)
            except ValueError as error:
                raise Fault(".endpoint", str(error)) from None
