"""ModelRoutes, objectives and model rewrites of a cluster → what they come to with the pools there are. (P)

Invariant: a version of a route that leads somewhere altogether is not replaced by one that does not; only what refers
to a pool that moved is made again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

import msgspec

from gateway.config.cluster_pools import ClusterPools
from gateway.config.decode import suggestion
from gateway.config.envelope import Flaw, Resource
from gateway.config.extension import ALPHA, beside, objective, rewrite
from gateway.config.gateway_bindings import Bindings, parents_of
from gateway.config.rates import Reach, shared_state
from gateway.config.routing import route_of, targets
from gateway.config.settings import Settings
from gateway.config.sharing import Redis, State
from gateway.config.snapshot import RouteLimit
from gateway.config.standing import Shelf, Slot, Standing, Standings, Version
from gateway.directives import Objective, Rewrite
from gateway.route import Route

REFERRING: Final = tuple(
    f"{kind}{of}"
    for kind in ("ModelRoute", "InferenceObjective", "InferenceModelRewrite")
    for of in ("", f" of {ALPHA}")
)
_Asked = tuple[tuple[float, int, str], str]
"""(age, name) of a route"""
Asks = tuple[bool, str, str]
"""Whether it is a model's name or a LoRA's, the name, and what those who ask have come in by: "" for whatever."""
_SUGGESTED: Final = 8
"""Of so many names the nearest is looked for: each takes 20 µs."""


class ClusterRoutes:
    """The routes, and what is said beside InferencePools. `step` makes one of those that are stale.

    ``judge``: slots of which something has
    changed that is to be said of them, besides those that `step` names; the caller empties it.
    """

    def __init__(self, standings: Standings, pools: ClusterPools, bindings: Bindings) -> None:
        self.routes: Shelf[Route] = Shelf()
        self.limits: Shelf[tuple[RouteLimit, ...]] = Shelf()
        self.directives: Shelf[Objective | Rewrite] = Shelf()
        self.judge: dict[Slot, None] = {}
        self.redis: Redis | None = None
        self.unmet: dict[Slot, str] = {}
        self._standings = standings
        self._pools = pools
        self._bindings = bindings
        self._state = State()
        self._reach = Reach(guarded=True)
        self._stale: dict[Slot, None] = {}
        self._users: dict[Slot, set[Slot]] = {}
        self._uses: dict[Slot, frozenset[Slot]] = {}
        self._names: dict[tuple[str, str], dict[str, None]] = {}
        self._asked: dict[Asks, list[_Asked]] = {}
        self._meeting: dict[Slot, Resource] = {}
        self._meet = True

    # --- what changes -------------------------------------------------------------------------------------------------

    def settle(self, settings: Settings) -> None:
        reach = Reach(not settings.kubernetes.allow_loopback, settings.egress.networks)
        self._meet = self._meet or (settings.state, reach) != (self._state, self._reach)
        self._state, self._reach = settings.state, reach

    def renew(self, slot: Slot) -> None:
        """Its object came, went, or is another version."""
        standing = self._standings.first(slot)
        versions = [] if standing is None else standing.versions()
        self._use(slot, frozenset(target for version in versions for target in _targets(version.resource)))
        self._stale[slot] = None

    def named(self, slot: Slot) -> None:
        """An object that can be led to came or went."""
        kind, name = slot
        namespace, _, short = name.partition("/")
        names = self._names.setdefault((kind, namespace), {})
        if slot in self._standings:
            names[short] = None
        else:
            names.pop(short, None)
            if not names:
                del self._names[kind, namespace]

    def moved(self, pool: Slot) -> None:
        """What refers to that pool is to be made again."""
        self._stale.update(dict.fromkeys(self._users.get(pool, ())))

    def users(self, pool: Slot) -> Iterable[Slot]:
        return self._users.get(pool, ())

    def _use(self, slot: Slot, used: frozenset[Slot]) -> None:
        for pool in self._uses.pop(slot, frozenset()) - used:
            self._users[pool].discard(slot)
            if not self._users[pool]:
                del self._users[pool]
        for pool in used:
            self._users.setdefault(pool, set()).add(slot)
        if used:
            self._uses[slot] = used

    # --- what comes of it ---------------------------------------------------------------------------------------------

    def first(self, base: bool, name: str, by: str = "") -> str:
        """The oldest route of a model, or else of a LoRA, bound to the same; "" if there is none."""
        asked = self._asked.get((base, name, by))
        return asked[0][1] if asked else ""

    @property
    def stale(self) -> bool:
        return bool(self._stale)

    def due(self, slot: Slot) -> bool:
        """Whether it is still to be made."""
        return slot in self._stale

    def step(self) -> Slot | None:
        """Make one; which one, or None if all are made."""
        if not self._stale:
            self._settle_meeting()
            return None
        slot = next(iter(self._stale))
        del self._stale[slot]
        if slot[0] == "ModelRoute":
            self._route(slot)
        else:
            self._directive(slot)
        return slot

    def _route(self, slot: Slot) -> None:
        standing = self._standings.first(slot)
        route = None if standing is None else self._chosen(standing)
        former = self.routes.get(slot)
        if route is not None and route == former:
            route = former
        self.routes.put(slot, route)
        self._ask(former, route)
        self._bind(slot[1], standing, route)
        serving = None if standing is None else standing.serving
        self.limits.put(slot, None if serving is None else serving.limits or None)
        self._meets(slot, None if serving is None else serving.resource)

    def _bind(self, name: str, standing: Standing | None, route: Route | None) -> None:
        versions = [] if standing is None else standing.versions()
        found = (parents_of(version.resource) or () for version in versions)
        named = frozenset(parent.gateway for parents in found for parent in parents if parent.gateway)
        self._bindings.put(name, None if route is None else route.parents, named)

    def _chosen(self, standing: Standing) -> Route | None:
        standing.serving, standing.product, standing.flaws = None, None, ()
        newest, held = standing.newest, standing.held
        if newest is None:
            return None
        standing.serving = newest
        standing.product, standing.flaws = self._made(newest)
        if not standing.flaws:
            standing.held = None
        elif held is not None:
            route, flaws = self._made(held)
            if not flaws:
                standing.serving, standing.product = held, route
        made: Route = standing.product
        return made

    def _made(self, version: Version) -> tuple[Route, tuple[Flaw, ...]]:
        route, flaws = route_of(version.resource, self._pools.find, self._absent)
        if version.resource.content.parent_refs:
            route = msgspec.structs.replace(route, parents=parents_of(version.resource))
        if not flaws:
            version.good = route
        return route, tuple(flaws)

    def _absent(self, kind: str, namespace: str, name: str) -> str:
        if (kind, f"{namespace}/{name}") in self._standings:
            return f'{kind} "{name}" in namespace "{namespace}" has no version that can serve'
        names = (other for other in self._names.get((kind, namespace), ()) if abs(len(other) - len(name)) <= 2)
        return f'no {kind} "{name}" in namespace "{namespace}"{suggestion(name, islice(names, _SUGGESTED))}'

    def _directive(self, slot: Slot) -> None:
        standing = self._standings.first(slot)
        if standing is None or standing.newest is None:
            self.directives.put(slot, None)
            return
        standing.serving = standing.newest
        standing.newest.good = standing.product = made = self._directed(standing.newest.resource)
        if made != self.directives.get(slot):
            self.directives.put(slot, made)

    def _directed(self, resource: Resource) -> Objective | Rewrite:
        name = beside(resource.name, resource.content.pool_ref)
        pool = self._pools.find("InferencePool", name)
        called = name if pool is None else pool.name
        if resource.kind == "InferenceObjective":
            return objective(resource.name, resource.version, resource.content, called)
        return rewrite(resource.name, resource.version, resource.content, resource.age, called)

    # --- what routes have to do with one another ----------------------------------------------------------------------

    def _ask(self, former: Route | None, route: Route | None) -> None:
        """Who asks for a model that others ask for, too, is told when another one comes first."""
        gone, come = asks(former), asks(route)
        for key in dict.fromkeys((*gone, *come)):
            before = self.first(*key)
            asked = self._asked.setdefault(key, [])
            if former is not None and key in gone:
                del asked[bisect_left(asked, (former.age, former.name))]
            if route is not None and key in come:
                insort(asked, (route.age, route.name))
            if self.first(*key) != before:
                others = (*asked, *self._asked.get((not key[0], *key[1:]), ()))
                self.judge.update(dict.fromkeys(("ModelRoute", name) for _, name in others))
            if not asked:
                del self._asked[key]

    def _meets(self, slot: Slot, resource: Resource | None) -> None:
        limit = None if resource is None else resource.content.rate_limit
        if resource is not None and limit is not None and limit.shared is not None and limit.shared.redis is not None:
            self._meeting[slot] = resource
            self._meet = True
        elif self._meeting.pop(slot, None) is not None:
            self._meet = True

    def _settle_meeting(self) -> None:
        """Where replicas meet: where the settings say, or else the oldest route."""
        if not self._meet:
            return
        self._meet = False
        routes = sorted(self._meeting.items(), key=lambda item: (item[1].age, item[1].name))
        unmet: dict[Slot, str] = {}
        state = self._state
        for slot, _ in routes:
            self.judge[slot] = None
        lines: list[str] = []
        self.redis = shared_state(state, (resource for _, resource in routes), [], lines, self._reach).redis
        by_where = {resource.where: slot for slot, resource in routes}
        for line in lines:
            where, _, text = line.partition(": ")
            if where in by_where:
                unmet[by_where[where]] = text
        self.unmet = unmet


def _targets(resource: Resource) -> Iterable[Slot]:
    if resource.kind == "ModelRoute":
        return chain.from_iterable(targets(resource))
    return [("InferencePool", beside(resource.name, resource.content.pool_ref))]


def asks(route: Route | None) -> list[Asks]:
    """What it answers for, as `ClusterRoutes.first` has it."""
    if route is None:
        return []
    names = [*([(True, route.model)] if route.model else []), *((False, name) for name in route.loras)]
    bound = (
        [""] if route.parents is None else dict.fromkeys(f"{p.gateway} {p.listener} {p.port}" for p in route.parents)
    )
    return [(base, name, by) for by in bound for base, name in names]
