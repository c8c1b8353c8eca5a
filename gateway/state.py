"""What replicas share as configured: accounts of limits, and what each has under way, placed and served. (T)

Invariant: there is always a store that answers; a change of configuration loses nothing that this process keeps itself.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

import msgspec

from gateway.config.sharing import Redis as Settings
from gateway.peers import Peers
from gateway.pools import Pools
from gateway.ports import Store
from gateway.store.local import Local
from gateway.supervise import Loops

if TYPE_CHECKING:
    from gateway.replicas import Replicas
    from gateway.store import carrier, redis
    from gateway.store.carrier import Carrier
    from gateway.store.redis import Redis


class Shared(msgspec.Struct, frozen=True):
    """The parts of one meeting place."""

    limits: Redis
    replicas: Replicas
    carrier: Carrier


class State:
    """``store`` is the one in use. Before `run` runs, and while nothing is shared, it is this process's own.
    ``restarts`` as `supervise` counts them.
    """

    def __init__(self, pools: Pools, restarts: MutableMapping[str, int] | None = None) -> None:
        self._pools = pools
        self._local = Local()
        self._shared: Shared | None = None
        self._settings: Settings | None = None
        self._loops: Loops[Redis | Carrier] = Loops(
            lambda part: part.run(), lambda part: f"shared state ({type(part).__name__.lower()})", restarts
        )

    @property
    def store(self) -> Store:
        return self._local if self._shared is None else self._shared.limits

    @property
    def places(self) -> float:
        """Places of limits that requests of this process hold by its own accounts."""
        return self._local.places

    @staticmethod
    def check(settings: Settings | None) -> None:
        """Import what it takes to meet there: a third of a second, in which everybody would wait but for a thread."""
        if settings is not None:
            from gateway.store import carrier, connect, redis  # noqa: F401

            connect.load()

    def apply(self, settings: Settings | None) -> None:
        """Meet there from now on, or nowhere."""
        if settings == self._settings:
            return
        self._settings = settings
        if self._shared is not None:
            self._shared.replicas.expire(math.inf)  # what others have under way is not known any more
        shared = self._shared = None if settings is None else self._meet(settings)
        if shared is None:
            self._pools.listened(None, None)
            self._loops.keep(())
        else:
            self._pools.listened(shared.replicas.note_placed, shared.replicas.note_service)
            self._loops.keep((shared.limits, shared.carrier))

    def _meet(self, settings: Settings) -> Shared:
        from gateway.replicas import Replicas
        from gateway.store.carrier import Carrier
        from gateway.store.redis import Redis

        replica = secrets.token_hex(8)
        peers = Peers(self._pools, self._pools.elsewhere)
        replicas = Replicas(replica, peers)
        return Shared(Redis(settings, self._local, replica), replicas, Carrier(settings, replicas, peers.counts))

    async def run(self) -> None:
        """Until cancelled."""
        await self._loops.run()

    def limits(self) -> redis.Statistics | None:
        """How shared limits are doing, if there are any."""
        return None if self._shared is None else self._shared.limits.statistics()

    def replicas(self) -> carrier.Statistics | None:
        """How what replicas tell each other is doing."""
        return None if self._shared is None else self._shared.carrier.statistics()
