"""A request whose endpoint is chosen here and which somebody else forwards (Envoy): the walk without its relay. (T)

Invariant: from `pick` on the request counts at the endpoint it was told to go to, or at the one that turned out to
serve it, until the block is left; what it holds is given back then, and what became of it is judged as if we had
relayed it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from gateway.addresses import Addresses
from gateway.attempt import NOT_OFFERED, Attempt
from gateway.call import Call
from gateway.destination import implied
from gateway.errors import GatewayError, ModelNotFound, NoEndpoints, UpstreamError
from gateway.member import Member
from gateway.ports import Decoder
from gateway.route import Target
from gateway.types import PLAIN, Headers, InferenceRequest, Usage

if TYPE_CHECKING:
    from gateway.core import Gateway
    from gateway.core import Target as AnyTarget

_REFUSALS: Final = (429, 503, 529)
MAX_KEPT: Final = 32 * 1024 * 1024
"""Bytes of an answer that are kept until it is whole. Of a larger one nothing is known: any file may come this way."""


class Forwarded:
    """An exchange whose reply goes past us."""

    started = False

    def __init__(self, request: InferenceRequest) -> None:
        self.request = request

    async def start(self, status: int, headers: Headers, /) -> None: ...
    async def send(self, chunk: bytes, /) -> None: ...
    async def finish(self, chunk: bytes = b"", /) -> None: ...
    async def fail(self, error: GatewayError, /) -> None: ...
    def keep_alive(self, headers: Headers = (), /) -> None: ...


class Pick:
    """Where a request goes, and what is told of its answer. ``addresses``: "address:port", best first. ``model``: what
    the endpoints know the model by.
    """

    def __init__(self, call: Call, attempt: Attempt, addresses: dict[str, Member]) -> None:
        self._call = call
        self._attempt = attempt
        self._members = addresses
        self.addresses = tuple(addresses)
        self.model = attempt.model
        self.done = False
        self.failure: GatewayError | None = None
        self._foreign = False
        self._kept = 0

    @property
    def limits(self) -> Headers:
        """What the caller is told of its limits."""
        return () if self._call.admission is None else self._call.admission.headers

    @property
    def usage(self) -> Usage | None:
        decoder = self._attempt.decoder
        return None if decoder is None else decoder.usage

    def responded(self, status: int, headers: Headers, served: str = "") -> None:
        """The response's head. ``served``: the address it came from, if the proxy says."""
        if served and served != self.addresses[0]:
            self._move(self._members.get(served))
        if self._attempt.step is not None:
            self._attempt.step.attributes["http.response.status_code"] = status
        if not 200 <= status < 300:
            retryable = (status >= 500 and status != NOT_OFFERED) or status in _REFUSALS
            self.failure = UpstreamError(f"the engine answered {status}", status=status, retryable=retryable)
        elif dict(headers).get(b"content-encoding", b"identity") == b"identity":
            attempt = self._attempt
            attempt.decoder = attempt.member.adapter.decoder(self._call.request, status, headers)

    def feed(self, data: bytes) -> None:
        """A piece of the response's body, in any cuts."""
        call, attempt = self._call, self._attempt
        attempt.heard = attempt.member.health.heard = call.gateway.turn.now
        decoder = attempt.decoder
        if decoder is None or decoder.error is not None or not data:
            return
        decoder.feed(data)
        if decoder.progress == 2:
            call.speaker = attempt
            call.answered(attempt, attempt.heard)
        else:
            self._kept += len(data)
        self._heed(decoder)
        if self._kept > MAX_KEPT:
            attempt.decoder, self._foreign = None, call.request.view is None

    def finish(self) -> None:
        """The response is whole, or none will be shown: then what was expected of it is taken for what it was."""
        self.done = True
        call, decoder = self._call, self._attempt.decoder
        if decoder is None or self.failure is not None:
            return
        if not decoder.ended:
            decoder.finish()
        self._heed(decoder)
        if self.failure is None:
            call.speaker = self._attempt
            call.answered(self._attempt, call.gateway.turn.now)

    def _heed(self, decoder: Decoder) -> None:
        """What makes no sense is its engine's failure, but where nobody knows what was asked (health …) or of whom."""
        strange = self._call.request.view is None or self._attempt.member.endpoint.engine == PLAIN
        if decoder.error is not None and strange:
            self._attempt.decoder, self._foreign = None, True
        else:
            self.failure = decoder.error

    def _move(self, member: Member | None) -> None:
        """The proxy was sent on by the endpoint it was to go to first."""
        if member is None or member is self._attempt.member:
            return
        former = self._attempt
        self._end(UpstreamError("the proxy had to go elsewhere", status=502, retryable=True))
        self._attempt = Attempt(self._call, former.pool, member, former.ask, former.before)
        self._attempt.__enter__()

    def __enter__(self) -> Pick:
        self._attempt.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        call, failure = self._call, self.failure
        if failure is not None:
            call.status, call.reason = failure.status, failure.reason
        call.blind = self.done and self._attempt.decoder is None and failure is None and not self._foreign
        gone = None if error is not None or self.done else ClientGone("the client has left")
        self._end(error or failure or gone)
        if gone is not None:
            raise gone

    def _end(self, error: BaseException | None) -> None:
        self._attempt.__exit__(None if error is None else type(error), error, None)


