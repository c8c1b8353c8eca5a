"""What the fake API server keeps: objects under one count of versions, and the history that watches are told from. (P)

Trees are never changed in place once stored: an `Entry` may be held by a list that is being paged.
"""

from __future__ import annotations

import base64
import re
import threading
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

Tree = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" for objects of the cluster) and name."""

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Refusal(Exception):
    """An answer that is a Status of failure. ``details``: of the Status; ``headers``: of the answer."""

    def __init__(
        self, code: int, reason: str, message: str, details: Tree | None = None, headers: Tree | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details, self.headers = code, reason, message, details, headers or {}

    def status(self) -> Tree:
        tree: Tree = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        tree |= {"message": self.message, "reason": self.reason}
        if self.details:
            tree["details"] = self.details
        return tree | {"code": self.code}


@dataclass
class Resource:
    """One resource as one version serves it. ``schema``: of a custom resource; None: whatever comes is stored."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    has_status: bool = False
    verbs: tuple[str, ...] = ALL_VERBS
    schema: Tree | None = None
    columns: tuple[Tree, ...] = ()
    storage_version: str = ""
    custom: bool = False
    categories: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def store(self) -> str:
        """Under which name its objects are kept: all versions of a resource in one place, and both kinds of events."""
        return "events" if self.full == "events.events.k8s.io" else self.full


class Entry:
    """One version of one object."""

    __slots__ = ("_raw", "tree")

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._raw: dict[str, bytes] = {}

    def raw(self, resource: Resource) -> bytes:
        """As JSON, as ``resource`` serves it."""
        found = self._raw.get(resource.api_version)
        if found is None:
            found = self._raw[resource.api_version] = msgspec.json.encode(shown(self.tree, resource))
        return found


EVENT_NAMES = {
    "note": "message",
    "regarding": "involvedObject",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_OLD_EVENT_NAMES = {old: new for new, old in EVENT_NAMES.items()}


def shown(tree: Tree, resource: Resource) -> Tree:
    """The tree as ``resource`` serves it: its version, and the names its events have."""
    if resource.full == "events.events.k8s.io":
        tree = {_OLD_EVENT_NAMES.get(name, name): value for name, value in tree.items()}
    if tree.get("apiVersion") == resource.api_version and tree.get("kind") == resource.kind:
        return tree
    return {"apiVersion": resource.api_version, "kind": resource.kind} | {
        name: value for name, value in tree.items() if name not in ("apiVersion", "kind")
    }


def kept(tree: Tree, resource: Resource) -> Tree:
    """The reverse: the tree as it is stored."""
    if resource.full == "events.events.k8s.io":
        return {EVENT_NAMES.get(name, name): value for name, value in tree.items()} | {"apiVersion": "v1"}
    if resource.storage_version and resource.storage_version != resource.version:
        return {**tree, "apiVersion": f"{resource.group}/{resource.storage_version}"}
    return tree


@dataclass(frozen=True)
class Change:
    """``old`` or ``new`` is None for what came or went; ``new`` of what went is in ``last``."""

    version: int
    key: Key
    old: Entry | None
    new: Entry | None
    last: Entry | None = None


Match = Callable[[Key, Tree], bool]


@dataclass
class Page:
    entries: list[Entry]
    version: int
    token: str = ""
    remaining: int = 0


@dataclass
class Store:
    """All objects. Every method takes the lock itself; ``changed`` is told of every change."""

    version: int = 1000
    compacted: int = 0
    objects: dict[str, dict[Key, Entry]] = field(default_factory=dict)
    history: dict[str, list[Change]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    tails: dict[str, tuple[int, list[Entry]]] = field(default_factory=dict)

    def get(self, store: str, key: Key) -> Entry | None:
        return self.objects.get(store, {}).get(key)

    def put(self, store: str, key: Key, tree: Tree) -> Entry:
        """Stores a tree under the next version, which it gets as its own."""
        with self.changed:
            self.version += 1
            tree = {**tree, "metadata": {**tree["metadata"], "resourceVersion": str(self.version)}}
            there = self.objects.setdefault(store, {})
            old, entry = there.get(key), Entry(tree)
            there[key] = entry
            self.history.setdefault(store, []).append(Change(self.version, key, old, entry))
            self.changed.notify_all()
            return entry

    def remove(self, store: str, key: Key) -> Entry:
        """Takes it away; what is returned has the version of its removal."""
        with self.changed:
            old = self.objects[store].pop(key)
            self.version += 1
            metadata = {**old.tree["metadata"], "resourceVersion": str(self.version)}
            last = Entry({**old.tree, "metadata": metadata})
            self.history.setdefault(store, []).append(Change(self.version, key, old, None, last))
            self.changed.notify_all()
            return last

    def page(self, store: str, match: Match, limit: int, token: str, gone: str) -> Page:
        """A page of a list; later pages are of the same moment as the first."""
        with self.changed:
            if token:
                if token not in self.tails:
                    raise Refusal(410, "Expired", gone)
                version, entries = self.tails[token]
            else:
                version = self.version
                there = self.objects.get(store, {})
                entries = [there[key] for key in sorted(there) if match(key, there[key].tree)]
            if not limit or len(entries) <= limit:
                return Page(entries, version)
            following = base64.urlsafe_b64encode(f"{version}:{uuid.uuid4().hex[:12]}".encode()).decode()
            self.tails[following] = (version, entries[limit:])
            return Page(entries[:limit], version, following, len(entries) - limit)

    def compact(self) -> int:
        """Forgets all history and every list under way. Returns the version from which on watches can start."""
        with self.changed:
            self.compacted = self.version
            self.tails.clear()
            for store in self.history:
                self.history[store] = []
            return self.compacted

    def since(self, store: str, version: int) -> list[Change]:
        """Changes after ``version``; 410 where they are no longer known."""
        with self.changed:
            if version < self.compacted:
                message = f"too old resource version: {version} ({self.compacted})"
                raise Refusal(410, "Expired", message)
            changes = self.history.get(store, [])
            return changes[bisect_right(changes, version, key=lambda change: change.version) :]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def path_value(tree: Any, path: str) -> Any:
    for step in path.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


_TERM = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<no>[^\s,=!()]+)|(?P<key>[^\s,=!()]+)\s*"
    r"(?:(?P<op>==|=|!=)\s*(?P<value>[^\s,]*)|(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|$)"
)


def label_match(selector: str) -> Callable[[dict[str, str]], bool]:
    """A label selector as a predicate. Raises Refusal."""
    tests: list[Callable[[dict[str, str]], bool]] = []
    at = 0
    while at < len(selector):
        term = _TERM.match(selector, at)
        if not term or term.end() == at:
            raise Refusal(
                400, "BadRequest", f"unable to parse requirement: found {selector[at:]!r}, expected: identifier"
            )
        tests.append(_label_test(term))
        at = term.end()
    return lambda labels: all(test(labels) for test in tests)


def _label_test(term: re.Match[str]) -> Callable[[dict[str, str]], bool]:
    key, value = term["key"] or term["no"], term["value"]
    if term["absent"]:
        return lambda labels: key not in labels
    if term["set"]:
        values = {each.strip() for each in term["values"].split(",")}
        if term["set"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if term["op"] == "!=":
        return lambda labels: labels.get(key) != value
    if term["op"]:
        return lambda labels: labels.get(key) == value
    return lambda labels: key in labels


FIELDS = {
    "pods": ("status.phase", "status.podIP", "spec.nodeName", "spec.serviceAccountName", "spec.restartPolicy"),
    "secrets": ("type",),
    "namespaces": ("status.phase",),
    "events": (
        "reason", "type", "source", "reportingComponent", "involvedObject.kind", "involvedObject.namespace",
        "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion", "involvedObject.resourceVersion",
    ),
}  # fmt: skip


def field_match(selector: str, resource: Resource) -> Match:
    """A field selector as a predicate. Raises Refusal for fields that cannot be selected by."""
    tests: list[tuple[str, bool, str]] = []
    for term in filter(None, selector.split(",")):
        parts = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if not parts:
            raise Refusal(400, "BadRequest", f"invalid selector: {selector!r}; can't understand {term!r}")
        path = parts[1]
        if path not in ("metadata.name", "metadata.namespace") and path not in FIELDS.get(resource.store, ()):
            raise Refusal(400, "BadRequest", f'field label not supported: "{path}"')
        tests.append((path, parts[2] == "!=", parts[3]))

    def match(key: Key, tree: Tree) -> bool:
        return all((str(path_value(tree, path) or "") == value) != negated for path, negated, value in tests)

    return match


def selection(resource: Resource, namespace: str, labels: str, fields: str) -> Match:
    """Which objects a list or a watch is of."""
    by_label = label_match(labels) if labels else None
    by_field = field_match(fields, resource) if fields else None

    def match(key: Key, tree: Tree) -> bool:
        return (
            (not namespace or key[0] == namespace)
            and (by_label is None or by_label(tree["metadata"].get("labels") or {}))
            and (by_field is None or by_field(key, tree))
        )

    return match


def told(changes: list[Change], match: Match) -> Iterator[tuple[str, Entry]]:
    """What a watch says of changes: an object that starts or stops to match is added or deleted."""
    for change in changes:
        was = change.old is not None and match(change.key, change.old.tree)
        if change.new is None:
            if was and change.last:
                yield "DELETED", change.last
            continue
        if match(change.key, change.new.tree):
            yield ("MODIFIED" if was else "ADDED"), change.new
        elif was and change.old:
            metadata = {**change.old.tree["metadata"], "resourceVersion": str(change.version)}
            yield "DELETED", Entry({**change.old.tree, "metadata": metadata})
