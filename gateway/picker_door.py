"""What stands behind the endpoint picker's listeners: the core's picks as Envoy asks for them, and health. (IO)

Imported only where it is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from gateway.addresses import Addresses
from gateway.burden import burden
from gateway.config.settings import ExtProcListener
from gateway.core import Gateway
from gateway.errors import GatewayError
from gateway.listen import Listener
from gateway.pick import Pick, pick
from gateway.types import Headers, Identity, InferenceRequest, Operation
from protocols.extproc import messages, serve, session
from protocols.grpc.door import Door
from protocols.grpc.health import Health
from protocols.grpc.limits import Limits
from protocols.grpc.server import Server

_HANG_UPS: Final = 20_000.0
"""Streams that a proxy may reset at once: behind one connection of it are all its clients."""


class Core(Protocol):
    """What it stands on."""

    @property
    def gateway(self) -> Gateway: ...
    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None: ...
    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity: ...
    @property
    def namespace(self) -> str:
        """Where a pool named without one is looked for."""

    def ready(self) -> bool: ...
    def synced(self) -> bool:
        """Whether all that is configured is known, and we are not about to stop."""

    def refused(
        self,
        operation: Operation,
        error: GatewayError,
        request_id: str,
        identity: Identity | None,
        headers: Headers,
        protocol: str,
        /,
    ) -> None: ...


class Picker:
    """The core as the endpoint picker sees it. ``pool``: the one it is for, which may be yet to come."""

    def __init__(self, core: Core, fallbacks: int, pool: str | None = None) -> None:
        self._core = core
        self._pool = pool
        self._fallbacks = fallbacks
        self._addresses = Addresses()
        self.known = core.known
        self.identify = core.identify

    def refused(
        self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, headers: Headers, /
    ) -> None:
        self._core.refused(operation, error, request_id, identity, headers, "ext_proc")

    def pick(self, request: InferenceRequest, pool: str | None = None, /) -> AbstractAsyncContextManager[Pick]:
        pool = pool or self.pool
        return pick(self._core.gateway, request, pool, addresses=self._addresses, fallbacks=self._fallbacks)

    @property
    def pool(self) -> str | None:
        """ "namespace/name"."""
        return self._pool if self._pool is None or "/" in self._pool else f"{self._core.namespace}/{self._pool}"

    def ready(self) -> bool:
        """Whether requests are decided on: an InferencePool without endpoints is one whose requests get 503."""
        core, pool = self._core, self.pool
        if pool is not None:
            return core.synced() and core.gateway.pools.get(pool) is not None
        return core.ready() or (core.synced() and any(each.bare for each in core.gateway.pools.by_name().values()))


def picker_doors(
    core: Core, settings: ExtProcListener, listeners: Sequence[Listener], health_listeners: Sequence[Listener]
) -> dict[str, Door]:
    """What serves the listeners of these names: ext_proc, health."""
    picker = Picker(core, settings.fallbacks, settings.pool)
    health = Health([messages.SERVICE], picker.ready, unknown_serving=True)
    times = settings.timeouts
    processor = serve.ExternalProcessor(
        picker,
        settings=session.Settings(response=session.Watch(settings.response), steering=settings.steering),
        deadlines=serve.Deadlines(body=times.body, pick=times.pick, response=times.response, silence=times.silence),
        burden=burden(),
    )
    # a body may come in one message: the session then says what is wrong with it, before the stream's own limit does
    limits = Limits(max_message=2 * processor.settings.max_body, max_nuisance=_HANG_UPS, nuisance_rate=_HANG_UPS / 10)
    return {
        "ext_proc": Door(Server([processor, health], listeners, limits), health, settings.linger),
        "health": Door(Server([health], health_listeners), health, settings.linger),
    }
