"""Objects of Gateway API → routes and verdicts: the status tests of the inference extension's suite, and bad input."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.gateway_api import CONTROLLER, GatewayApi
from gateway.config.gateway_doors import addresses_of, common
from gateway.config.verdict import Parent, Verdict
from gateway.entrance import MAIN
from gateway.errors import NoBackend
from gateway.httproute import HttpRouteTable

Tree = dict[str, Any]
GATEWAYS = "gateway.networking.k8s.io/v1"
POOLS = "inference.networking.k8s.io/v1"


def thing(version: str, kind: str, name: str, spec: Any, namespace: str = "app", **metadata: Any) -> Tree:
    at = {"name": name, "namespace": namespace, "uid": f"u-{name}", "generation": 1, **metadata}
    return {"apiVersion": version, "kind": kind, "metadata": at, "spec": spec}


def gateway_class(controller: str = CONTROLLER, name: str = "ours") -> Tree:
    made = thing(GATEWAYS, "GatewayClass", name, {"controllerName": controller, "parametersRef": {"x": [1]}})
    del made["metadata"]["namespace"]
    return made


def listener(name: str = "http", **more: Any) -> Tree:
    return {"name": name, "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}, **more}


def gateway(name: str, *listeners: Tree, of: str = "ours", namespace: str = "infra") -> Tree:
    spec = {"gatewayClassName": of, "listeners": list(listeners) or [listener()]}
    return thing(GATEWAYS, "Gateway", name, spec, namespace)


def parent(name: str, **more: Any) -> Tree:
    return {"name": name, "namespace": "infra", **more}


def backend(name: str, **more: Any) -> Tree:
    return {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name, **more}


def rule(path: str, *backends: Tree, **more: Any) -> Tree:
    return {"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": list(backends), **more}


def route(name: str, parents: list[Tree], *rules: Tree, namespace: str = "app", **spec: Any) -> Tree:
    return thing(GATEWAYS, "HTTPRoute", name, {"parentRefs": parents, "rules": list(rules), **spec}, namespace)


def pool(name: str, picker: Tree | None = None, namespace: str = "app", **spec: Any) -> Tree:
    more = {"endpointPickerRef": picker} if picker is not None else {}
    body = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 3000}], **more, **spec}
    return thing(POOLS, "InferencePool", name, body, namespace)


PICKER = {"name": "epp", "port": {"number": 9002}}


class State(msgspec.Struct):
    """As much of a pool's state as is looked at."""

    spec: Any
    problems: tuple[str, ...] = ()


class Named(msgspec.Struct):
    name: str


class World:
    """A handler, and the fleet it is built with: each pool serves under its own name, but for those in ``broken``."""

    def __init__(self, *trees: Tree, **options: Any) -> None:
        self.broken: dict[str, tuple[str, ...]] = {}
        self.api = GatewayApi(**options)
        self.said: dict[tuple[str, str], Verdict] = {}
        self.put(*trees)

    def pool(self, name: str, /) -> State:
        problems = self.broken.get(name)
        return State(Named(name)) if problems is None else State(None, problems)

    def put(self, *trees: Tree) -> list[Verdict]:
        for tree in trees:
            before = copy.deepcopy(tree)
            self.api.put(tree)
            assert tree == before
        return self.work()

    def remove(self, tree: Tree) -> list[Verdict]:
        at = tree["metadata"]
        self.api.remove(tree["apiVersion"], tree["kind"], at.get("namespace", ""), at["name"])
        return self.work()

    def work(self, *changed: str) -> list[Verdict]:
        for _ in self.api.build(self, changed):
            pass
        news = self.api.verdicts()
        self.said |= {(verdict.kind, verdict.name): verdict for verdict in news}
        assert not self.api.verdicts()
        return news

    def parents(self, kind: str, name: str) -> list[Tree]:
        """Of each parent its name and the conditions as "Type: Reason"."""
        verdict = self.said.get((kind, name))
        assert verdict is None or verdict.parents is not None
        return [_told(each) for each in verdict.parents or ()] if verdict is not None else []

    def conditions(self, kind: str, name: str) -> Tree:
        return {each.type: (each.status, each.reason) for each in self.said[kind, name].conditions}

    def listener(self, gateway: str, name: str = "http") -> Tree:
        found = next(each for each in self.said["Gateway", gateway].more["listeners"] if each["name"] == name)
        return {**found, "conditions": {each.type: (each.status, each.reason) for each in found["conditions"]}}

    @property
    def tables(self) -> Mapping[int, HttpRouteTable]:
        """Of HTTPRoutes, by port."""
        return {} if self.api.made is None else self.api.made.http

    @property
    def table(self) -> HttpRouteTable:
        return self.tables[MAIN]

    def asked(self, path: str, host: str = "any", chance: float = 0.0, port: int = MAIN) -> str | int:
        """The pool, or the status a client gets."""
        found = self.tables[port].find(host, path, "POST", ()) if port in self.tables else None
        if found is None:
            return 404
        try:
            return found.pick(chance).pool
        except NoBackend as error:
            return error.status


