"""ModelRoutes bound to Gateways: one model name on two of them is isolated by hostname, and by port if those open."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from gateway.config.gateway_api import CONTROLLER
from tests.kube.cluster import (
    GATEWAYS,
    Cluster,
    Refused,
    Tree,
    gateway_class,
    http_route,
    inference_pool,
    model_route,
    model_server,
    pod,
    thing,
)
from tests.kube.fleet import CHAT, Answer, engine, following, metric, shared_port
from tests.process import InferGateway, eventually, together

ONE, TWO, SLOW = "127.0.1.1", "127.0.2.1", "127.0.3.1"
MODELS = "/v1/models"


@pytest.fixture(scope="module")
def port() -> int:
    return shared_port()


@pytest.fixture(scope="module")
def cluster(port: int) -> Iterator[Cluster]:
    """Two servers in one namespace, one in another."""
    engines = engine(ONE, port), engine(TWO, port), engine(SLOW, port, "--itl", "0.2")
    with Cluster() as cluster, together(*engines):
        cluster.create(gateway_class("ours", CONTROLLER), gateway_class("theirs", "example.com/other"))
        for name, host, namespace in (
            ("one", ONE, "default"),
            ("two", TWO, "default"),
            ("slow", SLOW, "default"),
            ("far", TWO, "far"),
        ):
            cluster.create(pod(name, host, {"app": name}, port, namespace=namespace))
            cluster.create(model_server(name, {"app": name}, port, model="m", namespace=namespace))
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[InferGateway]:
    with following(cluster, "--gateway-ports") as gateway:
        yield gateway


class Bench:
    """Whatever a test creates is gone after it."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self._cluster, self._stack = cluster, stack

    def put(self, *trees: Tree) -> None:
        for tree in trees:
            self._cluster.create(tree)
            self._stack.callback(self.remove, tree)

    def remove(self, tree: Tree) -> None:
        with suppress(Refused):  # gone already
            self._cluster.delete(tree)


@pytest.fixture
def bench(cluster: Cluster) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(cluster, stack)


