"""grpc.health.v1: whether this server takes calls, asked once or watched. (T)

Invariant: once draining, nothing but `ALWAYS` is SERVING any more, whatever `ready` says. A watcher has the newest
status at once and each change after it; changes that follow faster than it reads are skipped, as the protocol allows.
Source: grpc doc/health-checking.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import trio
from grpclib.const import Cardinality, Handler

from gateway.wire.grpc import Code, GrpcError
from protocols.grpc import standard

ALWAYS: Final = "liveness"
"""The name that is SERVING for as long as the process answers."""

SERVING: Final = 1
NOT_SERVING: Final = 2
SERVICE_UNKNOWN: Final = 3

LOOK_S: Final = 1.0
"""How often watched readiness is looked at, beside `Health.changed`."""

_Request: Final = standard.message(standard.HEALTH, "HealthCheckRequest")
_Response: Final = standard.message(standard.HEALTH, "HealthCheckResponse")
_ListRequest: Final = standard.message(standard.HEALTH, "HealthListRequest")
_ListResponse: Final = standard.message(standard.HEALTH, "HealthListResponse")


class Health:
    """Answers for "", for ``services``, all alike, and for `ALWAYS`.

    ``ready`` says whether calls would be served now. ``unknown_serving``: names that are not known are answered like
    the others instead of NOT_FOUND, because endpoint pickers are probed by names of their users' choosing.
    """

    max_message = standard.MAX_MESSAGE

    def __init__(
        self, services: Iterable[str] = (), ready: Callable[[], bool] = lambda: True, *, unknown_serving: bool = False
    ) -> None:
        self._names = frozenset(("", *services))
        self._ready = ready
        self._unknown_serving = unknown_serving
        self._draining = self._ended = self._looking = False
        self._watchers = trio.lowlevel.ParkingLot()

    def changed(self) -> None:
        """``ready`` may say something else now: watchers hear of it at once, not within `LOOK_S`."""
        self._watchers.unpark_all()

    def drain(self) -> None:
        """NOT_SERVING from now on. Watchers are told and their calls end, so that they hold up no server's drain."""
        self._draining = True
        self.hand_over()

    def hand_over(self) -> None:
        """Who watches is sent to whoever answers here from now on, and told nothing else."""
        self._ended = True
        self.changed()

    def status(self, service: str) -> int:
        """The ServingStatus of a name."""
        if service == ALWAYS:
            return SERVING
        if service not in self._names and not self._unknown_serving:
            return SERVICE_UNKNOWN
        return SERVING if self._ready() and not self._draining else NOT_SERVING

    def __mapping__(self) -> Mapping[str, Handler]:
        """The methods, for `protocols.grpc.server.Server`."""
        name = "/grpc.health.v1.Health/"
        return {
            f"{name}Check": Handler(self._check, Cardinality.UNARY_UNARY, _Request, _Response),
            f"{name}List": Handler(self._list, Cardinality.UNARY_UNARY, _ListRequest, _ListResponse),
            f"{name}Watch": Handler(self._watch, Cardinality.UNARY_STREAM, _Request, _Response),
        }

    async def _check(self, stream: Any) -> None:
        service = (await stream.recv_message()).service
        status = self.status(service)
        if status == SERVICE_UNKNOWN:
            raise GrpcError(Code.NOT_FOUND, "unknown service")
        await stream.send_message(_Response(status=status))

    async def _list(self, stream: Any) -> None:
        await stream.recv_message()
        names = sorted({*self._names, ALWAYS})
        await stream.send_message(_ListResponse(statuses={name: _Response(status=self.status(name)) for name in names}))

    async def _watch(self, stream: Any) -> None:
        stream.forget_headers()
        service = (await stream.recv_message()).service
        told = None
        try:
            while True:
                status = self.status(service)
                if status != told:
                    told = status
                    await stream.send_message(_Response(status=status))
                elif self._ended:
                    raise GrpcError(Code.UNAVAILABLE, "the server is draining")
                else:
                    await self._news()
        finally:
            if not self._looking:
                self._watchers.unpark()  # whoever is next

    async def _news(self) -> None:
        """Until something may have changed. One looks for all: watchers cost nobody a question, and may be many."""
        if self._looking:
            await self._watchers.park()
            return
        self._looking = True
        try:
            was = self._ready()
            while was == self._ready() and not self._ended:
                with trio.move_on_after(LOOK_S):
                    await self._watchers.park()
        finally:
            self._looking = False
        self._watchers.unpark_all()
