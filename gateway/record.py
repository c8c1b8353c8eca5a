"""What is left of a call: numbers for metrics and logs. (T)"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from gateway.attempt import NOTHING
from gateway.errors import GatewayError, UpstreamTimeout
from gateway.meter import CLIENT_GONE, Record
from gateway.types import Usage

if TYPE_CHECKING:
    from gateway.call import Call

_GONE: Final = (trio.Cancelled, trio.BrokenResourceError, trio.ClosedResourceError)
_NOTHING: Final = Usage()


def gone(error: BaseException | None) -> bool:
    """Whether a call that ends so has lost its client."""
    return isinstance(error, _GONE)


def _outcome(call: Call, error: BaseException) -> tuple[int, str]:
    """Status and reason of a call that ends by an exception."""
    if gone(error):
        if call.gateway.turn.now >= call.deadline:  # which the client keeps, too
            return UpstreamTimeout.status, UpstreamTimeout.reason
        return CLIENT_GONE, "client_gone"
    told = error if isinstance(error, GatewayError) else GatewayError
    return told.status, told.reason


def _known_model(call: Call) -> str:
    """The model asked for, if not only the client knows it: a route led here by it, or else the engine has it or a
    rewrite is for it.
    """
    gateway, model, attempt = call.gateway, call.request.model, call.attempt
    pool = gateway.pools.get(call.pool)
    if pool is None or not pool.bare:
        return model if call.pool else ""
    served = attempt is not None and any(card.id == model for card in attempt.member.cards)
    return model if served or gateway.directives.names(call.pool, model) else ""


def record_of(call: Call, error: BaseException | None) -> Record:
    """Of a call that is over, by ``error`` or well."""
    request, identity, attempt = call.request, call.request.identity, call.attempt
    endpoint, engine, (told, tokens) = "", "", NOTHING
    if attempt is not None:
        endpoint, engine, (told, tokens) = attempt.member.id, attempt.member.endpoint.engine, attempt.came
    status, reason = call.status if call.speaker is None else call.told, call.reason
    if error is not None:
        status, reason = _outcome(call, error)
    usage = told or (Usage(0, tokens) if tokens else _NOTHING)
    model = _known_model(call)
    return Record(  # by position, in the order of its members: by name it takes a µs longer
        model,
        call.pool,
        endpoint,
        request.operation,
        status,
        reason,
        request.stream,
        call.started,
        call.gateway.turn.now,
        call.first_token - call.started,
        usage.prompt,
        usage.completion,
        usage.cached,
        call.tried,
        identity.user,
        request.id,
        identity.tenant,
        identity.tier,
        call.route.route if call.route is not None else "",
        math.nan if call.admission is None else call.admission.queued_s,
        usage.reasoning,
        request.protocol,
        call.why,
        engine,
        call.failures,
        "" if call.trace is None else call.trace.id,
        call.trace is not None and call.trace.sampled,
        call.target,
        "" if model else request.model,
        call.hedged,
        call.beside,
    )
