"""Objects of Gateway API, which come and go one at a time → HTTPRoutes that serve, and what is to be said of each. (P)

Invariant: nothing raises, whatever an object holds; what has not changed is neither judged again nor built anew. Of
Gateways those are ours whose class names our controller; of an HTTPRoute that is newly wrong, the version before
serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Protocol

import msgspec

from gateway.config.document import Tree
from gateway.config.gateway_bindings import Bindings
from gateway.config.gateway_doors import FEATURES, ONE_PORT, Door, Ports, addresses_of, conditions, doors, said
from gateway.config.gateway_objects import GROUP, GrantSpec, ParentRef, RouteParents, RouteSpec, read
from gateway.config.gateway_routes import (
    Compiled,
    Outcome,
    PoolView,
    Surroundings,
    backend_pool,
    compiled,
    judged,
    parent_gateway,
)
from gateway.config.gateway_store import KINDS, Key, Seen, Store
from gateway.config.settings import Settings
from gateway.config.verdict import Condition, Parent, Verdict
from gateway.entrance import MAIN, Entrance, Entrances, Inlet
from gateway.httproute import HttpRoute, HttpRouteTable, Laid

CONTROLLER: Final = "infer-gateway.dev/gateway"
_H2C: Final = "kubernetes.io/h2c"
_NOTHING: Final = Outcome({}, (), frozenset(), frozenset())


class _Route(msgspec.Struct):
    """``serves``: the version that does; ``parents``: of the newest, as decoded and as they stand in it."""

    serves: Compiled | None = None
    problems: tuple[str, ...] = ()
    parents: tuple[tuple[ParentRef, dict[str, Any]], ...] = ()
    uses: frozenset[Key] = frozenset()
    outcome: Outcome = _NOTHING


class Fleet(Protocol):
    """The pools that there are, to requests."""

    def pool(self, name: str, /) -> Any:
        """Of an InferencePool by "namespace/name": its state, whose ``spec`` is None while it cannot serve."""


class GatewayApi:
    """A handler of `gateway.config.cluster`. ``addresses``: under which we are reached, for Gateways to say.
    ``bindings``: of ModelRoutes to the Gateways. ``ports``: those of Gateways that are to be listened on.
    """

    kinds: Final = KINDS

    def __init__(
        self,
        controller: str = CONTROLLER,
        addresses: Collection[Mapping[str, str]] = (),
        fleet: Fleet | None = None,
        ports: Ports = ONE_PORT,
    ) -> None:
        self.controller = controller
        self.ports = ports
        self.addresses = tuple(addresses)
        self._fleet = fleet
        self._store = Store()
        self._routes: dict[str, _Route] = {}
        self._users: dict[Key, set[str]] = {}
        self._stale: dict[str, dict[str, None]] = {kind: {} for kind in ("Gateway", "InferencePool", "HTTPRoute")}
        self._unsaid: dict[Key, None] = {}
        self._doors: dict[str, tuple[Door, ...]] = {}
        self.bindings: Final = Bindings(self._doors)
        self._views: dict[str, PoolView] = {}
        self._grants: dict[str, list[GrantSpec]] = {}
        self._attached: dict[str, dict[str, set[str]]] = {}
        self._through: dict[str, dict[str, set[str]]] = {}
        self._told: dict[Key, Verdict] = {}
        self._news: dict[tuple[str, str, str, str], Verdict] = {}
        self._serving: dict[int, dict[str, Laid]] = {}
        self._changed: set[int] = set()
        self._moved, self._renewed = True, False
        self._sites: dict[tuple[int, str], Entrance] = {}
        self._tables: dict[int, HttpRouteTable] = {}
        self._made: Entrances | None = None

    # -- what comes in --------------------------------------------------------------------------------------------

    def put(self, tree: Tree) -> None:
        """The object is there, or there in another version."""
        key = self._store.put(tree)
        if key is not None:
            self._note(*key)

    def remove(self, api_version: str, kind: str, namespace: str, name: str) -> None:
        key = self._store.remove(api_version, kind, namespace, name)
        if key is not None:
            self._told.pop(key, None)
            self._news.pop((api_version, kind, namespace, name), None)
            self._note(*key)

    def missing(self, namespace: str, name: str) -> None:
        """There is no Service of that name."""
        self.remove("v1", "Service", namespace, name)

    def reached(self, service: Mapping[str, Any]) -> None:
        """The Service in front of us is this; Gateways say its addresses."""
        addresses = addresses_of(service)
        if addresses != self.addresses:
            self.addresses = addresses
            self._unsaid.update(dict.fromkeys(("Gateway", name) for name in self._doors))

    def tried(self, outcomes: Mapping[int, str]) -> None:
        """What came of opening ports: "", or why one cannot be had; of those that are not there nothing, as yet."""
        former, self.ports = self.ports.outcomes, Ports(self.ports.main, dict(outcomes))
        changed = {port for port in {*former, *outcomes} if former.get(port) != outcomes.get(port)}
        for name, found in self._doors.items():
            if any(door.own in changed for door in found):
                self._stale["Gateway"][name] = None

    @property
    def services(self) -> frozenset[str]:
        """ "namespace/name" of those of which it should be known whether they exist; until that is told, they do."""
        found = set()
        for name in self._through:
            picker = self._store.picker(name)
            if picker is not None and picker.kind == "Service":
                found.add(f"{name.partition('/')[0]}/{picker.name}")
        return frozenset(found)

    def settle(self, settings: Settings) -> None:
        """Nothing here goes by settings."""

    def is_ours(self, parent: Mapping[str, Any], namespace: str) -> bool:
        """Whether a parentRef of an object of that namespace names a Gateway of ours."""
        return parent.get("kind", "Gateway") == "Gateway" and (
            f"{parent.get('namespace') or namespace}/{parent.get('name')}" in self._doors
        )

    # -- what comes out -------------------------------------------------------------------------------------------

    def build(self, cluster: Fleet, changed: Collection[str] = ()) -> Iterator[None]:
        """Work, one slice at a time. ``changed``: "namespace/name" of InferencePools that are not what they were."""
        self._fleet = cluster
        for name in changed:
            self._note("InferencePool", name)
        for kind, judge in (
            ("Gateway", self._judge_gateway),
            ("InferencePool", self._judge_pool),
            ("HTTPRoute", self._judge_route),
        ):
            stale = self._stale[kind]
            while stale:
                name = next(iter(stale))
                del stale[name]
                judge(name)
                yield
        yield from self.bindings.steps()
        self._unsaid.update(dict.fromkeys(("Gateway", name) for name in self.bindings.touched))
        self.bindings.touched.clear()
        while self._unsaid:
            key = next(iter(self._unsaid))
            del self._unsaid[key]
            self._say(key)
            yield
        yield from self._lay()

    def _lay(self) -> Iterator[None]:
        """All that requests come in by, as far as it is not what it was."""
        if self._moved:
            self._sites = self._entered()
            self._moved, self._renewed = False, True
            yield
        while self._changed:
            port = self._changed.pop()
            self._tables.pop(port, None)
            if self._serving[port]:
                self._tables[port] = HttpRouteTable(self._serving[port].values())
            self._renewed = True
            yield
        if self._renewed:
            self._renewed = False
            ports = {door.own for found in self._doors.values() for door in found} - {MAIN}
            anything = self._doors or self._tables or self.ports.main is not None
            self._made = Entrances(self._sites, self._tables.copy(), ports) if anything else None

    def _entered(self) -> dict[tuple[int, str], Entrance]:
        """By port and hostname; those that are what they were as the same objects."""
        inlets: dict[tuple[int, str], list[Inlet]] = {}
        for name, found in self._doors.items():
            for door in found:
                if door.open:
                    inlets.setdefault((door.own, door.hostname), []).append(door.inlet(name))
        return {at: _entrance(at[0], tuple(found), self._sites.get(at)) for at, found in inlets.items()}

    @property
    def made(self) -> Entrances | None:
        """None where there are no Gateways."""
        return self._made

    def verdicts(self) -> list[Verdict]:
        """Those that have changed since the last call."""
        news, self._news = list(self._news.values()), {}
        return news

    # -- what has to be looked at again ---------------------------------------------------------------------------

    def _note(self, kind: str, name: str) -> None:
        if kind == "GatewayClass":
            self._unsaid[kind, name] = None
            self._stale["Gateway"].update(dict.fromkeys(self._store.of_kind("Gateway")))
        elif kind == "ReferenceGrant":
            self._renew_grants(name.partition("/")[0])
        elif kind == "Service":
            self._note_service(name)
        else:
            if kind == "HTTPRoute":
                self._renew_route(name)
            self._stale[kind][name] = None

    def _renew_grants(self, namespace: str) -> None:
        specs = [seen.spec for name, seen in self._store.of_kind("ReferenceGrant").items() if _within(name, namespace)]
        self._grants[namespace] = [spec for spec in specs if isinstance(spec, GrantSpec)]
        for (kind, pool), routes in self._users.items():
            if kind == "InferencePool" and _within(pool, namespace):
                self._stale["HTTPRoute"].update(dict.fromkeys(routes))

    def _note_service(self, name: str) -> None:
        namespace, _, service = name.partition("/")
        for pool in self._through:
            picker = self._store.picker(pool)
            if _within(pool, namespace) and picker is not None and picker.name == service:
                self._stale["InferencePool"][pool] = None

    def _renew_route(self, name: str) -> None:
        """Another version, or none; what it refers to is noted."""
        seen, route = self._store.get("HTTPRoute", name), self._routes.setdefault(name, _Route())
        for key in route.uses:
            self._users[key].discard(name)
            if not self._users[key]:
                del self._users[key]
        if seen is None:
            route.parents, route.uses, route.serves = (), frozenset(), None
            return
        route.problems = (seen.problem,) if seen.problem else ()
        if not seen.problem and isinstance(seen.spec, RouteSpec):
            made, problems = compiled(seen.spec, seen.metadata.generation)
            route.problems = tuple(problems)
            route.serves = route.serves if problems else made
        route.parents = _parents(seen.tree)
        route.uses = frozenset(_uses(route, seen.metadata.namespace))
        for key in route.uses:
            self._users.setdefault(key, set()).add(name)

    # -- judging --------------------------------------------------------------------------------------------------

    def _judge_gateway(self, name: str) -> None:
        spec = self._store.gateway(name)
        ours = spec is not None and self._store.owned(spec.gateway_class_name, self.controller)
        found = doors(spec, self.ports) if spec is not None and ours else None
        self._unsaid["Gateway", name] = None
        if found == self._doors.get(name):
            return
        if found is None:
            del self._doors[name]
        else:
            self._doors[name] = found
        self._moved = True
        self.bindings.renew(name)
        self._stale["HTTPRoute"].update(dict.fromkeys(self._users.get(("Gateway", name), ())))

    def _judge_pool(self, name: str) -> None:
        view = self._view(name)
        self._unsaid["InferencePool", name] = None
        if view == self._views.get(name):
            return
        if view is None:
            del self._views[name]
        else:
            self._views[name] = view
        self._stale["HTTPRoute"].update(dict.fromkeys(self._users.get(("InferencePool", name), ())))

    def _view(self, name: str) -> PoolView | None:
        """We are the picker ourselves, and serve a pool that names none; one that names another which is not there
        fails as it is told to.
        """
        spec = self._store.pool(name)
        if spec is None:
            return None
        state = self._fleet.pool(name) if self._fleet is not None else None
        serving = "" if state is None or state.spec is None else str(state.spec.name)
        accepted = Condition("Accepted", "True", "Accepted")
        if not serving and state is not None:
            accepted = Condition("Accepted", "False", "NotSupportedByParent", "; ".join(state.problems))
        elif spec.app_protocol == _H2C:
            accepted = Condition("Accepted", "True", "Accepted", "its pods are asked over HTTP/1.1, not HTTP/2")
        problem = self._store.picker_problem(name)
        if not problem:
            return PoolView(serving, (accepted, Condition("ResolvedRefs", "True", "ResolvedRefs")))
        closed = spec.picker is not None and spec.picker.failure_mode != "FailOpen"
        unresolved = Condition("ResolvedRefs", "False", "InvalidExtensionRef", problem)
        return PoolView("" if closed else serving, (accepted, unresolved))

    def _judge_route(self, name: str) -> None:
        route, seen = self._routes[name], self._store.get("HTTPRoute", name)
        former = route.outcome
        if seen is None:
            del self._routes[name]
            route.outcome = _NOTHING
        else:
            around = Surroundings(self._doors, self._views.get, self._grants)
            route.outcome = judged(seen.metadata, route.parents, route.serves, route.problems, around)
        self._unsaid["HTTPRoute", name] = None
        for port in {*former.routes, *route.outcome.routes}:
            self._serve(port, name, route.outcome.routes.get(port))
        _move(name, former.attached, route.outcome.attached, self._attached)
        _move(name, former.pools, route.outcome.pools, self._through)
        for gateway, _ in former.attached ^ route.outcome.attached:
            self._unsaid["Gateway", gateway] = None
        for pool, _ in former.pools ^ route.outcome.pools:
            self._unsaid["InferencePool", pool] = None

    def _serve(self, port: int, name: str, route: HttpRoute | None) -> None:
        serving = self._serving.setdefault(port, {})
        former = serving.get(name)
        if route == (None if former is None else former.route):
            return
        self._changed.add(port)
        if route is None:
            del serving[name]
        else:
            serving[name] = Laid.of(route)

    # -- what is said ---------------------------------------------------------------------------------------------

    def _say(self, key: Key) -> None:
        kind, name = key
        verdict = _SAYINGS[kind](self, name)
        if verdict is None:
            self._told.pop(key, None)
        elif verdict != self._told.get(key):
            self._told[key] = self._news[verdict.key] = verdict

    def _of_class(self, name: str) -> Verdict | None:
        seen = self._store.get("GatewayClass", name)
        if seen is None or not self._store.owned(name, self.controller):
            return None
        accepted = Condition("Accepted", "True", "Accepted", "HTTPRoutes to InferencePools are served")
        features = [{"name": feature} for feature in FEATURES]
        return seen.verdict("GatewayClass", conditions=(accepted,), more={"supportedFeatures": features})

    def _of_gateway(self, name: str) -> Verdict | None:
        seen, found = self._store.get("Gateway", name), self._doors.get(name)
        if seen is None or found is None:
            return None
        about = conditions(found)
        if seen.problem:
            refused = Condition("Accepted", "False", "Invalid", f"{seen.problem}; the version before it serves")
            about = (refused, *about[1:])
        attached = Counter({listener: len(routes) for listener, routes in self._attached.get(name, {}).items()})
        attached.update(self.bindings.attached(name))
        return seen.verdict("Gateway", conditions=about, more=said(found, attached, self.addresses))

    def _of_route(self, name: str) -> Verdict | None:
        seen, route = self._store.get("HTTPRoute", name), self._routes.get(name)
        return None if seen is None or route is None else self._shared(name, seen, "HTTPRoute", route.outcome.parents)

    def _of_pool(self, name: str) -> Verdict | None:
        seen, view = self._store.get("InferencePool", name), self._views.get(name)
        if seen is None or view is None:
            return None
        through = sorted(self._through.get(name, ()))
        parents = tuple(Parent(_gateway_ref(gateway), view.conditions) for gateway in through)
        return self._shared(name, seen, "InferencePool", parents)

    def _shared(self, name: str, seen: Seen, kind: str, parents: tuple[Parent, ...]) -> Verdict | None:
        """None where nothing is to be said, nor has been."""
        if not parents and (kind, name) not in self._told and not seen.spoken_of(self.controller):
            return None
        return seen.verdict(kind, parents=parents)


_SAYINGS: Final = {
    "GatewayClass": GatewayApi._of_class,
    "Gateway": GatewayApi._of_gateway,
    "HTTPRoute": GatewayApi._of_route,
    "InferencePool": GatewayApi._of_pool,
}


def _entrance(port: int, inlets: tuple[Inlet, ...], former: Entrance | None) -> Entrance:
    """Where Gateways share the program's own port with everybody, nobody loses a route to them."""
    if former is not None and former.inlets == inlets:
        return former
    return Entrance(inlets, frozenset(inlet.namespace for inlet in inlets) if port else None)


