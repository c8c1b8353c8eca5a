"""Which accepted fields have no effect yet, so that nobody believes in one that does nothing. (P)

Invariant: a field stands here exactly as long as no code reads it; whoever gives it an effect removes its line.
Paths are dotted members; ``[]`` goes through every item of an array, ``*`` through every member of an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.config.decode import member
from gateway.config.document import Tree

INERT: Mapping[str, tuple[str, ...]] = {
    "ModelRoute": ("spec.parentRefs",),
    "ModelServer": ("spec.kvConnector", "spec.workloadSelector.pdGroup"),
}

_TEXT_MATCHES = ("spec.rules.[].modelMatch.uri", "spec.rules.[].modelMatch.headers.*")


def inert(kind: str, tree: Tree) -> Iterator[str]:
    """JSON paths of the fields given in ``tree`` that do nothing. Empty values count as not given."""
    for pattern in INERT.get(kind, ()):
        for path, value in _at(tree, "$", pattern.split(".")):
            if not _empty(value):
                yield path
    if kind == "ModelRoute":
        yield from _shadowed(tree)
    if kind == "ModelServer" and tree["spec"].get("endpoints") and tree["spec"].get("workloadSelector"):
        yield "$.spec.workloadSelector"


def _shadowed(tree: Tree) -> Iterator[str]:
    """Of exact, prefix and regex the first decides: those beside it say nothing."""
    for pattern in _TEXT_MATCHES:
        for path, match in _at(tree, "$", pattern.split(".")):
            given = [name for name in ("exact", "prefix", "regex") if match and match.get(name) is not None]
            yield from (member(path, name) for name in given[1:])


def _at(tree: Tree, path: str, parts: list[str]) -> Iterator[tuple[str, Tree]]:
    if not parts:
        yield path, tree
    elif parts[0] == "[]" and isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from _at(item, f"{path}[{index}]", parts[1:])
    elif isinstance(tree, dict):
        for name in tree if parts[0] == "*" else [parts[0]] if parts[0] in tree else []:
            yield from _at(tree[name], member(path, name), parts[1:])


def _empty(value: Tree) -> bool:
    if isinstance(value, dict):
        return all(map(_empty, value.values()))
    if isinstance(value, list):
        return all(map(_empty, value))
    return value is None or value == ""