def _told(entry: Parent) -> Tree:
    return {
        "name": entry.reference["name"],
        **{each.type: (each.status == "True", each.reason) for each in entry.conditions},
    }


ACCEPTED = {"Accepted": (True, "Accepted"), "ResolvedRefs": (True, "ResolvedRefs")}
BASE = (
    gateway_class(),
    gateway("primary"),
    gateway("secondary", listener(hostname="secondary.example.com")),
    pool("a"),
    pool("b"),
)


# -- the suite's status tests -------------------------------------------------------------------------------------


def test_a_pool_is_accepted_through_the_gateway_of_its_route() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a"))))
    assert world.parents("InferencePool", "a") == [{"name": "primary", **ACCEPTED}]
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "infra", "name": "primary"}
    assert (world.said["InferencePool", "a"].parents or ())[0].reference == reference
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **ACCEPTED}]
    assert (world.said["HTTPRoute", "r"].parents or ())[0].reference == parent("primary")
    assert world.asked("/x") == "app/a"
    assert ("InferencePool", "b") not in world.said


def test_a_pool_has_an_entry_a_gateway_as_long_as_a_route_leads_there() -> None:
    first = route("first", [parent("primary")], rule("/primary", backend("a")), hostnames=["primary.example.com"])
    second = route(
        "second", [parent("secondary")], rule("/secondary", backend("a")), hostnames=["secondary.example.com"]
    )
    world = World(*BASE, first, second)
    assert world.parents("InferencePool", "a") == [{"name": "primary", **ACCEPTED}, {"name": "secondary", **ACCEPTED}]
    assert world.asked("/primary/x", "primary.example.com") == "app/a"
    assert world.asked("/secondary/x", "secondary.example.com") == "app/a"
    world.remove(first)
    assert world.parents("InferencePool", "a") == [{"name": "secondary", **ACCEPTED}]
    assert world.asked("/primary/x", "primary.example.com") == 404
    assert world.asked("/secondary/x", "secondary.example.com") == "app/a"
    world.remove(second)
    assert world.said["InferencePool", "a"].parents == ()
    assert world.asked("/secondary/x", "secondary.example.com") == 404
    assert not world.tables


def test_a_picker_whose_service_is_missing() -> None:
    world = World(
        gateway_class(), gateway("primary"), pool("a", PICKER), route("r", [parent("primary")], rule("/", backend("a")))
    )
    assert world.api.services == {"app/epp"}
    assert world.asked("/") == "app/a"  # nobody has said that there is none
    world.api.missing("app", "epp")
    world.work()
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **ACCEPTED}]
    refused = {"Accepted": (True, "Accepted"), "ResolvedRefs": (False, "InvalidExtensionRef")}
    assert world.parents("InferencePool", "a") == [{"name": "primary", **refused}]
    assert world.asked("/") == 500
    service = thing("v1", "Service", "epp", {"type": "ClusterIP"})
    world.put(service)
    assert world.parents("InferencePool", "a") == [{"name": "primary", **ACCEPTED}]
    assert world.asked("/") == "app/a"
    world.put(thing("v1", "Service", "epp", {"type": "ExternalName"}))
    assert world.parents("InferencePool", "a") == [{"name": "primary", **refused}]
    world.remove(service)
    assert world.asked("/") == 500


