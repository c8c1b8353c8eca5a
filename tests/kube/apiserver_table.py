"""Lists as `kubectl get` wants them: the server fills the columns. (P)"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from tests.kube.apiserver_store import Resource

Tree = dict[str, Any]
_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
_COLUMNS: dict[str, tuple[Tree, ...]] = {
    "pods": (
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Status", "type": "string", "jsonPath": ".status.phase"},
        _AGE,
        {"name": "IP", "type": "string", "jsonPath": ".status.podIP", "priority": 1},
    ),
    "namespaces": ({"name": "Status", "type": "string", "jsonPath": ".status.phase"}, _AGE),
    "leases.coordination.k8s.io": ({"name": "Holder", "type": "string", "jsonPath": ".spec.holderIdentity"}, _AGE),
    "events": (
        {"name": "Type", "type": "string", "jsonPath": ".type"},
        {"name": "Reason", "type": "string", "jsonPath": ".reason"},
        {"name": "Message", "type": "string", "jsonPath": ".message"},
    ),
    "customresourcedefinitions.apiextensions.k8s.io": (
        {"name": "Created At", "type": "string", "jsonPath": ".metadata.creationTimestamp"},
    ),
}


def columns(resource: Resource) -> tuple[Tree, ...]:
    return resource.columns or _COLUMNS.get(resource.store, (_AGE,))


def table(resource: Resource, trees: list[Tree], metadata: Tree, head: bool = True) -> Tree:
    """``head``: with the definitions of the columns, as a list and the first event of a watch have them."""
    definitions = [{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}]
    for column in columns(resource):
        more = {"format": "", "description": "", "priority": 0, **column}
        more.pop("jsonPath")
        more["type"] = "string" if more["type"] == "date" else more["type"]
        definitions.append(more)
    rows = [{"cells": cells(resource, tree), "object": partial(tree)} for tree in trees]
    shape: Tree = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return shape | {"columnDefinitions": definitions if head else [], "rows": rows}


def partial(tree: Tree) -> Tree:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": tree["metadata"]}


def cells(resource: Resource, tree: Tree) -> list[Any]:
    found = [tree["metadata"]["name"]]
    for column in columns(resource):
        value = _at(tree, column["jsonPath"])
        if column["type"] == "date" and isinstance(value, str):
            value = _age(value)
        found.append(value if value is None or isinstance(value, (str, int, float, bool)) else str(value))
    return found


def _at(value: Any, path: str) -> Any:
    for name, chosen, number in re.findall(r"\.?([\w-]+)|\[\?\(([^]]*)\)\]|\[(\d+)\]", path):
        if name:
            value = value.get(name) if isinstance(value, dict) else None
        elif number:
            value = value[int(number)] if isinstance(value, list) and len(value) > int(number) else None
        else:
            field, wanted = re.fullmatch(r"@\.([\w.]+)\s*==\s*[\"'](.*)[\"']", chosen).groups()  # type: ignore[union-attr]
            value = next((item for item in value or () if item.get(field) == wanted), None)
    return value


def _age(when: str) -> str:
    then = datetime.fromisoformat(when)
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
