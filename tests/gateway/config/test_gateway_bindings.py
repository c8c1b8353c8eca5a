"""ModelRoutes bound to Gateways: who takes them, what is said of those that nobody takes, and ports of Gateways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.cluster import Cluster
from gateway.config.gateway_api import CONTROLLER, GatewayApi
from gateway.config.gateway_doors import Ports
from gateway.config.verdict import Condition
from gateway.entrance import MAIN, NOWHERE, Entrances
from gateway.errors import ModelNotFound
from gateway.route import RouteTable
from tests.gateway.config.clusters import Told, pod, route, server, thing

GATEWAYS = "gateway.networking.k8s.io/v1"


def gateway_class(name: str = "ours", controller: str = CONTROLLER) -> Any:
    return thing("GatewayClass", name, {"controllerName": controller}, version=GATEWAYS, namespace="")


def listener(name: str = "http", **more: Any) -> Any:
    return {"name": name, "port": 80, "protocol": "HTTP", **more}


def allowed(whose: str = "Same", *kinds: str) -> Any:
    made: dict[str, Any] = {"namespaces": {"from": whose}}
    group = {"HTTPRoute": "gateway.networking.k8s.io"}
    if kinds:
        made["kinds"] = [{"group": group.get(kind, "networking.serving.volcano.sh"), "kind": kind} for kind in kinds]
    return {"allowedRoutes": made}


def gateway(name: str, *listeners: Any, of: str = "ours", namespace: str = "x") -> Any:
    spec = {"gatewayClassName": of, "listeners": list(listeners) or [listener()]}
    return thing("Gateway", name, spec, version=GATEWAYS, namespace=namespace)


def bound(name: str, *refs: Any, model: str = "m", **more: Any) -> Any:
    """``refs``: names of Gateways, or parentRefs."""
    parents = [{"name": ref} if isinstance(ref, str) else ref for ref in refs]
    return route(name, "a", model=model, spec={"parentRefs": parents}, **more)


class World(Told):
    """With one server that has a pod."""

    def __init__(self, *trees: Any, ports: Ports = Ports()) -> None:  # noqa: B008
        self.api = GatewayApi(ports=ports)
        super().__init__(Cluster(handlers=(self.api,), bindings=self.api.bindings))
        self.put(gateway_class(), gateway_class("theirs", "example.com/other"), server("a"))
        self.put_pods(pod("a-1", "a"))
        self.put(*trees)

    def drop(self, tree: Any) -> None:
        at = tree["metadata"]
        self.cluster.remove(tree["apiVersion"], tree["kind"], at["namespace"], at["name"])
        self.build()

    def entrances(self) -> Entrances:
        (made,) = self.cluster.part.more
        assert isinstance(made, Entrances)
        return made

    def asked(self, host: str = "any", port: int = MAIN, model: str = "m") -> str:
        """The route that answers, "" for none."""
        entrance = self.entrances().of(port, host)
        try:
            return RouteTable(self.cluster.part.routes).match(model, "", (), 0.0, "", entrance).route
        except ModelNotFound:
            return ""

    def of_listener(self, name: str, which: int = 0) -> dict[str, Any]:
        said = self.verdicts["Gateway", name, GATEWAYS].more["listeners"][which]
        return {**said, **{each.type: (each.status, each.reason) for each in said["conditions"]}}

    def of_gateway(self, name: str) -> dict[str, tuple[str, str]]:
        found: tuple[Condition, ...] = self.verdicts["Gateway", name, GATEWAYS].conditions
        return {each.type: (each.status, each.reason) for each in found}


def test_without_gateways_there_are_no_entrances() -> None:
    world = World(route("r", "a"), bound("s", "g"), gateway("g", of="theirs"))
    assert world.cluster.part.more == (None,)
    table = RouteTable(world.cluster.part.routes)
    assert table.match("m", "", (), 0.0).route == "x/r"


def test_a_route_serves_at_the_gateway_it_names() -> None:
    world = World(gateway("g", listener(hostname="G.example")), bound("r", "g"), route("plain", "a", model="n"))
    assert [world.asked(host) for host in ("g.example", "other")] == ["x/r", ""]
    assert [world.asked(host, model="n") for host in ("g.example", "other")] == ["x/plain", "x/plain"]
    assert world.of_listener("g")["attachedRoutes"] == 1
    assert world.of_route("r", "ResolvedRefs") == Condition("ResolvedRefs", "True", "ResolvedRefs")
    assert world.of_route("r", "Ready").status == "True"
    assert world.of_route("r", "Accepted").message == ""
    world.remove("ModelRoute", "r")
    assert (world.asked("g.example"), world.of_listener("g")["attachedRoutes"]) == ("", 0)


FAULTS = [
    ({"name": "g"}, "ParentNotFound", '[0].name: no Gateway "g" of our class in namespace "x"'),
    ({"name": "theirs"}, "ParentNotFound", '[0].name: no Gateway "theirs" of our class in namespace "x"'),
    ({"name": "h", "kind": "Service"}, "ParentNotFound", "[0]: names no Gateway"),
    ({"name": 7}, "ParentNotFound", "[0]: names no Gateway"),
    ({}, "ParentNotFound", "[0]: names no Gateway"),
    (
        {"name": "h", "sectionName": "no"},
        "NoMatchingListener",
        "[0].sectionName: the Gateway x/h has no listener of that name or port that can be served",
    ),
    (
        {"name": "h", "port": 81},
        "NoMatchingListener",
        "[0].port: the Gateway x/h has no listener of that name or port that can be served",
    ),
    (
        {"name": "tls"},
        "NoMatchingListener",
        "[0]: the Gateway x/tls has no listener that can be served",
    ),
    (
        {"name": "same", "namespace": "infra"},
        "NotAllowedByListeners",
        '[0]: the listeners of the Gateway infra/same take no ModelRoutes of "x"',
    ),
    (
        {"name": "kinds"},
        "NotAllowedByListeners",
        '[0]: the listeners of the Gateway x/kinds take no ModelRoutes of "x"',
    ),
    (
        {"name": "some"},
        "NotAllowedByListeners",
        '[0]: the listeners of the Gateway x/some take no ModelRoutes of "x"'
        "; namespaces by selector are not supported, All and Same are",
    ),
]


@pytest.mark.parametrize(("ref", "reason", "message"), FAULTS)
def test_a_route_that_nobody_takes_is_told_why_and_serves_nowhere(ref: Any, reason: str, message: str) -> None:
    world = World(
        gateway("h"),
        gateway("theirs", of="theirs"),
        gateway("tls", listener(protocol="HTTPS")),
        gateway("same", namespace="infra"),
        gateway("kinds", listener(hostname="k", **allowed("All", "HTTPRoute"))),
        gateway("some", listener(hostname="s", **allowed("Selector"))),
        bound("r", ref),
    )
    resolved = world.of_route("r", "ResolvedRefs")
    assert (resolved.status, resolved.reason) == ("False", reason)
    assert resolved.message == f"$.spec.parentRefs{message}"
    assert world.of_route("r", "Ready").reason == "NotAttached"
    assert world.of_route("r", "Accepted").status == "True"
    assert [world.asked(host) for host in ("any", "k", "s")] == ["", "", ""]
    assert world.asked() == ""


def test_one_gateway_of_several_is_enough_to_serve() -> None:
    world = World(gateway("g"), bound("r", "gone", "g"))
    assert world.of_route("r", "ResolvedRefs").reason == "ParentNotFound"
    assert (world.of_route("r", "Ready").status, world.asked()) == ("True", "x/r")


def test_targets_that_are_not_there_are_said_first() -> None:
    world = World(route("r", "missing", spec={"parentRefs": [{"name": "g"}]}))
    resolved = world.of_route("r", "ResolvedRefs")
    assert resolved.reason == "TargetNotFound"
    assert "missing" in resolved.message
    assert resolved.message.endswith('$.spec.parentRefs[0].name: no Gateway "g" of our class in namespace "x"')


def test_gateways_come_and_go_and_routes_are_told() -> None:
    world = World(bound("r", "g"))
    for _ in range(2):
        assert world.of_route("r", "ResolvedRefs").status == "False"
        world.put(gateway("g"))
        assert world.of_route("r", "ResolvedRefs").status == "True"
        assert (world.asked(), world.of_listener("g")["attachedRoutes"]) == ("x/r", 1)
        world.put(gateway("g", listener(**allowed("None"))))
        assert world.of_route("r", "ResolvedRefs").reason == "NotAllowedByListeners"
        assert (world.asked(), world.of_listener("g")["attachedRoutes"]) == ("", 0)
        world.drop(gateway("g"))


def test_a_route_that_moves_is_counted_where_it_is() -> None:
    two = gateway("g", listener(), listener("second", port=81))
    world = World(two, gateway("h"), bound("r", "g"))

    def counts() -> list[int]:
        return [world.of_listener(*at)["attachedRoutes"] for at in (("g", 0), ("g", 1), ("h", 0))]

    assert counts() == [1, 1, 0]
    world.put(bound("r", {"name": "g", "sectionName": "second"}, generation=2))
    assert counts() == [0, 1, 0]
    world.put(bound("r", "h", {"name": "g", "port": 80}, "h", generation=3))
    assert counts() == [1, 0, 1]
    world.put(route("r", "a", generation=4))
    assert (counts(), world.asked("any")) == ([0, 0, 0], "x/r")


def test_a_newer_version_without_targets_leaves_the_one_before_bound_to_what_it_was() -> None:
    world = World(gateway("g", listener(hostname="g")), gateway("h", listener(hostname="h")), bound("r", "g"))
    world.put(route("r", "missing", spec={"parentRefs": [{"name": "h"}]}, generation=2))
    assert (world.asked("g"), world.asked("h")) == ("x/r", "")
    assert world.of_listener("g")["attachedRoutes"] == 1
    world.put(server("missing"))
    assert (world.asked("g"), world.asked("h")) == ("", "x/r")


def test_who_is_bound_to_another_gateway_is_nobodys_rival() -> None:
    young = {"creationTimestamp": "2026-02-01T00:00:00Z"}
    world = World(gateway("g"), gateway("h"), bound("r", "g"), bound("s", "h", **young), route("t", "a"))
    assert [world.of_route(name, "Accepted").message for name in "rst"] == ["", "", ""]
    world.put(bound("u", "h", "g", **young))
    assert "x/r is asked first" in world.of_route("u", "Accepted").message
    assert "x/s is asked first" in world.of_route("u", "Accepted").message


def test_listeners_may_take_model_routes_alone() -> None:
    world = World(
        gateway("g", listener(**allowed("All", "ModelRoute"))),
        gateway("h", listener(hostname="h", **allowed("All", "HTTPRoute", "ModelRoute", "Other"))),
        bound("r", "g", "h"),
    )
    assert (world.asked(), world.asked("h")) == ("x/r", "x/r")
    group = "networking.serving.volcano.sh"
    assert world.of_listener("g")["supportedKinds"] == [{"group": group, "kind": "ModelRoute"}]
    assert len(world.of_listener("h")["supportedKinds"]) == 2
    assert world.of_listener("h")["ResolvedRefs"] == ("False", "InvalidRouteKinds")
    assert world.of_listener("g")["ResolvedRefs"] == ("True", "ResolvedRefs")


# -- ports ------------------------------------------------------------------------------------------------------------

OPEN = Ports(8080)
PENDING, PROGRAMMED = ("False", "Pending"), ("True", "Programmed")


def test_ports_of_gateways_are_wanted_from_1024_up_and_stand_for_themselves() -> None:
    gateways = [gateway(name, listener(port=port)) for name, port in (("a", 80), ("b", 8080), ("c", 8081), ("d", 8082))]
    routes = [bound(name, name) for name in "abcd"]
    world = World(*gateways, *routes, ports=OPEN)
    assert world.entrances().ports == {8081, 8082}
    assert [world.asked(port=port) for port in (8081, 8082, 8083)] == ["x/c", "x/d", ""]
    assert world.asked() == "x/a"
    assert world.entrances().of(8081, "any").namespaces == {"x"}  # type: ignore[union-attr]
    world.drop(gateways[2])
    assert world.entrances().ports == {8082}
    assert world.asked(port=8081) == ""
    assert World(*gateways, *routes).entrances().ports == frozenset()


def test_a_port_is_pending_until_it_is_told_what_came_of_it() -> None:
    world = World(gateway("g", listener(port=8081)), gateway("main"), bound("r", "g"), ports=OPEN)
    assert (world.of_listener("g")["Programmed"], world.of_gateway("g")["Programmed"]) == (PENDING, PENDING)
    assert world.of_listener("main")["Programmed"] == PROGRAMMED
    world.api.tried({8081: ""})
    said = world.build()
    assert [verdict.kind for verdict in said] == ["Gateway"]
    assert (world.of_listener("g")["Programmed"], world.of_gateway("g")["Programmed"]) == (PROGRAMMED, PROGRAMMED)
    world.api.tried({8081: ""})
    assert world.build() == []


def test_a_port_that_cannot_be_had_is_said_and_wanted_all_the_same() -> None:
    both = gateway("g", listener(port=8081), listener("other", port=8082))
    world = World(both, bound("r", {"name": "g", "sectionName": "http"}), ports=OPEN)
    world.api.tried({8081: "Address already in use", 8082: ""})
    world.build()
    assert world.of_listener("g")["Accepted"] == ("False", "PortUnavailable")
    assert world.of_listener("g")["Programmed"] == ("False", "Invalid")
    assert world.of_listener("g", 1)["Programmed"] == PROGRAMMED
    assert world.of_gateway("g") == {"Accepted": ("True", "ListenersNotValid"), "Programmed": PROGRAMMED}
    assert world.of_route("r", "ResolvedRefs").reason == "NoMatchingListener"
    assert world.entrances().ports == {8081, 8082}
    assert world.entrances().of(8081, "any") is NOWHERE
    world.api.tried({8081: "", 8082: ""})
    world.build()
    assert (world.asked(port=8081), world.of_route("r", "ResolvedRefs").status) == ("x/r", "True")


def test_with_no_gateway_left_its_port_leads_nowhere_rather_than_everywhere() -> None:
    world = World(route("plain", "a"), ports=OPEN)
    assert (world.asked(), world.asked(port=8081)) == ("x/plain", "")


def test_what_a_gateway_was_stays_the_same_object() -> None:
    world = World(gateway("g", listener(hostname="g")), gateway("h", listener(hostname="h")))
    before = {host: world.entrances().of(MAIN, host) for host in "gh"}
    world.put(gateway("h", listener(hostname="h", **allowed("All"))))
    assert world.entrances().of(MAIN, "g") is before["g"]
    assert world.entrances().of(MAIN, "h") is not before["h"]


REFS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["g", "h", 7]),
        "namespace": st.sampled_from(["x", "y", None]),
        "sectionName": st.sampled_from(["http", "no"]),
        "port": st.sampled_from([80, 81, "80"]),
        "kind": st.sampled_from(["Gateway", "Service"]),
    },
)
STEPS = st.one_of(
    st.tuples(st.just("route"), st.sampled_from("rs"), st.none() | st.lists(REFS, max_size=3)),
    st.tuples(
        st.just("gateway"),
        st.sampled_from("gh"),
        st.none() | st.lists(st.sampled_from(["All", "Same", "None", "Selector"]), max_size=2),
    ),
)


def applied(world: World, step: Any) -> None:
    what, name, value = step
    if what == "route":
        world.remove("ModelRoute", name) if value is None else world.put(bound(name, *value))
    elif value is None:
        world.drop(gateway(name))
    else:
        listeners = [listener(f"l{n}" if n else "http", port=80 + n, **allowed(whose)) for n, whose in enumerate(value)]
        world.put(thing("Gateway", name, {"gatewayClassName": "ours", "listeners": listeners}, version=GATEWAYS))


@given(st.lists(STEPS, max_size=12))
def test_whatever_came_before_the_same_objects_come_to_the_same(steps: list[Any]) -> None:
    world, last = World(), {}
    for step in steps:
        applied(world, step)
        last[step[:2]] = step
    anew = World()
    for step in last.values():
        if step[2] is not None:
            applied(anew, step)
    hosts = [world.asked() if world.cluster.part.more[0] else "", anew.asked() if anew.cluster.part.more[0] else ""]
    assert hosts[0] == hosts[1]
    for kind, name, version in anew.verdicts:
        before, after = world.verdicts[kind, name, version], anew.verdicts[kind, name, version]
        assert before.conditions == after.conditions
        assert before.more == after.more
