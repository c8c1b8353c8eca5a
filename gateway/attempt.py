"""One endpoint tried for a request: what it is sent, and what becomes of it. (T)

Invariant: what an attempt holds it gives back on leaving its block, whatever the reason; whoever failed is judged then.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from gateway.errors import GatewayError, InvalidRequest, NotFound, Unsupported, UpstreamError, UpstreamTimeout
from gateway.member import Member
from gateway.pool import Pool
from gateway.schedule.ask import Ask
from gateway.types import Endpoint, InferenceRequest, UpstreamRequest
from gateway.wire import splice

if TYPE_CHECKING:
    from gateway.call import Call
    from gateway.trace import Step

_log = logging.getLogger("infer_gateway.core")
FULL: Final = (429, 503, 529)
"""Statuses of who has no room."""
NOT_OFFERED: Final = 501
"""What the caller asked for is not there; the engine is well."""


class Attempt:
    """One endpoint tried. A failure that may be tried elsewhere ends here and is kept in ``failure``; others pass.
    ``before``: the failure of the endpoint tried before.
    """

    __slots__ = ("ask", "before", "call", "delay", "failure", "member", "model", "policy", "pool", "step")

    def __init__(self, call: Call, pool: Pool, member: Member, ask: Ask, before: GatewayError | None) -> None:
        self.call = call
        self.pool = pool
        self.member = member
        self.ask = ask
        self.model = ask.model
        self.policy = pool.policy
        self.before = before
        self.failure: GatewayError | None = None
        self.step: Step | None = None
        self.delay = pool.policy.retry_interval if call.tried else 0.0
        call.hasten(pool.policy)

    def encoded(self) -> UpstreamRequest:
        """What the endpoint is sent: without the members it would ignore, where the route wants it so. Raises
        GatewayError.
        """
        call, member = self.call, self.member
        request = call.named_request()
        if call.trace is not None:
            headers = call.trace.headers(request.headers, self.step)
            if headers is not request.headers:
                request = msgspec.structs.replace(request, headers=headers)
        dropped: tuple[str, ...] = ()
        while True:
            try:
                encoded = member.adapter.encode(request, member.endpoint, self.model)
            except Unsupported as error:
                request = self._without(request, error)
                dropped = (*dropped, *error.droppable)
            else:
                call.dropped = dropped
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
        call.placement = self.pool.place(self.ask, member, call.gateway.turn.now)
        if call.admission is not None:
            call.admission.counted(member)
        call.tried += 1
        call.decoder = None
        call.member = member
        call.pool = member.pool
        call.endpoint = member.id
        if call.explanation is not None:
            call.explanation.tried.append(member.id)
        self.step = call.step("attempt")
        return member.endpoint

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        member, call = self.member, self.call
        placement, decoder, call.placement = call.placement, call.decoder, None
        assert placement is not None
        if decoder is None:
            placement.left(call.gateway.turn.now, None)
        else:
            placement.left(call.gateway.turn.now, decoder.usage, decoder.tokens)
        outcome = "ok" if error is None else error.reason if isinstance(error, GatewayError) else "cancelled"
        call.gateway.observer.attempted(member.pool, member.id, outcome)
        if self.step is not None:
            self._trace(self.step, outcome)
        if error is None:
            member.succeeded(call.gateway.turn.now, placement.probe)
            return False
        if outcome != "cancelled":
            call.failures = (*call.failures, (member.id, outcome))
        if not isinstance(error, (UpstreamError, UpstreamTimeout)):
            if self.before is not None and isinstance(error, (InvalidRequest, NotFound)):
                self.failure = self.before  # it was well asked of the one before, and this one cannot stand in
            return self.failure is not None
        self._judge(error, placement.probe)
        if error.retryable and not self.call.committed:
            self.failure = unlink(error)
            self.call.drop_preamble()
            return True
        return False

    def _trace(self, step: Step, outcome: str) -> None:
        member, call = self.member, self.call
        step.ended = trio.current_time()
        if call.request.stream and call.first_token >= step.started:  # nan: it never came
            step.events = (("first token", call.first_token),)
        step.attributes |= {
            "infer_gateway.pool": member.pool,
            "infer_gateway.endpoint": member.id,
            "infer_gateway.engine": member.endpoint.engine,
            "server.address": member.endpoint.host,
            "server.port": member.endpoint.port,
            "gen_ai.request.model": self.model,
        }
        if outcome != "ok":
            step.attributes["error.type"] = outcome

    def _judge(self, error: UpstreamError | UpstreamTimeout, probe: bool) -> None:
        """What the failure says about the endpoint: its own fault, a request to wait, or the caller's mistake."""
        now = self.call.gateway.turn.now
        if error.retry_after is not None:
            self.member.cool(now, error.retry_after)
        elif error.status in FULL:
            self.member.refused(now)  # not ill
        elif error.retryable or (error.status >= 500 and error.status != NOT_OFFERED):
            rest = self.member.failed(now, probe)
            if rest:
                cause = error.__cause__ or error
                _log.warning("%s of %s is set aside for %g s: %s", self.member.id, self.member.pool, rest, cause)
        else:
            self.member.succeeded(now, probe)


_Error = TypeVar("_Error", bound=BaseException)


def unlink(error: _Error) -> _Error:
    """Forget the frames an error came through: it is kept by one of them, and they hold the request's body."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error
