"""Gateways and their listeners: which of them are served, who may attach to them, and what is said of them. (P)

All Gateways of our class are served by the program's one HTTP listener. Requests are told apart by the hostnames of
listeners and routes; a listener's port says where its clients come in, which the Service in front of us maps, and
counts for parentRefs that name one. TLS is not a Gateway's to configure: it is terminated by the program's listener, if
that has a certificate, so that listeners of other protocols than HTTP are not served.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.config.gateway_objects import (
    GROUP,
    GatewaySpec,
    ListenerSpec,
    ParentRef,
    ServiceSpec,
    ServiceStatus,
    read,
)
from gateway.config.verdict import Condition

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
_ROUTE_KIND: Final = {"group": GROUP, "kind": "HTTPRoute"}


class Door(msgspec.Struct, frozen=True):
    """A listener as judged. ``hostname`` in lower case, "" for any; ``whose``: which namespaces' routes may attach."""

    name: str
    hostname: str
    port: int
    whose: str
    open: bool
    kinds: tuple[dict[str, str], ...]
    conditions: tuple[Condition, ...]

    def lets_in(self, gateway: str, route: str) -> bool:
        """By the namespaces of both, and by the kinds it takes."""
        return bool(self.kinds) and (self.whose == "All" or (self.whose == "Same" and gateway == route))


def doors(spec: GatewaySpec) -> tuple[Door, ...]:
    return tuple(_door(listener, spec.listeners) for listener in spec.listeners)


def wanted(ref: ParentRef, of: Iterable[Door]) -> list[Door]:
    """The open ones that a parentRef speaks of."""
    return [door for door in of if door.open and ref.section_name in ("", door.name) and ref.port in (0, door.port)]


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
        return (
            Condition("Accepted", "True", "Accepted", "told apart from other Gateways by hostnames alone"),
            Condition("Programmed", "True", "Programmed"),
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


def _door(listener: ListenerSpec, all_of_them: Sequence[ListenerSpec]) -> Door:
    conflict = _conflict(listener, all_of_them)
    served = listener.protocol == "HTTP"
    kinds = _kinds(listener)
    asked = len(listener.allowed_routes.kinds)
    strange = bool(asked) and len(kinds) < asked
    is_open = served and conflict is None and (bool(kinds) or not asked)
    return Door(
        listener.name,
        listener.hostname.lower(),
        listener.port,
        listener.allowed_routes.namespaces.from_,
        is_open,
        kinds,
        (
            _accepted(listener, conflict),
            Condition("Programmed", "True", "Programmed") if is_open else Condition("Programmed", "False", "Invalid"),
            Condition("ResolvedRefs", "False", "InvalidRouteKinds", "only HTTPRoutes are served")
            if strange
            else Condition("ResolvedRefs", "True", "ResolvedRefs"),
            conflict or Condition("Conflicted", "False", "NoConflicts"),
        ),
    )


def _accepted(listener: ListenerSpec, conflict: Condition | None) -> Condition:
    if listener.protocol != "HTTP":
        message = f"{listener.protocol} is not served: TLS is terminated by the program's own listener, if by any"
        return Condition("Accepted", "False", "UnsupportedProtocol", message)
    if conflict is not None:
        return Condition("Accepted", "False", conflict.reason, conflict.message)
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
    asked = listener.allowed_routes.kinds
    if not asked or any((each.group, each.kind) == (GROUP, "HTTPRoute") for each in asked):
        return (_ROUTE_KIND,) if listener.protocol == "HTTP" else ()
    return ()
