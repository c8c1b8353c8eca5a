"""YAML and JSON text → documents, each knowing the file and number it came from. (P)

Invariant: what comes out is a finite tree of dicts with string keys, lists and scalars, however hostile the text;
a duplicate key is refused, since one of its two values would be lost silently.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import yaml

MAX_DEPTH = 64
MAX_NODES = 500_000

Tree = Any
"""dict[str, Tree] | list[Tree] | str | int | float | bool | None"""


class ConfigError(Exception):
    """Configuration that cannot be used. ``problems`` holds every reason found, each a line naming its place.

    ``warnings``: what else was noticed on the way, and ``inert``: what has no effect.
    """

    def __init__(self, problems: Iterable[str], warnings: Iterable[str] = (), inert: Iterable[str] = ()) -> None:
        self.problems = list(problems)
        self.warnings, self.inert = tuple(warnings), tuple(inert)
        super().__init__("\n".join(self.problems))


class Document(msgspec.Struct, frozen=True):
    """One resource as written. ``place`` is how messages name it; relative file names in it start at ``folder``."""

    file: str
    number: int
    tree: Tree
    folder: str = ""
    item: int | None = None

    @property
    def place(self) -> str:
        inside = f"{self.file}, document {self.number}"
        return inside if self.item is None else f"{inside}, item {self.item}"

    def __repr__(self) -> str:
        """Without the content: a document may be a Secret."""
        return f"<Document {self.place}>"


def parse(file: str, text: bytes, folder: str = "") -> list[Document]:
    """Every non-empty document of one file; a Kubernetes List counts as its items. Raises ConfigError."""
    trees = _json(file, text) if file.endswith(".json") else _yaml(file, text)
    documents: list[Document] = []
    for number, tree in enumerate(trees, 1):
        if tree is None:
            continue
        document = Document(file, number, tree, folder)
        documents.extend(_items(document) if _is_list(tree) else [document])
    return documents


def _is_list(tree: Tree) -> bool:
    return isinstance(tree, dict) and tree.get("kind") == "List" and isinstance(tree.get("items"), list)


def _items(document: Document) -> Iterator[Document]:
    for item, tree in enumerate(document.tree["items"]):
        yield msgspec.structs.replace(document, tree=tree, item=item)


def _decoded(file: str, text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{file}: not UTF-8 (byte {error.start})"]) from None


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json(file: str, text: bytes) -> list[Tree]:
    def members(pairs: list[tuple[str, Tree]]) -> dict[str, Tree]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            raise ConfigError([f"{file}: duplicate key {name!r}" for name in made if names.count(name) > 1])
        return made

    def number(literal: str) -> float:
        value = float(literal)
        if not math.isfinite(value):
            raise ConfigError([f"{file}: {literal[:40]} is not a finite number"])
        return value

    try:
        return [json.loads(_decoded(file, text), object_pairs_hook=members, parse_float=number, parse_constant=number)]
    except ValueError as error:
        raise ConfigError([f"{file}: not valid JSON: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{file}: nested too deeply"]) from None


# --- YAML -------------------------------------------------------------------------------------------------------------
# Built from parser events with a stack of our own: deep nesting cannot exhaust Python's, aliases are counted at their
# expanded size, and plain scalars resolve as in YAML 1.2 (`no`, `on`, 12:30 and dates stay the strings they look like).

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")
_PLAIN: dict[str, Tree] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TAG = "tag:yaml.org,2002:"


def _plain(text: str) -> Tree:
    if text in _PLAIN:
        return _PLAIN[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        value = float(text)
        return value if math.isfinite(value) else text
    return text


class _Node:
    """A collection still open: its value, its expanded size, and the key that waits for a value."""

    __slots__ = ("anchor", "key", "keyed", "merge", "size", "value")

    def __init__(self, value: dict[str, Tree] | list[Tree], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.size = 1
        self.key = ""
        self.keyed = False
        self.merge: list[Tree] = []


class _Builder:
    """Parser events of one file → document trees."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.done: list[Tree] = []
        self.stack: list[_Node] = []
        self.anchors: dict[str, tuple[Tree, int]] = {}

    def refuse(self, event: yaml.Event, message: str) -> ConfigError:
        line = event.start_mark.line + 1 if event.start_mark else 0
        return ConfigError([f"{self.file}, line {line}: {message}"])

    def feed(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self.add(event, self.scalar(event), 1, event.anchor)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self.open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.close(event)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.refuse(event, f"alias *{event.anchor} has no anchor before it")
            self.add(event, *self.anchors[event.anchor], None)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.anchors.clear()

    def open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise self.refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
            raise self.refuse(event, f"tag {event.tag} is not supported")
        if self.stack and isinstance(self.stack[-1].value, dict) and not self.stack[-1].keyed:
            raise self.refuse(event, "a key must be a string")
        self.stack.append(_Node({} if mapping else [], event.anchor))

    def close(self, event: yaml.Event) -> None:
        node = self.stack.pop()
        if isinstance(node.value, dict):
            for source in node.merge:
                for key, value in source.items():
                    node.value.setdefault(key, value)
        self.add(event, node.value, node.size, node.anchor)

    def add(self, event: yaml.Event, value: Tree, size: int, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, size)
        if not self.stack:
            self.done.append(value)
            return
        node = self.stack[-1]
        node.size += size
        if node.size > MAX_NODES:
            raise self.refuse(event, f"more than {MAX_NODES} values, aliases counted in full")
        if isinstance(node.value, list):
            node.value.append(value)
        elif node.keyed:
            self.member(event, node, value)
        else:
            self.key(event, node, value)

    def key(self, event: yaml.Event, node: _Node, value: Tree) -> None:
        # a plain number or boolean used as a key (`8080: x`) is the string it was written as
        key = event.value if isinstance(event, yaml.ScalarEvent) else value
        if not isinstance(key, str):
            raise self.refuse(event, "a key must be a string")
        if key in node.value:
            raise self.refuse(event, f"duplicate key {key!r}")
        node.key, node.keyed = key, True

    def member(self, event: yaml.Event, node: _Node, value: Tree) -> None:
        node.keyed = False
        if node.key != "<<":
            assert isinstance(node.value, dict)
            node.value[node.key] = value
            return
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise self.refuse(event, "<< merges mappings only")
        node.merge.extend(sources)

    def scalar(self, event: yaml.ScalarEvent) -> Tree:
        tag = event.tag
        if tag in (None, "!"):
            return _plain(event.value) if event.implicit[0] and tag is None else event.value
        if tag == _TAG + "str":
            return event.value
        value = _plain(event.value)
        kinds: dict[str, Callable[[Tree], bool]] = {
            "int": lambda v: type(v) is int,
            "float": lambda v: type(v) in (int, float),
            "bool": lambda v: type(v) is bool,
            "null": lambda v: v is None,
        }
        fits = kinds.get(tag.removeprefix(_TAG))
        if fits is None or not fits(value):
            raise self.refuse(event, f"tag {tag} does not fit")
        return value


def _yaml(file: str, text: bytes) -> list[Tree]:
    # libyaml's parser where PyYAML was built with it: ten times faster on large configurations
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(file)
    try:
        for event in yaml.parse(_decoded(file, text), Loader=loader):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([f"{file}{line}: not valid YAML: {error.problem or error.context}"]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{file}: not valid YAML: {' '.join(str(error).split())}"]) from None
    return builder.done
