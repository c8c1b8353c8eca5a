"""Configuration: text of files, and objects of a cluster. (P)

Property: text becomes a snapshot or a ConfigError whose every line names its place, never another exception, and eight
times the text does not take much more than eight times as long. Objects of a cluster, whatever they hold, raise nothing
and are each judged; one by one they come to the same as all at once, and when all are gone nothing of them serves.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gateway.config.cluster import Cluster, Part
from gateway.config.document import ConfigError, Document, parse
from gateway.config.load import load
from gateway.config.pods import pod_of
from gateway.config.standing import head_of

_HERE = Path(__file__).resolve().parent.parent
_EXAMPLES = json.loads((_HERE / "objects.json").read_text())
_FILES: list[Any] = _EXAMPLES["files"]
_OBJECTS: list[Any] = _EXAMPLES["cluster"]
_ODD: tuple[Any, ...] = (
    None, "", 0, -1, 1.5, 10**40, True, [], {}, [[]], {"": ""}, "a\nb", "\ud800", "x" * 300, "${X}", "*", "1e9s", "0",
    "http://[", "http://169.254.169.254", "a/b/c", "../x", "[::1]:0", [None], ["a", "a"], {"a": {}}, "\u0662", "-5s",
    ".",
)  # fmt: skip
_EDITS = 12
_SMALL = 200
_LARGE = 1 << 16
_STEEP = 40.0
"""Eight times as much may take so many times as long before that is a finding, and only beyond a second."""
_TOLERATED = 1.0


def target(data: bytes) -> None:
    """First byte: YAML, JSON, YAML many times over, objects of a cluster in a JSON array, or edits of good ones."""
    if not data:
        return
    choice, text = data[0] % 6, data[1:]
    if choice == 0:
        _loaded("fuzz.yaml", text)
    elif choice == 1:
        _loaded("fuzz.json", text)
    elif choice == 2:
        _steep(text)
    elif choice == 3:
        _cluster(text)
    elif choice == 4:
        _valid("fuzz", lambda: [Document("fuzz", at, tree) for at, tree in enumerate(_edited(_FILES, text))])
    else:
        _told(_edited(_OBJECTS, text))


def _edited(trees: list[Any], edits: bytes) -> list[Any]:
    """Some of ``trees``, with values that stand nowhere as they should: four bytes say which, where (two) and what."""
    picked = [copy.deepcopy(tree) for at, tree in enumerate(trees) if not edits or edits[0] >> at % 8 & 1] or trees[:1]
    for at in range(1, min(len(edits) - 3, 4 * _EDITS), 4):
        places = list(_places(picked[edits[at] % len(picked)]))
        holder, key = places[int.from_bytes(edits[at + 1 : at + 3], "big") % len(places)]
        kind = edits[at + 3]
        if kind < len(_ODD):
            holder[key] = copy.deepcopy(_ODD[kind])
        elif kind & 1 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        else:
            other, place = places[kind % len(places)]
            if len(json.dumps(other[place])) < _SMALL:  # what is put into itself again and again has no end
                holder[key] = copy.deepcopy(other[place])
    return picked


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every member and item, with what holds it."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _loaded(name: str, text: bytes) -> None:
    _valid(name, lambda: parse(name, text))


def _valid(name: str, documents: Callable[[], list[Document]]) -> None:
    try:
        snapshot = load(documents(), kubernetes=False)
    except ConfigError as error:
        problems = error.problems or [""]
    else:
        problems = []
    for problem in problems:
        assert problem.startswith(name), problem
    if problems:
        return
    names = {pool.name for pool in snapshot.pools}
    for route in snapshot.routes.routes:
        assert all(share.pool in names for rule in route.rules for share in rule.shares), route


def _steep(text: bytes) -> None:
    """Wall time would tell of other programs; what is asserted is this process's own, and a ratio."""
    once = text + b"\n"
    small = once * max(1, _LARGE // 8 // len(once))
    before = time.process_time()
    _loaded("fuzz.yaml", small)
    between = time.process_time()
    _loaded("fuzz.yaml", small * 8)
    took = time.process_time() - between
    assert took < _TOLERATED or took < _STEEP * (between - before), (took, between - before)


def _cluster(text: bytes) -> None:
    try:
        trees = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(trees, list):
        _told(trees)


def _told(trees: list[Any]) -> None:
    slowly, at_once = Cluster(), Cluster()
    for tree in trees:
        _put(slowly, tree)
        slowly.build()
        _put(at_once, tree)
    at_once.build()
    if len({_slot(tree) for tree in trees}) == len(trees):  # of one that came twice the last good version serves
        assert slowly.part == at_once.part, (slowly.part, at_once.part)
    for verdict in slowly.verdicts():
        assert verdict.conditions is not None
    for tree in trees:
        _remove(slowly, tree)
    slowly.build()
    assert slowly.part == Part(), slowly.part


def _put(cluster: Cluster, tree: Any) -> None:
    if isinstance(tree, dict) and tree.get("kind") == "Pod":
        try:
            cluster.put_pod(pod_of(json.dumps(tree).encode()))
        except ValueError:
            return
    else:
        cluster.put(tree)


def _slot(tree: Any) -> str:
    head = tree if isinstance(tree, dict) else {}
    metadata = head.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return repr((head.get("kind"), metadata.get("namespace"), metadata.get("name")))


def _remove(cluster: Cluster, tree: Any) -> None:
    head = head_of(tree)
    if head is not None:
        cluster.remove(head.api_version, head.kind, head.namespace, head.name)
