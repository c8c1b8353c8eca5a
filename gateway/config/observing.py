"""Sections of a GatewayConfiguration on what is told of requests: the access log, traces. (P)"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gateway.config.decode import Duration, Section

Share = Annotated[float, Meta(ge=0, le=1)]


class AccessLog(Section, frozen=True):
    """A line a finished request. ``requests``: of those that failed by a server's fault (errors), of all, or of none
    (off). ``format``: one JSON object, or text for people. ``file``: appended there, "": to stderr.
    """

    requests: Literal["off", "errors", "all"] = "errors"
    format: Literal["json", "text"] = "json"
    file: str = ""


class Tracing(Section, frozen=True):
    """Spans by OpenTelemetry's protocol over HTTP (OTLP); needs the extra ``otel``.

    ``enabled``: unset where ``endpoint`` decides, or OTEL_EXPORTER_OTLP_ENDPOINT in the environment. ``endpoint``: a
    collector's URL without path, as in that variable. ``headers_file``: lines of ``name=value``, such as credentials
    for the collector. ``sample_ratio``: the share of those requests that come without a trace; others are followed if
    their caller's span is. ``content``: prompts and answers go into spans. ``service_name``: what spans say they are
    from. ``timeout``: of one export.
    """

    enabled: bool | None = None
    endpoint: str = ""
    headers_file: str = ""
    sample_ratio: Share = 1.0
    content: bool = False
    service_name: str = "infer-gateway"
    timeout: Duration = Duration(10)
