"""What stands behind the listeners that speak gRPC: inference.v1, the endpoint picker, health, reflection. (IO)

Imported only where one of them is wanted. Invariant: health says that a door drains before it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from gateway.addresses import Addresses
from gateway.config.settings import ExtProcListener, GrpcListener, Listeners
from gateway.core import Gateway
from gateway.errors import GatewayError
from gateway.listen import Listener
from gateway.pick import Pick, pick
from gateway.types import Headers, Identity, InferenceRequest, Operation
from protocols.extproc import messages, serve, session
from protocols.grpc import inference
from protocols.grpc.generated.upb import inference as inference_proto
from protocols.grpc.health import Health
from protocols.grpc.limits import Limits
from protocols.grpc.reflection import Reflection
from protocols.grpc.server import Server, Service, Statistics


class Core(inference.Core, Protocol):
    """What they stand on."""

    @property
    def gateway(self) -> Gateway: ...
    def ready(self) -> bool: ...
    def refused(
        self,
        operation: Operation,
        error: GatewayError,
        request_id: str,
        identity: Identity | None,
        protocol: str = "http",
        /,
    ) -> None: ...


class Door:
    """A server and its health. For ``linger`` seconds after `drain` it still takes whoever has not asked for health."""

    def __init__(self, server: Server, health: Health, linger: float = 0.0) -> None:
        self._server = server
        self._health = health
        self._linger = linger
        self._leaving = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.run)
            task_status.started()
            await self._leaving.wait()
            if self._server.statistics().connections:
                await trio.sleep(self._linger)
            self._server.drain()

    def drain(self) -> None:
        self._health.drain()
        self._leaving.set()

    def statistics(self) -> Statistics:
        return self._server.statistics()


class Picker:
    """The core as the endpoint picker sees it."""

    def __init__(self, core: Core, fallbacks: int) -> None:
        self._core = core
        self._fallbacks = fallbacks
        self._addresses = Addresses()

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None:
        return self._core.known(headers, peer, subject)

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        return await self._core.identify(headers, peer, subject)

    def refused(self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, /) -> None:
        self._core.refused(operation, error, request_id, identity, "ext_proc")

    def pick(self, request: InferenceRequest, pool: str | None = None, /) -> AbstractAsyncContextManager[Pick]:
        gateway = self._core.gateway
        if pool is None and not request.model:  # no body to read it from: clear only where there is no choice
            pools = gateway.pools.by_name()
            pool = next(iter(pools)) if len(pools) == 1 else None
        return pick(gateway, request, pool, addresses=self._addresses, fallbacks=self._fallbacks)


def servers(core: Core, settings: Listeners, listeners: Mapping[str, Sequence[Listener]]) -> dict[str, Door]:
    """What serves the listeners of these names: grpc, ext_proc, health."""
    doors = {}
    if "grpc" in listeners:
        doors["grpc"] = _inference(core, settings.grpc, listeners["grpc"])
    if "ext_proc" in listeners:
        wanted = settings.ext_proc or ExtProcListener()
        doors |= _picker(core, wanted, listeners["ext_proc"], listeners["health"])
    return doors


def _inference(core: Core, settings: GrpcListener, listeners: Sequence[Listener]) -> Door:
    health = Health([inference_proto.DESCRIPTOR.services_by_name["InferenceService"].full_name], core.ready)
    services: list[Service] = [inference.Inference(core), health]
    limits = Limits(
        max_message=settings.max_message_bytes,
        max_connections=settings.max_connections,
        max_streams=settings.max_streams,
        max_age=settings.max_connection_age,
    )
    reflection = Reflection(services, [inference_proto.DESCRIPTOR])
    return Door(Server([*services, reflection], listeners, limits), health)


def _picker(
    core: Core, settings: ExtProcListener, listeners: Sequence[Listener], health_listeners: Sequence[Listener]
) -> dict[str, Door]:
    health = Health([messages.SERVICE], core.ready, unknown_serving=True)
    times = settings.timeouts
    processor = serve.ExternalProcessor(
        Picker(core, settings.fallbacks),
        pool=_full_name(settings.pool),
        settings=session.Settings(response=session.Watch(settings.response), steering=settings.steering),
        deadlines=serve.Deadlines(
            body=_finite(times.body), pick=_finite(times.pick), response=_finite(times.response),
            silence=_finite(times.silence),
        ),
    )  # fmt: skip
    linger = float(settings.linger)
    return {
        "ext_proc": Door(Server([processor, health], listeners), health, linger),
        "health": Door(Server([health], health_listeners), health, linger),
    }


def _finite(seconds: float) -> float:
    return 0.0 if seconds == math.inf else seconds


def _full_name(pool: str | None) -> str | None:
    return pool if pool is None or "/" in pool else f"default/{pool}"
