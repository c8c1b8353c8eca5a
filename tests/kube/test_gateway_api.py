"""A gateway that is a Gateway API controller itself: the status tests of the inference extension's suite, and requests.

Backends are echo servers as the suite has them, which are no engine that is known, and a simulated engine.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gateway.config.gateway_api import CONTROLLER
from tests.kube.cluster import (
    GATEWAYS,
    POOLS,
    Cluster,
    Refused,
    Tree,
    gateway_class,
    http_route,
    inference_pool,
    model_route,
    model_server,
    pod,
    reference_grant,
    service,
    thing,
)
from tests.kube.fleet import Answer, following, pods, shared_port
from tests.process import InferGateway, eventually

INFRA, APP = "inference-conformance-infra", "inference-conformance-app-backend"
BODY = json.dumps({"model": "conformance-fake-model", "prompt": "Write as if you were a critic: San Francisco"})
PRIMARY, SECONDARY = "primary.example.com", "secondary.example.com"


LISTENER = {"name": "http", "port": 80, "protocol": "HTTP"}


class Echo(BaseHTTPRequestHandler):
    """Says what it was asked, and where, with status 200; to HEAD without the words."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        host = self.connection.getsockname()[0]
        said = {"at": host, "path": self.path, "method": self.command, "headers": dict(self.headers), "body": asked}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-echo", "1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def echoes(cluster: Cluster, app: str, port: int, *hosts: str) -> Iterator[None]:
    """An echo server at each of ``hosts``, and a ready pod for each."""
    with ExitStack() as stack:
        for n, host in enumerate(hosts):
            server = stack.enter_context(ThreadingHTTPServer((host, port), Echo))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            cluster.create(pod(f"{app}-{n}", host, {"app": app}, port, namespace=APP))
        yield


def gateway_of(name: str, hostname: str = "") -> Tree:
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
    spec = {"gatewayClassName": "ours", "listeners": [listener | ({"hostname": hostname} if hostname else {})]}
    return thing(GATEWAYS, "Gateway", name, spec, INFRA)


def backend(name: str, **more: object) -> Tree:
    return {"group": POOLS.partition("/")[0], "kind": "InferencePool", "name": name, **more}


def rule(path: str, *backends: Tree, **more: object) -> Tree:
    return {"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": list(backends), **more}


def route(name: str, gateway: str, *rules: Tree, **spec: object) -> Tree:
    parents = [{"name": f"conformance-{gateway}", "namespace": INFRA}]
    return thing(GATEWAYS, "HTTPRoute", name, {"parentRefs": parents, "rules": list(rules)} | spec, APP)


def pool(name: str, port: int, picker: str | None = None) -> Tree:
    return inference_pool(f"{name}-inference-pool", {"app": name}, port, picker=picker, namespace=APP)


PRIMARY_POOL, SECONDARY_POOL = backend("primary-inference-pool"), backend("secondary-inference-pool")


@pytest.fixture(scope="module")
def port() -> int:
    return shared_port()


@pytest.fixture(scope="module")
def cluster(port: int) -> Iterator[Cluster]:
    """The suite's base: two Gateways, two pools of three echo servers each."""
    with (
        Cluster() as cluster,
        echoes(cluster, "primary", port, "127.1.1.1", "127.1.1.2", "127.1.1.3"),
        echoes(cluster, "secondary", port, "127.1.2.1", "127.1.2.2", "127.1.2.3"),
    ):
        cluster.create(gateway_class("ours", CONTROLLER))
        cluster.create(gateway_of("conformance-primary"), gateway_of("conformance-secondary", SECONDARY))
        cluster.create(pool("primary", port), pool("secondary", port))
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[InferGateway]:
    with following(cluster) as gateway:
        yield gateway


@pytest.fixture
def put(cluster: Cluster) -> Iterator[ExitStack]:
    """Whatever a test creates is gone after it."""
    with ExitStack() as stack:
        yield stack


