"""What clusters and their tenants do to a gateway: hostile objects, odd pods, servers that stall, replicas that die."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest
import trustme

from tests.kube.cluster import (
    VOLCANO,
    Cluster,
    Tree,
    config_map,
    model_route,
    model_server,
    named,
    pod,
    provider,
    thing,
)
from tests.kube.fleet import ask, engine, following, metric, pods, served_by, serves, shared_port
from tests.process import InferGateway, eventually, serve

ROUTES = "modelroutes.networking.serving.volcano.sh"
EVIL = 'no\n"such"\\ \x1b[31m\u009b31m\u202e 2026-01-01T00:00:00.000Z ERROR forged: x'


@pytest.fixture(scope="module")
def port() -> int:
    return shared_port()


@pytest.fixture(scope="module")
def cluster(port: int) -> Iterator[Cluster]:
    """A server "small" of one pod, and a route "r" to it."""
    with Cluster() as cluster, pods(cluster, "small", "127.0.1.1", port=port):
        cluster.create(model_server("small", {"app": "small"}, port, model="m"), model_route("r", "r", "small"))
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[InferGateway]:
    with following(cluster) as gateway:
        assert serves(gateway, "r")
        yield gateway


@pytest.fixture(autouse=True)
def healed(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.heal()
    cluster.deny()
    cluster.forget_requests()


def message(cluster: Cluster, tree: Tree, kind: str) -> str:
    conditions = cluster.get(tree).get("status", {}).get("conditions", [])
    return next((f"{each['reason']}: {each['message']}" for each in conditions if each["type"] == kind), "")


def descriptors(gateway: InferGateway) -> int:
    return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))


def memory(gateway: InferGateway) -> int:
    """Resident, in MiB."""
    with open(f"/proc/{gateway.process.pid}/status") as status:
        return int(re.findall(r"VmRSS:\s+(\d+)", status.read())[0]) // 1024


# -- what tenants write


def test_no_object_leads_to_the_admin_listener(cluster: Cluster, gateway: InferGateway) -> None:
    admin = gateway.ready["admin"].rpartition(":")[2]
    public = provider("admin", f"http://127.0.0.1:{admin}", model="m")
    named_so = thing(
        VOLCANO, "ModelServer", "by-name", {"inferenceEngine": "vLLM", "endpoints": [f"http://127.1:{admin}"]}
    )
    to_admin = thing(VOLCANO, "ModelRoute", "to-admin", {
        "modelName": "to-admin", "rules": [{"targetModels": [{"externalModelProviderName": "admin"}]}],
    })  # fmt: skip
    cluster.create(public, named_so, to_admin, model_route("by-name", "by-name", "by-name"))
    assert eventually(lambda: message(cluster, public, "Accepted").startswith("Invalid: $.spec.baseURL: 127.0.0.1 is"))
    assert serves(gateway, "to-admin", 503)
    assert eventually(
        lambda: message(cluster, named_so, "Accepted").startswith("Invalid: $.spec.endpoints[0]: 127.1 is")
    )
    assert eventually(lambda: ask(gateway, "by-name").status >= 500)
    cluster.delete(public, named_so, to_admin, model_route("by-name", ""))


def test_names_forge_neither_log_lines_nor_metrics(cluster: Cluster, gateway: InferGateway) -> None:
    hostile = [
        model_route("model", EVIL, "small"),
        model_route("target", "target", EVIL),
        model_server("labels", {"app": EVIL}),
    ]
    cluster.load(hostile, check=False)
    assert serves(gateway, EVIL)
    assert eventually(lambda: "TargetNotFound" in message(cluster, hostile[1], "ResolvedRefs"))
    assert eventually(lambda: "Invalid" in message(cluster, hostile[2], "Accepted"))
    lines = gateway.stderr.splitlines()
    assert any("forged" in line for line in lines)
    assert not [line for line in lines if line.startswith("2026-01-01")]
    assert not re.search("[\x1b\x9b]", gateway.stderr)
    assert metric(gateway, "infer_gateway_requests_total", code="200") >= 1
    cluster.delete(*hostile)


def test_a_thousand_wrong_objects_are_told_once_and_harm_nobody(cluster: Cluster, gateway: InferGateway) -> None:
    wrong = [
        {**model_route(f"w{n}", f"w{n}", "small"), "spec": {"modelName": f"w{n}", "rules": []}} for n in range(1000)
    ]
    before = len(gateway.stderr.splitlines())
    cluster.load(wrong, check=False)
    assert eventually(lambda: "ModelRoute default/w999: Invalid" in gateway.stderr)
    cluster.load(
        [{**tree, "metadata": named(tree["metadata"]["name"], labels={"a": "b"})} for tree in wrong], check=False
    )
    cluster.streams("gone", ROUTES)
    cluster.create(model_route("after", "after", "small"))
    assert serves(gateway, "after")
    assert len(gateway.stderr.splitlines()) - before < 2100
    assert len(cluster.requests("patch", "modelroutes")) < 300  # 10 a second
    cluster.delete(*wrong, model_route("after", ""))


def test_objects_of_a_megabyte_each_are_listed_all_the_same(cluster: Cluster) -> None:
    large = [
        {**model_route(f"l{n}", f"l{n}", "small"), "metadata": named(f"l{n}", annotations={"a": "x" * 10**6})}
        for n in range(70)
    ]
    cluster.load(large, check=False)
    with following(cluster) as gateway:
        assert serves(gateway, "l69")
        assert "cannot be followed" not in gateway.stderr
    cluster.delete(*large)


def test_secrets_without_number_do_not_use_up_connections(cluster: Cluster, gateway: InferGateway) -> None:
    many = [provider(f"p{n}", "https://192.0.2.1", secret=(f"s{n}", "key")) for n in range(300)]
    before = descriptors(gateway)
    cluster.forget_requests()
    cluster.load(many)
    assert eventually(lambda: len(cluster.requests("list", "secrets")) >= 300, within_s=20)
    assert serves(gateway, "r")
    assert descriptors(gateway) - before < 130
    cluster.delete(*many)
    assert eventually(lambda: descriptors(gateway) - before < 20)


# -- what pods do


def test_addresses_wander_among_pods(cluster: Cluster, gateway: InferGateway, port: int) -> None:
    other = model_server("other", {"app": "other"}, port, model="m")
    cluster.create(other, model_route("other", "other", "other"))
    first = pod("small-0", "127.0.1.1", {"app": "small"}, port)
    with engine("127.0.1.2", port):
        cluster.delete(first)
        cluster.create(pod("other-0", "127.0.1.1", {"app": "other"}, port))  # its address is somebody else's at once
        assert serves(gateway, "other")
        assert serves(gateway, "r", 503)
        cluster.create(pod("small-0", "127.0.1.2", {"app": "small"}, port))  # a StatefulSet's: the same name elsewhere
        assert serves(gateway, "r")
        assert set(served_by(gateway, "r", 3)) == {"127.0.1.2"}
        cluster.create(
            pod("small-1", "127.0.1.1", {"app": "small"}, port)
        )  # two pools, one address, as hostNetwork has it
        assert eventually(lambda: set(served_by(gateway, "r", 8)) == {"127.0.1.1", "127.0.1.2"})
        cluster.delete(pod("small-0", "", {}), pod("small-1", "", {}), pod("other-0", "", {}))
        assert serves(gateway, "r", 503)
        assert serves(gateway, "other", 503)
    cluster.create(first)
    assert serves(gateway, "r")
    cluster.delete(other, model_route("other", ""))


def test_pods_without_an_address_or_with_many(cluster: Cluster, gateway: InferGateway, port: int) -> None:
    odd = [pod(f"odd-{n}", ip, {"app": "small"}, port) for n, ip in enumerate(("", "nonsense", "::1"))]
    del odd[0]["status"]["podIP"], odd[0]["status"]["podIPs"]
    odd[2]["status"]["podIPs"] = [{"ip": "::1"}, {"ip": "127.0.1.1"}]
    cluster.load(odd, check=False)
    server = model_server("small", {})
    assert eventually(lambda: message(cluster, server, "Ready").endswith("of 4 pods are ready"), within_s=15)
    assert set(served_by(gateway, "r", 4)) == {"127.0.1.1"}
    cluster.delete(*odd)


def test_readiness_that_flaps_costs_few_writes_and_no_memory(
    cluster: Cluster, gateway: InferGateway, port: int
) -> None:
    server = model_server("flapping", {"app": "flapping"}, port, model="m")
    cluster.create(server, model_route("flapping", "flapping", "flapping"))
    assert serves(gateway, "flapping", 503)

    def flap(times: int) -> None:
        for ready, _ in zip(cycle((False, True)), range(times), strict=False):
            found = [pod(f"f{n}", f"10.9.0.{n}", {"app": "flapping"}, port, ready=ready) for n in range(100)]
            cluster.load(found, check=False)
        assert ask(gateway, "r").status == 200

    flap(20)
    cluster.forget_requests()
    before, open_before = memory(gateway), descriptors(gateway)
    flap(80)
    assert len(cluster.requests("patch", "modelservers")) + len(cluster.requests("create", "events")) < 20
    cluster.delete(*(pod(f"f{n}", "", {}) for n in range(100)), server, model_route("flapping", ""))
    assert eventually(lambda: descriptors(gateway) <= open_before + 5)
    assert memory(gateway) - before < 15
    assert len(cluster.streams()) < 20


# -- its configuration


def test_a_config_map_in_every_state(cluster: Cluster, gateway: InferGateway) -> None:
    before = len(gateway.stderr)

    def told(text: str) -> bool:
        return eventually(lambda: text in gateway.stderr[before:])

    def settings(text: str) -> Tree:
        return config_map("infer-gateway-config", {"gatewayConfiguration": text})

    good = settings("retry: {attempts: 2}")
    cluster.create(good)
    assert told("configuration reloaded")
    cluster.replace(settings("retry: {attempts: [}"))
    assert told("not valid YAML")
    cluster.replace(settings("listeners: {http: {tls: {certFile: /no/such, keyFile: /no/such}}}"))
    assert told("$.listeners.http.tls.certFile: cannot read /no/such")
    cluster.replace(config_map("infer-gateway-config", {}))
    assert told("has lost its configuration; the old one stays")
    cluster.delete(good)
    assert told("is gone; what it said stays in force")
    assert eventually(lambda: metric(gateway, "infer_gateway_config_last_reload_successful") == 1)
    assert ask(gateway, "r").status == 200


# -- what the API server does


def test_kinds_go_and_come(cluster: Cluster, gateway: InferGateway, port: int) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    definition = cluster.ask("GET", f"{path}/modelservers.networking.matrixinfer.ai")
    old = model_server("older", {"app": "small"}, port, model="m", api_version="networking.matrixinfer.ai/v1alpha1")
    cluster.create(old, model_route("older", "older", "older"))
    assert serves(gateway, "older")
    cluster.ask("DELETE", f"{path}/modelservers.networking.matrixinfer.ai")
    assert serves(gateway, "older", 503)  # the objects have gone with it, each with a word
    cluster.streams("close", "modelservers.networking.matrixinfer.ai")
    assert eventually(lambda: "MatrixInfer's ModelServers: off" in gateway.stderr)
    definition = {key: value for key, value in definition.items() if key != "status"} | {
        "metadata": {"name": definition["metadata"]["name"]}
    }
    cluster.ask("POST", path, definition)
    cluster.create(old)
    gateway.signal(signal.SIGHUP)
    assert serves(gateway, "older")
    cluster.delete(old, model_route("older", ""))


def test_rights_taken_away_take_nothing_away(cluster: Cluster, gateway: InferGateway) -> None:
    cluster.deny("list:modelroutes", "watch:modelroutes", "list:pods", "watch:pods")
    cluster.streams("gone", ROUTES)
    cluster.streams("close", "pods")
    assert eventually(lambda: gateway.stderr.count("off, the API server forbids it") >= 2)
    cluster.create(model_route("meanwhile", "meanwhile", "small"))
    assert ask(gateway, "r").status == 200
    cluster.deny()
    gateway.signal(signal.SIGHUP)
    assert serves(gateway, "meanwhile")
    cluster.delete(model_route("meanwhile", ""))


def test_what_was_not_listed_yet_is_no_404(cluster: Cluster) -> None:
    cluster.fail("list", ROUTES, status=500, count=-1)
    with following(cluster) as gateway:
        assert ask(gateway, "r").status == 503
        assert "going on without" not in gateway.stderr
        cluster.heal()
        gateway.signal(signal.SIGHUP)
        assert serves(gateway, "r")
        assert ask(gateway, "no-such").status == 404


def test_a_server_that_stalls_holds_up_neither_requests_nor_the_end(cluster: Cluster) -> None:
    with following(cluster) as gateway:
        assert serves(gateway, "r")
        cluster.fail("*", "*", delay=60, count=-1)
        cluster.streams("gone")
        assert {ask(gateway, "r").status for _ in range(20)} == {200}
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(within_s=5) == 0


def test_slow_lists_do_not_cost_the_lease(cluster: Cluster, gateway: InferGateway) -> None:
    assert eventually(lambda: "this replica leads" in gateway.stderr)
    cluster.fail("list", "*", delay=6, count=30)
    cluster.forget_requests()
    cluster.streams("gone")
    assert eventually(lambda: len(cluster.requests("update", "leases", code=200)) >= 2)


def test_another_leads_when_the_leader_is_gone_for_good(cluster: Cluster) -> None:
    with Cluster() as apart, following(apart) as first, following(apart) as second:
        leader, other = (first, second) if eventually(lambda: "replica leads" in first.stderr) else (second, first)
        leader.kill()
        route = model_route("late", "late", "nobody")
        apart.create(route)
        assert eventually(lambda: "replica leads" in other.stderr, within_s=25)
        assert eventually(lambda: "TargetNotFound" in message(apart, route, "ResolvedRefs"))


# -- at start


def test_starts_that_cannot_succeed_say_why_and_end() -> None:
    with Cluster(tls=True, token="the-right-secret") as cluster, ExitStack() as programs:

        def starting(name: str, token: str = "the-right-secret", *options: str) -> Path:
            given = cluster.kubeconfig_by("given", token=token)
            kubeconfig = given.rename(given.with_name(name))
            program = serve("--kubernetes", "--kubeconfig", str(kubeconfig), *options, exit_code=1)
            started[name] = program
            programs.callback(program.close)
            return kubeconfig

        started: dict[str, InferGateway] = {}
        starting("token", "a-wrong-secret")
        starting("map", "the-right-secret", "--config-map", "team/settings")
        starting("text").write_text("[")
        distrusting = starting("trust")
        stranger = cluster.directory / "stranger.crt"
        trustme.CA().cert_pem.write_to_path(stranger)
        distrusting.write_text(distrusting.read_text().replace(str(cluster.ca), str(stranger)))
        for program in started.values():
            program.start()
        for name, expected in {
            "token": "the API server refuses its credentials: 401 Unauthorized",
            "map": "ConfigMap team/settings: 404 NotFound",
            "text": "line 1 is not YAML",
            "trust": "the API server is not the one it trusts",
        }.items():
            assert started[name].wait() == 1
            assert expected in started[name].stderr
            assert "Traceback" not in started[name].stderr
            assert "secret" not in started[name].stderr
