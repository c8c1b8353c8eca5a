"""Traces of a gateway as a user runs it, as a collector gets them."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from conformance.cases.epp import messages as epp
from protocols.grpc.generated.upb import inference as pb
from tests.process import ANY_PORT, InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.collector import Collector, Span, collector
from tests.whole.fleet import CHAT, pool, settings, written
from tests.whole.played import PlayedEngine, chunk, whole

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEY = "key-of-ann"
SESAME = "open-sesame"
"""What is asked, and must not be told."""
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
_numbers = itertools.count()


class Stage(NamedTuple):
    """``played`` are endpoints of the model `p`, in the order in which they are tried; `m` has a simulated engine."""

    gateway: InferGateway
    collector: Collector
    played: tuple[PlayedEngine, ...] = ()


def sampled(flags: str = "01") -> str:
    return f"traceparent: 00-{TRACE}-{PARENT}-{flags}"


def traced(config: str, *arguments: str, **environment: str) -> InferGateway:
    gateway = InferGateway("serve", *ANY_PORT, "-c", config, *arguments)
    gateway._environment = {**SOON, **environment}
    return gateway


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    played = (PlayedEngine(), PlayedEngine())
    with collector() as collecting, simulate("vllm", "m", "--ttft", "0.01", "--itl", "0.001") as engine:
        key = {"name": "ann", "tenant": "acme", "keySha256": hashlib.sha256(KEY.encode()).hexdigest()}
        sections = settings(
            tracing={"endpoint": collecting.url, "sampleRatio": 0},
            auth={"apiKeys": [key], "required": False},
            fairness={"enabled": True},
            health={"consecutiveFailures": 1_000_000},
        )
        config = written(
            tmp_path_factory.mktemp("traced"),
            sections,
            pool("m", [engine]),
            pool("p", played),  # type: ignore[arg-type]
        )
        with together(gateway := traced(config, "--ext-proc", "127.0.0.1:0")):
            yield Stage(gateway, collecting, played)


def ask(stage: Stage, model: str, *headers: str, **more: Any) -> tuple[raw.Answer, str]:
    """The answer, and the id that the request has in traces."""
    name = f"r-{next(_numbers)}"
    with raw.connect(stage.gateway.address) as client:
        client.sendall(question(model, name, *headers, **more))
        answer = raw.Reader(client).answer()
    assert answer is not None
    return answer, name


def question(model: str, name: str, *headers: str, **more: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": SESAME}], "max_tokens": 5, **more}
    return raw.post(CHAT, body, f"x-request-id: {name}", f"authorization: Bearer {KEY}", *headers)


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


def test_a_stream_from_its_caller_to_the_first_token(stage: Stage) -> None:
    answer, name = ask(stage, "m", sampled(), "tracestate: vendor=1", stream=True)
    assert answer.status == 200
    own, queue, schedule, attempt = spans = stage.collector.request(name)
    assert names(spans) == ["chat m", "queue", "schedule", "attempt"]
    assert {span.trace for span in spans} == {TRACE}
    assert {span.state for span in spans} == {"vendor=1"}
    assert own.parent == PARENT
    assert [queue.parent, schedule.parent, attempt.parent] == [own.id] * 3
    assert [span.kind for span in spans] == ["server", "internal", "internal", "client"]
    assert own.started <= queue.started <= schedule.started <= attempt.started <= attempt.ended <= own.ended
    assert attempt.events == ["first token"]
    assert own.attributes["gen_ai.usage.output_tokens"] == 5
    assert own.attributes["infer_gateway.tenant"] == "acme"
    assert 0 < own.attributes["gen_ai.response.time_to_first_chunk"] < 60
    assert abs(own.started / 1e9 - time.time()) < 600


def test_a_failover_is_two_attempts_and_engines_are_told_of_theirs(stage: Stage) -> None:
    name = f"r-{next(_numbers)}"
    with raw.connect(stage.gateway.address) as client:
        client.sendall(question("p", name, sampled("03")))
        told = []
        for status, body in ((503, b"{}"), (200, whole())):
            with next_call(stage) as call:
                told.append(call.headers["traceparent"])
                call.answer(status, body)
        assert raw.Reader(client).answer().status == 200
    own, *steps = stage.collector.request(name)
    attempts = [step for step in steps if step.name == "attempt"]
    assert told == [f"00-{TRACE}-{attempt.id}-03" for attempt in attempts]
    assert [attempt.failed for attempt in attempts] == [True, False]
    assert [attempt.attributes.get("error.type") for attempt in attempts] == ["upstream_error", None]
    assert [attempt.attributes["http.response.status_code"] for attempt in attempts] == [503, 200]
    assert {f"127.0.0.1:{attempt.attributes['server.port']}" for attempt in attempts} == {
        played.url.removeprefix("http://") for played in stage.played
    }
    assert (own.failed, own.attributes["infer_gateway.attempts"]) == (False, 2)


def next_call(stage: Stage) -> Any:
    assert eventually(lambda: any(played.called for played in stage.played))
    return next(played for played in stage.played if played.called).call()


def test_an_error_and_a_client_that_goes(stage: Stage) -> None:
    for fails in (True, False):
        name = f"r-{next(_numbers)}"
        with raw.connect(stage.gateway.address) as client:
            client.sendall(question("p", name, sampled(), stream=True))
            with next_call(stage) as call:
                call.stream(chunk({"content": "one"}))
                assert client.recv(1) == b"H"
                if fails:
                    call.close()
                    while client.recv(65536):
                        pass
                else:
                    client.close()
                    assert eventually(lambda call=call: call.hung_up)
        own = stage.collector.request(name)[0]
        expected = ("upstream_error", True) if fails else ("client_gone", False)
        assert (own.attributes["infer_gateway.reason"], own.failed) == expected


@pytest.mark.parametrize(
    ("headers", "more", "status"),
    [(["authorization: Bearer wrong"], {}, 401), ([], {"messages": 7}, 400), ([], {"model": "x" * 1_000_000}, 404)],
)
def test_who_is_refused(stage: Stage, headers: list[str], more: Any, status: int) -> None:
    name = f"r-{next(_numbers)}"
    body = {"model": "m", "messages": [{"role": "user", "content": SESAME}], **more}
    answer = raw.exchange(stage.gateway.address, raw.post(CHAT, body, f"x-request-id: {name}", sampled(), *headers))
    assert answer is not None
    assert answer.status == status
    (own,) = stage.collector.request(name)
    assert (own.attributes["http.response.status_code"], own.failed, own.parent) == (status, False, PARENT)
    assert len(own.attributes.get("gen_ai.request.model", "")) <= 256


@pytest.mark.parametrize("header", [sampled("00"), "traceparent: nonsense", "x-no: trace"])
def test_who_is_sampled_out_is_sent_nowhere(stage: Stage, header: str) -> None:
    _, first = ask(stage, "m", header)
    raw.exchange(stage.gateway.address, raw.post(CHAT, b"{", "x-request-id: broken", header))
    _, last = ask(stage, "m", sampled())
    stage.collector.request(last)
    ids = {span.attributes.get("infer_gateway.request_id") for span in stage.collector.spans}
    assert ids.isdisjoint({first, "broken"})


def test_a_caller_by_grpc(stage: Stage) -> None:
    message = pb.CreateChatCompletionRequest(
        model="m", messages=[pb.ChatMessage(role="user", text=SESAME)], max_tokens=2
    )
    with grpc.insecure_channel(stage.gateway.ready["grpc"]) as channel:
        call = channel.unary_unary(
            "/inference.v1.InferenceService/CreateChatCompletion",
            request_serializer=lambda it: it.SerializeToString(),
            response_deserializer=pb.CreateChatCompletionResponse.FromString,
        )
        name, value = sampled().split(": ")
        call(message, timeout=30, metadata=[(name, value), ("x-request-id", "by-grpc")])
        with pytest.raises(grpc.RpcError):
            call(pb.CreateChatCompletionRequest(model="m"), metadata=[(name, value), ("x-request-id", "empty")])
    own, *steps = stage.collector.request("by-grpc")
    assert (own.trace, own.parent, own.attributes["rpc.system.name"]) == (TRACE, PARENT, "grpc")
    assert names(steps) == ["queue", "schedule", "attempt"]
    assert stage.collector.request("empty")[0].attributes["infer_gateway.status"] == 400


def test_a_caller_by_a_proxy(stage: Stage) -> None:
    name, value = sampled().split(": ")
    fields = [(":method", "POST"), (":path", CHAT), (name, value), ("x-request-id", "by-proxy")]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": SESAME}]}).encode()
    answered = [epp.headers("response", [(":status", "200")]), epp.body("response", whole(), end=True)]
    said = [epp.headers("request", fields), epp.body("request", body, end=True), *answered]
    with grpc.insecure_channel(stage.gateway.ready["ext_proc"]) as channel:
        call = channel.stream_stream(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            request_serializer=lambda it: it.SerializeToString(),
            response_deserializer=lambda data: data,
        )
        list(call(iter(said), timeout=30))
    own, *steps = stage.collector.request("by-proxy")
    assert (own.trace, own.parent, own.attributes["infer_gateway.protocol"]) == (TRACE, PARENT, "ext_proc")
    assert steps[-1].attributes["http.response.status_code"] == 200


def test_nothing_that_was_said_and_no_secret_was_sent(stage: Stage) -> None:
    _, name = ask(stage, "m", sampled())
    stage.collector.request(name)
    sent = b"".join(stage.collector.bodies)
    assert name.encode() in sent
    assert SESAME.encode() not in sent
    assert KEY.encode() not in sent


# -- how it is switched on, and what collectors do ------------------------------------------------------------------


def unused() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_from_a_collector_that_is_away_to_another(tmp_path: Path) -> None:
    """Requests do not notice; the log says so once; after a reload the other one gets what is asked of it."""
    with collector() as collecting, simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.001") as engine:
        away = {"endpoint": f"http://127.0.0.1:{unused()}", "timeout": "50ms"}
        config = written(tmp_path, settings(tracing=away), pool("m", [engine]))
        with traced(config) as gateway:
            stage = Stage(gateway, collecting)
            for _ in range(5):
                assert ask(stage, "m")[0].status == 200
            assert eventually(lambda: "traces cannot be sent" in gateway.stderr)
            found = {"endpoint": collecting.url, "content": True, "serviceName": "front"}
            written(tmp_path, settings(tracing=found), pool("m", [engine]))
            gateway.signal(signal.SIGHUP)
            assert eventually(lambda: "configuration reloaded" in gateway.stderr)
            _, name = ask(stage, "m")
            own = collecting.request(name)[0]
            assert own.resource["service.name"] == "front"
            assert SESAME in own.attributes["gen_ai.input.messages"]
            assert json.loads(own.attributes["gen_ai.output.messages"])[0]["role"] == "assistant"
            assert gateway.stderr.count("traces cannot be sent") == 1
            assert "opentelemetry" not in gateway.stderr


def test_by_the_environment_alone_and_what_is_left_at_the_end(tmp_path: Path) -> None:
    with collector() as collecting, simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.001") as engine:
        gateway = serve("--backend", f"vllm={engine.url}")
        gateway._environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url, "OTEL_SERVICE_NAME": "env"}
        with gateway:  # whose batches take 5 s to fill
            stage = Stage(gateway, collecting)
            _, name = ask(stage, "m")
            assert not collecting.bodies
        assert collecting.request(name)[0].resource["service.name"] == "env"


def test_without_the_extra(tmp_path: Path) -> None:
    """As if it were not installed."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('no such thing')")
    config = written(tmp_path, settings(tracing={"enabled": True}))
    wanted = traced(config, PYTHONPATH=str(tmp_path))
    wanted.start()
    assert wanted.wait() == 1
    assert "pip install 'infer-gateway[otel]'" in wanted.stderr
    wanted.close()
    told = traced(written(tmp_path, settings()), PYTHONPATH=str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT="http://c")
    with told:
        assert "pip install 'infer-gateway[otel]'" in told.stderr
