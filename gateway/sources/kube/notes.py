"""What people are told about an object by an Event, and the Events themselves as events.k8s.io/v1 has them. (P)

Invariant: only what has changed is told, and good news only after bad.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.config.verdict import Verdict
from gateway.sources.kube.api import Tree
from gateway.sources.kube.claim import micro_time
from gateway.sources.kube.conditions import Owner, entries, member, own, parents_member, reason, reference
from gateway.sources.kube.kinds import EVENT

TOLD: Final = ("Accepted", "ResolvedRefs")
NOTE_BYTES: Final = 1000
"""1,024 are allowed."""
CONTROLLER: Final = "infer-gateway"

State = tuple[str, str, str]
"""Status, reason and message of a condition."""
Told = dict[tuple[str, str], State]
"""By where it stands ("" for the object's own conditions, or the parent) and its type."""


class Regarding(msgspec.Struct, frozen=True):
    """The object an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


class Note(msgspec.Struct, frozen=True):
    """Equal ones are one Event that is counted."""

    regarding: Regarding
    warning: bool
    reason: str
    text: str


def said(verdict: Verdict) -> Told:
    told = {
        ("", condition.type): (condition.status, condition.reason, condition.message)
        for condition in verdict.conditions
    }
    for parent in verdict.parents or ():
        where = _where(parent.reference, verdict.namespace)
        for condition in parent.conditions:
            told[where, condition.type] = (condition.status, condition.reason, condition.message)
    return {key: state for key, state in told.items() if key[1] in TOLD}


def stands(verdict: Verdict, observed: Tree, owner: Owner) -> Told:
    """What the object says of itself, or we in the name of its parents."""
    status = member(observed, "status")
    told: Told = {}
    if verdict.parents is None:
        told.update(_states("", status))
    else:
        for entry in entries(status, parents_member(verdict)):
            if own(verdict, entry, owner):
                told.update(_states(_where(member(entry, "parentRef"), verdict.namespace), entry))
    return told


def changes(verdict: Verdict, before: Told) -> list[Note]:
    """What is to be told now that ``before`` was."""
    regarding = Regarding(verdict.api_version, verdict.kind, verdict.namespace, verdict.name, verdict.uid)
    return [
        Note(regarding, state[0] == "False", reason(state[1]), f"{where}: {state[2]}" if where else state[2])
        for (where, kind), state in said(verdict).items()
        if _matters(before.get((where, kind), ("", "", "")), state)
    ]


def event(note: Note, identity: str, suffix: str, wall: float) -> Tree:
    """``identity``: of the replica that tells it; ``suffix`` makes its name unique; ``wall``: the time of day."""
    about = note.regarding
    regarding = {"apiVersion": about.api_version, "kind": about.kind, "name": about.name}
    regarding |= {key: value for key, value in (("namespace", about.namespace), ("uid", about.uid)) if value}
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {"name": f"{about.name[:230].rstrip('.-')}.{suffix}", "namespace": namespace(note)},
        "eventTime": micro_time(wall),
        "reportingController": CONTROLLER,
        "reportingInstance": identity[:128],
        "action": "Reconcile",
        "reason": reason(note.reason)[:128],
        "regarding": regarding,
        "note": _bounded(note.text),
        "type": "Warning" if note.warning else "Normal",
    }


def series(count: int, wall: float) -> Tree:
    """The change of an Event that has happened ``count`` times, two at least."""
    return {"metadata": {}, "series": {"count": count, "lastObservedTime": micro_time(wall)}}


def namespace(note: Note) -> str:
    """Where the Event stands; about what is in no namespace, in "default"."""
    return note.regarding.namespace or "default"


def _matters(before: State, now: State) -> bool:
    return before != now if now[0] == "False" else (before[0], now[0]) == ("False", "True")


def _states(where: str, tree: Tree) -> Iterator[tuple[tuple[str, str], State]]:
    for condition in entries(tree, "conditions"):
        status, why, message = (str(condition.get(key, "")) for key in ("status", "reason", "message"))
        yield (where, str(condition.get("type"))), (status, why, message)


def _where(parent: Tree, home: str) -> str:
    _, kind, space, name, section, _ = reference(parent, home)
    return f"{kind} {space}/{name}" + (f" ({section})" if section else "")


def _bounded(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= NOTE_BYTES else data[: NOTE_BYTES - 3].decode("utf-8", "ignore") + "…"
