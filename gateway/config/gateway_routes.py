"""One HTTPRoute among Gateways, pools and grants → what of it serves, and what each of its parents is told. (P)

Invariant: a route serves under the hostnames of the listeners that take it, and under no others; the part of its
requests that goes to a backend that cannot be used fails, as Gateway API has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.config.gateway_doors import Door, common, wanted
from gateway.config.gateway_objects import (
    GROUP,
    POOL_GROUPS,
    BackendRef,
    GrantSpec,
    Metadata,
    ParentRef,
    RouteSpec,
)
from gateway.config.gateway_rules import Rules
from gateway.config.verdict import Condition, Parent
from gateway.httproute import HttpRoute, HttpRule
from gateway.route import Share


class PoolView(msgspec.Struct, frozen=True):
    """An InferencePool as routes see it. ``name``: of the pool that serves, "" where none may. ``conditions``: what its
    parents say of it.
    """

    name: str
    conditions: tuple[Condition, ...] = ()


class Surroundings(msgspec.Struct, frozen=True):
    """What a route is judged by. Gateways and pools by "namespace/name", only Gateways of ours; grants by namespace."""

    gateways: Mapping[str, tuple[Door, ...]]
    pool: Callable[[str], PoolView | None]
    grants: Mapping[str, Iterable[GrantSpec]]


class Compiled(msgspec.Struct, frozen=True):
    """What can be said of a version of a route by itself."""

    spec: RouteSpec
    rules: tuple[HttpRule, ...]
    generation: int


class Outcome(msgspec.Struct, frozen=True):
    """``routes``: what serves at each port, `MAIN` for the program's own. ``attached``: (Gateway, listener); ``pools``:
    (pool, Gateway), each by "namespace/name".
    """

    routes: Mapping[int, HttpRoute]
    parents: tuple[Parent, ...]
    attached: frozenset[tuple[str, str]]
    pools: frozenset[tuple[str, str]]


def compiled(spec: RouteSpec, generation: int) -> tuple[Compiled, list[str]]:
    """With what is wrong with it, each "path: message"."""
    rules = Rules()
    return Compiled(spec, rules.of(spec), generation), rules.problems


def parent_gateway(ref: ParentRef, namespace: str) -> str | None:
    """ "namespace/name" of the Gateway that a parentRef of an object there names; None if it names something else."""
    return f"{ref.namespace or namespace}/{ref.name}" if (ref.group, ref.kind) == (GROUP, "Gateway") else None


def backend_pool(ref: BackendRef, namespace: str) -> str | None:
    """The same of a backendRef and its InferencePool."""
    named = ref.group in POOL_GROUPS and ref.kind == "InferencePool"
    return f"{ref.namespace or namespace}/{ref.name}" if named else None


def judged(
    metadata: Metadata,
    parents: Sequence[tuple[ParentRef, dict[str, Any]]],
    serves: Compiled | None,
    problems: Sequence[str],
    around: Surroundings,
) -> Outcome:
    """``parents``: as decoded and as they stand in the object. ``serves``: the version that does, if any; ``problems``:
    those of the newest.
    """
    refusal = _refusal(serves, problems)
    backends = _Backends(metadata.namespace, around)
    rules = () if serves is None else tuple(backends.of(index, rule, serves) for index, rule in enumerate(serves.rules))
    spoken = tuple(serves.spec.hostnames) if serves is not None else ()
    told: list[Parent] = []
    hostnames: dict[int, dict[str, None]] = {}
    attached: set[tuple[str, str]] = set()
    for ref, written in parents:
        gateway = parent_gateway(ref, metadata.namespace)
        if gateway is None or gateway not in around.gateways:
            continue
        where, entry = _attach(ref, gateway, metadata.namespace, spoken, around.gateways[gateway])
        if serves is not None:
            attached.update((gateway, door.name) for door, _ in where)
            for door, names in where:
                hostnames.setdefault(door.own, {}).update(dict.fromkeys(names))
        told.append(Parent(written, (refusal if refusal and entry.status == "True" else entry, backends.condition)))
    name = f"{metadata.namespace}/{metadata.name}"
    routes = {port: HttpRoute(name, tuple(names), rules, metadata.age) for port, names in hostnames.items()}
    through = {gateway for gateway, _ in attached}
    pools = frozenset((pool, gateway) for pool in backends.pools for gateway in through)
    return Outcome(routes, tuple(told), frozenset(attached), pools)


def _refusal(serves: Compiled | None, problems: Sequence[str]) -> Condition | None:
    if not problems:
        return None
    rest = "" if serves is None else f"; the version of generation {serves.generation} serves"
    return Condition("Accepted", "False", "UnsupportedValue", "; ".join(problems) + rest)


def _attach(
    ref: ParentRef, gateway: str, namespace: str, hostnames: Sequence[str], doors: Sequence[Door]
) -> tuple[list[tuple[Door, list[str]]], Condition]:
    """The listeners that take the route, each with the hostnames it is then served under."""
    named = wanted(ref.section_name, ref.port, doors)
    if not named:
        what = "listener of that name or port" if ref.section_name or ref.port else "listener that can be served"
        return [], Condition("Accepted", "False", "NoMatchingParent", f"the Gateway {gateway} has no {what}")
    allowing = [door for door in named if door.lets_in(gateway.partition("/")[0], namespace)]
    if not allowing:
        message = f'the listeners take no HTTPRoutes of the namespace "{namespace}"'
        if any(door.whose == "Selector" for door in named):
            message += "; namespaces by selector are not supported, All and Same are"
        return [], Condition("Accepted", "False", "NotAllowedByListeners", message)
    found = [(door, names) for door in allowing if (names := _shared(door.hostname, hostnames))]
    if not found:
        message = "no hostname of the route is one of the listeners'"
        return [], Condition("Accepted", "False", "NoMatchingListenerHostname", message)
    return found, Condition("Accepted", "True", "Accepted")


def _shared(listener: str, hostnames: Sequence[str]) -> list[str]:
    found = [common(listener, name.lower()) for name in hostnames] if hostnames else [listener]
    return [name for name in found if name is not None]


class _Backends:
    """The backends of one route's rules; what is wrong with them first is in ``condition``."""

    def __init__(self, namespace: str, around: Surroundings) -> None:
        self.pools: set[str] = set()
        self.condition = Condition("ResolvedRefs", "True", "ResolvedRefs")
        self._namespace = namespace
        self._around = around

    def of(self, index: int, rule: HttpRule, serves: Compiled) -> HttpRule:
        """The rule with its shares. One without matches or with a redirect needs none."""
        refs = serves.spec.rules[index].backend_refs
        shares = tuple(
            Share(self._backend(f"$.spec.rules[{index}].backendRefs[{nth}]", ref), max(ref.weight, 0))
            for nth, ref in enumerate(refs)
        )
        return msgspec.structs.replace(rule, shares=shares)

    def _backend(self, path: str, ref: BackendRef) -> str:
        """The pool's name, "" where there is none to be used."""
        pool = backend_pool(ref, self._namespace)
        if pool is None:
            group = f"{ref.group}/" if ref.group else ""
            return self._unresolved("InvalidKind", f"{path}.kind: {group}{ref.kind} is no InferencePool")
        namespace = pool.partition("/")[0]
        if namespace != self._namespace and not self._granted(namespace, ref):
            message = f'{path}.namespace: no ReferenceGrant in "{namespace}" lets HTTPRoutes of "{self._namespace}" in'
            return self._unresolved("RefNotPermitted", message)
        view = self._around.pool(pool)
        if view is None:
            message = f'{path}.name: no InferencePool "{ref.name}" in namespace "{namespace}"'
            return self._unresolved("BackendNotFound", message)
        self.pools.add(pool)
        return view.name

    def _unresolved(self, reason: str, message: str) -> str:
        if self.condition.status == "True":
            self.condition = Condition("ResolvedRefs", "False", reason, message)
        return ""

    def _granted(self, namespace: str, ref: BackendRef) -> bool:
        return any(
            any(
                (each.group, each.kind, each.namespace) == (GROUP, "HTTPRoute", self._namespace) for each in grant.from_
            )
            and any(
                (each.group, each.kind) == (ref.group, ref.kind) and each.name in ("", ref.name) for each in grant.to
            )
            for grant in self._around.grants.get(namespace, ())
        )
