"""Rights: exactly those that the program uses, by the list of kinds, and by a gateway that has no others. (IO)"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.sources.kube.kinds import (
    CONFIG_MAP,
    EVENT,
    GATEWAY,
    GATEWAY_API,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    LEASE,
    OBJECTIVE,
    OLD_OBJECTIVE,
    OLD_POOL,
    OLD_REWRITE,
    OURS,
    PICKER,
    POD,
    POOL,
    REWRITE,
    SECRET,
    SERVICE,
    Kind,
)
from tests.charts.chart import Case, Tree, case, container, of_kind, only
from tests.kube.cluster import (
    MATRIX,
    OLD_POOLS,
    Cluster,
    gateway,
    http_route,
    inference_pool,
    model_route,
    model_server,
    objective,
    old_inference_pool,
    pod,
    provider,
    reference_grant,
    rewrite,
    secret,
    service,
)
from tests.kube.fleet import engine, metric, serves, shared_port
from tests.process import ANY_PORT, InferGateway, eventually

Right = tuple[str, str, str, str, str]
"""Namespace ("*" for all), group, resource, verb, name ("*" for any)."""
HOME = "models"
LOOK = ("get", "list", "watch")
SAID = {OBJECTIVE, OLD_OBJECTIVE, REWRITE, OLD_REWRITE}


def rules(given: Case) -> list[Tree]:
    """As the fake API server takes them."""
    found = [rule for role in of_kind(given, "ClusterRole") for rule in role["rules"]]
    for role in of_kind(given, "Role"):
        found += [{**rule, "namespace": role["metadata"]["namespace"]} for rule in role["rules"]]
    return found


def rights(given: Case) -> set[Right]:
    return {
        (rule.get("namespace", "*"), group, resource, verb, name)
        for rule in rules(given)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }


def of(
    kinds: Iterable[Kind], verbs: Iterable[str], spaces: Iterable[str], name: str = "*", part: str = ""
) -> set[Right]:
    return {
        (space if kind.namespaced else "*", kind.group, kind.plural + part, verb, name)
        for kind in kinds
        for verb in verbs
        for space in spaces
    }


def wanted(
    spaces: Iterable[str] = ("*",),
    *,
    status: bool = True,
    extension: bool = True,
    gateway_api: bool = False,
    secrets: Iterable[str] = (),
    home: str = HOME,
) -> set[Right]:
    """By the kinds that the program watches and writes."""
    read: set[Kind] = {POD, *OURS}
    written: set[Kind] = set(OURS)
    if extension:
        read |= set(PICKER)
        written |= SAID
    if gateway_api:
        read |= {SERVICE, *GATEWAY_API}
        written |= {POOL, OLD_POOL, GATEWAY_CLASS, GATEWAY, HTTP_ROUTE}
    found = of(read, LOOK, spaces) | of([CONFIG_MAP], LOOK, [home], "r-infer-gateway-config")
    for name in secrets:
        found |= of([SECRET], LOOK, spaces, name)
    if gateway_api:
        found |= of([SERVICE], LOOK, [home], "r-infer-gateway")
    if status:
        found |= of([EVENT], ["create", "patch"], [home])
        found |= of(written, ["patch"], spaces, part="/status") | of([EVENT], ["create", "patch"], spaces)
        found |= of([LEASE], ["create"], [home]) | of([LEASE], ["get", "update"], [home], "r-infer-gateway")
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, wanted()),
        ({"kubernetes": {"gatewayAPI": True}}, wanted(gateway_api=True)),
        ({"kubernetes": {"inferenceExtension": False}}, wanted(extension=False)),
        ({"kubernetes": {"status": False}}, wanted(status=False)),
        ({"kubernetes": {"secrets": {"enabled": True}}}, wanted(secrets=["*"])),
        ({"kubernetes": {"secrets": {"names": ["a", "b"]}}}, wanted(secrets=["a", "b"])),
        ({"kubernetes": {"namespaces": ["a", "b", "a"]}}, wanted(["a", "b"], secrets=["*"])),
        (
            {"kubernetes": {"namespaces": ["a"], "gatewayAPI": True, "secrets": {"enabled": False}}},
            wanted(["a"], gateway_api=True),
        ),
        ({"kubernetes": {"enabled": False}}, set()),
        ({"rbac": {"create": False}}, set()),
    ],
    ids=str,
)
def test_rights_are_those_that_the_kinds_need(values: Tree, expected: set[Right]) -> None:
    assert rights(case(values)) == expected


def test_in_namespaces_nothing_is_cluster_wide_but_classes() -> None:
    assert not of_kind(case({"kubernetes": {"namespaces": ["a"]}}), "ClusterRole", "ClusterRoleBinding")
    given = case({"kubernetes": {"namespaces": ["a"], "gatewayAPI": True}})
    assert {resource for space, _, resource, _, _ in rights(given) if space == "*"} == {
        "gatewayclasses",
        "gatewayclasses/status",
    }


@pytest.mark.parametrize("values", [{}, {"kubernetes": {"namespaces": ["a", "models"]}}], ids=str)
def test_every_role_is_bound_to_the_account_of_the_pods(values: Tree) -> None:
    given = case(values)
    account = only(given, "ServiceAccount")["metadata"]
    assert only(given, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]
    bound = set()
    for binding in of_kind(given, "RoleBinding", "ClusterRoleBinding"):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
        ]
        reference = binding["roleRef"]
        bound.add((reference["kind"], binding["metadata"].get("namespace", ""), reference["name"]))
    roles = of_kind(given, "Role", "ClusterRole")
    assert bound == {(r["kind"], r["metadata"].get("namespace", ""), r["metadata"]["name"]) for r in roles}


# -- a gateway that has these rights and no others


@contextmanager
def installed(cluster: Cluster, given: Case) -> Iterator[InferGateway]:
    """The gateway as its pod would run, but for the addresses that it listens on."""
    cluster.create(only(given, "ConfigMap", "-config"))
    cluster.allow(rules(given))
    arguments = container(given)["args"]
    with InferGateway(*arguments, *ANY_PORT, "--kubeconfig", str(cluster.kubeconfig)) as running:
        yield running
    cluster.allow(None)


def denied(cluster: Cluster) -> set[tuple[str, str]]:
    return {(each["verb"], each["resource"]) for each in cluster.requests() if each["code"] == 403}


def everything(space: str, port: int) -> list[Tree]:
    """An object of every kind, so that there is something to be said of each."""
    return [
        secret("key", {"token": "s3cret"}, space),
        model_server("servers", {"app": "servers"}, port, model="m", namespace=space),
        model_route("chat", "chat", "servers", namespace=space),
        model_route("lost", "lost", "nowhere", namespace=space),
        model_server("older", {"app": "servers"}, port, model="m", namespace=space, api_version=MATRIX),
        model_route("older", "older", "older", namespace=space, api_version=MATRIX),
        provider("public", "https://api.example.com/v1", secret=("key", "token"), namespace=space),
        service("picker", 9002, namespace=space),
        inference_pool("pool", {"app": "servers"}, port, picker="picker", namespace=space),
        objective("urgent", "pool", 1, namespace=space),
        objective("urgent", "old-pool", 1, namespace=space, api_version=OLD_POOLS),
        rewrite("canary", "pool", "b", ("a", 1), namespace=space),
        rewrite("canary", "old-pool", "b", ("a", 1), namespace=space, api_version=OLD_POOLS),
        old_inference_pool("old-pool", {"app": "servers"}, port, namespace=space),
        gateway("door", "infer-gateway", space),
        http_route("way", "door", "pool", namespace=space),
        to_old_pool(http_route("old-way", "door", "old-pool", namespace=space)),
        reference_grant("grant", space, "elsewhere"),
    ]


def to_old_pool(route: Tree) -> Tree:
    route["spec"]["rules"][0]["backendRefs"][0]["group"] = OLD_POOL.group
    return route


def spoken(cluster: Cluster, tree: Tree) -> bool:
    status = cluster.get(tree).get("status", {})
    lists = [status.get("conditions"), status.get("parents"), status.get("parent")]
    return any(each for each in lists if each and each[0].get("conditions", [{}])[0].get("reason") != "Pending")


UNSAID = {"Secret", "Service", "ReferenceGrant"}


@pytest.mark.parametrize(
    ("values", "space"),
    [
        ({"kubernetes": {"gatewayAPI": True, "secrets": {"names": ["key"]}}}, "anywhere"),
        ({"kubernetes": {"gatewayAPI": True, "namespaces": ["team", HOME]}}, "team"),
    ],
    ids=["all namespaces", "some namespaces"],
)
def test_everything_works_and_nothing_is_denied(values: Tree, space: str) -> None:
    port = shared_port()
    given = case(values | {"gatewayClass": {"create": True}, "gateway": {"create": True}})
    with Cluster(tls=True, namespace=HOME) as cluster, engine("127.0.3.1", port):
        made = cluster.create(
            *everything(space, port), pod("one", "127.0.3.1", {"app": "servers"}, port, namespace=space)
        )
        cluster.create(only(given, "GatewayClass"), only(given, "Gateway"))
        with installed(cluster, given) as running:
            assert serves(running, "chat"), running.stderr
            assert serves(running, "older"), running.stderr
            said = [each for each in made if each["kind"] not in {*UNSAID, "Pod"}]
            assert eventually(lambda: all(spoken(cluster, each) for each in said)), [
                each["metadata"]["name"] for each in said if not spoken(cluster, each)
            ]
            assert eventually(lambda: spoken(cluster, only(given, "GatewayClass")))
            assert eventually(lambda: bool(cluster.list("events.k8s.io/v1", "Event", space)))
            (public,) = [each for each in made if each["metadata"]["name"] == "public"]
            assert cluster.conditions(public)["CredentialsResolved"][0] == "True"
            changed = case(values | {"config": {"timeouts": {"connect": "1s"}}})
            cluster.patch(only(given, "ConfigMap", "-config"), {"data": only(changed, "ConfigMap", "-config")["data"]})
            assert eventually(lambda: metric(running, "infer_gateway_config_reloads_total", result="success") >= 1)
            bad = {"gatewayConfiguration.yaml": "timeouts: {connect: never}"}
            cluster.patch(only(given, "ConfigMap", "-config"), {"data": bad})
            assert eventually(lambda: metric(running, "infer_gateway_config_reloads_total", result="failure") >= 1)
            assert eventually(lambda: bool(cluster.list("events.k8s.io/v1", "Event", HOME)))
        assert not denied(cluster)


def test_without_what_is_off_it_serves_all_the_same() -> None:
    port = shared_port()
    given = case({"kubernetes": {"status": False, "inferenceExtension": False}})
    with Cluster(tls=True, namespace=HOME) as cluster, engine("127.0.3.2", port):
        cluster.create(*everything("team", port), pod("one", "127.0.3.2", {"app": "servers"}, port, namespace="team"))
        with installed(cluster, given) as running:
            assert serves(running, "chat"), running.stderr
        off = {("list", str(kind)) for kind in (SECRET, *PICKER, *GATEWAY_API)} | {("get", str(LEASE))}
        assert denied(cluster) == off


def health(port: int) -> int:
    """What the picker's readiness probe is told."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        asked = health_pb2.HealthCheckRequest(service="readiness")
        try:
            answer: int = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5).status
        except grpc.RpcError:
            return 0
        return answer


def test_a_picker_is_ready_when_its_pool_is_there() -> None:
    ports = {name: shared_port() for name in ("http", "grpc", "admin", "extProc", "extProcHealth")}
    given = Case(json.dumps({"host": "127.0.0.1", "ports": ports}), example="endpoint-picker")
    with Cluster(tls=True, namespace=HOME) as cluster:
        cluster.create(only(given, "ConfigMap", "-config"))
        cluster.allow(rules(given))
        with InferGateway(*container(given)["args"], "--kubeconfig", str(cluster.kubeconfig)) as running:
            assert running.ready["ext_proc"] == f"127.0.0.1:{ports['extProc']}"
            assert (
                health(container(given)["readinessProbe"]["grpc"]["port"]) == health_pb2.HealthCheckResponse.NOT_SERVING
            )
            cluster.create(only(given, "InferencePool"))
            serving = health_pb2.HealthCheckResponse.SERVING
            assert eventually(lambda: health(ports["extProcHealth"]) == serving)
