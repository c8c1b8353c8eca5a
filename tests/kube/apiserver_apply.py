"""Server-side apply and who manages which field, as far as controllers can tell it from the real one. (P)

A field is a path of the elements that `fieldsV1` has: `f:name`, `k:{"type":"Ready"}`, `v:"value"`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from tests.kube.apiserver_patch import keys_of
from tests.kube.apiserver_store import Refusal, now

Tree = dict[str, Any]
Field = tuple[str, ...]

BUILT_IN: Final[Tree] = {"built-in": True}
"""The schema of what comes with every server: lists go by their fields' names."""
_NOTHING: Final = object()
_SYSTEM = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "deletionTimestamp",
    "deletionGracePeriodSeconds", "managedFields",
)  # fmt: skip
_ATOMIC_MAPS = ("selector", "nodeSelector", "secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef")


@dataclass(frozen=True)
class Manager:
    """Who writes, by which way: `Apply` or `Update`, of the object or of its `part`."""

    name: str
    operation: str
    api_version: str
    part: str = ""

    def same(self, entry: Tree) -> bool:
        there = (entry.get("manager"), entry.get("operation"), entry.get("subresource", ""))
        return there == (self.name, self.operation, self.part)


def _child(schema: Tree | None, name: str) -> Tree | None:
    if schema is None or schema is BUILT_IN:
        return schema
    if schema.get("x-kubernetes-embedded-resource"):
        return None
    further = schema.get("additionalProperties")
    found: Tree | None = (schema.get("properties") or {}).get(name, further if isinstance(further, dict) else None)
    return found


def _is_atomic(schema: Tree | None, name: str) -> bool:
    if schema is BUILT_IN:
        return name in _ATOMIC_MAPS
    return bool(schema) and (schema or {}).get("x-kubernetes-map-type") == "atomic"


def _list_keys(schema: Tree | None, name: str, items: list[Any]) -> tuple[str, ...] | None:
    """Keys of a list whose items are told apart by them, () for a set, None for one that is a value as a whole."""
    keyed = all(isinstance(item, dict) for item in items)
    if schema is BUILT_IN:
        keys = keys_of(name, items)
        return () if name == "finalizers" else (keys or None) if keyed else None
    kind = (schema or {}).get("x-kubernetes-list-type")
    if kind == "map" and keyed:
        return tuple((schema or {}).get("x-kubernetes-list-map-keys", ()))
    return () if kind == "set" else None


def _key(item: Any, keys: tuple[str, ...], schema: Tree | None) -> str:
    """The path element of an item; what is not given has its default, a port's protocol TCP."""
    if not keys:
        return "v:" + json.dumps(item, separators=(",", ":"))
    properties = ((schema or {}).get("items") or {}).get("properties") or {"protocol": {"default": "TCP"}}
    named = {key: item.get(key, (properties.get(key) or {}).get("default")) for key in sorted(keys)}
    named = {key: value for key, value in named.items() if value is not None}
    return "k:" + json.dumps(named, separators=(",", ":"), sort_keys=True)


def _items(schema: Tree | None) -> Tree | None:
    return schema if schema is None or schema is BUILT_IN else schema.get("items")


def fields(value: Any, schema: Tree | None, path: Field = ()) -> set[Field]:
    """All fields that a tree sets."""
    name = path[-1][2:] if path else ""
    if isinstance(value, dict) and value and not _is_atomic(schema, name):
        found: set[Field] = set()
        for key, item in value.items():
            found |= fields(item, _child(schema, key), (*path, f"f:{key}"))
        return found
    if isinstance(value, list) and value and (keys := _list_keys(schema, name, value)) is not None:
        found = set()
        for item in value:
            element = (*path, _key(item, keys, schema))
            found.add(element)
            if keys:
                found |= fields(item, _items(schema), element)
        return found
    return {path}


def _walk(value: Any, schema: Tree | None, path: Field) -> Any:
    """What stands at a path, or _NOTHING."""
    name = ""
    for element in path:
        kind, rest = element[:2], element[2:]
        if kind == "f:":
            if not isinstance(value, dict) or rest not in value:
                return _NOTHING
            value, schema, name = value[rest], _child(schema, rest), rest
            continue
        keys = (_list_keys(schema, name, value) if isinstance(value, list) else None) or ()
        found = [item for item in value if _key(item, keys, schema) == element] if isinstance(value, list) else []
        if not found:
            return _NOTHING
        value, schema = found[0], _items(schema)
    return value


