"""kubectl works against the fake API server. (IO)"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.kube.cluster import VOLCANO, Cluster, config_map, inference_pool, model_route, pod, secret, thing

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(tls=True, crds=()) as running:
        yield running


def test_it_gets_tables_and_trees(cluster: Cluster) -> None:
    cluster.create(pod("tabled", "127.0.0.2", {"app": "t"}), inference_pool("tabled", {"app": "t"}))
    lines = cluster.kubectl("get", "pods", "-l", "app=t", "-o", "wide").stdout.split("\n")
    assert lines[0].split() == ["NAME", "READY", "STATUS", "AGE", "IP"]
    assert lines[1].split()[:3] == ["tabled", "True", "Running"]
    assert cluster.kubectl("get", "infpool", "-o", "name").stdout.split() == [
        "inferencepool.inference.networking.k8s.io/tabled"
    ]
    tree = json.loads(cluster.kubectl("get", "pod/tabled", "-o", "json").stdout)
    assert tree["status"]["podIP"] == "127.0.0.2"
    absent = cluster.kubectl("get", "pod", "nobody", check=False)
    assert (absent.returncode, absent.stderr.strip()) == (1, 'Error from server (NotFound): pods "nobody" not found')


def test_it_applies_as_it_always_did(cluster: Cluster) -> None:
    server = thing(VOLCANO, "ModelServer", "applied", {"model": "a", "note": "x"})
    name = "modelserver.networking.serving.volcano.sh/applied"
    assert cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(server)).stdout == f"{name} created\n"
    assert cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(server)).stdout == f"{name} unchanged\n"
    server["spec"] = {"model": "b"}
    assert cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(server)).stdout == f"{name} configured\n"
    assert cluster.get(server)["spec"] == {"model": "b"}
    assert cluster.kubectl("diff", "-f", "-", input=yaml.safe_dump(server)).stdout == ""


def test_it_applies_what_comes_with_every_server(cluster: Cluster) -> None:
    container = {"name": "c", "image": "i:1", "env": [{"name": "A", "value": "1"}]}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    deployment = thing("apps/v1", "Deployment", "applied", spec)
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(deployment))
    container["env"] = [{"name": "B", "value": "2"}]
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(deployment))
    found = cluster.get(deployment)
    assert found["spec"]["template"]["spec"]["containers"][0]["env"] == [{"name": "B", "value": "2"}]
    assert found["metadata"]["generation"] == 2


def test_it_applies_on_the_server_and_says_who_is_in_the_way(cluster: Cluster) -> None:
    server = thing(VOLCANO, "ModelServer", "serverside", {"model": "a"})
    done = cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(server))
    assert done.stdout == "modelserver.networking.serving.volcano.sh/serverside serverside-applied\n"
    server["spec"]["model"] = "b"
    other = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    refused = cluster.kubectl(*other, input=yaml.safe_dump(server), check=False)
    assert 'conflict with "kubectl": .spec.model' in refused.stderr
    cluster.kubectl(*other, "--force-conflicts", input=yaml.safe_dump(server))
    assert cluster.get(server)["spec"] == {"model": "b"}


def test_it_is_told_what_is_invalid_or_unknown(cluster: Cluster) -> None:
    pool = inference_pool("refused", {"a": "b"}, 1, 1)
    refused = cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(pool), check=False)
    assert 'The InferencePool "refused" is invalid: spec.targetPorts: Invalid value' in refused.stderr
    assert "port number must be unique" in refused.stderr
    pool = inference_pool("refused", {"a": "b"})
    pool["spec"]["endpointPickerRef"] = {"name": "x", "port": {"number": 1, "nmae": "y"}}
    strict = cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(pool), check=False)
    assert 'strict decoding error: unknown field "spec.endpointPickerRef.port.nmae"' in strict.stderr
    lax = cluster.kubectl("apply", "--validate=false", "-f", "-", input=yaml.safe_dump(pool))
    assert "created" in lax.stdout
    unknown = thing("example.com/v1", "Nothing", "x")
    absent = cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(unknown), check=False)
    assert 'no matches for kind "Nothing" in version "example.com/v1"' in absent.stderr


def test_it_patches_labels_and_deletes(cluster: Cluster) -> None:
    route = model_route("edited", "m", "s")
    cluster.create(route)
    of = "modelroutes.networking.serving.volcano.sh"
    cluster.kubectl("patch", of, "edited", "--type=merge", "-p", '{"spec":{"modelName":"n"}}')
    cluster.kubectl("label", of, "edited", "team=a")
    cluster.kubectl("patch", of, "edited", "--subresource=status", "--type=merge", "-p", '{"status":{"x":1}}')
    found = cluster.get(route)
    assert (found["spec"]["modelName"], found["metadata"]["labels"], found["status"]) == ("n", {"team": "a"}, {"x": 1})
    assert "deleted" in cluster.kubectl("delete", of, "edited").stdout
    assert cluster.list(VOLCANO, "ModelRoute") == []


def test_it_describes_and_explains(cluster: Cluster) -> None:
    cluster.create(pod("described", "127.0.0.3", {"app": "d"}))
    about = {
        "kind": "Pod",
        "name": "described",
        "namespace": "default",
        "uid": cluster.get(pod("described", "", {}))["metadata"]["uid"],
    }
    event = thing(
        "v1", "Event", "described.1", message="came up", reason="Started", involvedObject=about, type="Normal"
    )
    cluster.create(event)
    told = cluster.kubectl("describe", "pod", "described").stdout
    assert "127.0.0.3" in told
    assert "came up" in told
    assert "targetPorts" in cluster.kubectl("explain", "inferencepool.spec").stdout
    listed = cluster.kubectl("api-resources", "--api-group=networking.serving.volcano.sh", "-o", "name").stdout.split()
    assert {name.partition(".")[0] for name in listed} == {"modelroutes", "modelservers", "externalmodelproviders"}
    assert "v1.33.0-fake" in cluster.kubectl("version").stdout


def test_it_watches(cluster: Cluster) -> None:
    command = [
        "kubectl",
        "--kubeconfig",
        str(cluster.kubeconfig),
        "get",
        "configmaps",
        "-n",
        "watched",
        "-w",
        "-o",
        "name",
    ]
    cluster.create(config_map("a", {}, namespace="watched"))
    environment = {**os.environ, "HOME": str(cluster.directory)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "configmap/a\n"
        cluster.create(config_map("b", {}, namespace="watched"))
        assert process.stdout.readline() == "configmap/b\n"
        process.terminate()


def test_it_creates_definitions_and_waits_for_them(cluster: Cluster) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    column = {"name": "Size", "type": "integer", "jsonPath": ".spec.size"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    spec = {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}}
    spec |= {"versions": [version | {"additionalPrinterColumns": [column]}]}
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
    crd |= {"metadata": {"name": "things.example.com"}}
    cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(crd))
    cluster.kubectl("wait", "--for=condition=Established", "crd/things.example.com", "--timeout=10s")
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(thing("example.com/v1", "Thing", "one", {"size": 7})))
    assert cluster.kubectl("get", "things").stdout.split() == ["NAME", "SIZE", "one", "7"]


def test_it_asks_what_it_may(cluster: Cluster) -> None:
    cluster.deny("delete:pods")
    assert cluster.kubectl("auth", "can-i", "delete", "pods", check=False).stdout == "no\n"
    assert cluster.kubectl("auth", "can-i", "list", "pods").stdout == "yes\n"
    cluster.deny()


def test_it_creates_what_it_sends_in_protobuf(cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", "made")
    cluster.kubectl("create", "configmap", "made", "-n", "made", "--from-literal=a=b")
    cluster.kubectl("create", "secret", "generic", "made", "-n", "made", "--from-literal=key=secret")
    assert cluster.get(config_map("made", {}, namespace="made"))["data"] == {"a": "b"}
    assert cluster.get(secret("made", {}, namespace="made"))["data"] == {"key": "c2VjcmV0"}
    cluster.create(pod("listed", "127.0.0.9", {}, namespace="made"))
    assert cluster.kubectl("get", "all", "-n", "made", "-o", "name").stdout == "pod/listed\n"
    cluster.kubectl("delete", "namespace", "made")
    assert cluster.list("v1", "Secret", "made") == []
