"""Gateways and their listeners: which of them are served, who may attach to them, and what is said of them. (P)

Gateways of our class are served by the program's one HTTP listener, unless their ports are to be opened. Requests are
told apart by the hostnames of listeners and routes; a listener's port says where its clients come in, which the Service
in front of us maps, and counts for parentRefs that name one. TLS is not a Gateway's to configure: it is terminated by
the program's listener, if that has a certificate, so that listeners of other protocols than HTTP are not served.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.config.envelope import KINDS
from gateway.config.gateway_objects import (
    GROUP,
    GatewaySpec,
    ListenerSpec,
    RouteKind,
    ServiceSpec,
    ServiceStatus,
    read,
)
from gateway.config.verdict import Condition
from gateway.entrance import MAIN, Inlet

FEATURES: Final = (
    "Gateway",
    "HTTPRoute",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "SupportInferencePool",
)
HTTP_ROUTE: Final = "HTTPRoute"
MODEL_ROUTE: Final = "ModelRoute"
_GROUPS: Final = {
    HTTP_ROUTE: (GROUP,),
    MODEL_ROUTE: tuple(version.partition("/")[0] for version in KINDS[MODEL_ROUTE].versions),
}
LOWEST: Final = 1024
"""Ports below it are left to the Service in front, whether they could be had or not."""


class Ports(msgspec.Struct, frozen=True):
    """Which ports of Gateways are listened on. ``main``: the program's own, None while no others are to be opened.
    ``outcomes``: of those that were tried, "" or why one cannot be had.
    """

    main: int | None = None
    outcomes: Mapping[int, str] = {}

    def own(self, port: int) -> int:
        """The port if it is one of its own, `MAIN` if the program's listener stands for it."""
        return MAIN if self.main is None or port < LOWEST or port == self.main else port


ONE_PORT: Final = Ports()


class Door(msgspec.Struct, frozen=True):
    """A listener as judged. ``hostname`` in lower case, "" for any; ``whose``: which namespaces' routes may attach, and
    of which kinds if it ``takes`` any. ``own``: the port to be opened for it, or `MAIN`.
    """

    name: str
    hostname: str
    port: int
    own: int
    whose: str
    open: bool
    takes: frozenset[str]
    kinds: tuple[dict[str, str], ...]
    conditions: tuple[Condition, ...]

    def lets_in(self, gateway: str, route: str, kind: str = HTTP_ROUTE) -> bool:
        """By the namespaces of both, and by the kinds it takes."""
        return kind in self.takes and (self.whose == "All" or (self.whose == "Same" and gateway == route))

    def inlet(self, gateway: str) -> Inlet:
        whose = self.whose if MODEL_ROUTE in self.takes and self.whose in ("All", "Same") else ""
        return Inlet(gateway, self.name, self.port, whose)


def doors(spec: GatewaySpec, ports: Ports = ONE_PORT) -> tuple[Door, ...]:
    return tuple(_door(listener, spec.listeners, ports) for listener in spec.listeners)


def wanted(name: str, port: int, of: Iterable[Door]) -> list[Door]:
    """The open ones that a parentRef with this sectionName and port speaks of, if it has them."""
    return [door for door in of if door.open and name in ("", door.name) and port in (0, door.port)]


def common(first: str, second: str) -> str | None:
    """The hosts that are under both of two hostnames, as one hostname; None if there are none. "" is any host."""
    if not first or not second or first == second:
        return first or second
    for wide, narrow in ((first, second), (second, first)):
        if wide.startswith("*.") and narrow.removeprefix("*").endswith(wide[1:]):
            return narrow
    return None