def _differs(one: Any, two: Any, schema: Tree | None, path: Field) -> bool:
    one, two = _walk(one, schema, path), _walk(two, schema, path)
    if path[-1].startswith("k:") and _NOTHING not in (one, two):
        return False  # both have the item: what differs in it are its fields
    return bool(one is not two and one != two)


def merge(live: Any, config: Any, schema: Tree | None, name: str = "") -> Any:
    """What a configuration makes of what is there."""
    if isinstance(live, dict) and isinstance(config, dict) and not _is_atomic(schema, name):
        changed = {key: merge(live.get(key), value, _child(schema, key), key) for key, value in config.items()}
        return {**live, **changed}
    if isinstance(live, list) and isinstance(config, list):
        keys = _list_keys(schema, name, [*live, *config])
        if keys is None:
            return config
        merged = {_key(item, keys, schema): item for item in live}
        for item in config:
            element = _key(item, keys, schema)
            merged[element] = merge(merged[element], item, _items(schema)) if element in merged and keys else item
        return list(merged.values())
    return config


def _without(value: Any, path: Field, schema: Tree | None, name: str = "") -> Any:
    element, kind, rest = path[0], path[0][:2], path[0][2:]
    if kind == "f:":
        if not isinstance(value, dict) or rest not in value:
            return value
        others = {key: item for key, item in value.items() if key != rest}
        if len(path) == 1:
            return others
        left = _without(value[rest], path[1:], _child(schema, rest), rest)
        return others if left in ({}, []) and value[rest] else {**value, rest: left}
    if not isinstance(value, list):
        return value
    keys = _list_keys(schema, name, value) or ()
    if len(path) == 1:
        return [item for item in value if _key(item, keys, schema) != element]
    within = _items(schema)
    return [_without(item, path[1:], within) if _key(item, keys, schema) == element else item for item in value]


def to_trie(paths: set[Field]) -> Tree:
    """As `fieldsV1`."""
    trie: Tree = {}
    for path in sorted(paths, key=lambda path: (len(path), path)):
        node = trie
        for element in path[:-1]:
            node = node.setdefault(element, {})
        node.setdefault(path[-1], {})
    for path in paths:
        node = trie
        for element in path:
            node = node[element]
        if node:
            node["."] = {}
    return trie


def from_trie(trie: Tree, path: Field = ()) -> set[Field]:
    if not trie:
        return {path} if path else set()
    found: set[Field] = set()
    for element, below in trie.items():
        found |= {path} if element == "." else from_trie(below, (*path, element))
    return found


def _managed(path: Field, manager: Manager, has_status: bool) -> bool:
    if path in (("f:apiVersion",), ("f:kind",), ("f:metadata",)) or not path:
        return False
    if path[0] == "f:metadata" and path[1][2:] in _SYSTEM:
        return False
    if manager.part == "status":
        return path[0] == "f:status"
    return not (has_status and path[0] == "f:status")


def _root(schema: Tree | None) -> Tree:
    """The schema of a whole object: its metadata are built in, whatever else it has."""
    if schema is None:
        return BUILT_IN
    return {**schema, "properties": {**(schema.get("properties") or {}), "metadata": BUILT_IN}}


def _entries(tree: Tree | None) -> list[Tree]:
    return list(((tree or {}).get("metadata") or {}).get("managedFields") or [])