def _within(name: str, namespace: str) -> bool:
    return name.startswith(f"{namespace}/")


def _gateway_ref(name: str) -> dict[str, Any]:
    namespace, _, name = name.partition("/")
    return {"group": GROUP, "kind": "Gateway", "namespace": namespace, "name": name}


def _parents(tree: Mapping[str, Any]) -> tuple[tuple[ParentRef, dict[str, Any]], ...]:
    """The parentRefs of a route, as far as they can be read where the rest cannot."""
    try:
        refs = read(tree, "spec", RouteParents).parent_refs
    except ValueError:
        return ()
    return tuple(zip(refs, (tree.get("spec") or {}).get("parentRefs") or (), strict=True))


def _uses(route: _Route, namespace: str) -> Iterator[Key]:
    for ref, _ in route.parents:
        gateway = parent_gateway(ref, namespace)
        if gateway is not None:
            yield "Gateway", gateway
    for rule in route.serves.spec.rules if route.serves is not None else ():
        for backend in rule.backend_refs:
            pool = backend_pool(backend, namespace)
            if pool is not None:
                yield "InferencePool", pool


def _move(route: str, before: Collection[Key], after: Collection[Key], where: dict[str, dict[str, set[str]]]) -> None:
    """Note by which routes pairs are made: ``where`` is first → second → routes."""
    for first, second in set(before) - set(after):
        routes = where[first][second]
        routes.discard(route)
        if not routes:
            del where[first][second]
        if not where[first]:
            del where[first]
    for first, second in set(after) - set(before):
        where.setdefault(first, {}).setdefault(second, set()).add(route)
