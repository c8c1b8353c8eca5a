"""The data walk: what every request goes through, whatever protocol it came in by. (T)

`Gateway.serve` reads as the walk does: open the call, have it admitted (model, limits, queue), try endpoints in their
ranking, relay the answer. Everything a request holds is a `with` block in it, so that leaving — done, failed,
timed out, client gone — gives all of it back, and the engine's connection is closed at once.

Failover happens only before the first byte reaches the client; after that an error is the stream's last event.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from gateway import route as routes
from gateway.admission import Alarms
from gateway.attempt import Attempt, unlink
from gateway.burden import burden
from gateway.call import Call
from gateway.config.settings import Hedging
from gateway.config.snapshot import Policy
from gateway.directives import Directives
from gateway.errors import GatewayError, Overloaded, RateLimited, Stopping, UpstreamError, UpstreamTimeout
from gateway.hedge import race
from gateway.hedges import Terms
from gateway.member import Member
from gateway.meter import Totals
from gateway.pools import Pools
from gateway.ports import Exchange, Observer, Store, Tracer, Transport, UpstreamResponse
from gateway.schedule.explain import Decisions
from gateway.store.local import Local
from gateway.tokenizer import Tokenizers
from gateway.turn import turn
from gateway.types import InferenceRequest, UpstreamRequest

if TYPE_CHECKING:
    from gateway.ledger import Ledger

_log: Final = logging.getLogger("infer_gateway.core")
_ERROR_BODY_MAX: Final = 1 << 20
_TICK_S: Final = 0.25
_SEE_OFF_S: Final = 0.25


class Target(Protocol):
    """Where a route sends a request: a pool and the name its engines know the model by (None: the client's)."""

    @property
    def pool(self) -> str: ...
    @property
    def model(self) -> str | None: ...
    @property
    def route(self) -> str: ...
    @property
    def fallbacks(self) -> tuple[Target, ...]: ...
    @property
    def hedge(self) -> bool:
        """Whether a second endpoint is asked where the first keeps silent for unusually long."""

    @property
    def drop(self) -> bool:
        """Whether members that an engine would ignore are left out rather than refused."""


class RetryBudget:
    """Retries may add at most ``ratio`` to the load, beyond a small reserve: a dying fleet is not hit twice as hard."""

    def __init__(self, ratio: float = 0.2, reserve: float = 10.0) -> None:
        self.ratio = ratio
        self._reserve = reserve
        self._tokens = reserve

    def deposit(self) -> None:
        if self._tokens < self._reserve:  # as hardly ever
            self._tokens = min(self._reserve, self._tokens + self.ratio)

    def withdraw(self) -> bool:
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Gateway:
    """The core. ``route`` and ``ledger`` (None: no limits) are swapped by assignment when a snapshot arrives; a request
    keeps what it began with. ``store`` is where limits are kept. ``tracer`` (None: nobody asks) is swapped likewise.
    """

    def __init__(
        self,
        pools: Pools,
        transport: Transport,
        route: Callable[[InferenceRequest], Target],
        *,
        observer: Observer | None = None,
        keep_alive_s: float = 15.0,
    ) -> None:
        self.pools = pools
        self.transport = transport
        self.route = route
        self.observer = observer or Totals()
        self.tracer: Tracer | None = None
        self.keep_alive_s = keep_alive_s
        self.budget = RetryBudget()
        self.hedging: Terms = Hedging()
        self.directives = Directives()
        self.ledger: Ledger | None = None
        self.store: Store = Local()
        self.estimator = pools.estimator
        self.tokenizers = Tokenizers()
        self.decisions = Decisions()
        self.debug_header = False
        self.calls: set[Call] = set()
        self.ids: set[str] = set()
        self.stopping = False
        self.turn = turn()
        self.burden = burden()

    def rewritten(self, request: InferenceRequest, target: Target) -> Target:
        """``target``, asked for the models that rewrites of its pools put in place of the client's."""
        if not self.directives.rewrites or not (model := request.named or request.model):
            return target
        parts = []
        for part in (target, *target.fallbacks):
            found = self.directives.rewritten(part.pool, model, self.pools.rng.random())
            name = part.model if found is None else found.model
            parts.append(routes.Target(part.pool, name, (), part.route, drop=part.drop, hedge=part.hedge))
            if found is not None and len(parts) == 1:
                self.observer.rewrote(found.by, model if found.exact else "", found.model)
        return msgspec.structs.replace(parts[0], fallbacks=tuple(parts[1:]))

    async def serve(self, exchange: Exchange, target: Target | None = None, raw: UpstreamRequest | None = None) -> None:
        """Answer one exchange. Raises nothing a request can cause but cancellation and a client's broken connection.

        ``target``: where it goes, whatever routes say. ``raw``: what an endpoint is sent, whatever its engine; the
        answer then passes as it is.
        """
        with Call(self, exchange) as call:
            try:
                await call.admit(target)
                for attempt in call.attempts():
                    if attempt.delay:  # not part of what the endpoint is learned to take
                        await trio.sleep(attempt.delay)
                    if call.hedging is None or raw is not None:
                        with attempt:
                            await self._try(call, attempt, raw)
                    else:
                        await race(call, attempt, self._try)
            except GatewayError as error:
                self.failed(call, error)
                await exchange.fail(error)
                unlink(error)

    def failed(self, call: Call, error: GatewayError) -> None:
        """Note what its client is told instead of an answer."""
        call.status, call.reason, call.why = error.status, error.reason, error.why
        if isinstance(error, RateLimited):
            self.observer.limited(error.limit)
        elif error.why and isinstance(error, Overloaded):
            self.observer.turned_away(call.pool, call.request.identity.tier, error.why)

    def give_up(self) -> None:
        """The process ends: who waits is refused and every engine's connection closed, so that clients are told before
        theirs close.
        """
        self.stopping = True
        for pool in self.pools.by_name().values():
            if pool.gate is not None:
                pool.gate.close(Stopping)
        for call in list(self.calls):
            for leg in call.legs:
                if leg.sending is not None:
                    leg.sending.abort()

    async def run(self) -> None:
        """The watch over all calls, four times a second until cancelled: cuts engines that are too slow, lets silent
        streams show life. One task for all, because a cancel scope with a deadline costs each request 8 µs.
        """
        async with trio.open_nursery() as nursery:
            self.pools.alarmed(Alarms(nursery).set)
            while True:
                await trio.sleep(_TICK_S)
                now = self.turn.now
                for call in list(self.calls):
                    try:
                        call.tick(now, nursery)
                    except Exception:  # noqa: BLE001  a bug that one request meets ends nobody else's
                        _log.exception("the watch over request %s failed", call.request.id)
                await self.pools.patrol(now)

    async def _try(self, call: Call, attempt: Attempt, raw: UpstreamRequest | None = None) -> None:
        """One endpoint, one request to it, one answer to the client. Raises GatewayError if that failed."""
        member = attempt.member
        request = attempt.encoded() if raw is None else attempt.named(raw)
        attempt.expires = min(self.turn.now + attempt.policy.first_token, call.deadline)
        attempt.sending = sending = self.transport.send(member.endpoint, request)
        try:
            async with sending as upstream:
                if attempt.step is not None:
                    attempt.step.attributes["http.response.status_code"] = upstream.status
                if raw is not None:
                    await self._pass(call, attempt, upstream, body=raw.method != b"HEAD")
                    return
                ration = member.adapter.ration(upstream.headers)
                if ration is not None:
                    member.health.rationed(self.turn.now, ration)
                if not 200 <= upstream.status < 300:
                    raise await _refusal(member, upstream)
                await self._relay(call, attempt, upstream)
        except UpstreamError:
            if self.stopping:
                raise Stopping from None
            if attempt.stranded:  # as if refused: it has cost nothing, and what the endpoint is worth is known
                raise UpstreamError(f"{member.id} gives no sign of life", status=503, retryable=True) from None
            if attempt.timed_out:
                raise _timeout(call, attempt.policy) from None
            raise
        finally:
            attempt.expires, attempt.sending, attempt.stranded = math.inf, None, False

    async def _relay(self, call: Call, attempt: Attempt, upstream: UpstreamResponse) -> None:
        """Upstream's reads become the client's writes, one for one, from the first token on."""
        patience, patient_until = attempt.policy.between_tokens, math.inf
        decoder = attempt.decoder = attempt.member.adapter.decoder(call.request, upstream.status, upstream.headers)
        while True:
            data = await upstream.receive()
            attempt.heard, complete = self.turn.now, upstream.complete
            attempt.member.health.heard = attempt.heard
            out = decoder.feed(data) if data else b""
            if complete:
                out += decoder.finish()
            if decoder.error is not None:
                await call.give_way(attempt, out)
                raise decoder.error
            if complete or decoder.ended:
                attempt.expires = call.deadline
                await call.finish(attempt, out)
                if not complete:
                    await _see_off(upstream)
                return
            if decoder.progress < 2:
                attempt.hold(out, len(data))
            elif out:
                attempt.expires = call.deadline  # a client that reads slowly is not the engine's fault
                await call.send(attempt, out, self.turn.now)
                if not out.startswith(b":"):  # nor do its comments make an engine alive
                    patient_until = self.turn.now + patience
                attempt.expires = min(patient_until, call.deadline)

    async def _pass(self, call: Call, attempt: Attempt, upstream: UpstreamResponse, *, body: bool) -> None:
        """The answer as it is: whatever it says, its endpoint has answered."""
        member, patience = attempt.member, attempt.policy.between_tokens
        attempt.expires = call.deadline
        await call.passing(attempt, upstream.status, upstream.headers)
        while body:
            attempt.expires = min(self.turn.now + patience, call.deadline)
            data = await upstream.receive()
            attempt.heard = member.health.heard = self.turn.now
            attempt.expires = call.deadline  # a client that reads slowly is not the engine's fault
            if upstream.complete:
                await call.exchange.finish(data)
                return
            await call.exchange.send(data)
        await call.exchange.finish()


async def _see_off(upstream: UpstreamResponse) -> None:
    """An answer that is whole may lack its framing's end: with it the connection can be kept."""
    with trio.move_on_after(_SEE_OFF_S), contextlib.suppress(UpstreamError):
        await upstream.receive()


async def _refusal(member: Member, upstream: UpstreamResponse) -> UpstreamError:
    """An answer that is not 2xx, as the error it means: its status stands, though the rest of it be broken."""
    body = b""
    with contextlib.suppress(UpstreamError):
        while len(body) < _ERROR_BODY_MAX:
            data = await upstream.receive()
            body += data
            if not data or upstream.complete:
                break
    return member.adapter.error(upstream.status, upstream.headers, body[:_ERROR_BODY_MAX])


def _timeout(call: Call, policy: Policy) -> UpstreamTimeout:
    if call.gateway.turn.now >= call.deadline:
        return UpstreamTimeout("the request's deadline passed before the engine was done")
    if call.first_token == call.first_token:
        return UpstreamTimeout(f"the engine fell silent in mid-answer for more than {policy.between_tokens:g} s")
    return UpstreamTimeout(f"the engine gave no token within {policy.first_token:g} s")