def create(put: ExitStack, cluster: Cluster, *trees: Tree) -> None:
    cluster.create(*trees)
    for tree in trees:
        put.callback(remove, cluster, tree)


def remove(cluster: Cluster, tree: Tree) -> None:
    with suppress(Refused):  # gone already
        cluster.delete(tree)


def ask(
    gateway: InferGateway, path: str, host: str = PRIMARY, method: str = "POST", body: str = BODY, **headers: str
) -> Answer:
    connection = http.client.HTTPConnection(*gateway.address, timeout=20)
    try:
        connection.request(method, path, body, {"host": host, "content-type": "application/json", **headers})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def answers(gateway: InferGateway, path: str, status: int, host: str = PRIMARY) -> bool:
    return eventually(lambda: ask(gateway, path, host).status == status)


def parents(cluster: Cluster, tree: Tree) -> dict[str, dict[str, tuple[str, str]]]:
    """By Gateway: what ours says of the object."""
    entries = cluster.get(tree).get("status", {}).get("parents", [])
    return {
        each["parentRef"]["name"].removeprefix("conformance-"): {
            said["type"]: (said["status"], said["reason"]) for said in each["conditions"]
        }
        for each in entries
    }


GOOD = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}


def comes_to(cluster: Cluster, tree: Tree, **wanted: dict[str, tuple[str, str]]) -> bool:
    return eventually(lambda: parents(cluster, tree) == wanted)


def test_class_and_gateways_are_ours(cluster: Cluster, gateway: InferGateway) -> None:
    programmed = {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
    assert eventually(lambda: cluster.conditions(gateway_of("conformance-primary")) == programmed)
    assert eventually(lambda: cluster.conditions(gateway_class("ours", CONTROLLER)).get("Accepted", ("",))[0] == "True")
    (listener,) = cluster.get(gateway_of("conformance-primary"))["status"]["listeners"]
    assert {each["type"]: each["status"] for each in listener["conditions"]} == {
        "Accepted": "True",
        "Programmed": "True",
        "ResolvedRefs": "True",
        "Conflicted": "False",
    }
    status = cluster.get(gateway_class("ours", CONTROLLER))["status"]
    assert {"name": "SupportInferencePool"} in status["supportedFeatures"]


def test_a_pool_is_accepted(cluster: Cluster, gateway: InferGateway, port: int, put: ExitStack) -> None:
    made = route("accepted", "primary", rule("/accepted", PRIMARY_POOL))
    create(put, cluster, made)
    assert comes_to(cluster, pool("primary", port), primary=GOOD)
    assert comes_to(cluster, made, primary=GOOD)
    (entry,) = cluster.get(made)["status"]["parents"]
    assert entry["controllerName"] == CONTROLLER
    assert answers(gateway, "/accepted", 200)


def test_a_pool_has_an_entry_for_each_gateway(
    cluster: Cluster, gateway: InferGateway, port: int, put: ExitStack
) -> None:
    first = route("first", "primary", rule("/primary-gateway-test", PRIMARY_POOL), hostnames=[PRIMARY])
    second = route("second", "secondary", rule("/secondary-gateway-test", PRIMARY_POOL), hostnames=[SECONDARY])
    create(put, cluster, first, second)
    shared = pool("primary", port)
    assert comes_to(cluster, shared, primary=GOOD, secondary=GOOD)
    assert answers(gateway, "/primary-gateway-test", 200)
    assert answers(gateway, "/secondary-gateway-test", 200, SECONDARY)
    cluster.delete(first)
    assert comes_to(cluster, shared, secondary=GOOD)
    assert answers(gateway, "/primary-gateway-test", 404)
    assert ask(gateway, "/secondary-gateway-test", SECONDARY).status == 200
    cluster.delete(second)
    assert comes_to(cluster, shared)
    assert answers(gateway, "/secondary-gateway-test", 404, SECONDARY)


def test_a_picker_without_a_service(cluster: Cluster, gateway: InferGateway, port: int, put: ExitStack) -> None:
    broken = inference_pool("pool-with-invalid-epp", {"app": "primary"}, port, picker="non-existent", namespace=APP)
    made = route("invalid-epp", "primary", rule("/invalid-epp-test", backend("pool-with-invalid-epp")))
    create(put, cluster, broken, made)
    unresolved = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "InvalidExtensionRef")}
    assert comes_to(cluster, broken, primary=unresolved)
    assert comes_to(cluster, made, primary=GOOD)
    assert answers(gateway, "/invalid-epp-test", 500)
    create(put, cluster, service("non-existent", 9002, namespace=APP))
    assert comes_to(cluster, broken, primary=GOOD)
    assert answers(gateway, "/invalid-epp-test", 200)


