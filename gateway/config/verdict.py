"""What is to be said of an object of a cluster: its conditions, and the version of it that serves. (P)"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Truth = Literal["True", "False", "Unknown"]


class Condition(msgspec.Struct, frozen=True):
    """As in Kubernetes, without the time: whoever writes it knows since when it has been so."""

    type: str
    status: Truth
    reason: str
    message: str = ""


class Parent(msgspec.Struct, frozen=True):
    """What a Gateway says of a route or a pool. ``reference``: the parentRef as it is in the object."""

    reference: dict[str, Any]
    conditions: tuple[Condition, ...]


class Verdict(msgspec.Struct, frozen=True):
    """``api_version`` and ``kind`` as in the object, whose ``generation`` was judged.

    ``parents``: for kinds whose status several controllers share, each with entries of its own; None for others.
    ``more``: further members of the status.
    """

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    conditions: tuple[Condition, ...] = ()
    parents: tuple[Parent, ...] | None = None
    more: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.api_version, self.kind, self.namespace, self.name