class ClientGone(trio.BrokenResourceError):
    """Nobody waits for the answer any more."""


@asynccontextmanager
async def pick(
    gateway: Gateway, request: InferenceRequest, pool: str | None = None, *, addresses: Addresses, fallbacks: int = 2
) -> AsyncIterator[Pick]:
    """Admit the request and choose up to ``1 + fallbacks`` endpoints, best first: in ``pool``, or where its route goes,
    or else where `gateway.destination` has it.

    Waits as `Call.admit` does; raises GatewayError. Whoever leaves the block without `Pick.finish` has lost its client.
    """
    if request.only is not None:
        named = [endpoint for pool in gateway.pools.by_name().values() for endpoint in pool.listing.named]
        meant = await addresses.among(named, request.only) if named else ()
        request = msgspec.structs.replace(request, only=(*request.only, *meant))
    with suppress(ClientGone), Call(gateway, Forwarded(request)) as call:
        try:
            picked = await _chosen(call, pool, addresses, fallbacks)
        except GatewayError as error:
            gateway.failed(call, error)
            raise
        with picked:
            yield picked


def _direct(gateway: Gateway, request: InferenceRequest, pool: str) -> Target:
    """Under the name that a route there would give the model, if one leads there."""
    with suppress(GatewayError):
        target = gateway.route(request)
        for part in (target, *target.fallbacks):
            if part.pool == pool:
                return Target(pool, part.model, (), target.route)
    return Target(pool)


def _implied(gateway: Gateway, request: InferenceRequest) -> AnyTarget:
    """Where a route leads, or else whatever says which pool is meant. Raises GatewayError."""
    try:
        return gateway.route(request)
    except ModelNotFound:
        pools = gateway.pools.by_name().values()
        names = implied(request, pools, gateway.directives, gateway.pools.rng.random())
        if not names:
            raise
    return Target(names[0], fallbacks=tuple(map(Target, names[1:])))


async def _chosen(call: Call, pool: str | None, addresses: Addresses, fallbacks: int) -> Pick:
    gateway, request = call.gateway, call.request
    await call.admit(_implied(gateway, request) if pool is None else _direct(gateway, request, pool))
    attempt = next(call.attempts())
    members = (attempt.member, *call.next_best(fallbacks))
    named = {await addresses.of(member.endpoint): member for member in members}
    named.pop("", None)
    if not named:
        raise NoEndpoints(f"no name of an endpoint for model '{call.request.model}' has an address", retry_after=1.0)
    best = next(iter(named.values()))
    return Pick(
        call, attempt if best is attempt.member else Attempt(call, attempt.pool, best, attempt.ask, None), named
    )
