"""ModelServers, providers and InferencePools of a cluster → pools with their members. (P)

Invariant: a pool keeps the last version of its object for which everything it names was there, until one comes for
which that holds; nothing but the pool of which something changed is built again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.config.envelope import Flaw, Resource
from gateway.config.fleet import Fleet, Read
from gateway.config.pods import PodIndex
from gateway.config.settings import Settings
from gateway.config.snapshot import PoolSpec
from gateway.config.standing import Shelf, Slot, Standing, Standings, Version

POOLS: Final = ("ModelServer", "ExternalModelProvider", "InferencePool")
"""Of two with one name, the kind that comes later says so in the name of its pool."""


class ClusterPools:
    """The pools. `step` builds one of those that `renew`, `put_secret` and pods have made stale.

    ``moved``: slots whose pool came, went, or is now known by another name or asked for another model; ``flipped``:
    those that have endpoints now and had none, or the other way round. The caller empties both.
    """

    def __init__(self, standings: Standings, environment: Mapping[str, str], read_file: Read) -> None:
        self.index: PodIndex[Slot] = PodIndex()
        self.specs: Shelf[PoolSpec] = Shelf()
        self.files: Shelf[tuple[str, ...]] = Shelf()
        self.taken: frozenset[str] = frozenset()
        self.moved: dict[Slot, None] = {}
        self.flipped: dict[Slot, None] = {}
        self._standings = standings
        self._secrets: dict[str, Mapping[str, bytes]] = {}
        self._fleet = Fleet(Settings(), self._secrets, read_file, environment, guarded=True)
        self._bases: dict[Slot, PoolSpec] = {}
        self._stale: dict[Slot, None] = {}
        self._wanted: dict[str, set[Slot]] = {}
        self._wants: dict[Slot, frozenset[str]] = {}

    # --- what changes -------------------------------------------------------------------------------------------------

    def settle(self, settings: Settings, taken: frozenset[str]) -> None:
        self._fleet.settings = settings
        self.taken = taken
        self._stale.update(dict.fromkeys(slot for slot in self._standings.slots() if slot[0] in POOLS))

    def renew(self, slot: Slot) -> None:
        """Its object came, went, or is another version."""
        standing = self._standings.first(slot)
        versions = [] if standing is None else standing.versions()
        wants = frozenset(name for version in versions for name in _secret_of(version.resource))
        for name in self._wants.pop(slot, frozenset()) - wants:
            self._wanted[name].discard(slot)
            if not self._wanted[name]:
                del self._wanted[name]
        for name in wants:
            self._wanted.setdefault(name, set()).add(slot)
        if wants:
            self._wants[slot] = wants
        self._stale[slot] = None

    def wanted_secrets(self) -> frozenset[str]:
        """ "namespace/name" of those that objects name."""
        return frozenset(self._wanted)

    def put_secret(self, name: str, content: Mapping[str, bytes] | None) -> None:
        """What is in it; None: it is gone, or nobody follows it any more."""
        if self._secrets.get(name) == content:
            return
        if content is None:
            del self._secrets[name]
        else:
            self._secrets[name] = content
        self._stale.update(dict.fromkeys(self._wanted.get(name, ())))

    # --- what comes of it ---------------------------------------------------------------------------------------------

    def find(self, kind: str, name: str) -> PoolSpec | None:
        """The pool of that object, members aside."""
        return self._bases.get((kind, name))

    def usable(self, slot: Slot) -> bool:
        """Whether it has endpoints. What files have instead is taken to have some."""
        base = self._bases.get(slot)
        spec = self.specs.get(slot)
        return bool(spec.endpoints) if spec is not None else base is not None and base.name in self.taken

    def members(self, slot: Slot) -> tuple[int, int]:
        """Of a pool by selector, (how many pods are ready, how many there are); otherwise none."""
        base = self._bases.get(slot)
        if base is None or base.selector is None:
            return 0, 0
        membership = self.index[slot]
        return membership.ready, len(membership)

    @property
    def stale(self) -> bool:
        return bool(self._stale or self.index.changed)

    def due(self, slot: Slot) -> bool:
        """Whether it is still to be built."""
        return slot in self._stale or slot in self.index.changed

    def step(self) -> Slot | None:
        """Build one; which one, or None if all are built."""
        if self._stale:
            slot = next(iter(self._stale))
            del self._stale[slot]
            self._build(slot)
        elif self.index.changed:
            slot = self.index.changed.pop()
            self._present(slot)
        else:
            return None
        return slot

    def _build(self, slot: Slot) -> None:
        standing = self._standings.first(slot)
        self._fleet.files.clear()
        base = None if standing is None else self._chosen(standing)
        self.files.put(slot, tuple(self._fleet.files) or None)
        former = self._bases.pop(slot, None)
        if base is not None:
            base = msgspec.structs.replace(base, name=self._name(slot))
            self._bases[slot] = base = former if base == former and former is not None else base
        if base is None or base.selector is None or base.template is None:
            self.index.unwatch(slot)
        else:
            self.index.watch(slot, base.selector, base.template)
        if _face(base) != _face(former):
            self.moved[slot] = None
            if (base is None) != (former is None):
                self._rename(slot)
        self._present(slot)

    def _chosen(self, standing: Standing) -> PoolSpec | None:
        """By the newest version for which that can be: all it names is there; it was there once; nothing else is wrong
        with it, and then there are no endpoints.
        """
        made = [(version, *self._made(version)) for version in standing.versions()]
        standing.flaws = made[0][2] if made else ()
        standing.serving, chosen = _best(made)
        if standing.serving is standing.newest and not standing.flaws:
            standing.held = None
        standing.product = chosen
        return chosen

    def _made(self, version: Version) -> tuple[PoolSpec, tuple[Flaw, ...]]:
        fleet, resource = self._fleet, version.resource
        makers = {"ModelServer": fleet.server, "ExternalModelProvider": fleet.provider}
        spec = makers.get(resource.kind, fleet.inference_pool)(resource)
        flaws = tuple(fleet.flaws)
        fleet.flaws.clear()
        return spec, flaws

    def _name(self, slot: Slot) -> str:
        kind, name = slot
        earlier = POOLS[: POOLS.index(kind)]
        return f"{name}.{kind.lower()}" if any((other, name) in self._bases for other in earlier) else name

    def _rename(self, slot: Slot) -> None:
        """Pools of later kinds may be called something else now."""
        kind, name = slot
        later = ((other, name) for other in POOLS[POOLS.index(kind) + 1 :])
        self._stale.update(dict.fromkeys(other for other in later if other in self._standings))

    def _present(self, slot: Slot) -> None:
        base, former = self._bases.get(slot), self.specs.get(slot)
        if base is None or base.name in self.taken:
            spec = None
        elif base.selector is None:
            spec = base
        else:
            spec = msgspec.structs.replace(base, endpoints=self.index[slot].endpoints())
        if spec is not None and spec == former:
            return
        self.specs.put(slot, spec)
        if bool(spec and spec.endpoints) != bool(former and former.endpoints):
            self.flipped[slot] = None


def _best(
    made: list[tuple[Version, PoolSpec, tuple[Flaw, ...]]],
) -> tuple[Version | None, PoolSpec | None]:
    for version, spec, flaws in made:
        if not flaws:
            version.good = spec
            return version, spec
    for version, spec, _ in made:
        if version.good is not None:
            return version, msgspec.structs.replace(version.good, policy=spec.policy, profile=spec.profile)
    for version, spec, flaws in made:
        if all(flaw.reference for flaw in flaws):
            return version, msgspec.structs.replace(spec, endpoints=(), selector=None, template=None)
    return None, None


def _face(spec: PoolSpec | None) -> tuple[str, str | None] | None:
    """What routes see of it."""
    return None if spec is None else (spec.name, spec.model)


def _secret_of(resource: Resource) -> list[str]:
    auth = getattr(resource.content, "auth", None)
    ref = None if auth is None else auth.secret_ref
    return [] if ref is None else [f"{resource.metadata.namespace}/{ref.name}"]