def test_the_port_of_a_backend_is_ignored(cluster: Cluster, gateway: InferGateway, port: int, put: ExitStack) -> None:
    rules = [
        rule("/port/unset", PRIMARY_POOL),
        rule("/port/matching", PRIMARY_POOL | {"port": port}),
        rule("/port/other", PRIMARY_POOL | {"port": 8888}),
    ]
    made = route("ports", "primary", *rules)
    create(put, cluster, made)
    assert comes_to(cluster, made, primary=GOOD)
    for path in ("/port/unset", "/port/matching", "/port/other"):
        assert answers(gateway, path, 200)
        assert ask(gateway, path).json["at"].startswith("127.1.1.")


def test_a_route_to_no_pool(cluster: Cluster, gateway: InferGateway, put: ExitStack) -> None:
    made = route("dangling", "primary", rule("/dangling", backend("non-existent-inference-pool")))
    create(put, cluster, made)
    dangling = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "BackendNotFound")}
    assert comes_to(cluster, made, primary=dangling)
    assert answers(gateway, "/dangling", 500)


def test_two_gateways_and_two_pools(cluster: Cluster, gateway: InferGateway, put: ExitStack) -> None:
    create(put, cluster, route("one", "primary", rule("/which", PRIMARY_POOL), hostnames=[PRIMARY]))
    create(put, cluster, route("two", "secondary", rule("/which", SECONDARY_POOL), hostnames=[SECONDARY]))
    assert answers(gateway, "/which", 200)
    assert answers(gateway, "/which", 200, SECONDARY)
    assert ask(gateway, "/which").json["at"].startswith("127.1.1.")
    assert ask(gateway, "/which", SECONDARY).json["at"].startswith("127.1.2.")


def test_two_rules_and_two_pools(cluster: Cluster, gateway: InferGateway, put: ExitStack) -> None:
    create(put, cluster, route("rules", "primary", rule("/primary", PRIMARY_POOL), rule("/secondary", SECONDARY_POOL)))
    assert answers(gateway, "/primary", 200)
    assert ask(gateway, "/primary").json["at"].startswith("127.1.1.")
    assert ask(gateway, "/secondary").json["at"].startswith("127.1.2.")


def test_two_pools_by_weight(cluster: Cluster, gateway: InferGateway, put: ExitStack) -> None:
    split = rule("/weighted", PRIMARY_POOL | {"weight": 70}, SECONDARY_POOL | {"weight": 30})
    create(put, cluster, route("weighted", "primary", split))
    assert answers(gateway, "/weighted", 200)
    counts = Counter(ask(gateway, "/weighted").json["at"].rpartition(".")[0] for _ in range(200))
    assert abs(counts["127.1.1"] / 200 - 0.7) <= 0.146  # the suite's: the larger of 10 points and 4.5 sigma
    assert counts["127.1.1"] + counts["127.1.2"] == 200


