"""Two attempts at one request, the second begun because the first keeps silent for unusually long. (T)

Invariant: the client sees one answer at most; whichever leg it is not is cancelled before the other says another word,
which closes its engine's connection. Legs are tasks of one nursery inside the request's own, so that whatever ends the
request ends both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from gateway.attempt import Attempt, unlink
from gateway.call import Call
from gateway.errors import GatewayError
from gateway.member import Member
from gateway.repeatable import repeatable
from gateway.schedule.ask import Ask

Relay = Callable[[Call, Attempt], Awaitable[None]]
"""One endpoint, one request to it, one answer to the client."""

_SLACK: Final = 16.0
"""Tokens that an engine may have made of a stream before it notices that nobody listens."""
WON, LOST, FAILED, LEFT = "won", "lost", "failed", "left"
NO_BUDGET, NO_ROOM = "no_budget", "no_room"
"""What becomes of hedges: its answer was taken, the first one's, it failed, the client left or both failed; it was not
made for want of budget, or of an endpoint that would have been sooner.
"""


async def race(call: Call, attempt: Attempt, relay: Relay) -> None:
    """As ``with attempt: await relay(call, attempt)``, with a second leg elsewhere once the first has been silent for
    longer than nearly all of its kind. One hedge a request.

    Leaves `Attempt.failure` as that does: None if either leg has answered. Raises what `relay` does, one at a time.
    """
    if call.hedged or len(attempt.pool.members) < 2 or not attempt.pool.hedges.knows(attempt.kind):
        with attempt:
            await relay(call, attempt)
        return
    both = call.race = Race(call, attempt, relay)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.follow)
            await both.lead()
    except BaseExceptionGroup as group:
        raise _one_of(group) from None
    finally:
        call.race = None
        both.settle()
        if call.speaker is both.rival is not None:
            attempt.failure = None  # of a leg that nobody waits for any more
    if (error := both.taken()) is not None:
        try:
            raise error
        finally:
            del error  # it holds this frame


class Race:
    """Both legs of one request, ``rival`` being the one that may come later."""

    def __init__(self, call: Call, first: Attempt, relay: Relay) -> None:
        self.call = call
        self.first = first
        self.rival: Attempt | None = None
        self._relay = relay
        self._leading = trio.CancelScope()
        self._following = trio.CancelScope()
        self._running = True
        self._failed = False
        self._lent = 0.0
        self._first_error: Exception | None = None
        self._rival_error: Exception | None = None

    def taken(self) -> Exception | None:
        """What the request ends with, if not by an answer or by trying elsewhere. Not kept: errors hold frames."""
        first, rival = self._first_error, self._rival_error
        self._first_error = self._rival_error = None
        if first is not None and (rival is not None or self._overtaken):
            unlink(first)
            first = None
        return rival or first

    @property
    def _overtaken(self) -> bool:
        return self.rival is not None and self.call.speaker is self.rival

    def won(self, attempt: Attempt) -> None:
        """The client is to see the answer of this one."""
        call, now = self.call, self.call.gateway.turn.now
        call.race = None
        if attempt is self.first:
            self._following.cancel()
            return
        self._leading.cancel()
        if self._running:
            self.first.outrun(now)
        call.led_by(attempt)

    async def lead(self) -> None:
        """The first leg."""
        call = self.call
        with self._leading:
            try:
                with self.first:
                    await self._relay(call, self.first)
            except Exception as error:  # noqa: BLE001 — raised where the nursery is left
                self._first_error = error
            finally:
                self._running = False
        if self._overtaken:
            self.settle()
            self._vacated(self.first)
            return
        if call.speaker is None and self.rival in call.legs and not _final(self._first_error):
            call.race = None  # the second is alone now
            call.led_by(self.rival)
        else:
            self._following.cancel()

    async def follow(self) -> None:
        """The second leg, when it is due."""
        with self._following:
            delay = self._delay()
            if delay is not None and self.first.placement is not None:
                await trio.sleep_until(self.first.placement.at + delay)
                self._enter(delay)
            if self.rival is not None:
                try:
                    await self._chase(self.rival)
                finally:
                    if not self._overtaken:
                        self.settle()
                        self._vacated(self.rival)
            elif self.call.race is self:
                self.call.race = None

    def _delay(self) -> float | None:
        call, first = self.call, self.first
        assert call.hedging is not None
        return first.pool.hedges.delay(first.kind, first.expected, call.hedging, call.gateway.turn.now)

    def _enter(self, delay: float) -> None:
        """Choose the second leg, if there may be one."""
        call, first = self.call, self.first
        if call.speaker is not None or call.tried >= first.policy.attempts or not repeatable(call.request):
            return
        pool, now = first.pool, call.gateway.turn.now
        ask = first.ask.again(now)
        if pool.profile.at_home(ask, pool.members):
            return
        member = None if self._full(now) else self._sooner(ask, delay)
        if member is None:
            call.gateway.observer.hedged(pool.name, NO_ROOM, 0.0)
            return
        rival = Attempt(call, pool, member, ask, None, hedge=True)
        lent = ask.uncached(member.id) + max(_SLACK, rival.output)
        if not pool.hedges.account.lend(lent, now):
            call.gateway.observer.hedged(pool.name, NO_BUDGET, 0.0)
            return
        self.rival, self._lent = rival, lent
        call.hedged = LEFT
        call.seen.add(member.endpoint)

    def _full(self, now: float) -> bool:
        """Whether the first is slow for having much to do, like all others: one more request helps nobody then."""
        pool = self.first.pool
        return bool(pool.gate is not None and pool.gate.order) or self.call.gateway.pools.saturated(pool, now)

    def _sooner(self, ask: Ask, delay: float) -> Member | None:
        """The best of those who have room and should answer within the time that the first has had."""
        pool, now, seen = self.first.pool, ask.now, {*self.call.seen, self.first.member.endpoint}
        coming = 0 if pool.gate is None else pool.gate.coming
        for member in pool.rank(ask):
            free = member.usable(now) and not member.health.why and member.more(now) > coming
            if free and member.endpoint not in seen:
                expected = max(member.until - now, 0.0) + member.speed.takes(ask.uncached(member.id))
                if expected <= delay:
                    return member
        return None

    async def _chase(self, rival: Attempt) -> None:
        try:
            with rival:
                await self._relay(self.call, rival)
        except Exception as error:  # noqa: BLE001 — raised where the nursery is left
            if self._overtaken or not isinstance(error, GatewayError):
                self._rival_error = error
                self._leading.cancel()
        if not self._overtaken:
            self._failed = True
            self.call.race = None  # the first is alone again

    def settle(self) -> None:
        """It is decided: what the second leg has cost goes to the budget, and to nobody else's account."""
        call, rival, lent = self.call, self.rival, self._lent
        if rival is None or not lent:
            return
        self._lent = 0.0
        now, pool, loser, spent = call.gateway.turn.now, rival.pool, rival, 0.0
        if self._overtaken:
            loser, call.hedged = self.first, WON
        elif self._failed:
            call.hedged = FAILED
        elif call.speaker is not None:
            call.hedged = LOST
        call.beside = loser.member.id
        if rival.decoder is not None or not self._failed:  # else no engine has done anything for it
            spent = rival.ask.uncached(rival.member.id) + loser.made(now)
        pool.hedges.account.settle(lent, spent, now)
        call.gateway.observer.hedged(pool.name, call.hedged, spent)
        if call.explanation is not None:
            call.explanation.hedge = call.hedged

    def _vacated(self, leg: Attempt) -> None:
        """Its place is free, and no permit comes back to say so."""
        gate = leg.pool.gate
        if gate is not None and gate.order:
            gate.pump(self.call.gateway.turn.now, leg.member)


def _final(error: Exception | None) -> bool:
    """Whether it is an answer: what an engine says of the request itself another one would say, too."""
    return error is not None and not (isinstance(error, GatewayError) and error.status >= 500)


def _one_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Both legs end by the same cancellation, or one by a defect."""
    defects, _ = group.split(lambda error: not isinstance(error, (trio.Cancelled, BaseExceptionGroup)))
    found: BaseException = defects or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