def test_a_picker_that_may_be_missing() -> None:
    world = World(*BASE, pool("a", {**PICKER, "failureMode": "FailOpen"}))
    world.put(route("r", [parent("primary")], rule("/", backend("a"))))
    world.api.missing("app", "epp")
    world.work()
    assert world.parents("InferencePool", "a")[0]["ResolvedRefs"] == (False, "InvalidExtensionRef")
    assert world.asked("/") == "app/a"


def test_a_pool_without_a_picker_is_served() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a"))))
    assert world.parents("InferencePool", "a")[0]["Accepted"] == (True, "Accepted")
    assert world.api.services == frozenset()


@pytest.mark.parametrize("port", [None, 3000, 9999])
def test_the_port_of_a_backend_is_ignored(port: int | None) -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a", port=port))))
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **ACCEPTED}]
    assert world.asked("/") == "app/a"


def test_http2_without_tls_is_accepted_and_told_as_what_it_is() -> None:
    world = World(*BASE, pool("a", appProtocol="kubernetes.io/h2c"))
    world.put(route("r", [parent("primary")], rule("/", backend("a"))))
    assert world.parents("InferencePool", "a") == [{"name": "primary", **ACCEPTED}]
    assert "HTTP/1.1" in (world.said["InferencePool", "a"].parents or ())[0].conditions[0].message


def test_a_pool_that_does_not_exist() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("none"))))
    told = {"Accepted": (True, "Accepted"), "ResolvedRefs": (False, "BackendNotFound")}
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **told}]
    message = (world.said["HTTPRoute", "r"].parents or ())[0].conditions[1].message
    assert message == '$.spec.rules[0].backendRefs[0].name: no InferencePool "none" in namespace "app"'
    assert world.asked("/") == 500
    world.put(pool("none"))
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **ACCEPTED}]
    assert world.asked("/") == "app/none"
    world.remove(pool("none"))
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **told}]


def test_two_routes_of_two_gateways_to_two_pools() -> None:
    world = World(
        *BASE,
        route("first", [parent("primary")], rule("/", backend("a")), hostnames=["primary.example.com"]),
        route("second", [parent("secondary")], rule("/", backend("b")), hostnames=["secondary.example.com"]),
    )
    assert (world.asked("/", "primary.example.com"), world.asked("/", "secondary.example.com")) == ("app/a", "app/b")


def test_two_rules_of_a_route_to_two_pools() -> None:
    world = World(
        *BASE, route("r", [parent("primary")], rule("/primary", backend("a")), rule("/secondary", backend("b")))
    )
    assert (world.asked("/primary/x"), world.asked("/secondary/x"), world.asked("/x")) == ("app/a", "app/b", 404)


def test_weights() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a", weight=70), backend("b", weight=30))))
    picks = [world.asked("/", chance=(n + 0.5) / 1000) for n in range(1000)]
    assert (picks.count("app/a"), picks.count("app/b")) == (700, 300)


# -- classes, Gateways, listeners ---------------------------------------------------------------------------------


def test_a_class_of_ours_is_accepted_and_one_of_others_is_left_alone() -> None:
    world = World(gateway_class(), gateway_class("example.com/other", "theirs"), gateway("g", of="theirs"))
    verdict = world.said["GatewayClass", "ours"]
    assert world.conditions("GatewayClass", "ours") == {"Accepted": ("True", "Accepted")}
    assert verdict.namespace == ""
    features = [each["name"] for each in verdict.more["supportedFeatures"]]
    assert "SupportInferencePool" in features
    assert features == sorted(features)
    assert set(world.said) == {("GatewayClass", "ours")}
    world.put(route("r", [parent("g")], rule("/", backend("a"))))
    assert ("HTTPRoute", "r") not in world.said
    assert not world.tables


