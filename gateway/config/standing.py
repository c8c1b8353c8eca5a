"""One object of a cluster as it stands: its newest version, the one that serves, and what is wrong with the newest. (P)

Invariant: a version that decoded is kept until a newer one can take its place; reading an object never raises, whatever
it holds.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from typing import Any, Final, Generic, TypeVar

import msgspec

from gateway.config.document import Document, Tree
from gateway.config.envelope import KINDS, Flaw, Resource, decoded
from gateway.config.extension import ALPHA
from gateway.config.inert import inert
from gateway.config.rates import route_limits, shared_state
from gateway.config.routing import unreached
from gateway.config.sharing import State
from gateway.config.snapshot import RouteLimit

Slot = tuple[str, str]
"""(kind, "namespace/name"): objects of one slot, in several groups, stand for the same thing."""
V = TypeVar("V")

_IGNORED: Final = ("metadata", "status")
_PD_GROUP: Final = "$.spec.workloadSelector.pdGroup"
_PARENTS: Final = "$.spec.parentRefs"


class Head(msgspec.Struct, frozen=True):
    """Which object it is, and which version of it."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""
    generation: int = 0

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def slot(self) -> Slot:
        """Objectives and rewrites of the earlier group stand beside those of today; other kinds' groups compete."""
        legacy = self.api_version == ALPHA and self.kind != "InferencePool"
        return (f"{self.kind} of {ALPHA}" if legacy else self.kind, self.full_name)

    @property
    def rank(self) -> int:
        """Among objects of one slot; the lowest wins."""
        return KINDS[self.kind].versions.index(self.api_version)


def head_of(tree: Tree) -> Head | None:
    """None for what is no object."""
    metadata = tree.get("metadata") if isinstance(tree, dict) else None
    if not isinstance(metadata, dict):
        return None
    named = tree.get("apiVersion"), tree.get("kind"), metadata.get("namespace") or "default", metadata.get("name")
    version, kind, namespace, name = (text if isinstance(text, str) else "" for text in named)
    if not (version and kind and namespace and name) or "/" in namespace + name:
        return None
    uid, generation = metadata.get("uid"), metadata.get("generation")
    return Head(
        version,
        kind,
        namespace,
        name,
        uid if isinstance(uid, str) else "",
        generation if type(generation) is int else 0,
    )


class Version:
    """One version that decoded. ``good``: what came of it when last everything that it names was there."""

    __slots__ = ("generation", "good", "limits", "resource", "warnings")

    def __init__(self, resource: Resource, generation: int, warnings: tuple[Flaw, ...]) -> None:
        self.resource = resource
        self.generation = generation
        self.warnings = warnings
        self.good: Any = None
        self.limits: tuple[RouteLimit, ...] = ()


class Standing:
    """One object. ``problems``: why the newest version is none; ``flaws``: what else is wrong with it.

    ``newest`` decoded last; ``held`` is one before it that served while everything it names was there; ``serving`` is
    one of the two or None, and ``product`` what came of it.
    """

    __slots__ = ("digest", "flaws", "head", "held", "newest", "problems", "product", "serving")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.digest = b""
        self.problems: tuple[str, ...] = ()
        self.flaws: tuple[Flaw, ...] = ()
        self.newest: Version | None = None
        self.held: Version | None = None
        self.serving: Version | None = None
        self.product: Any = None

    @property
    def where(self) -> str:
        return f"{self.head.kind} {self.head.full_name}"

    def versions(self) -> list[Version]:
        """Those that may serve, the newest first."""
        return [version for version in (self.newest, self.held) if version is not None]

    def renew(self, head: Head, tree: dict[str, Tree]) -> bool:
        """Take another version; False if it says what the one before said."""
        self.head = head
        try:
            trimmed = _trimmed(head, tree)
            digest = hashlib.blake2b(msgspec.json.encode(trimmed), digest_size=16).digest()
            if digest == self.digest:
                if self.newest is not None and not self.problems:
                    self.newest.generation = head.generation
                return False
            self.digest = digest
            version, self.problems = self._read(trimmed)
        except (RecursionError, UnicodeError, TypeError, OverflowError, ValueError):
            self.digest = b""
            version, self.problems = None, ("$: cannot be read",)
        if version is not None:
            if self.serving is not None and self.serving.good is not None:
                self.held = self.serving
            self.newest = version
        return True

    def _read(self, tree: dict[str, Tree]) -> tuple[Version | None, tuple[str, ...]]:
        document = Document(self.where, 0, tree)
        resource, problems = decoded(document, self.where)
        if resource is None:
            return None, tuple(problems)
        # what was decoded is kept, what it was decoded from is not
        resource = msgspec.structs.replace(resource, document=Document(self.where, 0, None))
        version = Version(resource, self.head.generation, ())
        lines: list[str] = []
        if resource.kind == "ModelRoute":
            shared_state(State(), [resource], problems, lines)
            version.limits = tuple(route_limits([resource], lines))
        prefix = f"{self.where}: "
        if problems:
            return None, tuple(line.removeprefix(prefix) for line in problems)
        noted = [_split(resource, line.removeprefix(prefix)) for line in lines]
        version.warnings = (*noted, *_odd(resource, tree))
        return version, ()


