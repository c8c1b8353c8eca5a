"""One endpoint tried for a request: what it is sent, and what becomes of it. (T)

Invariant: what an attempt holds it gives back on leaving its block, whatever the reason; whoever failed is judged then.
"""

from __future__ import annotations

import logging
import math
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from gateway.errors import GatewayError, InvalidRequest, NotFound, Unsupported, UpstreamError, UpstreamTimeout
from gateway.member import Member
from gateway.meter import OTHER
from gateway.pool import Placement, Pool
from gateway.ports import Decoder, Sending
from gateway.schedule.ask import Ask
from gateway.types import Endpoint, InferenceRequest, UpstreamRequest, Usage
from gateway.wire import splice

if TYPE_CHECKING:
    from gateway.call import Call
    from gateway.trace import Step

_log = logging.getLogger("infer_gateway.core")
FULL: Final = (429, 503, 529)
"""Statuses of who has no room."""
ABSENT: Final = 404
"""Retryable where it is the model that is not there: the engine is well."""
BUG: Final = 500
"""An engine is alive that answers so, and some requests make any of them: whoever asks such may not take a pool away
from others.
"""
NOT_OFFERED: Final = 501
"""What the caller asked for is not there; the engine is well."""
NOTHING: Final[tuple[Usage | None, int]] = (None, 0)
"""Of an answer that did not come: usage and tokens."""
_MUTE_S: Final = 10.0
_HELD_MAX: Final = 4 << 20
_STEP_S: Final = 0.02
"""What engines take for a token, where nobody has seen them stream."""


