"""The objects that Gateway API's handler goes by, each as last seen and as last understood. (P)

Invariant: nothing raises, whatever an object holds; one that cannot be read is known by what it said before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.config.document import Tree
from gateway.config.gateway_objects import (
    GROUP,
    POOL_GROUPS,
    ClassSpec,
    GatewaySpec,
    GrantSpec,
    Metadata,
    Part,
    PickerRef,
    PoolSpec,
    RouteSpec,
    ServiceSpec,
    read,
    whole,
)
from gateway.config.verdict import Verdict

POOL_VERSIONS: Final = (f"{POOL_GROUPS[0]}/v1", f"{POOL_GROUPS[1]}/v1alpha2")
"""Of two pools with one name the former stands."""
_OTHERS: Final = ("GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant")
KINDS: Final = frozenset(
    (
        *((f"{GROUP}/{version}", kind) for version in ("v1", "v1beta1") for kind in _OTHERS),
        *((version, "InferencePool") for version in POOL_VERSIONS),
        ("v1", "Service"),
    )
)
_SPECS: Final[Mapping[str, type[Part]]] = {
    "GatewayClass": ClassSpec,
    "Gateway": GatewaySpec,
    "HTTPRoute": RouteSpec,
    "ReferenceGrant": GrantSpec,
    "InferencePool": PoolSpec,
    "Service": ServiceSpec,
}
Key = tuple[str, str]
"""(kind, "namespace/name"; "name" for a class)."""


class Seen(msgspec.Struct):
    """An object. ``spec`` decoded last, if any did; ``problem``: why the newest did not."""

    api_version: str
    metadata: Metadata
    tree: Mapping[str, Any]
    spec: Part | None = None
    problem: str = ""

    def verdict(self, kind: str, **more: Any) -> Verdict:
        at = self.metadata
        return Verdict(self.api_version, kind, at.namespace, at.name, at.uid, at.generation, **more)

    def spoken_of(self, controller: str) -> bool:
        """Whether its status holds an entry of that controller's."""
        status = self.tree.get("status")
        entries = status.get("parents") if isinstance(status, dict) else None
        return isinstance(entries, list) and any(
            isinstance(entry, dict) and entry.get("controllerName") == controller for entry in entries
        )


class Store:
    """Objects by kind and name, of each name the version that stands."""

    def __init__(self) -> None:
        self._objects: dict[Key, dict[str, Seen]] = {}
        self._absent: set[str] = set()

    def put(self, tree: Tree) -> Key | None:
        """Which one it is; None for what is none of ours, or has no name to be told by."""
        try:
            found = whole(tree)
            kind, version = str(found.get("kind")), str(found.get("apiVersion"))
            if (version, kind) not in KINDS:
                return None
            seen = Seen(version, read(found, "metadata", Metadata), found)
        except ValueError:
            return None
        key = kind, _name(kind, seen.metadata.namespace, seen.metadata.name)
        former = self.get(*key)
        try:
            seen.spec = read(found, "spec", _SPECS[kind])
        except ValueError as error:
            seen.problem = str(error)
            seen.spec = former.spec if former is not None and former.metadata.uid == seen.metadata.uid else None
        versions = self._objects.setdefault(key, {})
        if kind != "InferencePool":
            versions.clear()  # the versions of the other kinds are of one object
        versions[version] = seen
        if kind == "Service":
            self._absent.discard(key[1])
        return key

    def remove(self, api_version: str, kind: str, namespace: str, name: str) -> Key | None:
        """As `put`."""
        if (api_version, kind) not in KINDS:
            return None
        key = kind, _name(kind, namespace, name)
        versions = self._objects.get(key, {})
        if kind == "InferencePool":
            versions.pop(api_version, None)
        else:
            versions.clear()
        if not versions:
            self._objects.pop(key, None)
        if kind == "Service":
            self._absent.add(key[1])
        return key

    def get(self, kind: str, name: str) -> Seen | None:
        versions = self._objects.get((kind, name))
        if not versions:
            return None
        return next((versions[v] for v in POOL_VERSIONS if v in versions), next(iter(versions.values())))

    def of_kind(self, kind: str) -> dict[str, Seen]:
        return {name: seen for (of, name) in self._objects if of == kind and (seen := self.get(of, name)) is not None}

    def owned(self, name: str, controller: str) -> bool:
        """Whether a class names that controller."""
        seen = self.get("GatewayClass", name)
        return seen is not None and isinstance(seen.spec, ClassSpec) and seen.spec.controller_name == controller

    def gateway(self, name: str) -> GatewaySpec | None:
        seen = self.get("Gateway", name)
        return seen.spec if seen is not None and isinstance(seen.spec, GatewaySpec) else None

    def pool(self, name: str) -> PoolSpec | None:
        seen = self.get("InferencePool", name)
        if seen is None:
            return None
        return seen.spec if isinstance(seen.spec, PoolSpec) else PoolSpec()

    def picker(self, pool: str) -> PickerRef | None:
        spec = self.pool(pool)
        return None if spec is None else spec.picker

    def picker_problem(self, pool: str) -> str:
        """What is wrong with the picker that a pool names, if it names one."""
        picker, namespace = self.picker(pool), pool.partition("/")[0]
        if picker is None:
            return ""
        if (picker.group, picker.kind) != ("", "Service"):
            return f"$.spec.endpointPickerRef.kind: {picker.kind} is not supported, Service is"
        full = f"{namespace}/{picker.name}"
        if full in self._absent:
            return f'$.spec.endpointPickerRef.name: no Service "{picker.name}" in namespace "{namespace}"'
        seen = self.get("Service", full)
        if seen is not None and isinstance(seen.spec, ServiceSpec) and seen.spec.type == "ExternalName":
            return "$.spec.endpointPickerRef.name: a Service of type ExternalName is not supported"
        return ""


def _name(kind: str, namespace: str, name: str) -> str:
    return name if kind == "GatewayClass" else f"{namespace}/{name}"
