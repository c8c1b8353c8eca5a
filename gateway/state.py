"""Where limits are kept as configured: in this process, or where replicas meet. (T)

Invariant: there is always a store that answers; a change of configuration loses nothing that this process keeps itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.sharing import Redis as Settings
from gateway.ports import Store
from gateway.store.local import Local
from gateway.supervise import Loops

if TYPE_CHECKING:
    from gateway.store.redis import Redis, Statistics


class State:
    """``store`` is the one in use. Before `run` runs, and while nothing is shared, it is this process's own."""

    def __init__(self) -> None:
        self._local = Local()
        self._shared: Redis | None = None
        self._settings: Settings | None = None
        self._loops: Loops[Redis] = Loops(lambda shared: shared.run(), lambda shared: "shared limits")

    @property
    def store(self) -> Store:
        return self._local if self._shared is None else self._shared

    def apply(self, settings: Settings | None) -> None:
        """Meet there from now on, or nowhere."""
        if settings == self._settings:
            return
        self._settings = settings
        if settings is None:
            self._shared = None
        else:
            from gateway.store.redis import Redis

            self._shared = Redis(settings, self._local)
        self._loops.keep(() if self._shared is None else (self._shared,))

    async def run(self) -> None:
        """Until cancelled."""
        await self._loops.run()

    def statistics(self) -> Statistics | None:
        """How the shared store is doing, if there is one."""
        return None if self._shared is None else self._shared.statistics()
