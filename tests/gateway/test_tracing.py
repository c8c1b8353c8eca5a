"""What is followed of requests that go through the walk, under virtual time; and how tracing is switched on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import trio

from adapters import registry
from gateway import tracing
from gateway.config.decode import Decoder
from gateway.config.document import ConfigError
from gateway.config.observing import Tracing as Settings
from gateway.errors import Unauthorized, Unsupported, UpstreamError
from gateway.observe import refusal
from gateway.route import Target
from gateway.spans import Followed, Span, of
from gateway.trace import Context, Sampling, parse
from gateway.tracing import Follower, Tracing
from gateway.types import ANONYMOUS, Endpoint, Headers, InferenceRequest, Operation, UpstreamRequest
from protocols.openai.parse import parse as parse_openai
from tests.gateway.scripted import A, B, C, FakeExchange, World, run

ID, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


def fields(flags: int = 1) -> Headers:
    return [(b"traceparent", b"00-%032x-%016x-%02x" % (ID, SPAN, flags)), (b"tracestate", b"a=b"), (b"accept", b"x")]


class Kept:
    """A pipeline that keeps what it gets."""

    waiting = dropped = 0

    def __init__(self) -> None:
        self.followed: list[Followed] = []

    def add(self, followed: Followed, offset: float) -> None:
        assert offset == 1000.0 - trio.current_time()
        self.followed.append(followed)

    @property
    def spans(self) -> list[Span]:
        return of(self.followed[-1])


class Traced(World):
    """A world that is followed; ``sent`` are the fields that each endpoint got of each request."""

    def __init__(self, *args: Any, ratio: float = 1.0, content: bool = False, **more: Any) -> None:
        super().__init__(*args, **more)
        self.kept = Kept()
        self.gateway.tracer = Follower(
            self.kept,
            Sampling.of(ratio),
            content=content,
            wall=lambda: 1000.0,  # type: ignore[arg-type]
        )
        self.sent: list[Headers] = []
        encode, send = self.adapter.encode, self.transport.send

        def noting(request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
            return msgspec.structs.replace(encode(request, endpoint, model), extra=request.headers)

        def sending(endpoint: Endpoint, request: UpstreamRequest, /) -> Any:
            self.sent.append(request.extra)
            return send(endpoint, request)

        self.adapter.encode = noting  # type: ignore[method-assign]
        self.transport.send = sending  # type: ignore[method-assign]


def asking(headers: Headers, **more: Any) -> FakeExchange:
    exchange = FakeExchange(**more)
    exchange.request = msgspec.structs.replace(exchange.request, headers=headers)
    return exchange


def test_each_endpoint_that_is_tried_is_told_of_an_attempt_of_its_own() -> None:
    async def scenario() -> None:
        full = UpstreamError("full", status=503, retryable=True)
        world = Traced({A: [(200, [full])], B: [(503, [b"no"])], C: [(200, [b"role", 1.0, b"one", 1.0, b"two!"])]})
        world.prefer(A)
        assert (await world.ask(asking(fields())))[-1] == "END"
        own, *steps = world.kept.spans
        attempts = [step for step in steps if step.name == "attempt"]
        assert [step.name for step in steps] == ["schedule", "attempt", "attempt", "schedule", "attempt"]
        contexts = [parse(sent) for sent in world.sent]
        assert contexts == [Context(ID, attempt.span_id, 1, b"a=b") for attempt in attempts]
        assert all((b"accept", b"x") in sent for sent in world.sent)
        assert own.parent_id == SPAN
        assert {step.parent_id for step in steps} == {own.span_id}
        assert [(step.error, step.attributes["http.response.status_code"]) for step in attempts] == [
            ("upstream_error", 200), ("upstream_error", 503), ("", 200),
        ]  # fmt: skip
        assert [step.events for step in attempts] == [(), (), (("first token", 1.0),)]
        assert (own.started, own.ended, own.error) == (0.0, 2.0, "")
        assert own.attributes["infer_gateway.attempts"] == 3
        assert world.records[0].trace_id == f"{ID:032x}"
        assert world.records[0].sampled

    run(scenario)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_new_trace_begins_here(sampled: bool, raw: bool) -> None:
    async def scenario() -> None:
        world = Traced({C: [(200, [b"one!"])]}, ratio=float(sampled))
        headers = [(b"traceparent", b"nonsense"), (b"tracestate", b"a=b")]
        request = UpstreamRequest(b"PUT", b"/any", extra=headers) if raw else None
        await world.gateway.serve(asking(headers), Target("q"), request)
        found = parse(world.sent[0])
        assert found is not None
        assert (found.sampled, found.state) == (sampled, b"")
        assert world.records[0].trace_id == f"{found.trace_id:032x}"
        assert len(world.kept.followed) == sampled
        if sampled:
            assert [span.span_id for span in world.kept.spans if span.name == "attempt"] == [found.span_id]
            assert world.kept.followed[0].trace.method == ("PUT" if raw else "POST")

    run(scenario)


@pytest.mark.parametrize("raw", [False, True])
def test_who_is_sampled_out_keeps_its_fields(raw: bool) -> None:
    async def scenario() -> None:
        world = Traced({C: [(200, [b"one!"])]})
        request = UpstreamRequest(b"GET", b"/any", extra=fields(0)) if raw else None
        await world.gateway.serve(asking(fields(0)), Target("q"), request)
        assert world.sent == [fields(0)]
        assert not world.kept.followed
        assert world.records[0].trace_id == f"{ID:032x}"
        assert not world.records[0].sampled

    run(scenario)


def test_without_tracing_fields_pass_as_they_are() -> None:
    async def scenario() -> None:
        world = Traced({C: [(200, [b"one!"])]})
        world.gateway.tracer = None
        odd = [(b"traceparent", b"odd")]
        await world.gateway.serve(asking(odd), Target("q"))
        assert world.sent == [odd]
        assert world.records[0].trace_id == ""

    run(scenario)


def test_a_client_that_leaves() -> None:
    async def scenario() -> None:
        world = Traced({A: [(200, [b"one", None])], B: [(200, [b"one", None])]})
        with trio.move_on_after(3):
            await world.ask(asking(fields()))
        own, *steps = world.kept.spans
        assert (own.attributes["infer_gateway.reason"], own.error) == ("client_gone", "")
        assert (steps[-1].error, steps[-1].ended) == ("", 3.0)

    run(scenario)


def test_nobody_to_ask() -> None:
    async def scenario() -> None:
        world = Traced({})
        assert await world.ask(asking(fields(), model="picky")) == ["FAIL 400 unsupported_parameter"]
        own = world.kept.spans[0]
        assert (own.attributes["http.response.status_code"], own.error) == (400, "")
        assert own.attributes["infer_gateway.reason"] == Unsupported.reason

    run(scenario)


@pytest.mark.parametrize("content", [False, True])
def test_content_only_where_it_is_wanted(content: bool) -> None:
    async def scenario() -> None:
        said = b'data: {"choices":[{"index":0,"delta":{"content":"it opens"}}]}\n\n!'
        world = Traced({C: [(200, [said])]}, content=content)
        body = b'{"messages":[{"role":"user","content":"open sesame"}]}'
        await world.gateway.serve(asking(fields(), body=body), Target("q"))
        shown = repr(world.kept.followed[0]) + repr(world.kept.spans)
        assert ("sesame" in shown, "it opens" in shown) == (content, content)
        assert world.kept.followed[0].trace.request is None

    run(scenario)


def test_content_is_let_go_where_too_much_waits() -> None:
    async def scenario() -> None:
        world = Traced({C: [(200, [b"said!"])]}, content=True)
        world.kept.waiting = 64
        await world.gateway.serve(asking(fields(), body=b'{"prompt":"sesame"}'), Target("q"))
        followed = world.kept.followed[0]
        assert (followed.body, followed.trace.said) == (b"", b"")

    run(scenario)


def test_who_is_refused_is_followed_if_its_caller_is() -> None:
    async def scenario() -> None:
        world = Traced({})
        follower = world.gateway.tracer
        assert isinstance(follower, Follower)
        error = Unauthorized("who are you?")
        record = refusal(Operation.CHAT, error, "r", ANONYMOUS, "http", trio.current_time())
        assert follower.refused((), record) is follower.refused(fields(0), record) is record
        assert not world.kept.followed
        told = follower.refused(fields(), record)
        assert (told.trace_id, told.sampled) == (f"{ID:032x}", True)
        (own,) = world.kept.spans
        assert (own.parent_id, own.attributes["http.response.status_code"]) == (SPAN, 401)

    run(scenario)


@pytest.mark.parametrize("name", sorted(registry.load()))
def test_every_engine_is_told(name: str) -> None:
    adapter = registry.load()[name]
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5}'
    request = parse_openai(
        Operation.CHAT,
        body,
        [(b"content-type", b"application/json"), *fields()],
        request_id="r",
        path="/v1/chat/completions",
    )
    sent = adapter.encode(request, Endpoint(name, "http", "h", 1), "m")
    assert parse(sent.extra) == Context(ID, SPAN, 1, b"a=b")


# -- switching it on ---------------------------------------------------------------------------------------------------


class Pipe:
    """Stands for a pipeline; ``made`` are all there were."""

    made: ClassVar[list[Pipe]] = []
    dropped = 0

    def __init__(self, endpoint: str | None, fields: Mapping[str, str], timeout: float | None, service: str) -> None:
        self.what = endpoint, fields, timeout, service
        self.closed = threading.Event()
        self.made.append(self)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> list[Pipe]:
    monkeypatch.setattr("gateway.otlp.Pipeline", Pipe)
    Pipe.made = []
    return Pipe.made


def applied(settings: Settings, **environment: str) -> Tracing:
    made = Tracing(environment)
    made.check(settings)
    made.apply(settings)
    return made


COLLECTOR = "http://c:4318"
TRACES = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": COLLECTOR}
ALL = {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}


@pytest.mark.parametrize(
    ("settings", "environment", "on"),
    [
        ({}, {}, False),
        ({}, ALL, True),
        ({}, TRACES, True),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"endpoint": COLLECTOR}, {}, True),
        ({"enabled": True}, {}, True),
        ({"enabled": False, "endpoint": COLLECTOR}, ALL, False),
        ({}, ALL | {"OTEL_TRACES_EXPORTER": "none"}, False),
        ({}, ALL | {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"enabled": True}, {"OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_when_it_is_on(pipes: Sequence[Pipe], settings: Any, environment: Any, on: bool) -> None:
    made = applied(Settings(**settings), **environment)
    assert (made.tracer is not None, made.warnings, len(pipes)) == (on, (), int(on))


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ({}, {}, Sampling()),
        ({"sample_ratio": 0.25}, {"OTEL_TRACES_SAMPLER": "always_off"}, Sampling.of(0.25)),
        ({}, {"OTEL_TRACES_SAMPLER": "always_off"}, Sampling.of(0.0, by_parent=False)),
        ({}, {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, Sampling.of(0.5)),
        ({}, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, Sampling.of(1, by_parent=False)),
        ({}, {"OTEL_TRACES_SAMPLER": "unheard_of"}, Sampling()),
    ],
)
def test_who_is_sampled(pipes: Sequence[Pipe], settings: Any, environment: Any, expected: Sampling) -> None:
    made = applied(Settings(endpoint=COLLECTOR, **settings), **environment)
    assert made.tracer is not None
    assert made.tracer.sampling == expected


def test_what_changes_while_it_runs(pipes: Sequence[Pipe], tmp_path: Path) -> None:
    made = applied(Settings(endpoint=COLLECTOR))
    first = made.tracer
    made.apply(Settings(endpoint=COLLECTOR, sample_ratio=0.0, content=True))
    assert first is not None
    assert made.tracer is first
    assert (first.sampling, first.content, len(pipes)) == (Sampling.of(0.0), True, 1)

    pipes[0].dropped = 3
    (tmp_path / "fields").write_text("Authorization=Bearer a=b\n\n x-team = t \n")
    made.apply(Settings(endpoint="https://d/base/", headers_file=str(tmp_path / "fields"), service_name="mine"))
    expected = {"authorization": "Bearer a=b", "x-team": "t"}
    assert pipes[1].what == ("https://d/base/v1/traces", expected, None, "mine")
    assert pipes[0].closed.wait(5)
    pipes[1].dropped = 4
    assert made.dropped == 7

    made.apply(Settings())
    assert made.tracer is None
    assert pipes[1].closed.wait(5)
    assert made.dropped == 7


def test_a_file_that_went_after_it_was_checked_changes_nothing(pipes: Sequence[Pipe], tmp_path: Path) -> None:
    made = applied(Settings(endpoint=COLLECTOR))
    former = made.tracer
    made.apply(Settings(endpoint=COLLECTOR, headers_file=str(tmp_path / "gone")))
    assert made.tracer is former
    assert "cannot read" in made.warnings[0]
    assert not pipes[0].closed.is_set()


def test_what_is_left_is_sent_at_the_end_but_not_for_ever(
    pipes: Sequence[Pipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = applied(Settings(endpoint=COLLECTOR))
    trio.run(made.close)
    assert pipes[0].closed.is_set()
    never = threading.Event()
    monkeypatch.setattr(Pipe, "close", lambda self: never.wait())
    monkeypatch.setattr(tracing, "FLUSH_S", 0.01)
    trio.run(made.close)
    never.set()
    trio.run(Tracing({}).close)


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file"), ("a=b\nnonsense secret\n", "line 2 is not name=value")]
)
def test_a_file_of_fields_that_is_none(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "fields"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        Tracing({}).check(Settings(endpoint=COLLECTOR, headers_file=str(path)))
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gateway.otlp", None)
    for settings in (Settings(enabled=True), Settings(endpoint=COLLECTOR)):
        with pytest.raises(ConfigError, match=r"pip install 'infer-gateway\[otel\]'"):
            Tracing({}).check(settings)
    made = applied(Settings(), **ALL)
    assert made.tracer is None
    assert "infer-gateway[otel]" in made.warnings[0]
    assert applied(Settings()).warnings == ()


def test_a_variable_that_makes_no_sense_costs_traces_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "whoever")
    made = applied(Settings(), **os.environ, **ALL)
    assert made.tracer is None
    assert "whoever" in made.warnings[0]


@pytest.mark.parametrize("url", ["c:4318", "ftp://c", "http://u:p@c", "http://c?x=y"])
def test_where_a_collector_cannot_be(url: str) -> None:
    decoder = Decoder()
    decoder.build({"endpoint": url}, Settings)
    assert [problem.startswith("$.endpoint") for problem in map(str, decoder.problems)] == [True]
