"""What the process is burdened with, one for each `trio.run`, and the errors that say it is too much. (T)

Until `Burden.bound` has been called nothing is bounded: simulated engines share the listener.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio

from gateway.errors import Overloaded
from gateway.overload import Buffered, Descriptors, Pace
from gateway.rest import rest
from gateway.turn import of_this_run, turn

BYTES: Final = "bytes"
LATE: Final = "late"
CONNECTIONS: Final = "connections"
DESCRIPTORS: Final = "descriptors"


class Burden:
    """``dialling``: connections that do not stand yet. ``refused``: connections and requests turned away before
    anything was done for them, by why.
    """

    def __init__(self) -> None:
        self.buffered = Buffered()
        self.descriptors = Descriptors()
        self.dialling = 0
        self.pace = Pace()
        self.refused: Counter[str] = Counter({BYTES: 0, LATE: 0, CONNECTIONS: 0, DESCRIPTORS: 0})

    def bound(self, max_bytes: float, max_lateness: float, descriptors: float) -> None:
        """``max_bytes`` held for requests; new ones are shed where they would wait for longer than ``max_lateness``
        seconds; open ``descriptors`` at most.
        """
        self.buffered.limit(max_bytes)
        if max_lateness:
            self.pace = Pace(max_lateness, rest())
        self.descriptors = Descriptors(descriptors)
        turn().pace = self.pace if max_lateness else None

    def refusal(self, size: int) -> Overloaded | None:
        """Why a request whose body has ``size`` bytes, all received, is not to be looked at; None: it is."""
        if self.pace.share and self.pace.refuses():
            self.refused[LATE] += 1
            return Overloaded("the gateway has more to do than it can; try again shortly", retry_after=1.0, why=LATE)
        if size and self.buffered.held > self.buffered.small:
            return self.no_room()
        return None

    def no_room(self) -> Overloaded:
        """A request is refused for its bytes."""
        self.refused[BYTES] += 1
        return Overloaded("the gateway holds as many bytes as it may; try again shortly", retry_after=1.0, why=BYTES)


_burden: trio.lowlevel.RunVar[Burden] = trio.lowlevel.RunVar("burden")


def burden() -> Burden:
    """The one of the present `trio.run`."""
    return of_this_run(_burden, Burden)
