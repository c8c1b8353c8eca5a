"""Requests on their way to a collector that takes them, is slow, says nonsense, is away, and comes back."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from gateway.meter import Record
from gateway.otlp import Pipeline, _collector, _Out, _quiet
from gateway.spans import Followed
from gateway.trace import Context, Trace
from tests.process import eventually
from tests.whole.collector import Collector, collector

OFFSET = 1_700_000_000.0


@pytest.fixture
def collecting() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture
def pipeline(collecting: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    made = Pipeline(f"{collecting.url}/v1/traces", {"authorization": "Bearer x"}, 0.3, "")
    yield made
    made.close()


def followed(name: str = "r") -> Followed:
    ids = iter(range(10, 1000))
    trace = Trace(Context(7, 8, 3, b"a=b"), 7, True, lambda _: next(ids))
    step = trace.step("attempt", 1.0)
    step.ended, step.events = 2.5, (("first token", 2.0),)
    return Followed(trace, Record(id=name, operation="/v1/chat/completions", started=1.0, ended=3.0), "m", "/")


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What we log; what the SDK does reaches nobody but this fixture."""
    return [record for record in caplog.records if record.name == "infer_gateway.tracing"]


def test_what_a_collector_gets(collecting: Collector, pipeline: Pipeline) -> None:
    pipeline.add(followed(), OFFSET)
    own, attempt = collecting.request("r")
    assert (own.trace, own.parent, own.state, own.kind) == (f"{7:032x}", f"{8:016x}", "a=b", "server")
    assert (attempt.kind, attempt.events) == ("client", ["first token"])
    assert (own.started, own.ended) == (int((OFFSET + 1) * 1e9), int((OFFSET + 3) * 1e9))
    assert (own.resource["service.name"], collecting.headers[0]["authorization"]) == ("infer-gateway", "Bearer x")
    assert (pipeline.dropped, pipeline.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("service", "environment", "name"),
    [
        ("mine", {"OTEL_SERVICE_NAME": "theirs"}, "mine"),
        ("", {"OTEL_SERVICE_NAME": "theirs"}, "theirs"),
        ("", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=other,team=t"}, "other"),
    ],
)
def test_what_we_are_called(
    collecting: Collector, monkeypatch: pytest.MonkeyPatch, service: str, environment: dict[str, str], name: str
) -> None:
    for variable, value in {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url}.items():
        monkeypatch.setenv(variable, value)
    made = Pipeline(None, {}, None, service)
    made.add(followed(), OFFSET)
    made.close()
    (own, _) = collecting.request("r")
    assert own.resource["service.name"] == name


def test_a_slow_collector_costs_traces_and_nothing_else(
    collecting: Collector, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    collecting.released.clear()
    for _ in range(50):
        pipeline.add(followed(), OFFSET)
    assert pipeline.waiting <= 4
    assert 42 <= pipeline.dropped <= 50
    (line,) = told(caplog)
    assert line.getMessage() == f"traces are lost: more requests are followed than {collecting.url}/v1/traces takes"


@pytest.mark.parametrize("status", [400, 503])
def test_a_collector_that_fails_is_told_of_once_each_way(
    collecting: Collector, pipeline: Pipeline, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    collecting.status, collecting.body = status, b"\xffgarbage"
    for lost in (1, 2):
        pipeline.add(followed(), OFFSET)
        assert eventually(lambda lost=lost: pipeline.dropped == lost)
    collecting.status = 200
    pipeline.add(followed("good"), OFFSET)
    collecting.request("good")
    assert eventually(lambda: len(told(caplog)) == 2), caplog.messages
    assert [record.levelno for record in told(caplog)] == [logging.ERROR, logging.WARNING]
    assert "2 requests" in told(caplog)[1].getMessage()
    assert pipeline.dropped == 2


def test_a_collector_that_answers_nonsense_has_them(collecting: Collector, pipeline: Pipeline) -> None:
    collecting.body = b"\xff" * 100
    pipeline.add(followed(), OFFSET)
    collecting.request("r")
    assert pipeline.dropped == 0


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1/traces"
    made = Pipeline(url, {}, 0.1, "")
    made.add(followed(), OFFSET)
    assert eventually(lambda: made.dropped == 1)
    made.close()
    assert [record.levelno for record in told(caplog)] == [logging.ERROR]
    (message,) = [record.getMessage() for record in told(caplog)]
    assert message.startswith(f"traces cannot be sent to {url}, they are lost: ")


def test_no_credential_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of a query nor of a field, whatever is wrong with them."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1/traces"
    for query, fields in (("?key=my-secret", {}), ("", {"authorization": "my-secret\n"}), ("", {"a": "my-secret…"})):
        made = Pipeline(url + query, fields, 0.5, "")
        made.add(followed(), OFFSET)
        assert eventually(lambda made=made: made.waiting == 0)  # type: ignore[misc]
        made.close()
        assert made.dropped == 1
    messages = [record.getMessage() for record in told(caplog)]
    assert ["refused" in messages[0], "InvalidHeader" in messages[1], "Unicode" in messages[2]] == [True] * 3, messages
    assert "my-secret" not in "".join(messages)


class Trying:
    """A sender as the SDK's is: it complains of each attempt, and at last that there were enough."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for said in ("connection refused, retrying", "Failed to export: max retries"):
            logging.getLogger("opentelemetry.exporter").warning(said)
        return SpanExportResult.FAILURE


def test_what_is_told_is_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)  # of the root: the SDK's complaints are warnings
    out = _Out(cast(SpanExporter, Trying()), Resource({}), _quiet(), "there")
    assert out.export([]) is SpanExportResult.FAILURE
    assert [record.getMessage() for record in told(caplog)] == [
        "traces cannot be sent to there, they are lost: connection refused, retrying"
    ]


@pytest.mark.parametrize(
    ("endpoint", "environment", "shown"),
    [
        ("https://us:secret@c:4318/v1/traces?key=secret", {}, "https://c:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://us:secret@c/in"}, "http://c/in"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
    ],
)
def test_a_collector_is_named_without_credentials(
    endpoint: str | None, environment: dict[str, str], shown: str
) -> None:
    assert _collector(endpoint, environment) == shown


@pytest.mark.parametrize("value", ["0", "-1", "x", "١", ""])
def test_numbers_that_make_no_sense(collecting: Collector, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", value)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", value)
    made = Pipeline(f"{collecting.url}/v1/traces", {}, None, "")
    made.add(followed(), OFFSET)
    made.close()
    assert len(collecting.spans) == 2
