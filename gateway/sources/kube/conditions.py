"""What is to be written into an object's status so that it says what its Verdict says; or that nothing is. (P)

Invariants: an object that says it already gives no write; a condition whose status stays keeps its time; what other
controllers wrote into a list that is shared with them stays as it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.config.verdict import Condition, Parent, Verdict
from gateway.sources.kube.api import APPLY, MERGE, Tree
from gateway.sources.kube.kinds import GATEWAY, OLD_POOL, POOL, WATCHED, Kind

MANAGER: Final = "infer-gateway"
MESSAGE_LIMIT: Final = 16_384
"""Characters; Kubernetes takes 32,768, but an object of many parents has to stay below 1.5 MB."""
PARENTS_LIMIT: Final = 32
DAMPED: Final = ("Ready",)
"""Conditions that may change with every pod."""
Reference = tuple[str, str, str, str, str, str]

_NOT_IN_REASONS: Final = re.compile(r"[^A-Za-z0-9_,:]+")
_EDGES: Final = re.compile(r"^[^A-Za-z]+|[,:]+$")
_PLACEHOLDER: Final = ("Status", "default")
"""Kind and name of the entry that v1alpha2 pools are created with."""
_KINDS: Final = {(kind.api_version, kind.name): kind for kind in WATCHED}


class Write(msgspec.Struct, frozen=True):
    """``status`` is what the object should say then; ``urgent``: more has changed than readiness."""

    content_type: str
    body: Tree
    status: Tree
    urgent: bool


class Owner(msgspec.Struct, frozen=True):
    """Which entries of shared lists are ours: those of ``controller``, and in pools, whose entries need not say who
    wrote them, those for Gateways of ours: ``is_ours(parentRef, namespace of the object)``.
    """

    controller: str
    is_ours: Callable[[Mapping[str, Any], str], bool] = lambda reference, namespace: False


def kind_of(verdict: Verdict) -> Kind | None:
    """None for one that no API server is asked about."""
    return _KINDS.get((verdict.api_version, verdict.kind))


def write(verdict: Verdict, observed: Tree, wall: float, owner: Owner) -> Write | None:
    """``observed`` is the object as last seen, ``wall`` the time of day in seconds."""
    status = member(observed, "status")
    if _is_stale(verdict, observed, status):
        return None
    now = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if verdict.parents is not None:
        return _merge(verdict, observed, status, now, owner)
    return _apply(verdict, status, now)


def holds(observed: object, wanted: object) -> bool:
    """Whether all of ``wanted`` stands in ``observed``; times may differ, and servers fill in defaults."""
    if isinstance(wanted, dict):
        found = observed if isinstance(observed, dict) else {}
        return all(holds(found.get(key), value) for key, value in wanted.items() if key != "lastTransitionTime")
    if isinstance(wanted, list):
        items = observed if isinstance(observed, list) else []
        return len(items) == len(wanted) and all(
            holds(old, new) for old, new in zip(_aligned(items, wanted), wanted, strict=True)
        )
    return observed == wanted or (observed is None and wanted == "")


def member(tree: Tree, name: str) -> Tree:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def entries(status: Tree, name: str) -> list[Tree]:
    value = status.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def parents_member(verdict: Verdict) -> str:
    return "parent" if kind_of(verdict) == OLD_POOL else "parents"


def reference(parent: Mapping[str, Any], namespace: str) -> Reference:
    """A parentRef with its defaults, for comparisons."""
    of = parent.get
    return (
        str(of("group", GATEWAY.group)),
        str(of("kind") or "Gateway"),
        str(of("namespace") or namespace),
        str(of("name") or ""),
        str(of("sectionName") or ""),
        str(of("port") or ""),
    )


def own(verdict: Verdict, entry: Tree, owner: Owner) -> bool:
    """Whether an entry of the list of parents is ours."""
    if name := entry.get("controllerName"):
        return bool(name == owner.controller)
    if kind_of(verdict) not in (POOL, OLD_POOL):
        return False
    parent = member(entry, "parentRef")
    wanted = {reference(ours.reference, verdict.namespace) for ours in verdict.parents or ()}
    return reference(parent, verdict.namespace) in wanted or owner.is_ours(parent, verdict.namespace)


def cut(text: str, limit: int = MESSAGE_LIMIT) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


@functools.lru_cache(1024)
def reason(text: str) -> str:
    """One that Kubernetes takes: ^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$, 1,024 characters at most."""
    return _EDGES.sub("", _EDGES.sub("", _NOT_IN_REASONS.sub("", text))[:1024]) or "Unknown"


def _is_stale(verdict: Verdict, observed: Tree, status: Tree) -> bool:
    """Whether the verdict is about an object that has gone, or behind what somebody who saw more has said."""
    metadata = member(observed, "metadata")
    if verdict.uid and metadata.get("uid", verdict.uid) != verdict.uid:
        return True
    if verdict.parents is not None:
        return False
    seen = [at for old in entries(status, "conditions") if isinstance(at := old.get("observedGeneration"), int)]
    latest = metadata.get("generation")
    return isinstance(latest, int) and verdict.generation < max(seen, default=0) <= latest


def _apply(verdict: Verdict, status: Tree, now: str) -> Write | None:
    if not (verdict.conditions or verdict.more):
        return None
    wanted = {**verdict.more, "conditions": verdict.conditions}
    new: Tree = _rendered(wanted, status, verdict.generation, now)
    if holds(status, new):
        return None
    body = {
        "apiVersion": verdict.api_version,
        "kind": verdict.kind,
        "metadata": {"name": verdict.name} | ({"namespace": verdict.namespace} if verdict.namespace else {}),
        "status": new,
    }
    return Write(APPLY, body, new, urgent=not holds(_lasting(status), _lasting(new)))


def _lasting(status: Tree) -> Tree:
    return {**status, "conditions": [old for old in entries(status, "conditions") if old.get("type") not in DAMPED]}


def _merge(verdict: Verdict, observed: Tree, status: Tree, now: str, owner: Owner) -> Write | None:
    name = parents_member(verdict)
    old = entries(status, name)
    new = _parents(verdict, old, now, owner)
    if holds(old, new):
        return None
    said = {name: new}
    version = member(observed, "metadata").get("resourceVersion")
    return Write(MERGE, {"metadata": {"resourceVersion": version}, "status": said}, said, urgent=True)


def _parents(verdict: Verdict, old: Sequence[Tree], now: str, owner: Owner) -> list[Tree]:
    """Those of others where they stand, ours where they stood or at the end."""
    wanted = {reference(parent.reference, verdict.namespace): parent for parent in verdict.parents or ()}
    new: list[Tree] = []
    for entry in old:
        ref = member(entry, "parentRef")
        if not own(verdict, entry, owner):
            if not (verdict.parents and (ref.get("kind"), ref.get("name")) == _PLACEHOLDER):
                new.append(entry)
        elif parent := wanted.pop(reference(ref, verdict.namespace), None):
            new.append(_parent(verdict, parent, entry, now, owner))
    added = [_parent(verdict, parent, {}, now, owner) for parent in wanted.values()]
    return new + added[: max(0, PARENTS_LIMIT - len(new))]


def _parent(verdict: Verdict, parent: Parent, old: Tree, now: str, owner: Owner) -> Tree:
    said = {
        "parentRef": parent.reference,
        "conditions": _conditions(parent.conditions, entries(old, "conditions"), verdict.generation, now),
    }
    # v1alpha2 has no controllerName, and neither have the first CRDs of v1: what they drop is not to be missed
    if kind_of(verdict) == OLD_POOL or (kind_of(verdict) == POOL and old and "controllerName" not in old):
        return said
    return {"parentRef": parent.reference, "controllerName": owner.controller, "conditions": said["conditions"]}


def _rendered(value: Any, old: Any, generation: int, now: str, name: str = "") -> Any:
    """Conditions may stand at any depth, as listeners have them."""
    if isinstance(value, dict):
        found = old if isinstance(old, dict) else {}
        return {key: _rendered(item, found.get(key), generation, now, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [item for item in old if isinstance(item, dict)] if isinstance(old, list) else []
        if name == "conditions":
            return _conditions(
                msgspec.convert(value, tuple[Condition, ...], from_attributes=True), items, generation, now
            )
        return [_rendered(item, was, generation, now) for item, was in zip(value, _aligned(items, value), strict=True)]
    return value


def _aligned(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """For each of ``new`` the one of ``old`` with the same name, type or parentRef, else the one in its place."""
    return [_counterpart(old, item, place) for place, item in enumerate(new)]


def _counterpart(old: Sequence[Any], item: Any, place: int) -> Any:
    for key in ("type", "name"):
        if isinstance(item, dict) and isinstance(item.get(key), str) and "value" not in item:
            return next((was for was in old if isinstance(was, dict) and was.get(key) == item[key]), None)
    return old[place] if place < len(old) else None


def _conditions(wanted: Iterable[Condition], old: Sequence[Tree], generation: int, now: str) -> list[Tree]:
    before = {str(was.get("type")): was for was in old}
    return [_condition(condition, before.get(condition.type, {}), generation, now) for condition in wanted]


def _condition(condition: Condition, old: Tree, generation: int, now: str) -> Tree:
    since = old.get("lastTransitionTime") if old.get("status") == condition.status else None
    return {
        "type": condition.type,
        "status": condition.status,
        "observedGeneration": generation,
        "lastTransitionTime": since or now,
        "reason": reason(condition.reason),
        "message": cut(condition.message),
    }