def test_another_controller_name() -> None:
    world = World(gateway_class("me/you"), gateway("g"), controller="me/you")
    assert world.conditions("Gateway", "g") == {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}


def test_a_gateway_says_who_is_attached_and_where_it_is() -> None:
    address = {"type": "IPAddress", "value": "192.0.2.1"}
    world = World(
        gateway_class(),
        gateway("g", listener("one"), listener("two", port=81)),
        route("r", [parent("g")], rule("/")),
        route("s", [parent("g", sectionName="two")], rule("/")),
        route("t", [parent("g", port=81)], rule("/")),
        addresses=[address],
    )
    assert world.said["Gateway", "g"].more["addresses"] == [address]
    first, second = world.listener("g", "one"), world.listener("g", "two")
    assert (first["attachedRoutes"], second["attachedRoutes"]) == (1, 3)
    assert first["supportedKinds"] == [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]
    assert first["conditions"] == {
        "Accepted": ("True", "Accepted"),
        "Programmed": ("True", "Programmed"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
        "Conflicted": ("False", "NoConflicts"),
    }
    world.remove(route("s", [], rule("/")))
    assert world.listener("g", "two")["attachedRoutes"] == 2


def test_listeners_that_are_not_served() -> None:
    world = World(
        gateway_class(),
        gateway(
            "g",
            listener("http"),
            listener("tls", port=443, protocol="HTTPS"),
            listener("same", hostname="a.x", port=90),
            listener("again", hostname="A.X", port=90),
            listener("grpc", port=91, allowedRoutes={"kinds": [{"kind": "GRPCRoute"}]}),
            listener("both", port=92, allowedRoutes={"kinds": [{"kind": "GRPCRoute"}, {"kind": "HTTPRoute"}]}),
        ),
    )
    assert world.conditions("Gateway", "g")["Accepted"] == ("True", "ListenersNotValid")
    assert world.listener("g", "tls")["conditions"]["Accepted"] == ("False", "UnsupportedProtocol")
    assert world.listener("g", "tls")["conditions"]["Programmed"] == ("False", "Invalid")
    for name in ("same", "again"):
        assert world.listener("g", name)["conditions"]["Conflicted"] == ("True", "HostnameConflict")
    assert world.listener("g", "grpc")["conditions"]["ResolvedRefs"] == ("False", "InvalidRouteKinds")
    assert world.listener("g", "grpc")["supportedKinds"] == []
    assert world.listener("g", "both")["conditions"]["ResolvedRefs"] == ("False", "InvalidRouteKinds")
    assert world.listener("g", "both")["conditions"]["Programmed"] == ("True", "Programmed")
    world.put(gateway("h", listener(protocol="TCP")))
    assert world.conditions("Gateway", "h") == {
        "Accepted": ("False", "ListenersNotValid"),
        "Programmed": ("False", "Invalid"),
    }


@pytest.mark.parametrize(
    ("ref", "listeners", "hostnames", "reason"),
    [
        ({"sectionName": "none"}, [listener()], [], "NoMatchingParent"),
        ({"port": 81}, [listener()], [], "NoMatchingParent"),
        ({}, [listener(protocol="HTTPS")], [], "NoMatchingParent"),
        ({}, [listener(allowedRoutes={})], [], "NotAllowedByListeners"),
        (
            {},
            [listener(allowedRoutes={"namespaces": {"from": "Selector", "selector": {}}})],
            [],
            "NotAllowedByListeners",
        ),
        ({}, [listener(hostname="a.x")], ["b.x"], "NoMatchingListenerHostname"),
        ({}, [listener(hostname="*.x")], ["x", "b.y"], "NoMatchingListenerHostname"),
    ],
)
def test_routes_that_no_listener_takes(ref: Tree, listeners: list[Tree], hostnames: list[str], reason: str) -> None:
    world = World(
        gateway_class(),
        gateway("g", *listeners),
        pool("a"),
        route("r", [parent("g", **ref)], rule("/", backend("a")), hostnames=hostnames),
    )
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == (False, reason)
    assert not world.tables
    assert world.listener("g")["attachedRoutes"] == 0
    assert world.parents("InferencePool", "a") == []


def test_routes_of_the_same_namespace() -> None:
    world = World(gateway_class(), gateway("g", listener(allowedRoutes={}), namespace="app"))
    world.put(route("r", [{"name": "g"}], rule("/")))
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == (True, "Accepted")


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("", "", ""),
        ("", "a.x", "a.x"),
        ("*.x", "", "*.x"),
        ("a.x", "a.x", "a.x"),
        ("*.x", "a.x", "a.x"),
        ("*.x", "b.a.x", "b.a.x"),
        ("*.x", "x", None),
        ("*.x", "*.a.x", "*.a.x"),
        ("*.x", "*.y", None),
        ("*.x", "ax", None),
        ("a.x", "b.x", None),
    ],
)
def test_hostnames_in_common(one: str, other: str, both: str | None) -> None:
    assert common(one, other) == common(other, one) == both


