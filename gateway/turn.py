"""What there is one of in each `trio.run`; first of all the time of the scheduler's present turn. (T)

Trio answers `trio.current_time` through four calls (0.3 µs), and a request wants to know the time nine times. Within a
turn the answer hardly moves: what is measured with it is exact to the length of a turn, a few milliseconds under load.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from gateway.overload import Pace

_T = TypeVar("_T")


def of_this_run(place: trio.lowlevel.RunVar[_T], make: Callable[[], _T]) -> _T:
    """What ``place`` holds in the present `trio.run`; made at the first asking."""
    try:
        return place.get()
    except LookupError:
        made = make()
        place.set(made)
        return made


class Turn(trio.abc.Instrument):
    """``now`` is on Trio's clock, in seconds, as of the last time Trio looked for news; ``pace`` is told of turns."""

    def __init__(self) -> None:
        self._time = trio.lowlevel.current_clock().current_time
        self.now = self._time()
        self._worked = 0.0
        self.pace: Pace | None = None
        trio.lowlevel.add_instrument(self)

    def after_io_wait(self, timeout: float) -> None:
        self.now = self._time()
        if self.pace is not None:
            before, self._worked = self._worked, thread_time()
            self.pace.turned(self.now, self._worked - before)


_turn: trio.lowlevel.RunVar[Turn] = trio.lowlevel.RunVar("turn")


def turn() -> Turn:
    """The one of the present `trio.run`."""
    return of_this_run(_turn, Turn)
