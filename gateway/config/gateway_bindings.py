"""ModelRoutes that are bound to Gateways: which listeners take them, and what is wrong with what they name. (P)

Invariant: who is bound to a Gateway that is not there, or does not take it, is served nowhere rather than everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from gateway.config.envelope import Resource
from gateway.config.gateway_doors import MODEL_ROUTE, Door, wanted
from gateway.config.gateway_objects import ParentRef, read
from gateway.config.gateway_routes import parent_gateway
from gateway.entrance import Parent


class Fault(msgspec.Struct, frozen=True):
    """Of one parentRef."""

    reason: str
    text: str


class Bindings:
    """By "namespace/name". ``moved``: routes of which something else is to be said, ``touched``: Gateways; whoever says
    it empties them. ``doors``: of the Gateways there are.
    """

    def __init__(self, doors: Mapping[str, Sequence[Door]] | None = None) -> None:
        self.moved: dict[str, None] = {}
        self.touched: dict[str, None] = {}
        self._doors: Mapping[str, Sequence[Door]] = {} if doors is None else doors
        self._parents: dict[str, tuple[Parent, ...]] = {}
        self._named: dict[str, frozenset[str]] = {}
        self._users: dict[str, set[str]] = {}
        self._taken: dict[str, frozenset[tuple[str, str]]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._stale: dict[str, None] = {}

    def put(self, route: str, parents: Sequence[Parent] | None, named: frozenset[str] = frozenset()) -> None:
        """It serves bound to these; None: to nothing, or it is gone. ``named``: by whatever version of it."""
        for gateway in self._named.pop(route, frozenset()) - named:
            self._users[gateway].discard(route)
            if not self._users[gateway]:
                del self._users[gateway]
        for gateway in named:
            self._users.setdefault(gateway, set()).add(route)
        if named:
            self._named[route] = named
        if parents is not None or route in self._parents:
            self._stale[route] = None
        if parents is None:
            self._parents.pop(route, None)
        else:
            self._parents[route] = tuple(parents)

    def renew(self, gateway: str) -> None:
        """The Gateway is not what it was."""
        self._stale.update(dict.fromkeys(self._users.get(gateway, ())))

    def steps(self) -> Iterator[None]:
        """Work: a route a step."""
        while self._stale:
            route = next(iter(self._stale))
            del self._stale[route]
            self._attach(route)
            self.moved[route] = None
            yield

    def attached(self, gateway: str) -> Counter[str]:
        """How many routes each listener of a Gateway takes."""
        return self._counts.get(gateway, Counter())

    def _attach(self, route: str) -> None:
        namespace, before = route.partition("/")[0], self._taken.pop(route, frozenset())
        after = frozenset(
            (parent.gateway, door.name)
            for parent in self._parents.get(route, ())
            for door in self._doors.get(parent.gateway, ())
            if admits(door, parent, namespace)
        )
        if after:
            self._taken[route] = after
        for gateway, door in before ^ after:
            counts = self._counts.setdefault(gateway, Counter())
            counts[door] += 1 if (gateway, door) in after else -1
            self.touched[gateway] = None

    # -- what is said -------------------------------------------------------------------------------------------------

    def taken(self, resource: Resource) -> bool:
        """Whether requests can get to it: some listener takes it, or it is bound to nothing."""
        parents, namespace = parents_of(resource), resource.metadata.namespace
        return parents is None or any(self._fault("", parent, namespace) is None for parent in parents)

    def faults(self, resource: Resource) -> list[Fault]:
        """What is wrong with its parentRefs, one each at most."""
        found = (
            self._fault(f"$.spec.parentRefs[{index}]", parent, resource.metadata.namespace)
            for index, parent in enumerate(parents_of(resource) or ())
        )
        return [fault for fault in found if fault is not None]

    def _fault(self, path: str, parent: Parent, namespace: str) -> Fault | None:
        if not parent.gateway:
            return Fault("ParentNotFound", f"{path}: names no Gateway")
        of, _, name = parent.gateway.partition("/")
        doors = self._doors.get(parent.gateway)
        if doors is None:
            return Fault("ParentNotFound", f'{path}.name: no Gateway "{name}" of our class in namespace "{of}"')
        named = wanted(parent.listener, parent.port, doors)
        if not named:
            which = ".sectionName" if parent.listener else ".port" if parent.port else ""
            what = "listener of that name or port" if which else "listener"
            message = f"{path}{which}: the Gateway {parent.gateway} has no {what} that can be served"
            return Fault("NoMatchingListener", message)
        if any(door.lets_in(of, namespace, MODEL_ROUTE) for door in named):
            return None
        message = f'{path}: the listeners of the Gateway {parent.gateway} take no ModelRoutes of "{namespace}"'
        if any(door.whose == "Selector" for door in named):
            message += "; namespaces by selector are not supported, All and Same are"
        return Fault("NotAllowedByListeners", message)


def admits(door: Door, parent: Parent, namespace: str) -> bool:
    asked = wanted(parent.listener, parent.port, (door,))
    return bool(asked) and door.lets_in(parent.gateway.partition("/")[0], namespace, MODEL_ROUTE)


def parents_of(resource: Resource) -> tuple[Parent, ...] | None:
    """What a ModelRoute is bound to; None: to nothing."""
    refs = resource.content.parent_refs
    return tuple(_parent(ref, resource.metadata.namespace) for ref in refs) if refs else None


def _parent(written: Mapping[str, object], namespace: str) -> Parent:
    try:
        ref = read({"spec": written}, "spec", ParentRef)
    except ValueError:
        return Parent("")
    return Parent(parent_gateway(ref, namespace) or "", ref.section_name, ref.port)
