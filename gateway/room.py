"""How many more requests one endpoint can take now, from its loads and our own counts. (P)

Invariant: where nothing is known an endpoint can take more; a full one is asked for more now and then, ever more
seldom, so that what was learned wrongly or long ago does not last.

How many requests an engine runs at once it does not say. Waiting alone means little: prompts wait for their turn in
every step. It shows when requests wait at it though there is no prompt left to compute, or when many of them wait and
for seconds it runs as many as before and no more. (If it was prompts that it could not compute any faster, it needs no
more than that to be busy, either.) Between two loads, ever so many may be sent there unseen.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from gateway.config.sharing import Thresholds
from gateway.schedule.speed import LATE_S
from gateway.types import Load

_UNSEEN: Final = 4.0
_MOST_UNSEEN: Final = 4096.0
_FIRST_GAP_S, _LAST_GAP_S = 10.0, 300.0
_SHOWN_GAP_S: Final = 30.0
_GROWING_GAP_S: Final = 0.4
_STEP: Final = 8.0
_LEVEL_S: Final = 2.0
_RIPPLE: Final = 16.0


class Occupied(Protocol):
    """What of an endpoint is looked at (`gateway.member.Member`)."""

    inflight: int
    pending: int
    unstreamed: int
    requests: int
    foreign: float
    foreign_pending: float
    until: float
    load: Load | None


class Room:
    """``slots``: how many requests the endpoint is let run at once, infinity until it has shown; ``shown``: how many it
    has run, which is less while it is tried with more. ``awaited``: its loads are to come; while it
    has none it is none of those that take everything.
    """

    __slots__ = (
        "_burst",
        "_gap",
        "_held_back",
        "_level",
        "_level_since",
        "_requests",
        "_running",
        "_tried",
        "_tried_at",
        "_waited",
        "_waiting",
        "awaited",
        "shown",
        "slots",
        "thresholds",
    )

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.slots = self.shown = math.inf
        self.awaited = False
        self._waiting = self._running = 0.0
        self._requests = 0
        self._waited = self._held_back = self._tried = False
        self._burst = _UNSEEN
        self._gap = _FIRST_GAP_S
        self._tried_at = -math.inf
        self._level, self._level_since = 0.0, math.inf

    def loaded(self, member: Occupied, load: Load) -> None:
        """The endpoint said how it is doing."""
        waits = load.waiting >= self.thresholds.waiting
        levelled = self._levelled(load)
        if waits and self._waited and load.running <= self._running and load.at > member.until + LATE_S:
            self.full(load.running, load.at)
            self._gap = max(self._gap, _SHOWN_GAP_S)  # the rest may have other reasons, and is sooner doubted
        elif levelled:
            self.full(max(self._level, self.shown) if self._tried else self._level, load.at)
        elif load.running > self.shown:  # a try has shown more, or others have
            self.shown, self._gap, self._tried = load.running, _GROWING_GAP_S, False
            self.slots = max(self.slots, load.running)
        if waits:
            self._burst = max(_UNSEEN, self._burst / 2.0)
        elif self._held_back:
            self._burst = min(self._burst * 2.0, _MOST_UNSEEN)
        self._held_back = False
        self._waited, self._waiting, self._running = waits, load.waiting, load.running
        self._requests = member.requests

    def _levelled(self, load: Load) -> bool:
        """Whether it has run ``_level`` requests for long, give or take a few that were just leaving, while more than
        a few waited all the time; while it is tried, any.
        """
        ripple = 1.0 + self._level // _RIPPLE
        many = load.waiting >= self.thresholds.waiting and (self._tried or load.waiting > ripple)
        if not many or not self._level - ripple <= load.running <= self._level:
            self._level, self._level_since = load.running, load.at
        return many and load.at >= self._level_since + _LEVEL_S

    def full(self, running: float, now: float) -> None:
        """It runs so many and no more: its load shows it, or it has refused one."""
        if self._tried:
            self._gap = min(self._gap * 2.0, _LAST_GAP_S)
        self._tried = False
        self.slots = self.shown = max(1.0, running)
        self._tried_at = now

    def forget(self) -> None:
        """The engine is another one now."""
        self.slots = self.shown = math.inf
        self._gap = _FIRST_GAP_S
        self._waiting = self._running = 0.0
        self._waited = self._held_back = self._tried = False
        self._burst = _UNSEEN
        self._level_since = math.inf

    def cramped(self, load: Load | None) -> bool:
        """Whether its cache is full, as it says."""
        return load is not None and load.kv_usage is not None and load.kv_usage >= self.thresholds.kv_usage

    def left(self, member: Occupied, now: float) -> float:
        """So many more; 0 or less: none."""
        load, limits = member.load, self.thresholds
        present = member.inflight + member.foreign
        if member.inflight and self.cramped(load):  # filled by others, or said to be for ever, it must not keep us out
            return 0.0
        if self.slots < math.inf:
            return self._of_slots(member, self.slots + limits.waiting - 1.0 - present, now)
        if load is None and not self.awaited:
            return math.inf
        more = max(self._burst, self._running / 2.0) + limits.waiting - 1.0 - self._unseen(member)
        if more <= 0.0:
            self._held_back = True
        return more

    def _unseen(self, member: Occupied) -> float:
        """Ours that may wait there for all we know: without a token, and sent since or waiting at the last load."""
        return min(member.pending + member.unstreamed, member.requests - self._requests + self._waiting)

    def _of_slots(self, member: Occupied, more: float, now: float) -> float:
        if more > 0.0:
            return more
        if not self._waited and now >= self._tried_at + self._gap:
            self._tried_at, self._tried = now, True
            self.slots += max(1.0, self.slots // _STEP)
            return 1.0
        # others that fill it without end must not keep us out: one of ours may wait there until we have half
        if member.foreign and member.inflight < self.slots / 2.0 and self._unseen(member) < 1.0:
            return 1.0
        return more