def test_a_route_is_served_under_the_hostnames_of_its_listeners() -> None:
    world = World(
        gateway_class(),
        gateway("g", listener("one", hostname="*.x"), listener("two", hostname="b.y")),
        pool("a"),
        route("r", [parent("g")], rule("/", backend("a")), hostnames=["a.x", "B.Y", "c.z"]),
        route("s", [parent("g", sectionName="two")], rule("/s", backend("a"))),
    )
    assert [world.asked("/", host) for host in ("a.x", "b.y", "c.z", "b.x")] == ["app/a", "app/a", 404, 404]
    assert [world.asked("/s", host) for host in ("b.y", "c.x")] == ["app/a", 404]
    assert world.listener("g", "one")["attachedRoutes"] == 1


def test_the_order_of_arrival_means_nothing() -> None:
    trees = [*BASE, route("r", [parent("primary")], rule("/", backend("a")))]
    there, back = World(*trees), World()
    for tree in reversed(trees):
        back.put(tree)
    assert back.said == there.said
    assert back.table.routes == there.table.routes


def test_a_gateway_that_goes_and_comes() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a"))))
    world.remove(gateway("primary"))
    assert world.said["HTTPRoute", "r"].parents == ()
    assert world.said["InferencePool", "a"].parents == ()
    assert world.asked("/") == 404
    world.put(gateway("primary"))
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **ACCEPTED}]
    world.remove(gateway_class())
    assert world.asked("/") == 404


def test_a_route_that_has_gone_is_not_looked_at_again() -> None:
    made = route("r", [parent("primary")], rule("/", backend("a")))
    world = World(*BASE, made)
    world.remove(made)
    world.put(gateway("primary", listener(hostname="a.x")))
    world.remove(pool("a"))
    assert not world.tables
    assert world.listener("primary")["attachedRoutes"] == 0
    moved = route("s", [parent("primary")], rule("/", backend("b")))
    world.put(moved, route("s", [parent("secondary")], rule("/", backend("b"))))
    assert world.listener("secondary")["attachedRoutes"] == 1
    assert world.put(gateway("primary")) == []


def test_which_parents_are_ours() -> None:
    world = World(*BASE, gateway("theirs", of="other"))
    assert world.api.is_ours({"name": "primary"}, "infra")
    assert world.api.is_ours({"name": "primary", "namespace": "infra", "kind": "Gateway"}, "app")
    assert not world.api.is_ours({"name": "primary"}, "app")
    assert not world.api.is_ours({"name": "theirs"}, "infra")
    assert not world.api.is_ours({"kind": "Service", "name": "primary"}, "infra")


def test_what_a_process_before_us_said_is_taken_back() -> None:
    ours = {"parentRef": {"name": "primary"}, "controllerName": CONTROLLER, "conditions": []}
    theirs = {**ours, "controllerName": "example.com/other"}
    left = {**pool("a"), "status": {"parents": [theirs, ours]}}
    world = World(left, {**pool("b"), "status": {"parents": [theirs]}})
    assert set(world.said) == {("InferencePool", "a")}
    assert world.said["InferencePool", "a"].parents == ()