def addresses_of(service: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    """Where a Service is reached: by its load balancer, else from outside, else inside the cluster."""
    try:
        spec, status = read(service, "spec", ServiceSpec), read(service, "status", ServiceStatus)
    except ValueError:
        return ()
    balanced = tuple(each.ip or each.hostname for each in status.load_balancer.ingress)
    found = balanced or spec.external_ips or spec.cluster_ips
    return tuple({"type": _address_type(each), "value": each} for each in found[:16] if each and each != "None")


def _address_type(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "Hostname"
    return "IPAddress"


def said(of: Sequence[Door], attached: Mapping[str, int], addresses: Collection[Mapping[str, str]]) -> dict[str, Any]:
    """What a Gateway's status holds beside its conditions. ``attached``: routes by listener."""
    listeners = [
        {
            "name": door.name,
            "supportedKinds": list(door.kinds),
            "attachedRoutes": attached.get(door.name, 0),
            "conditions": door.conditions,
        }
        for door in of
    ]
    return {"listeners": listeners} | ({"addresses": [dict(each) for each in addresses]} if addresses else {})


def conditions(of: Sequence[Door]) -> tuple[Condition, ...]:
    """Of the Gateway as a whole."""
    closed = [door.name for door in of if not door.open]
    if not closed:
        apart = "" if any(door.own for door in of) else "told apart from other Gateways by hostnames alone"
        pending = next((door.conditions[1] for door in of if door.conditions[1].status == "False"), None)
        return (
            Condition("Accepted", "True", "Accepted", apart),
            pending or Condition("Programmed", "True", "Programmed"),
        )
    message = f"not served: the listener {', '.join(closed)}"
    if len(closed) == len(of):
        return (
            Condition("Accepted", "False", "ListenersNotValid", message),
            Condition("Programmed", "False", "Invalid", message),
        )
    return (
        Condition("Accepted", "True", "ListenersNotValid", message),
        Condition("Programmed", "True", "Programmed", message),
    )


def _door(listener: ListenerSpec, all_of_them: Sequence[ListenerSpec], ports: Ports) -> Door:
    conflict = _conflict(listener, all_of_them)
    kinds = _kinds(listener)
    asked = len({(each.group, each.kind) for each in listener.allowed_routes.kinds})
    strange = len(kinds) < asked
    good = listener.protocol == "HTTP" and conflict is None and (bool(kinds) or not asked)
    own = ports.own(listener.port) if good else MAIN
    outcome = ports.outcomes.get(own) if own else ""
    return Door(
        listener.name,
        listener.hostname.lower(),
        listener.port,
        own,
        listener.allowed_routes.namespaces.from_,
        good and not outcome,
        frozenset(each["kind"] for each in kinds) if asked else frozenset(_GROUPS),
        kinds,
        (
            _accepted(listener, conflict, outcome or ""),
            _programmed(good, outcome),
            Condition("ResolvedRefs", "False", "InvalidRouteKinds", "only HTTPRoutes and ModelRoutes are served")
            if strange
            else Condition("ResolvedRefs", "True", "ResolvedRefs"),
            conflict or Condition("Conflicted", "False", "NoConflicts"),
        ),
    )


def _programmed(good: bool, outcome: str | None) -> Condition:
    if good and outcome is None:
        return Condition("Programmed", "False", "Pending", "its port is about to be opened")
    if good and not outcome:
        return Condition("Programmed", "True", "Programmed")
    return Condition("Programmed", "False", "Invalid", outcome or "")


def _accepted(listener: ListenerSpec, conflict: Condition | None, outcome: str) -> Condition:
    if listener.protocol != "HTTP":
        message = f"{listener.protocol} is not served: TLS is terminated by the program's own listener, if by any"
        return Condition("Accepted", "False", "UnsupportedProtocol", message)
    if conflict is not None:
        return Condition("Accepted", "False", conflict.reason, conflict.message)
    if outcome:
        return Condition("Accepted", "False", "PortUnavailable", outcome)
    if listener.allowed_routes.namespaces.from_ not in ("All", "Same", "None"):
        return Condition("Accepted", "True", "Accepted", "namespaces by selector are not supported: no route attaches")
    return Condition("Accepted", "True", "Accepted")


def _conflict(listener: ListenerSpec, others: Sequence[ListenerSpec]) -> Condition | None:
    for other in others:
        if other is listener or other.port != listener.port:
            continue
        if other.protocol != listener.protocol:
            return Condition(
                "Conflicted",
                "True",
                "ProtocolConflict",
                f"the listener {other.name} has this port, and another protocol",
            )
        if other.hostname.lower() == listener.hostname.lower():
            return Condition(
                "Conflicted", "True", "HostnameConflict", f"the listener {other.name} has this port and hostname"
            )
    return None


def _kinds(listener: ListenerSpec) -> tuple[dict[str, str], ...]:
    """Those of the kinds it asks for that are served. HTTPRoutes alone are told where it asks for none: ModelRoutes are
    not Gateway API's, and not everybody who reads it knows them.
    """
    if listener.protocol != "HTTP":
        return ()
    asked = listener.allowed_routes.kinds or (RouteKind(kind=HTTP_ROUTE),)
    served = dict.fromkeys((each.group, each.kind) for each in asked if each.group in _GROUPS.get(each.kind, ()))
    return tuple({"group": group, "kind": kind} for group, kind in served)