class Attempt:
    """One endpoint tried. A failure that may be tried elsewhere ends here and is kept in ``failure``; others pass.
    ``before``: the failure of the endpoint tried before. ``hedge``: another one is under way meanwhile.

    ``expires``: when its phase has lasted too long, ``heard``: when its engine last said something. ``held``: what
    precedes its first token. ``dropped``: members that its engine was not given. ``came``: of its answer, usage and
    tokens, once it is over.
    """

    __slots__ = (
        "_collected", "_held_since", "ask", "before", "call", "came", "decoder", "delay", "dropped", "expires",
        "failure", "heard", "hedge", "held", "member", "model", "placement", "policy", "pool", "sending", "step",
        "stranded", "timed_out",
    )  # fmt: skip

    def __init__(
        self, call: Call, pool: Pool, member: Member, ask: Ask, before: GatewayError | None, *, hedge: bool = False
    ) -> None:
        self.call = call
        self.pool = pool
        self.member = member
        self.ask = ask
        self.model = ask.model
        self.policy = pool.policy
        self.before = before
        self.failure: GatewayError | None = None
        self.step: Step | None = None
        self.hedge = hedge
        self.placement: Placement | None = None
        self.decoder: Decoder | None = None
        self.sending: Sending | None = None
        self.expires = math.inf
        self.heard = call.started
        self.held = b""
        self._held_since = 0.0
        self._collected = 0
        self.came = NOTHING
        self.dropped: tuple[str, ...] = ()
        self.timed_out = self.stranded = False
        self.delay = pool.policy.retry_interval if call.tried else 0.0
        call.hasten(pool.policy)

    def encoded(self) -> UpstreamRequest:
        """What the endpoint is sent: without the members it would ignore, where the route wants it so. Raises
        GatewayError.
        """
        call = self.call
        request = call.named_request()
        if call.trace is not None:
            headers = call.trace.headers(request.headers, self.step)
            if headers is not request.headers:
                request = msgspec.structs.replace(request, headers=headers)
        try:
            return self._encoded(request)
        except splice.Crowded as error:
            raise InvalidRequest(f"the body cannot be passed on: {error}") from None

    def _encoded(self, request: InferenceRequest) -> UpstreamRequest:
        member = self.member
        dropped: tuple[str, ...] = ()
        while True:
            try:
                encoded = member.adapter.encode(request, member.endpoint, self.model)
            except Unsupported as error:
                request = self._without(request, error)
                dropped = (*dropped, *error.droppable)
            else:
                self.dropped = dropped
                return encoded

    def named(self, raw: UpstreamRequest) -> UpstreamRequest:
        """What the endpoint is sent of a request that passes as it is: all of it, within the trace."""
        trace = self.call.trace
        if trace is None:
            return raw
        trace.method = raw.method.decode("ascii", "replace")
        return msgspec.structs.replace(raw, extra=trace.headers(raw.extra, self.step))

    def _without(self, request: InferenceRequest, error: Unsupported) -> InferenceRequest:
        """The request without what ``error`` is about; raises it if that cannot be."""
        if not self.call.lenient or not error.droppable:
            raise error
        body = splice.remove(request.body, error.droppable)
        if len(body) == len(request.body):
            raise error
        return msgspec.structs.replace(request, body=body)

    def __enter__(self) -> Endpoint:
        member, call = self.member, self.call
        self.placement = self.pool.place(self.ask, member, call.gateway.turn.now)
        call.tried += 1
        if self.hedge:
            call.legs = (*call.legs, self)
        else:
            call.led_by(self)
            call.legs = (self,)
        if call.explanation is not None:
            call.explanation.tried.append(member.id)
        self.step = call.step("attempt")
        return member.endpoint

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        member, call = self.member, self.call
        placement, now = self.placement, call.gateway.turn.now
        assert placement is not None
        if self._collected:
            call.gateway.burden.buffered.held -= self._collected
        call.legs = () if len(call.legs) == 1 else tuple(leg for leg in call.legs if leg is not self)
        usage, tokens = self.came = counted(self.decoder)
        placement.left(now, usage, tokens)
        outcome = "ok" if error is None else error.reason if isinstance(error, GatewayError) else "cancelled"
        # one that has left has no series any more: a new one would stay for ever
        call.gateway.observer.attempted(member.pool, OTHER if member.gone else member.id, outcome)
        if self.step is not None:
            self._trace(self.step, outcome)
        if error is None:
            member.succeeded(now, placement.probe)
            return False
        if outcome != "cancelled":
            call.failures = (*call.failures, (member.id, outcome))
        if not isinstance(error, (UpstreamError, UpstreamTimeout)):
            if self.before is not None and isinstance(error, (InvalidRequest, NotFound)):
                self.failure = self.before  # it was well asked of the one before, and this one cannot stand in
            return self.failure is not None
        if error.status == ABSENT:
            self._miss(error)
        self._judge(error, placement.probe)
        if error.retryable and call.speaker is not self:
            self.failure = unlink(error)
            self.held = b""
            return True
        return False

    # -- while it runs ------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """End a phase that took too long, by closing the engine's connection; whether that was done."""
        placement, heeded = self.placement, self.call.speaker is self
        assert placement is not None
        placement.due(now)
        self.stranded = not heeded and placement.stranded(now)
        mute = heeded and self.member.up is False and now > self.heard + _MUTE_S  # vLLM stops with connections open
        if self.sending is None or not (now > self.expires or mute or self.stranded):
            return False
        self.timed_out = not self.stranded
        self.sending.abort()
        return True

    def hold(self, out: bytes, size: int) -> None:
        """Keep what precedes the first token, so that an engine that fails there can be replaced unseen. ``size``: how
        much more of the answer is kept for it, if only to be looked at when all is there, in bytes. Raises
        UpstreamError where that has no end, Overloaded where the process holds all it may.
        """
        burden = self.call.gateway.burden
        self._collected += size
        burden.buffered.held += size
        if burden.buffered.spent:
            raise burden.no_room()
        if out and not self.held:
            self._held_since = self.call.gateway.turn.now
        self.held += out
        if len(self.held) > _HELD_MAX:
            raise UpstreamError("the engine goes on and on without a token", retryable=True)

    def held_for(self, now: float) -> float:
        """Seconds since there is something held."""
        return now - self._held_since

    def with_preamble(self, out: bytes) -> bytes:
        """What was held, and ``out``."""
        held, self.held = self.held, b""
        return held + out if held else out

    # -- as hedges see it ---------------------------------------------------------------------------------------------

    @property
    def kind(self) -> tuple[str, bool]:
        """Of requests that take alike."""
        return self.call.request.operation, self.call.request.stream

    @property
    def output(self) -> float:
        """Tokens that are made before anything of the answer is seen, as expected."""
        call = self.call
        return 0.0 if call.request.stream else call.gateway.estimator.output(call.request)

    @property
    def expected(self) -> float:
        """Seconds that were expected from dispatch to the first token, or to the whole of an answer that comes so."""
        assert self.placement is not None
        return self.placement.expected + self.output * self.member.speed.decode

    def learned(self, now: float) -> None:
        """The first token came, after so long. That of a hedge says nothing: the late ones among them are not seen."""
        if not self.hedge and self.placement is not None:
            self.pool.hedges.observe(self.kind, self.expected, now - self.placement.at, now)

    def outrun(self, now: float) -> None:
        """Another leg answers: this one would have taken longer than it has had."""
        self.learned(now)
        if self.placement is not None:
            self.placement.outrun(now)

    def made(self, now: float) -> float:
        """Tokens its engine has made so far; of an answer that comes whole, as many as there was time for, at most what
        was expected of it.
        """
        placement = self.placement
        if tokens := counted(self.decoder)[1]:
            return float(tokens)
        if placement is None or not self.output:
            return 0.0
        return min(
            self.output, max(0.0, now - placement.at - placement.expected) / (self.member.speed.decode or _STEP_S)
        )

    # -- when it is over ----------------------------------------------------------------------------------------------

    def _trace(self, step: Step, outcome: str) -> None:
        member, call = self.member, self.call
        step.ended = trio.current_time()
        if call.request.stream and call.speaker is self and call.first_token >= step.started:  # nan: it never came
            step.events = (("first token", call.first_token),)
        step.attributes |= {
            "infer_gateway.pool": member.pool,
            "infer_gateway.endpoint": member.id,
            "infer_gateway.engine": member.endpoint.engine,
            "server.address": member.endpoint.host,
            "server.port": member.endpoint.port,
            "gen_ai.request.model": self.model,
        }
        if self.hedge:
            step.attributes["infer_gateway.hedge"] = True
        if outcome != "ok":
            step.attributes["error.type"] = outcome

    def _miss(self, error: UpstreamError | UpstreamTimeout) -> None:
        """Who does not know the model and lists others has been given somebody else's address, or lacks an adapter:
        the rest of its pool may know it.
        """
        member = self.member
        if error.code != "model_not_found" or not member.cards or any(card.id == self.model for card in member.cards):
            return
        error.retryable = True
        if member.lacks != self.model:
            member.lacks = self.model
            listed = ", ".join([card.id for card in member.cards[:3]])
            told = "%s of %s does not serve %s, which others are asked for; it lists %s: is the address still its own?"
            _log.warning(told, member.id, member.pool, self.model, listed)

    def _judge(self, error: UpstreamError | UpstreamTimeout, probe: bool) -> None:
        """What the failure says about the endpoint: its own fault, a request to wait, or the caller's mistake."""
        now = self.call.gateway.turn.now
        of_its_own = 400 <= error.status < 500 and not error.retryable and error.status not in FULL
        if error.retry_after and not of_its_own:  # "later" to one request, too large, is not for others
            self.member.cool(now, error.retry_after)
        elif error.status in FULL:
            self.member.refused(now)  # not ill
        elif (error.retryable and error.status != ABSENT) or (error.status >= 500 and error.status != NOT_OFFERED):
            spare = self.pool.spare if error.status == BUG and not error.retryable else None
            rest = self.member.failed(now, probe, spare)
            if rest:
                cause = error.__cause__ or error
                _log.warning("%s of %s is set aside for %g s: %s", self.member.id, self.member.pool, rest, cause)
        else:
            self.member.succeeded(now, probe)


def counted(decoder: Decoder | None) -> tuple[Usage | None, int]:
    """Of an answer, its usage and the tokens that came. A bug in somebody's adapter must not keep what its request
    holds: then nothing is known.
    """
    if decoder is None:
        return NOTHING
    try:
        return decoder.usage, decoder.tokens
    except Exception:  # noqa: BLE001
        _log.exception("an adapter does not say what came of an answer")
        return NOTHING


_Error = TypeVar("_Error", bound=BaseException)


def unlink(error: _Error) -> _Error:
    """Forget the frames an error came through: it is kept by one of them, and they hold the request's body."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error