# -- backends -----------------------------------------------------------------------------------------------------


def test_other_kinds_of_backends() -> None:
    service = {"name": "s", "port": 80}
    world = World(*BASE, route("r", [parent("primary")], rule("/", service), rule("/a", backend("a"))))
    told = {"Accepted": (True, "Accepted"), "ResolvedRefs": (False, "InvalidKind")}
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **told}]
    assert (world.asked("/"), world.asked("/a")) == (500, "app/a")


def grant(namespace: str, *to: Tree, source: str = "app") -> Tree:
    spec = {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": source}], "to": list(to)}
    return thing("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", "g", spec, namespace)


def test_a_pool_of_another_namespace_needs_a_grant() -> None:
    kind = {"group": "inference.networking.k8s.io", "kind": "InferencePool"}
    world = World(*BASE, pool("p", namespace="far"))
    world.put(route("r", [parent("primary")], rule("/", backend("p", namespace="far"))))
    told = {"Accepted": (True, "Accepted"), "ResolvedRefs": (False, "RefNotPermitted")}
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **told}]
    assert world.asked("/") == 500
    for wrong in (
        grant("far", {**kind, "name": "q"}),
        grant("far", kind, source="x"),
        grant("app", kind),
        grant("far"),
    ):
        world.put(wrong)
        assert world.asked("/") == 500, wrong
        world.remove(wrong)
    world.put(grant("far", {**kind, "name": "p"}))
    assert world.asked("/") == "far/p"
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **ACCEPTED}]
    world.remove(grant("far"))
    assert world.asked("/") == 500


def test_a_pool_that_cannot_serve() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a"))))
    world.broken["app/a"] = ("$.spec.targetPorts: port number must be unique",)
    world.work("app/a")
    assert world.parents("InferencePool", "a")[0]["Accepted"] == (False, "NotSupportedByParent")
    assert world.asked("/") == 500
    del world.broken["app/a"]
    world.work("app/a")
    assert world.parents("InferencePool", "a") == [{"name": "primary", **ACCEPTED}]
    assert world.asked("/") == "app/a"


def test_pools_of_the_first_form() -> None:
    spec = {"selector": {"app": "x"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}}
    earlier = thing("inference.networking.x-k8s.io/v1alpha2", "InferencePool", "old", spec)
    world = World(*BASE, earlier)
    world.put(route("r", [parent("primary")], rule("/", {**backend("old"), "group": "inference.networking.x-k8s.io"})))
    assert world.asked("/") == "app/old"
    assert world.said["InferencePool", "old"].api_version == "inference.networking.x-k8s.io/v1alpha2"
    world.api.missing("app", "epp")
    world.work()
    assert world.asked("/") == 500
    world.put(pool("old"))  # the same in today's form stands
    assert world.asked("/") == "app/old"
    world.remove(pool("old"))
    assert world.asked("/") == 500


# -- rules --------------------------------------------------------------------------------------------------------


def test_filters_and_matches_come_through() -> None:
    made = {
        "name": "main",
        "matches": [
            {
                "path": {"type": "PathPrefix", "value": "/x"},
                "method": "POST",
                "headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}],
                "queryParams": [{"name": "q", "type": "RegularExpression", "value": "[0-9]+"}],
            },
            {"path": {"type": "Exact", "value": "/y"}},
            {"path": {"type": "RegularExpression", "value": "/z.*"}},
        ],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-B", "value": "2"}]}},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["Server"]}},
            {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/v1"}}},
        ],
        "timeouts": {"request": "10s", "backendRequest": "2s"},
        "backendRefs": [backend("a")],
    }
    world = World(*BASE, route("r", [parent("primary")], made))
    assert world.parents("HTTPRoute", "r") == [{"name": "primary", **ACCEPTED}]
    found = world.table.find("h", "/x/1", "POST", [(b"x-a", b"1")], "q=7")
    assert found is not None
    assert found.path("/x/1") == "/v1"
    assert found.rule.request is not None
    assert found.rule.request.set == ((b"x-b", b"2"),)
    assert found.rule.response is not None
    assert found.rule.response.remove == (b"server",)
    assert (found.rule.timeout, found.pick(0.5).rule) == (2.0, "main")
    assert world.table.find("h", "/x/1", "POST", [(b"x-a", b"2")], "q=7") is None
    assert world.asked("/y") == world.asked("/zz") == "app/a"


