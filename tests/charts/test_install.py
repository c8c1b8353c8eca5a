"""Helm installs and upgrades it on an API server. (IO)"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.charts.chart import CHART, Tree, run
from tests.kube.cluster import Cluster, named

DEFINITIONS = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
ROUTES = {
    "apiVersion": DEFINITIONS[0],
    "kind": DEFINITIONS[1],
    "metadata": {"name": "modelroutes.networking.serving.volcano.sh"},
}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(tls=True, crds=()) as running:
        for name in ("models", "other"):
            running.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        ours = {path.name.partition("_")[0] for path in (CHART / "files" / "crds").glob("*.yaml")}
        running.delete(*(each for each in running.list(*DEFINITIONS) if each["spec"]["group"] in ours))
        yield running


def helm(
    cluster: Cluster, verb: str, release: str, namespace: str, values: Tree | None, chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    """``values``: None for verbs that take neither them nor a chart."""
    arguments = [verb, release, "--kubeconfig", str(cluster.kubeconfig), "-n", namespace]
    if values is not None:
        given = Path(cluster.directory) / "values.json"
        given.write_text(json.dumps(values))
        arguments += ["-f", str(given), str(chart)]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def schema(cluster: Cluster) -> Tree:
    found: Tree = cluster.get(ROUTES)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def before(place: Path) -> Path:
    """The chart as it might have been a release ago."""
    shutil.copytree(CHART, place / "chart")
    file = place / "chart" / "files" / "crds" / "networking.serving.volcano.sh_modelroutes.yaml"
    tree = yaml.safe_load(file.read_text())
    tree["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return place / "chart"


def test_it_is_installed_and_upgraded_and_keeps_what_it_made(cluster: Cluster, tmp_path: Path) -> None:
    values: Tree = {"valkey": {"enabled": True}}
    assert "STATUS: deployed" in helm(cluster, "install", "r", "models", values, before(tmp_path)).stdout
    secret: Tree = {"apiVersion": "v1", "kind": "Secret", "metadata": named("r-infer-gateway-valkey", "models")}
    password = cluster.get(secret)["data"]["password"]
    assert "properties" not in schema(cluster)
    helm(cluster, "upgrade", "r", "models", values | {"inferGateway": {"replicas": 2}})
    assert cluster.get(secret)["data"]["password"] == password
    assert "properties" in schema(cluster)
    (deployment,) = cluster.list("apps/v1", "Deployment", "models")
    assert deployment["spec"]["replicas"] == 2


@pytest.mark.parametrize("keep", [True, False])
def test_it_is_uninstalled_and_leaves_its_definitions_if_it_is_to(cluster: Cluster, keep: bool) -> None:
    values: Tree = {"crds": {"keep": keep}, "serviceMonitor": {"enabled": False}, "kubernetes": {"gatewayAPI": True}}
    helm(cluster, "install", "r", "models", values)
    helm(cluster, "uninstall", "r", "models", None)
    for api_version, kind in (
        ("apps/v1", "Deployment"),
        ("v1", "Service"),
        ("v1", "ConfigMap"),
        ("v1", "ServiceAccount"),
        ("v1", "Secret"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ):
        assert cluster.list(api_version, kind) == [], kind
    left = {each["metadata"]["name"] for each in cluster.list(*DEFINITIONS)}
    assert (ROUTES["metadata"]["name"] in left) is keep
    helm(cluster, "install", "r", "models", values)  # what is left does not stand in the way


def test_definitions_of_others_stay_theirs(cluster: Cluster) -> None:
    theirs: Tree = {**ROUTES, "spec": {
        "group": "networking.serving.volcano.sh",
        "names": {"kind": "ModelRoute", "plural": "modelroutes"},
        "scope": "Namespaced",
        "versions": [{
            "name": "v1alpha1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        }],
    }}  # fmt: skip
    cluster.create(theirs)
    found = schema(cluster)
    helm(cluster, "install", "one", "models", {})
    helm(cluster, "install", "two", "other", {})
    assert schema(cluster) == found
    owners = {
        each["metadata"]["annotations"]["meta.helm.sh/release-name"]
        for each in cluster.list(*DEFINITIONS)
        if "meta.helm.sh/release-name" in each["metadata"].get("annotations", {})
    }
    assert owners == {"one"}