def test_a_pool_of_another_namespace(cluster: Cluster, gateway: InferGateway, put: ExitStack) -> None:
    made = http_route("far", "conformance-primary", path="/far", namespace="default")
    made["spec"]["parentRefs"][0]["namespace"] = INFRA
    made["spec"]["rules"][0]["backendRefs"] = [PRIMARY_POOL | {"namespace": APP}]
    create(put, cluster, made)
    refused = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "RefNotPermitted")}
    assert comes_to(cluster, made, primary=refused)
    assert answers(gateway, "/far", 500)
    create(put, cluster, reference_grant("let-in", APP, "default"))
    assert comes_to(cluster, made, primary=GOOD)
    assert answers(gateway, "/far", 200)


def test_what_passes_is_as_it_was(cluster: Cluster, gateway: InferGateway, put: ExitStack) -> None:
    filters = [
        {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-Set", "value": "2"}]}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["X-Echo"]}},
    ]
    create(put, cluster, route("passed", "primary", rule("/passed", PRIMARY_POOL, filters=filters)))
    assert answers(gateway, "/passed/any", 200)
    answer = ask(gateway, "/passed/any%2Fthing?q=%20", method="PUT", body="not json", x_own="1")
    said = answer.json
    assert (said["path"], said["method"], said["body"]) == ("/any%2Fthing?q=%20", "PUT", "not json")
    assert {name.lower(): value for name, value in said["headers"].items()}["x-set"] == "2"
    assert "x-echo" not in answer.headers
    head = ask(gateway, "/passed/any", method="HEAD", body="")
    assert (head.status, head.text) == (200, "")
    assert int(head.headers["content-length"]) > 0


def test_inference_by_another_path_and_models_of_routes_first(
    cluster: Cluster, gateway: InferGateway, port: int, put: ExitStack
) -> None:
    strip = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}
    chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2})
    with pods(cluster, "engine", "127.1.3.1", port=port):
        create(put, cluster, inference_pool("engines", {"app": "engine"}, port))
        everything = http_route("everything", "conformance-primary", "engines")
        everything["spec"]["parentRefs"][0]["namespace"] = INFRA
        everything["spec"]["rules"].append(rule("/team", backend("engines"), filters=[strip]))
        everything["spec"]["hostnames"] = ["models.example.com"]
        create(put, cluster, everything)
        path, host = "/v1/chat/completions", "models.example.com"

        def infers(path: str) -> bool:
            return ask(gateway, path, host, body=chat).status == 200

        assert eventually(lambda: infers(f"/team{path}"))
        assert ask(gateway, f"/team{path}", host, body=chat).json["choices"]
        assert eventually(lambda: infers(path))
        assert ask(gateway, path, "other.example.com", body=chat).status == 404
        create(put, cluster, model_server("engines", {"app": "engine"}, port, model="none"))
        create(put, cluster, model_route("m", "m", "engines"))
        assert eventually(lambda: not infers(path))  # which is asked for a model that it has not
        assert infers(f"/team{path}")


def test_gateways_tell_the_addresses_of_the_service_in_front() -> None:
    with Cluster() as cluster:
        front = service("front", 80)
        ours = thing(GATEWAYS, "Gateway", "ours", {"gatewayClassName": "c", "listeners": [LISTENER]})
        cluster.create(gateway_class("c", CONTROLLER), ours, front)
        with following(cluster, "--service", "front"):

            def told() -> object:
                return cluster.get(ours).get("status", {}).get("addresses")

            assert eventually(lambda: told() == [{"type": "IPAddress", "value": "10.0.0.1"}])
            balanced = {"loadBalancer": {"ingress": [{"hostname": "models.example.com"}, {"ip": "192.0.2.1"}]}}
            cluster.patch(front, {"status": balanced}, part="status")
            assert eventually(
                lambda: (
                    told()
                    == [
                        {"type": "Hostname", "value": "models.example.com"},
                        {"type": "IPAddress", "value": "192.0.2.1"},
                    ]
                )
            )
