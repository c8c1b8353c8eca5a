"""When the garbage collector looks at all there is: once there is much more than when it looked last. (T)

What serves requests is to refer to nothing that refers back to it, so that it goes at once. Where something does all
the same, in a library, in an error's traceback, it is found here: garbage is never more than a quarter of what was in
use at most, or 200,000 objects, some 20 MB. A look at the rest of a fleet of 5,000 endpoints makes requests wait for
300 ms; with nothing grown there is none.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

import trio

_YOUNG: Final = (1_000, 10, 2_000)
"""When the collector looks at what is young, at what has lived through that, and at all: with 5,000 endpoints requests
wait some 0.4, 2 and 300 ms for it, and what has replaced something old is not counted, but looked at. Of what a plain
request costs it is less than can be measured, whatever the numbers. The last one is seldom reached: see `Garbage`."""
_PAUSE_S: Final = 10.0
_SLACK: Final = 200_000
_SHARE: Final = 4


class Garbage:
    """``looked`` counts the looks at all there is."""

    def __init__(self) -> None:
        self.looked = 0
        self._known = sys.getallocatedblocks()

    def settle(self) -> None:
        """What is there now stays, and is not looked at any more."""
        self._look()
        gc.freeze()
        gc.set_threshold(*_YOUNG)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(_PAUSE_S)
            if sys.getallocatedblocks() > self._known + max(self._known // _SHARE, _SLACK):
                self._look()

    def _look(self) -> None:
        gc.collect()
        self._known = sys.getallocatedblocks()
        self.looked += 1