def door(
    name: str, port: int = 80, hostname: str = "", whose: str = "Same", of: str = "ours", namespace: str = "default"
) -> Tree:
    """A Gateway with one listener."""
    listener = {"name": "http", "port": port, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": whose}}}
    listener |= {"hostname": hostname} if hostname else {}
    return thing(GATEWAYS, "Gateway", name, {"gatewayClassName": of, "listeners": [listener]}, namespace)


def bound(name: str, model: str, server: str, *gateways: Tree | str, namespace: str = "default") -> Tree:
    refs = [each if isinstance(each, dict) else {"name": each} for each in gateways]
    return model_route(name, model, server, namespace=namespace, parentRefs=refs)


def asked(at: tuple[str, int], method: str, path: str, host: str, body: Tree | None = None) -> Answer:
    connection = http.client.HTTPConnection(*at, timeout=20)
    try:
        fields = {"host": host, "content-type": "application/json", "x-debug-schedule": "1"}
        connection.request(method, path, json.dumps(body) if body else None, fields)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def answer(gateway: InferGateway, model: str, host: str = "any.example", port: int = 0) -> str | int:
    """The host of the engine that answers who asks there, or else the status; 0 where nobody listens."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    at = gateway.address
    try:
        got = asked((at[0], port or at[1]), "POST", CHAT, host, body)
    except ConnectionError:
        return 0
    return got.endpoint.rpartition(":")[0] if got.status == 200 else got.status


def models(gateway: InferGateway, host: str = "any.example", port: int = 0) -> set[str]:
    at = gateway.address
    return {card["id"] for card in asked((at[0], port or at[1]), "GET", MODELS, host).json["data"]}


def comes_to(
    wanted: str | int,
    gateway: InferGateway,
    model: str,
    host: str = "any.example",
    port: int = 0,
    within_s: float = 10.0,
) -> bool:
    return eventually(lambda: answer(gateway, model, host, port) == wanted, within_s)


def condition(cluster: Cluster, tree: Tree, kind: str) -> tuple[str, str, str]:
    conditions = cluster.get(tree).get("status", {}).get("conditions", [])
    found = ((each["status"], each["reason"], each["message"]) for each in conditions if each["type"] == kind)
    return next(found, ("", "", ""))


def listener(cluster: Cluster, tree: Tree) -> Tree:
    """What is said of a Gateway's first one."""
    (said, *_) = cluster.get(tree).get("status", {}).get("listeners") or [{"conditions": []}]
    return {**said, "conditions": {each["type"]: (each["status"], each["reason"]) for each in said["conditions"]}}


# -- by hostname


def test_one_model_on_two_gateways_is_isolated_by_hostname(
    cluster: Cluster, gateway: InferGateway, bench: Bench
) -> None:
    first, second = door("first", hostname="a.example"), door("second", hostname="*.b.example")
    bench.put(first, second, bound("first", "m", "one", "first"), bound("second", "m", "two", "second"))
    assert comes_to(ONE, gateway, "m", "a.example")
    assert comes_to(TWO, gateway, "m", "x.b.example:80")
    assert [answer(gateway, "m", host) for host in ("A.example", "b.example", "other", "")] == [ONE, 404, 404, 404]
    assert (models(gateway, "a.example"), models(gateway, "x.b.example"), models(gateway)) == ({"m"}, {"m"}, set())
    assert eventually(lambda: listener(cluster, first).get("attachedRoutes") == 1)
    bench.remove(second)
    assert comes_to(404, gateway, "m", "x.b.example")
    assert answer(gateway, "m", "a.example") == ONE


def test_a_route_for_a_gateway_that_is_not_there_is_served_nowhere_until_it_is(
    cluster: Cluster, gateway: InferGateway, bench: Bench
) -> None:
    route = bound("early", "early", "one", "late")
    bench.put(route, door("late", of="theirs"))
    assert eventually(lambda: condition(cluster, route, "ResolvedRefs")[:2] == ("False", "ParentNotFound"))
    said = condition(cluster, route, "ResolvedRefs")[2]
    assert said == '$.spec.parentRefs[0].name: no Gateway "late" of our class in namespace "default"'
    assert condition(cluster, route, "Ready")[:2] == ("False", "NotAttached")
    assert condition(cluster, route, "Accepted") == ("True", "Accepted", "")
    assert answer(gateway, "early") == 404
    bench.remove(door("late"))
    bench.put(door("late"))
    assert comes_to(ONE, gateway, "early")
    assert eventually(lambda: condition(cluster, route, "ResolvedRefs")[0] == "True")
    assert eventually(lambda: condition(cluster, route, "Ready")[0] == "True")


def test_gateways_say_whose_routes_they_take(cluster: Cluster, gateway: InferGateway, bench: Bench) -> None:
    route = bound("far", "far", "far", {"name": "same"}, {"name": "all", "sectionName": "none"}, namespace="far")
    for ref in route["spec"]["parentRefs"]:
        ref["namespace"] = "default"
    bench.put(door("same"), door("all", whose="All", hostname="all.example"), route)
    assert eventually(lambda: condition(cluster, route, "ResolvedRefs")[:2] == ("False", "NotAllowedByListeners"))
    said = condition(cluster, route, "ResolvedRefs")[2]
    assert said.startswith("$.spec.parentRefs[0]: the listeners of the Gateway default/same take no ModelRoutes")
    assert "$.spec.parentRefs[1].sectionName: the Gateway default/all has no listener of that name" in said
    assert {answer(gateway, "far", host) for host in ("any", "all.example")} == {404}
    refs = [{"name": "all", "namespace": "default", "sectionName": "http", "port": 80}]
    cluster.patch(route, {"spec": {"parentRefs": refs}})
    assert comes_to(TWO, gateway, "far", "all.example")
    assert answer(gateway, "far", "any") == 404


def test_who_has_gateways_loses_no_route_that_is_bound_to_none(gateway: InferGateway, bench: Bench) -> None:
    bench.put(door("web", hostname="web.example", namespace="far"), model_route("plain", "plain", "one"))
    assert comes_to(ONE, gateway, "plain")
    assert answer(gateway, "plain", "web.example") == ONE
    bench.put(bound("instead", "plain", "far", "web", namespace="far"))
    assert comes_to(TWO, gateway, "plain", "web.example")
    assert answer(gateway, "plain") == ONE


# -- by port


def test_one_model_on_two_gateways_is_isolated_by_port(cluster: Cluster, gateway: InferGateway, bench: Bench) -> None:
    ports = shared_port(), shared_port()
    for name, at, server in (("left", ports[0], "one"), ("right", ports[1], "two")):
        bench.put(door(name, at), bound(name, "p", server, name))
    assert comes_to(ONE, gateway, "p", port=ports[0])
    assert comes_to(TWO, gateway, "p", port=ports[1])
    assert answer(gateway, "p") == 404
    assert (models(gateway, port=ports[0]), models(gateway)) == ({"p"}, set())
    programmed = ("True", "Programmed")
    assert eventually(lambda: listener(cluster, door("left"))["conditions"].get("Programmed") == programmed)
    assert eventually(lambda: condition(cluster, door("left"), "Programmed")[:2] == programmed)
    assert asked((gateway.address[0], ports[0]), "GET", "/healthz", "any").status == 200
    bench.remove(door("left"))
    assert comes_to(0, gateway, "p", port=ports[0])
    assert answer(gateway, "p", port=ports[1]) == TWO


def test_a_gateways_port_serves_the_plain_routes_of_its_namespace_alone(gateway: InferGateway, bench: Bench) -> None:
    at = shared_port()
    bench.put(
        door("mine", at), model_route("near", "near", "one"), model_route("apart", "apart", "far", namespace="far")
    )
    assert comes_to(ONE, gateway, "near", port=at)
    assert (answer(gateway, "apart", port=at), models(gateway, port=at)) == (404, {"near"})
    assert comes_to(TWO, gateway, "apart")
    assert answer(gateway, "near") == ONE


def test_http_routes_too_are_told_apart_by_port(gateway: InferGateway, bench: Bench, port: int) -> None:
    ports = shared_port(), shared_port()
    for name, at in zip(("one", "two"), ports, strict=True):
        bench.put(door(name, at), inference_pool(name, {"app": name}, port), http_route(name, name, name, path="/its"))

    def passed(at: int) -> str:
        """To the engine of which host."""
        try:
            got = asked((gateway.address[0], at), "POST", f"/its{CHAT}", "any", {"model": "m"})
        except ConnectionError:
            return ""
        return got.endpoint.rpartition(":")[0] if "x-schedule-decision" in got.headers else ""

    assert eventually(lambda: [passed(at) for at in ports] == [ONE, TWO])
    assert asked(gateway.address, "POST", f"/its{CHAT}", "any", {"model": "m"}).status == 404


def test_streams_of_a_gateway_that_goes_are_finished(gateway: InferGateway, bench: Bench) -> None:
    at = shared_port()
    bench.put(door("going", at), bound("going", "g", "slow", "going"))
    assert comes_to(SLOW, gateway, "g", port=at)
    body = {"model": "g", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, "stream": True}
    connection = http.client.HTTPConnection(gateway.address[0], at, timeout=20)
    connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    assert metric(gateway, "infer_gateway_connections", listener="gateways") >= 1
    bench.remove(door("going"))
    assert comes_to(0, gateway, "g", port=at)
    assert response.read().rstrip().endswith(b"data: [DONE]")
    connection.close()
    assert eventually(lambda: metric(gateway, "infer_gateway_connections", listener="gateways") == 0)


def test_a_port_that_is_taken_is_said_and_costs_no_other(cluster: Cluster, gateway: InferGateway, bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at, free = taken.getsockname()[1], shared_port()
        bench.put(door("taken", at), door("free", free), bound("both", "t", "one", "taken", "free"))
        assert comes_to(ONE, gateway, "t", port=free)
        refused = ("False", "PortUnavailable")
        assert eventually(lambda: listener(cluster, door("taken"))["conditions"].get("Accepted") == refused)
        assert condition(cluster, door("taken"), "Programmed")[0] == "False"
        route = bound("both", "t", "one")
        assert eventually(lambda: condition(cluster, route, "ResolvedRefs")[:2] == ("False", "NoMatchingListener"))
    assert comes_to(ONE, gateway, "t", port=at, within_s=30)


def test_without_the_switch_the_programs_own_port_stands_for_all(cluster: Cluster, bench: Bench) -> None:
    at = shared_port()
    bench.put(door("closed", at), bound("closed", "c", "one", {"name": "closed", "port": at}))
    with following(cluster) as gateway:
        assert comes_to(ONE, gateway, "c")
        assert metric(gateway, "infer_gateway_connections", listener="gateways") == 0


def test_a_gateways_port_drains_with_the_others(cluster: Cluster, bench: Bench) -> None:
    at = shared_port()
    bench.put(door("drained", at), bound("drained", "d", "slow", "drained"))
    with following(cluster, "--gateway-ports") as gateway:
        assert comes_to(SLOW, gateway, "d", port=at)
        body = {"model": "d", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "stream": True}
        connection = http.client.HTTPConnection(gateway.address[0], at, timeout=20)
        connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        gateway.signal(signal.SIGTERM)
        assert response.read().rstrip().endswith(b"data: [DONE]")
        connection.close()
        assert gateway.wait() == 0
