"""One client request from arrival to settlement, whatever endpoints are tried for it. (T)

Invariant: what a call holds it gives back on leaving its block, whatever the reason; the client sees the start of at
most one engine's answer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from gateway.admission import Admission
from gateway.attempt import ABSENT, FULL, Attempt, counted
from gateway.auth import allowed
from gateway.config.snapshot import Policy
from gateway.errors import Forbidden, GatewayError, NoEndpoints, Overloaded
from gateway.gate import SHED, Gate
from gateway.member import Member
from gateway.meter import Histogram, Record
from gateway.pool import Pool
from gateway.ports import Exchange
from gateway.record import gone, record_of
from gateway.schedule.ask import Ask
from gateway.schedule.explain import Explanation
from gateway.types import Endpoint, Headers, InferenceRequest, Usage

if TYPE_CHECKING:
    from gateway.core import Gateway, Target
    from gateway.hedge import Race
    from gateway.hedges import Terms
    from gateway.trace import Step

_ROLE_HOLD_S: Final = 0.5
_COMMENT_HOLD_S: Final = 10.0
_log: Final = logging.getLogger("infer_gateway.core")
_DEBUG: Final = (b"x-debug-schedule", b"1")
"""A request with this header has its placement explained, in a header of the answer."""
DROPPED: Final = b"x-infer-gateway-dropped"
"""Names the members of a request that its engine was not given, comma-separated."""


class Call:
    """One client request from arrival to settlement: `with` opens it, leaving settles it. ``blind``: it was
    answered where nobody saw the answer. ``told``: the status of the answer that its client sees.

    ``legs``: the attempts under way, one unless it is hedged. ``attempt``: the last one that was tried in its turn, or
    that is alone by now. ``speaker``: the one whose answer the client sees the start of, for good. ``race``: while it
    is open which of two that will be, or a second one may still come. ``hedging``: by which terms, if at all.
    ``hedged``: what became of the second one (`gateway.hedge`), ``beside``: the endpoint whose answer was not taken.
    """

    __slots__ = (
        "__weakref__", "_ask", "_done", "_owns_id", "_ranking", "admission", "attempt", "beside", "blind", "deadline",
        "exchange", "explanation", "failures", "first_token", "gaps", "gateway", "hedged", "hedging", "last_sent",
        "legs", "pool", "race", "reason", "request", "route", "seen", "speaker", "started", "status", "target", "told",
        "trace", "tried", "why",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, exchange: Exchange) -> None:
        self.gateway = gateway
        self.exchange = exchange
        self.request = exchange.request
        self.started = self.last_sent = gateway.turn.now
        self.deadline = self.request.deadline
        self.attempt: Attempt | None = None
        self.speaker: Attempt | None = None
        self.legs: tuple[Attempt, ...] = ()
        self.seen: set[Endpoint] = set()
        self.race: Race | None = None
        self.hedging: Terms | None = None
        self.hedged = self.beside = ""
        self.explanation: Explanation | None = None
        self.first_token = math.nan
        self.status = self.told = 200
        self.reason = self.why = ""
        self.pool = self.target = ""
        self.tried = 0
        self.failures: tuple[tuple[str, str], ...] = ()
        self.gaps: Histogram | None = None
        tracer = gateway.tracer
        self.trace = None if tracer is None else tracer.begin(self.request, self.started)
        self.blind = False
        self._owns_id = False
        self._done = False
        self.route: Target | None = None
        self._ask: tuple[Pool, Ask] | None = None
        self._ranking: Iterator[Member] = iter(())
        self.admission: Admission | None = None

    def __enter__(self) -> Call:
        gateway, request_id = self.gateway, self.request.id
        gateway.calls.add(self)
        if request_id not in gateway.ids:
            gateway.ids.add(request_id)
            self._owns_id = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gateway = self.gateway
        gateway.calls.discard(self)
        if self._owns_id:
            gateway.ids.discard(self.request.id)
        record = record_of(self, error)
        if self.admission is not None:
            self.admission.leave(record.ended, self._used(record, left=gone(error)))
        if self.hedging is not None and (pool := gateway.pools.get(self.pool)) is not None:
            tokens = max(record.tokens_in - record.tokens_cached, 0) + record.tokens_out
            pool.hedges.account.earn(self.hedging.budget * tokens, record.ended)
        try:
            gateway.observer.finished(record)
            if gateway.tracer is not None and self.trace is not None and self.trace.sampled:
                gateway.tracer.end(self.trace, record)
        except Exception:  # noqa: BLE001  whoever notes what became of requests must not change what becomes of them
            _log.exception("what became of request %s is not noted", record.id)
        self.attempt = self.speaker = None  # they know the call, and no garbage collector is to be needed
        self.legs = ()

    def _used(self, record: Record, *, left: bool) -> Usage | None:
        """What the caller has to answer for: what engines did for it, on a prompt and a whole answer that it did not
        wait for as well; not what they failed at.
        """
        attempt = self.attempt
        usage = None if attempt is None else attempt.came[0]
        if usage is not None:
            return usage
        if self.blind and self.admission is not None:
            return self.admission.expected
        if record.tokens_out or self.committed:
            return Usage(completion=record.tokens_out)
        if not left or attempt is None:
            return None
        return Usage(completion=round(attempt.made(record.ended)) if attempt.failure is None else 0)

    # -- before any endpoint is asked -------------------------------------------------------------------------------

    async def admit(self, target: Target | None = None) -> None:
        """May the caller have the model, is it within its limits, is there room: waits for all of it here, and only
        here. ``target``: where it goes, whatever routes say. Raises GatewayError.
        """
        gateway, request = self.gateway, self.request
        if request.identity.models and not allowed(request.identity, request.model):
            raise Forbidden(f"you may not use the model `{request.model[:256]}`", param="model")
        self.route = target = gateway.rewritten(request, target or gateway.route(request))
        gateway.budget.deposit()
        if target.hedge and gateway.hedging.budget:
            self.hedging = gateway.hedging
        for part in (target, *target.fallbacks):
            pool = gateway.pools.get(part.pool)
            if pool is not None:
                self.target = part.model or ""
                self._shed(pool)
                if gateway.ledger is not None or pool.gate is not None:
                    await self._enter(pool, part.model or request.model, target.route)
                return

    def _shed(self, pool: Pool) -> None:
        """Where nobody waits for room, who is not to wait for it is refused by the figures that engines give."""
        gateway, objective = self.gateway, self.request.objective
        urgent = pool.gate is not None or gateway.directives.priority(pool.name, objective) >= 0
        if not urgent and gateway.pools.saturated(pool, gateway.turn.now):
            self.pool = pool.name
            raise Overloaded(SHED, retry_after=1.0, why="sheddable")

    async def _enter(self, pool: Pool, model: str, route: str) -> None:
        gateway, request = self.gateway, self.request
        self.pool = pool.name
        ask = self._asked(pool, model)
        self._ask = pool, ask
        exact = await self._count(ask) if gateway.tokenizers else None
        admission = self.admission = Admission(request, gateway.estimator.tokens(request, len(ask.text), exact))
        if gateway.ledger is not None:
            await admission.reserve(gateway.ledger, gateway.store, route, ask.now)
        if pool.gate is not None:
            ask.now = gateway.turn.now
            self.hasten(pool.policy)
            await self._queue(admission, pool.gate, ask)

    async def _queue(self, admission: Admission, gate: Gate, ask: Ask) -> None:
        step = self.step("queue")
        try:
            await admission.queue(gate, ask, self.deadline)
        finally:
            if step is not None:
                step.ended = trio.current_time()

    def step(self, name: str) -> Step | None:
        """Begin one of a request that is followed."""
        trace = self.trace
        return trace.step(name, trio.current_time()) if trace is not None and trace.sampled else None

    def hasten(self, policy: Policy) -> None:
        """The first pool's limit on the whole of a request, where its client has set none."""
        if self.deadline == math.inf and policy.request < math.inf:
            self.deadline = self.started + policy.request

    async def _count(self, ask: Ask) -> int | None:
        """The prompt's tokens, if there is a tokenizer for the model."""
        tokenizers, model = self.gateway.tokenizers, self.request.model
        exact = tokenizers.count_nowait(model, ask.text)
        if exact is None:
            exact = await tokenizers.count(model, ask.text)
        if exact is not None:
            ask.counted(exact)
        return exact

    def led_by(self, attempt: Attempt) -> None:
        """It is the one that counts from now on, whatever else is under way."""
        self.attempt = attempt
        self.pool = attempt.member.pool
        if self.admission is not None:
            self.admission.counted(attempt.member)

    @property
    def committed(self) -> bool:
        """Whether the client has seen the start of an answer: no other endpoint may be tried."""
        return self.speaker is not None

    @property
    def lenient(self) -> bool:
        """Whether what an engine would ignore is left out rather than refused."""
        return self.route is not None and self.route.drop

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def attempts(self) -> Iterator[Attempt]:
        """Endpoints to try, best first, until one attempt succeeds. Ends by raising the error the client should see."""
        gateway, target = self.gateway, self.route
        assert target is not None
        failure: GatewayError | None = None
        seen, wait = self.seen, math.inf
        left_out = ""
        for part in self._parts(target):
            pool = gateway.pools.get(part.pool)
            if pool is None:
                continue
            if not self.pool:
                self.pool, self.target = pool.name, part.model or ""
            ask = self._let_in(pool, part.model or self.request.model)
            self._ranking = self._ranked(pool, ask)
            for member in self._ranking:
                if failure is not None:
                    if member.endpoint in seen:
                        continue
                    if not self._may_retry(pool.policy, failure):
                        raise _with_advice(failure)
                    gateway.observer.failed_over(pool.name, failure.reason)
                self.target = part.model or ""
                attempt = Attempt(self, pool, member, ask, failure)
                yield attempt
                if attempt.failure is None:
                    return
                failure = attempt.failure
                seen.add(member.endpoint)
            left_out = left_out or ask.left_out
            wait = min(wait, pool.retry_after(gateway.turn.now))
        if failure is not None:
            raise _with_advice(failure)
        if left_out:
            refusal = f"every endpoint was left out by the scheduler's filter {left_out}"
            raise Overloaded(refusal, retry_after=1.0, why=left_out)
        raise NoEndpoints(
            f"no endpoint for model '{self.request.model}' is ready; try again shortly",
            retry_after=wait if wait < math.inf else 1.0,
        )

    def _ranked(self, pool: Pool, ask: Ask) -> Iterator[Member]:
        """Best first; what it took to find the first one is told."""
        step, since = self.step("schedule"), perf_counter()
        ranking = pool.rank(ask)
        first = next(ranking, None)
        took = perf_counter() - since
        if step is not None:
            step.ended = step.started + took
            step.attributes["infer_gateway.pool"] = pool.name
        if first is None:
            return ranking
        hits = ask.hits.get(first.id, 0.0)
        self.gateway.observer.decided(pool.name, took, ask.tokens, hits)
        if step is not None:
            step.attributes["infer_gateway.endpoint"] = first.id
            step.attributes["infer_gateway.prefix_hit_tokens"] = round(hits)
        return chain((first,), ranking)

    def _parts(self, target: Target) -> Sequence[Target]:
        """The target and its fallbacks in their order; those where nobody is to be asked now come last."""
        if not target.fallbacks:
            return (target,)
        pools, now = self.gateway.pools, self.gateway.turn.now
        return sorted((target, *target.fallbacks), key=lambda part: not pools.usable(part.pool, now))

    def next_best(self, count: int) -> list[Member]:
        """Those that would be tried next in the pool of the attempt under way, which is the last one then."""
        return list(islice(self._ranking, count))

    def _let_in(self, pool: Pool, model: str) -> Ask:
        """What the pool is asked, by a request that it has let in or, being a fallback, lets in now."""
        known = self._ask
        if known is not None and known[0] is pool and known[1].model == model:
            known[1].now = self.gateway.turn.now
            return known[1]
        ask = self._asked(pool, model)
        if self.admission is not None:
            self.admission.move(pool.gate, ask.now, ask.priority)
        return ask

    def _asked(self, pool: Pool, model: str) -> Ask:
        """What the pool is asked, written down if somebody wants to know why it answers as it does."""
        gateway = self.gateway
        now = gateway.turn.now
        ask = pool.ask(self.request, model, now)
        ask.priority = gateway.directives.priority(pool.name, self.request.objective)
        if gateway.decisions.due(now) or (gateway.debug_header and _DEBUG in self.request.headers):
            ask.explanation = self.explanation = Explanation(ask, pool.name, pool.profile.name)
            gateway.decisions.keep(ask.explanation)
        return ask

    def named_request(self) -> InferenceRequest:
        """The request under an id no other attempt in flight has: vLLM tells its requests apart by it."""
        if self._owns_id and self.tried == 1:
            return self.request
        suffix = f"-{self.tried}" if self._owns_id else f"-{id(self):x}-{self.tried}"
        return msgspec.structs.replace(self.request, id=self.request.id[: 128 - len(suffix)] + suffix)

    def _may_retry(self, policy: Policy, failure: GatewayError) -> bool:
        """A refusal for want of room, or of the model, has cost nothing and is not charged to the budget."""
        free = failure.status in FULL or failure.status == ABSENT
        return self.tried < policy.attempts and (free or self.gateway.budget.withdraw())

    # -- towards the client -------------------------------------------------------------------------------------

    async def send(self, attempt: Attempt, out: bytes, now: float) -> None:
        """From the first token on: everything there is, in one write."""
        if self.speaker is not attempt:
            await self._begin(attempt, now)
        elif self.first_token != self.first_token:  # nan: a preamble was all that the client had seen
            self.answered(attempt, now)
        if self.gaps is not None:
            self.gaps.observe(now - self.last_sent)
        elif self.request.stream:
            self.gaps = self.gateway.observer.gaps(self.pool)
        self.last_sent = now
        if self.trace is not None and self.trace.content:
            self.trace.say(out)
        await self.exchange.send(attempt.with_preamble(out) if attempt.held else out)

    async def finish(self, attempt: Attempt, out: bytes) -> None:
        if self.speaker is not attempt:
            await self._begin(attempt, self.gateway.turn.now)
        elif self.first_token != self.first_token:
            self.answered(attempt, self.gateway.turn.now)
        if self.trace is not None and self.trace.content:
            self.trace.say(out)
        self._done = True
        await self.exchange.finish(attempt.with_preamble(out) if attempt.held else out)

    def answered(self, attempt: Attempt, now: float) -> None:
        """The first token is here, if it was not before."""
        if self.first_token == self.first_token:  # not nan
            return
        self.first_token = now
        if self.explanation is not None:
            self.explanation.ttft = now - self.started
        if attempt.placement is not None:
            attempt.placement.answered(now)
            if self.hedging is not None:
                attempt.learned(now)

    async def passing(self, attempt: Attempt, status: int, headers: Headers) -> None:
        """The start of an answer that nobody reads on its way: no other endpoint may be tried."""
        self.answered(attempt, self.gateway.turn.now)
        self.speaker, self.told = attempt, status
        await self.exchange.start(status, (*headers, *self._fields()))

    async def give_way(self, attempt: Attempt, out: bytes) -> None:
        """Before an error of the engine is raised: what was valid before it, if the client has seen the start."""
        out = attempt.with_preamble(out)
        begun = attempt.decoder is not None and attempt.decoder.progress == 2
        if out and begun and self.speaker is not attempt:  # without anything to show the error is all of the answer
            await self._begin(attempt, math.nan)
        if self.speaker is attempt and out:
            await self.exchange.send(out)

    async def _begin(self, attempt: Attempt, first_token: float) -> None:
        """From here on it is this answer that the client sees; never returns if it sees another's already.
        ``first_token``: when it came; nan: it has not.
        """
        if self.speaker is not None:
            await trio.sleep_forever()  # a loser is cancelled before its winner goes on
        self.speaker = attempt
        if self.race is not None:
            self.race.won(attempt)
        if first_token == first_token:
            self.answered(attempt, first_token)
        assert attempt.decoder is not None
        if not self.exchange.started:  # a keep-alive may have started it
            await self.exchange.start(200, ((b"content-type", attempt.decoder.content_type), *self._fields()))

    def _fields(self) -> Headers:
        """What the client is told beside the answer."""
        headers: Headers = () if self.admission is None else self.admission.headers
        if self.attempt is not None and self.attempt.dropped:
            headers = (*headers, (DROPPED, ", ".join(self.attempt.dropped).encode("ascii", "replace")))
        if self.explanation is not None and self.gateway.debug_header and _DEBUG in self.request.headers:
            headers = (*headers, (b"x-schedule-decision", self.explanation.as_field()))
        return headers

    def tick(self, now: float, nursery: trio.Nursery) -> None:
        """Cut engines that are too slow; then what a silent stream needs."""
        if self.admission is not None and self.attempt is not None and self.attempt.decoder is not None:
            self.admission.progress(counted(self.attempt.decoder)[1], now)
        cut = [leg for leg in self.legs if leg.tick(now)]
        waiting = self.admission is not None and self.admission.waiting
        if not cut and not waiting and not self._done and self.request.stream:
            self._show_life(now, nursery)

    def _show_life(self, now: float, nursery: trio.Nursery) -> None:
        """Release a preamble held too long; comment on a long silence."""
        leg = None if self.committed else self.attempt
        if leg is not None and leg.held and (self.race is None or leg.held.startswith(b":")):
            patience = _COMMENT_HOLD_S if leg.held.startswith(b":") else _ROLE_HOLD_S
            if leg.held_for(now) < patience:
                return
            if leg.held.startswith(b":"):  # passed on in our own words, which do not stand in failover's way
                leg.held = b""
                self._comment()
            else:
                nursery.start_soon(self._release, leg)
        elif now - self.last_sent >= self.gateway.keep_alive_s:
            self.last_sent = now
            self._comment()

    def _comment(self) -> None:
        """Should it begin the reply, it tells what is known by now; a failover may have more to tell, and cannot."""
        self.exchange.keep_alive(() if self.exchange.started else self._fields())

    async def _release(self, leg: Attempt) -> None:
        if self._done or self.committed or self.race is not None or not leg.held or leg not in self.legs:
            return
        try:
            await self._begin(leg, math.nan)
            await self.exchange.send(leg.with_preamble(b""))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the call's own task learns of it


def _with_advice(failure: GatewayError) -> GatewayError:
    """Engines that are full seldom say when to come again."""
    if failure.status in (429, 503) and failure.retry_after is None:
        failure.retry_after = 1.0
    return failure