def _entry(manager: Manager, paths: set[Field]) -> Tree:
    entry: Tree = {"manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version}
    entry |= {"time": now(), "fieldsType": "FieldsV1", "fieldsV1": to_trie(paths)}
    return entry | ({"subresource": manager.part} if manager.part else {})


def _with_entries(tree: Tree, entries: list[Tree]) -> Tree:
    metadata = {key: value for key, value in tree["metadata"].items() if key != "managedFields"}
    return {**tree, "metadata": metadata | ({"managedFields": entries} if entries else {})}


def bare(tree: Tree) -> Tree:
    """Without what says who manages it."""
    return _with_entries(tree, [])


def updated(old: Tree | None, new: Tree, manager: Manager, schema: Tree | None, has_status: bool) -> Tree:
    """A tree as written by other ways than apply: who wrote manages whatever is not as it was."""
    root, before = _root(schema), bare(old) if old else {}
    after = bare(new)
    new_fields = {path for path in fields(after, root) if path}
    old_fields = {path for path in fields(before, root) if path} if before else set()
    mine = {path for path in new_fields if path not in old_fields or _differs(before, after, root, path)}
    mine = {path for path in mine if _managed(path, manager, has_status)}
    entries, found = [], False
    for entry in _entries(old):
        paths = from_trie(entry.get("fieldsV1") or {})
        there = {path for path in paths if _walk(after, root, path) is not _NOTHING}
        found = found or manager.same(entry)
        there = there | mine if manager.same(entry) else there - mine
        if there:
            entries.append(entry if there == paths and not (manager.same(entry) and mine) else _again(entry, there))
    if mine and not found:
        entries.append(_entry(manager, mine))
    return _with_entries(new, entries)


def _again(entry: Tree, paths: set[Field]) -> Tree:
    return {**entry, "time": now(), "fieldsV1": to_trie(paths)}


def applied(
    live: Tree | None, config: Tree, manager: Manager, schema: Tree | None, has_status: bool, force: bool
) -> Tree:
    """What becomes of an object (None: of none) by a configuration. Raises Refusal where others manage its fields."""
    root = _root(schema)
    config = bare(config)
    mine = {path for path in fields(config, root) if _managed(path, manager, has_status)}
    if live is None:
        return _with_entries(config, [_entry(manager, mine)])
    before, entries = bare(live), _entries(live)
    contested = _contested(entries, before, config, manager, mine, root)
    if contested and not force:
        raise _conflict(contested)
    tree = merge(before, _only(config, manager, has_status), root)
    others: set[Field] = set()
    kept: list[Tree] = []
    held: set[Field] = set()
    for entry in entries:
        paths = from_trie(entry.get("fieldsV1") or {})
        if manager.same(entry):
            held = paths
            continue
        lost = {path for other, path in contested if other is entry}
        others |= paths - lost
        if paths - lost:
            kept.append(_again(entry, paths - lost) if lost else entry)
    for path in sorted(held - mine - others, key=len):  # an item before the fields that tell it apart
        if not any(other[: len(path)] == path for other in others | mine):
            tree = _without(tree, path, root)
    own = next((entry for entry in entries if manager.same(entry)), None)
    if own is None or held != mine:
        own = _entry(manager, mine)
    return _with_entries(tree, [*kept, own] if mine else kept)


def _only(config: Tree, manager: Manager, has_status: bool) -> Tree:
    """Of a configuration, what the way it came by lets it change."""
    if manager.part == "status":
        return {"status": config["status"]} if "status" in config else {}
    return {key: value for key, value in config.items() if not (has_status and key == "status")}


def _contested(
    entries: list[Tree], live: Tree, config: Tree, manager: Manager, mine: set[Field], root: Tree
) -> list[tuple[Tree, Field]]:
    return [
        (entry, path)
        for entry in entries
        if not manager.same(entry)
        for path in sorted(from_trie(entry.get("fieldsV1") or {}) & mine)
        if _differs(live, config, root, path)
    ]


def _conflict(contested: list[tuple[Tree, Field]]) -> Refusal:
    causes = []
    for entry, path in contested:
        using = f" using {entry['apiVersion']}" if entry["operation"] == "Update" else ""
        part = f' with subresource "{entry["subresource"]}"' if entry.get("subresource") else ""
        said = f'conflict with "{entry["manager"]}"{part}{using}'
        causes.append({"reason": "FieldManagerConflict", "message": said, "field": _dotted(path)})
    count = f"{len(causes)} conflict" + ("s" if len(causes) > 1 else "")
    said = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    return Refusal(409, "Conflict", f"Apply failed with {count}: {said}", {"causes": causes})


def _dotted(path: Field) -> str:
    steps = []
    for element in path:
        rest = element[2:]
        if element.startswith("k:"):
            rest = "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items()) + "]"
            steps.append(rest)
        else:
            steps.append(f".{rest}" if element.startswith("f:") else f"[={rest}]")
    return "".join(steps)
