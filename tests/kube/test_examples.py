"""The examples for Kubernetes: objects that Kubernetes takes, and roles that grant what is needed and no more."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.document import Document
from gateway.config.load import load
from tests.kube.cluster import Cluster, Tree, pod, secret, service
from tests.kube.fleet import CHAT, engine, shared_port
from tests.process import ANY_PORT, ROOT, Program, eventually, together

EXAMPLES = ROOT / "examples" / "kubernetes"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
GOOD = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs"), "Ready": ("True", "Ready")}


def objects(name: str, *kinds: str) -> list[Tree]:
    """Those of a file; of some kinds only."""
    found = list(yaml.safe_load_all((EXAMPLES / name).read_text()))
    return [tree for tree in found if not kinds or tree["kind"] in kinds]


def rights(trees: Iterable[Tree]) -> Iterator[Tree]:
    """The rules of roles, each for where it grants."""
    for tree in trees:
        of = {"namespace": tree["metadata"]["namespace"]} if tree["kind"] == "Role" else {}
        if tree["kind"] in ("Role", "ClusterRole"):
            yield from (rule | of for rule in tree["rules"])


@pytest.fixture
def port() -> int:
    return shared_port()


@pytest.fixture
def cluster(port: int) -> Iterator[Cluster]:
    """Two pods of one model, and the namespaces."""
    hosts = ("127.0.1.1", "127.0.1.2")
    with Cluster(namespace="models") as cluster, together(*(engine(host, port, model=MODEL) for host in hosts)):
        for name in ("models", "infer-gateway"):
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for n, host in enumerate(hosts):
            cluster.create(pod(f"llama-{n}", host, {"app": "llama"}, port, namespace="models"))
        yield cluster


def following(cluster: Cluster, deployment: Tree) -> Program:
    """What the Deployment runs, listening elsewhere."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    own = ("--http", "--grpc", "--admin", "--ext-proc")
    words = [word for word in container["args"] if word.partition("=")[0] not in own]
    words += [*ANY_PORT, "--kubeconfig", str(cluster.kubeconfig)]
    if any(word.startswith("--ext-proc=") for word in container["args"]):
        words += ["--ext-proc", "127.0.0.1:0"]
    named = {"POD_NAME": "replica-1", "POD_NAMESPACE": deployment["metadata"]["namespace"]}
    return Program("-m", "gateway.cli", *words, environment=named)


def forbidden(cluster: Cluster) -> list[str]:
    """What was asked and not granted."""
    return [f"{each['verb']} {each['resource']}" for each in cluster.requests() if each["code"] == 403]


def asked(gateway: Program, model: str, host: str = "localhost") -> int:
    """The status of a chat."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=20)
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    try:
        connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json", "host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def serving(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, suppress(grpc.RpcError):
        asking = health_pb2.HealthCheckRequest(service="envoy.service.ext_proc.v3.ExternalProcessor")
        answer = health_pb2_grpc.HealthStub(channel).Check(asking, timeout=5)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_what_kubernetes_defines_is_as_it_defines_it(path: Path) -> None:
    custom = ("networking.serving", "inference.networking", "gateway.networking")
    for tree in objects(path.name):
        if not tree["apiVersion"].startswith(custom):
            kubernetes_validate.validate(tree, "1.28", strict=True)


@pytest.mark.parametrize("name", ["gateway.yaml", "picker.yaml"])
def test_the_configuration_is_one(name: str) -> None:
    (tree,) = objects(name, "ConfigMap")
    snapshot = load([Document(name, 1, tree)], kubernetes=True)
    assert snapshot.settings.auth.required is False
    assert (snapshot.warnings, snapshot.inert) == ((), ())


def test_models_are_served_by_the_rights_that_the_roles_give(cluster: Cluster, port: int) -> None:
    server, provider, route = objects("models.yaml", "ModelServer", "ExternalModelProvider", "ModelRoute")
    server["spec"]["workloadPort"]["port"] = port
    key = secret("openai", {"api-key": "sk"}, "models")
    cluster.create(*objects("gateway.yaml", "ConfigMap"), server, provider, route, key)
    cluster.allow(rights([*objects("gateway.yaml"), *objects("models.yaml")]))
    with following(cluster, *objects("gateway.yaml", "Deployment")) as gateway:
        assert eventually(lambda: asked(gateway, "llama") == 200)
        assert eventually(lambda: all(GOOD.items() <= cluster.conditions(o).items() for o in (server, provider, route)))
        cluster.patch(route, {"spec": {"rules": [{"targetModels": [{"modelServerName": "lama"}]}]}})
        assert eventually(lambda: bool(cluster.list("events.k8s.io/v1", "Event", "models")))
        assert not forbidden(cluster)


def test_a_pool_is_served_as_gateway_api_has_it(cluster: Cluster, port: int) -> None:
    *others, pool, route = objects("inference-pool.yaml")
    pool["spec"]["targetPorts"][0]["number"] = port
    cluster.create(*objects("gateway.yaml", "ConfigMap"), *others, pool, route)
    cluster.allow(rights(objects("gateway.yaml")))
    with following(cluster, *objects("gateway.yaml", "Deployment")) as gateway:
        assert eventually(lambda: asked(gateway, MODEL, "llama.example.com") == 200)
        assert eventually(lambda: bool(cluster.get(route).get("status") and cluster.get(pool).get("status")))
        assert not forbidden(cluster)


def test_a_picker_needs_no_more_than_its_namespace(cluster: Cluster, port: int) -> None:
    (pool,) = objects("picker.yaml", "InferencePool")
    pool["spec"]["targetPorts"][0]["number"] = port
    (settings,), health = objects("picker.yaml", "ConfigMap"), shared_port()
    text = settings["data"]["gatewayConfiguration"]
    settings["data"]["gatewayConfiguration"] = text.replace("0.0.0.0:9003", f"127.0.0.1:{health}")
    cluster.create(settings, pool, service("llama-picker", 9002, namespace="models"))
    cluster.allow(rights(objects("picker.yaml")))
    with following(cluster, *objects("picker.yaml", "Deployment")):
        assert eventually(lambda: serving(health))
        assert eventually(lambda: bool(cluster.list("coordination.k8s.io/v1", "Lease", "models")))
        off = ("gateways", "gatewayclasses", "httproutes", "referencegrants", "services", "model", "externalmodel")
        assert all(each.removeprefix("list ").startswith(off) for each in forbidden(cluster)), forbidden(cluster)
