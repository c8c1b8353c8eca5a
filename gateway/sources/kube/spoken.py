"""What is to be said of one object, what became of saying it, and when it may be said again. (P)

Invariant: nothing is known of an object but what was seen of it, or what the server answered to a write.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway.config.verdict import Verdict
from gateway.sources.kube.api import Tree
from gateway.sources.kube.conditions import Write, holds, member

HOLD_S: Final = 5.0
"""Between two writes of one object that differ in readiness only; doubled, up to MAX_HOLD_S, for each write that
somebody undoes."""
URGENT_S: Final = 0.5
"""Between two writes of one object that differ in more."""
MAX_HOLD_S: Final = 300.0


class Spoken(msgspec.Struct):
    """What is to be said of an object, and what became of the last write.

    ``seen`` is the resourceVersion last seen; ``base`` the one seen before the write, which said ``sent`` and left the
    object at ``version`` with ``kept`` for a status, both as JSON: as trees they take three times as much, and there
    are thousands.
    """

    verdict: Verdict
    told: bool = False
    written: float = -math.inf
    hold: float = HOLD_S
    failures: int = 0
    not_before: float = -math.inf
    seen: object = None
    base: object = None
    version: object = None
    sent: bytes = b""
    kept: bytes = b"{}"

    def known(self, observed: Tree) -> Tree:
        """What the object is like, even where no watch has told of our last write yet."""
        metadata = member(observed, "metadata")
        self.seen = metadata.get("resourceVersion")
        if self.base is None or self.seen != self.base:
            return observed
        metadata = {**metadata, "resourceVersion": self.version}
        return {**observed, "metadata": metadata, "status": msgspec.json.decode(self.kept)}

    def repeats(self, write: Write) -> bool:
        if not self.sent:
            return False
        sent = msgspec.json.decode(self.sent)
        return holds(sent, write.status) and holds(write.status, sent)

    def futile(self, write: Write, observed: Tree) -> bool:
        """Whether this was written before, and what is there now is what came of it."""
        return self.repeats(write) and member(observed, "status") == msgspec.json.decode(self.kept)

    def free_at(self, write: Write) -> float:
        pause = URGENT_S if write.urgent and not self.repeats(write) else self.hold
        return max(self.not_before, self.written + pause)

    def settle(self, write: Write, now: float, tree: Tree) -> None:
        self.hold = min(self.hold * 2, MAX_HOLD_S) if self.repeats(write) else HOLD_S
        self.written, self.failures, self.not_before = now, 0, -math.inf
        self.base, self.version = self.seen, member(tree, "metadata").get("resourceVersion")
        self.keep(write, tree)

    def keep(self, write: Write, tree: Tree) -> None:
        """This was written, and the object is like this now."""
        self.sent, self.kept = msgspec.json.encode(write.status), msgspec.json.encode(member(tree, "status"))
