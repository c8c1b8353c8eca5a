"""When a connection is asked for a sign of life, asked to go, or cut. (P)

Times are seconds of one clock. `Lifetime` is told what happens and asked once a second what follows from it.
"""

from __future__ import annotations

import enum
import math

from protocols.grpc.limits import Limits

_DRAIN_S = 5.0
_UNHEARD_S = 1.0


class Verdict(enum.Enum):
    KEEP = enum.auto()
    PING = enum.auto()
    """Ask for a sign of life."""
    DRAIN = enum.auto()
    """Ask the client to open no more streams."""
    REFUSE = enum.auto()
    """The client has had the time to hear that: refuse what it opens from now on."""
    CUT = enum.auto()


class Lifetime:
    """``spread`` (about 1) scales the greatest age, so that clients that came together do not leave together."""

    __slots__ = ("_age", "_begun", "_drained", "_heard", "_idle", "_limits", "_pinged", "_refusing", "greeted")

    def __init__(self, limits: Limits, now: float, spread: float = 1.0) -> None:
        self._limits = limits
        self._begun = now
        self._heard = now
        self._idle: float | None = now
        self._pinged: float | None = None
        self._drained = math.inf
        self._refusing = False
        self._age = limits.max_age * spread
        self.greeted = False

    def heard(self, now: float) -> None:
        """Something has been received."""
        self._heard = now
        self._pinged = None

    def idle(self, since: float | None) -> None:
        """The last stream is done; None: there are streams."""
        self._idle = since

    def draining(self, now: float) -> None:
        """The client has been asked to go."""
        self._drained = now

    def verdict(self, now: float, stuck_since: float | None) -> Verdict:
        """What is due. ``stuck_since``: when the client stopped taking what it is sent."""
        limits = self._limits
        if self._dead(now, stuck_since):
            return Verdict.CUT
        if self._drained == math.inf:
            old = now - self._begun > self._age
            unused = self._idle is not None and now - self._idle > limits.idle_timeout
            if old or unused:
                return Verdict.DRAIN
        elif not self._refusing and now - self._drained > _DRAIN_S:
            self._refusing = True
            return Verdict.REFUSE
        if self._pinged is None and now - self._heard > limits.ping_after:
            self._pinged = now
            return Verdict.PING
        return Verdict.KEEP

    def _too_late(self, now: float) -> bool:
        """Whether nobody waits any longer for a client that has said nothing."""
        return now - self._begun > self._limits.handshake_timeout or now - self._drained > _UNHEARD_S

    def _dead(self, now: float, stuck_since: float | None) -> bool:
        limits = self._limits
        return (
            (not self.greeted and self._too_late(now))
            or (stuck_since is not None and now - stuck_since > limits.write_timeout)
            or (self._pinged is not None and now - self._pinged > limits.ping_timeout)
            or now - self._begun > self._age + limits.age_grace
        )
