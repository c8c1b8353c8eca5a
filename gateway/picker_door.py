"""What stands behind the endpoint picker's listeners: the core's picks as Envoy asks for them, and health. (IO)

Imported only where it is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from gateway.addresses import Addresses
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
    def ready(self) -> bool: ...
    def refused(
        self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, protocol: str, /
    ) -> None: ...


class Picker:
    """The core as the endpoint picker sees it."""

    def __init__(self, core: Core, fallbacks: int) -> None:
        self._core = core
        self._fallbacks = fallbacks
        self._addresses = Addresses()
        self.known = core.known
        self.identify = core.identify

    def refused(self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, /) -> None:
        self._core.refused(operation, error, request_id, identity, "ext_proc")

    def pick(self, request: InferenceRequest, pool: str | None = None, /) -> AbstractAsyncContextManager[Pick]:
        return pick(self._core.gateway, request, pool, addresses=self._addresses, fallbacks=self._fallbacks)


def picker_doors(
    core: Core, settings: ExtProcListener, listeners: Sequence[Listener], health_listeners: Sequence[Listener]
) -> dict[str, Door]:
    """What serves the listeners of these names: ext_proc, health."""
    health = Health([messages.SERVICE], core.ready, unknown_serving=True)
    times = settings.timeouts
    processor = serve.ExternalProcessor(
        Picker(core, settings.fallbacks),
        pool=_full_name(settings.pool),
        settings=session.Settings(response=session.Watch(settings.response), steering=settings.steering),
        deadlines=serve.Deadlines(body=times.body, pick=times.pick, response=times.response, silence=times.silence),
    )
    # a body may come in one message: the session then says what is wrong with it, before the stream's own limit does
    limits = Limits(max_message=2 * processor.settings.max_body, max_nuisance=_HANG_UPS, nuisance_rate=_HANG_UPS / 10)
    return {
        "ext_proc": Door(Server([processor, health], listeners, limits), health, settings.linger),
        "health": Door(Server([health], health_listeners), health, settings.linger),
    }


def _full_name(pool: str | None) -> str | None:
    return pool if pool is None or "/" in pool else f"default/{pool}"