def test_a_redirect_needs_no_backend() -> None:
    redirect = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301, "port": None}}
    world = World(*BASE, route("r", [parent("primary")], rule("/", filters=[redirect])))
    found = world.table.find("h", "/", "GET", ())
    assert found is not None
    assert found.rule.redirect is not None
    assert (found.rule.redirect.status, found.rule.redirect.scheme) == (301, "https")


WRONG: list[tuple[Tree, str]] = [
    ({"filters": [{"type": "RequestMirror"}]}, "filters[0].type: RequestMirror is not supported"),
    ({"filters": [{"type": "ExtensionRef"}]}, "filters[0].type: ExtensionRef is not supported"),
    ({"filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "x"}}]}, "filters[0].urlRewrite.hostname: not"),
    ({"filters": [{"type": "URLRewrite"}, {"type": "URLRewrite"}]}, "filters[1].type: URLRewrite is given twice"),
    ({"filters": [{"type": "URLRewrite"}, {"type": "RequestRedirect"}]}, "filters: URLRewrite and"),
    (
        {"filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 200}}]},
        "filters[0].requestRedirect.statusCode: expected one of 301",
    ),
    (
        {"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "a\r\nb"}}]},
        "filters[0].requestRedirect.hostname: not a hostname",
    ),
    (
        {"filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath"}}}]},
        "filters[0].urlRewrite.path.replaceFullPath: not a path",
    ),
    (
        {
            "matches": [{"path": {"type": "Exact", "value": "/x"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch"}}}],
        },
        "filters[0].urlRewrite.path.type: ReplacePrefixMatch needs",
    ),
    (
        {
            "filters": [
                {
                    "type": "RequestHeaderModifier",
                    "requestHeaderModifier": {"add": [{"name": "x", "value": "a\r\nhost: b"}]},
                }
            ]
        },
        "filters[0].requestHeaderModifier.add[0].value: not a header value",
    ),
    (
        {"filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["Content-Length"]}}]},
        "filters[0].responseHeaderModifier.remove[0]: the gateway sets",
    ),
    ({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}, "matches[0].path.value: not a regular"),
    ({"matches": [{"path": {"type": "RegularExpression", "value": "/(?!a)"}}]}, "matches[0].path.value: not a regular"),
    (
        {"matches": [{"path": {"type": "RegularExpression", "value": "(?:b?){1000}/"}}] * 17},
        "matches[16].path.value: with this one the regular expressions are too large together",
    ),
    (
        {"matches": [{"path": {"type": "RegularExpression", "value": "("}}] * 40},
        "; ".join(
            f"{'$.spec.rules[0].' if n else ''}matches[{n}].path.value: not a regular expression of RE2: missing ): ("
            for n in range(17)
        )
        + "; the version",
    ),
    ({"matches": [{"path": {"type": "Strange", "value": "/"}}]}, "matches[0].path.type: Strange is not supported"),
    ({"matches": [{"path": {"value": "x"}}]}, "matches[0].path.value: a path begins"),
    ({"matches": [{"headers": [{"name": "x", "type": "?", "value": ""}]}]}, "matches[0].headers[0].type: ? is not"),
    ({"timeouts": {"request": "soon"}}, "timeouts.request: expected a duration"),
    ({"backendRefs": [backend("a", filters=[{"type": "URLRewrite"}])]}, "backendRefs[0].filters: filters of one"),
    ({"matches": 7}, "matches: expected `array`, got `int`"),
]


@pytest.mark.parametrize(("made", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_of_a_route_that_is_newly_wrong_the_version_before_serves(made: Tree, message: str) -> None:
    wrong = route("r", [parent("primary")], {**rule("/new", backend("a")), **made})
    wrong["metadata"]["generation"] = 2
    alone = World(*BASE, wrong)
    assert alone.parents("HTTPRoute", "r")[0]["Accepted"] == (False, "UnsupportedValue")
    assert not alone.tables
    world = World(*BASE, route("r", [parent("primary")], rule("/old", backend("b"))))
    world.put(wrong)
    verdict = world.said["HTTPRoute", "r"]
    accepted = (verdict.parents or ())[0].conditions[0]
    assert (accepted.status, accepted.reason, verdict.generation) == ("False", "UnsupportedValue", 2)
    assert accepted.message.startswith(f"$.spec.rules[0].{message}")
    assert accepted.message.endswith("; the version of generation 1 serves")
    assert (world.asked("/old"), world.asked("/new")) == ("app/b", 404)


def test_a_gateway_that_is_newly_wrong_stays_as_it_was() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a"))))
    world.put(thing(GATEWAYS, "Gateway", "primary", {"gatewayClassName": 7}, "infra"))
    assert world.conditions("Gateway", "primary")["Accepted"] == ("False", "Invalid")
    assert world.asked("/") == "app/a"


# -- what changes, and what does not ------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_said_again_nor_built_anew() -> None:
    trees = (*BASE, route("r", [parent("primary")], rule("/", backend("a"))))
    world = World(*trees, route("s", [parent("primary")], rule("/s", backend("b"))))
    made, table = world.api.made, world.table
    assert world.put(*trees) == []
    assert world.api.made is made
    changed = route("s", [parent("primary")], rule("/t", backend("b")))
    assert world.put(changed) == []  # the same is to be said of it
    before, after = table.find("h", "/", "GET", ()), world.table.find("h", "/", "GET", ())
    assert before is after


def test_a_new_generation_is_told_of() -> None:
    world = World(*BASE, route("r", [parent("primary")], rule("/", backend("a"))))
    newer = route("r", [parent("primary")], rule("/", backend("a")))
    newer["metadata"]["generation"] = 2
    assert [(verdict.kind, verdict.generation) for verdict in world.put(newer)] == [("HTTPRoute", 2)]


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=4,
)
VALID = [
    *BASE,
    grant("far", {"group": "x", "kind": "y"}),
    thing("v1", "Service", "epp", {}),
    route(
        "r", [parent("primary")], rule("/", backend("a"), filters=[{"type": "URLRewrite"}], timeouts={"request": "1s"})
    ),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@given(st.data())
def test_nothing_raises_whatever_an_object_holds(data: st.DataObject) -> None:
    tree = copy.deepcopy(data.draw(st.sampled_from(VALID)))
    place = data.draw(st.sampled_from(places(tree)[1:]))
    held: Any = tree
    for key in place[:-1]:
        held = held[key]
    held[place[-1]] = data.draw(junk)
    world = World(*VALID)
    world.put(tree)
    world.asked("/")
    world.remove(VALID[0])
    assert world.asked("/") == 404 or tree["kind"] == "GatewayClass"


def front(spec: Tree, status: object = None) -> Tree:
    return {"metadata": {"name": "front"}, "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("tree", "values"),
    [
        (front({"clusterIPs": ["10.0.0.1", "fd00::1"]}), ["10.0.0.1", "fd00::1"]),
        (front({"clusterIPs": ["None"]}), []),
        (front({"clusterIPs": ["10.0.0.1"], "externalIPs": ["192.0.2.7"]}), ["192.0.2.7"]),
        (front({"clusterIPs": ["10.0.0.1"]}, {"loadBalancer": {"ingress": [{"hostname": "a.b"}]}}), ["a.b"]),
        (front({"clusterIPs": ["10.0.0.1"]}, {"loadBalancer": {}}), ["10.0.0.1"]),
        (front({"clusterIPs": "rubbish"}), []),
        ({}, []),
    ],
)
def test_a_service_is_reached_where_it_says(tree: Tree, values: list[str]) -> None:
    assert [each["value"] for each in addresses_of(tree)] == values