class Standings:
    """All objects, by what they stand for."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[Slot, dict[str, Standing]] = {}

    def put(self, head: Head, tree: dict[str, Tree]) -> bool:
        """False if the object says what it said before."""
        group = self._slots.setdefault(head.slot, {})
        standing = group.get(head.api_version)
        if standing is None or (standing.head.uid and head.uid and standing.head.uid != head.uid):
            standing = group[head.api_version] = Standing(head)
        return standing.renew(head, tree)

    def remove(self, slot: Slot, api_version: str) -> bool:
        """False if it was not there."""
        group = self._slots.get(slot, {})
        if group.pop(api_version, None) is None:
            return False
        if not group:
            del self._slots[slot]
        return True

    def of(self, slot: Slot) -> list[Standing]:
        """The objects of a slot, the one that counts first: one that was valid at some time, of the group of today."""
        group = self._slots.get(slot)
        return [] if group is None else sorted(group.values(), key=_order)

    def first(self, slot: Slot) -> Standing | None:
        """The one that counts."""
        found = self.of(slot)
        return found[0] if found else None

    def slots(self) -> list[Slot]:
        return list(self._slots)

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._slots


def _order(standing: Standing) -> tuple[bool, int]:
    return standing.newest is None, standing.head.rank


def _trimmed(head: Head, tree: dict[str, Tree]) -> dict[str, Tree]:
    """Without what changes and means nothing. The resource version is left out, too: it moves with every status that
    is written, and would move the route among those of its age.
    """
    metadata = {"name": head.name, "namespace": head.namespace}
    created = tree["metadata"].get("creationTimestamp")
    if created is not None:
        metadata["creationTimestamp"] = created
    rest = {key: value for key, value in tree.items() if key not in _IGNORED}
    return {**rest, "metadata": metadata}


def _split(resource: Resource, text: str) -> Flaw:
    path, _, message = text.partition(": ")
    return resource.flaw(path, message)


def _odd(resource: Resource, tree: dict[str, Tree]) -> list[Flaw]:
    """What is legal and does not do what may be meant."""
    found = list(unreached(resource)) if resource.kind == "ModelRoute" else []
    for path in inert(resource.kind, tree):
        if path == _PARENTS:
            continue  # in a cluster there are Gateways
        if path == _PD_GROUP:
            found.append(resource.flaw(path, "prefill pods get no requests: prefill is not split off in this version"))
        else:
            found.append(resource.flaw(path, "has no effect in this version"))
    return found


class Shelf(Generic[V]):
    """Values in the order of their keys; `values` is the same tuple until something changes."""

    __slots__ = ("_by_key", "_keys", "_values")

    def __init__(self) -> None:
        self._by_key: dict[Slot, V] = {}
        self._keys: list[Slot] = []
        self._values: tuple[V, ...] | None = ()

    def __getitem__(self, key: Slot) -> V:
        return self._by_key[key]

    def get(self, key: Slot) -> V | None:
        return self._by_key.get(key)

    def put(self, key: Slot, value: V | None) -> bool:
        """Set, or with None remove; whether that is another object than before."""
        former = self._by_key.get(key)
        if former is value:
            return False
        self._values = None
        if value is None:
            del self._by_key[key]
            del self._keys[bisect_left(self._keys, key)]
        else:
            self._by_key[key] = value
            if former is None:
                insort(self._keys, key)
        return True

    def values(self) -> tuple[V, ...]:
        if self._values is None:
            self._values = tuple([self._by_key[key] for key in self._keys])
        return self._values
