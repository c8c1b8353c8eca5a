"""The patches an API server takes, apart from those applied: JSON patch, merge patch, strategic merge patch. (P)

Nothing here changes its arguments.
"""

from __future__ import annotations

import copy
from typing import Any

from tests.kube.apiserver_store import Refusal

Tree = dict[str, Any]

BY_NAME: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "webhooks": ("name",),
    "podIPs": ("ip",),
}
"""Lists of the kinds that come with every server, by the name of their field: what tells their items apart."""


def keys_of(name: str, items: list[Any]) -> tuple[str, ...]:
    """What tells the items of a built-in kind's list apart; () where the list is replaced as a whole."""
    if name == "ports" and items and all(isinstance(item, dict) for item in items):
        return ("containerPort", "protocol") if "containerPort" in items[0] else ("port", "protocol")
    return BY_NAME.get(name, ())


def json_patch(tree: Tree, operations: Any) -> Tree:
    """RFC 6902. Raises Refusal where a test fails or a path leads nowhere."""
    if not isinstance(operations, list):
        raise Refusal(400, "BadRequest", "json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    document: Any = copy.deepcopy(tree)
    for operation in operations:
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as wrong:
            message = f"the server rejected our request due to an error in our request: {operation}: {wrong!r}"
            raise Refusal(422, "Invalid", message) from wrong
    return document  # type: ignore[no-any-return]


def _steps(pointer: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _reach(document: Any, steps: list[str]) -> Any:
    for step in steps:
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document


def _operate(document: Any, operation: Tree) -> Any:
    kind, steps = operation["op"], _steps(operation["path"])
    if kind == "test":
        if _reach(document, steps) != operation.get("value"):
            raise ValueError(f"testing value {operation['path']} failed")
        return document
    value = operation.get("value")
    if kind in ("move", "copy"):
        value = copy.deepcopy(_reach(document, _steps(operation["from"])))
    if kind == "move":
        _take(document, _steps(operation["from"]))
    if kind == "remove":
        _take(document, steps)
        return document
    if not steps:
        return value
    within, last = _reach(document, steps[:-1]), steps[-1]
    if isinstance(within, list) and kind != "replace":
        within.insert(len(within) if last == "-" else int(last), value)
    elif isinstance(within, list):
        within[int(last)] = value
    else:
        if kind == "replace" and last not in within:
            raise KeyError(last)
        within[last] = value
    return document


def _take(document: Any, steps: list[str]) -> None:
    within, last = _reach(document, steps[:-1]), steps[-1]
    within.pop(int(last) if isinstance(within, list) else last)


def merge_patch(tree: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(tree) if isinstance(tree, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def strategic_patch(tree: Any, patch: Any) -> Any:
    """As a merge patch, but known lists are merged item by item. Of the directives: delete, replace, retainKeys."""
    if not isinstance(patch, dict) or not isinstance(tree, dict):
        return _undirected(patch)
    if patch.get("$patch") == "replace":
        return _undirected(patch)
    merged = dict(tree)
    if "$retainKeys" in patch:
        merged = {name: value for name, value in merged.items() if name in patch["$retainKeys"]}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            merged[field] = [item for item in merged.get(field, ()) if item not in value]
        elif name.startswith("$"):
            continue
        elif value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            merged.pop(name, None)
        elif isinstance(value, list):
            merged[name] = _strategic_list(name, merged.get(name) or [], value)
        else:
            merged[name] = strategic_patch(merged.get(name), value)
    return merged


def _strategic_list(name: str, items: list[Any], patch: list[Any]) -> list[Any]:
    if name == "finalizers":
        return [*items, *(item for item in patch if item not in items)]
    keys = keys_of(name, [*items, *patch])
    if not keys or not all(isinstance(item, dict) for item in [*items, *patch]) or {"$patch": "replace"} in patch:
        return [_undirected(item) for item in patch if item != {"$patch": "replace"}]
    merged = list(items)
    for item in patch:
        # a key that is not named, as a port's protocol, tells nothing apart
        named = [key for key in keys if key in item]
        found = [at for at, old in enumerate(merged) if all(old.get(key) == item[key] for key in named)]
        if item.get("$patch") == "delete":
            merged = [old for at, old in enumerate(merged) if at not in found]
        elif found:
            merged[found[0]] = strategic_patch(merged[found[0]], item)
        else:
            merged.append(_undirected(item))
    return merged


def _undirected(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _undirected(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    if isinstance(value, list):
        return [_undirected(item) for item in value]
    return value
