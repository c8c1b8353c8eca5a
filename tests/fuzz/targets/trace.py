"""W3C Trace Context: what is believed of a caller's trace, judged by OpenTelemetry as well. (P)

Property: a context that is taken is the one that OpenTelemetry reads; what is passed on in its stead is again a valid
context of the same trace, with the same vendors' members, within the standard's limits. Nothing is ever raised.
"""

from __future__ import annotations

import re

from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import trace

_JUDGE = TraceContextTextMapPropagator()
_KEY = re.compile(rb"[a-z0-9][a-z0-9_*/@-]{0,255}")
_VALUE = re.compile(rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


def target(data: bytes) -> None:
    """traceparent, then tracestate as often as it is given, divided by zero bytes."""
    parent, *states = data.split(b"\0")
    headers = [(b"traceparent", parent), *((b"tracestate", state) for state in states)]
    context = trace.parse(headers)
    assert trace.parse([*headers, (b"traceparent", b"")]) in (context, None)
    if context is None:
        return
    carrier = {"traceparent": parent.decode("latin-1")}
    judged = get_current_span(_JUDGE.extract(carrier)).get_span_context()
    assert (context.trace_id, context.span_id) == (judged.trace_id, judged.span_id), (context, judged)
    assert context.sampled == judged.trace_flags.sampled, (context, judged)
    _limited(context.state, b",".join(states))
    for sampled in (False, True):
        passed = trace.Trace(context, context.trace_id, sampled, lambda bits: 1).headers(headers, None)
        again = trace.parse(passed)
        assert again is not None, passed
        assert (again.trace_id, again.state) == (context.trace_id, context.state), passed


def _limited(state: bytes, given: bytes) -> None:
    members = [member for member in state.split(b",") if member]
    assert len(state) <= 512, state
    assert len(members) <= 32, members
    keys = [member.partition(b"=")[0] for member in members]
    assert len(set(keys)) == len(keys), keys
    for member in members:
        key, _, value = member.partition(b"=")
        assert _KEY.fullmatch(key), member
        assert _VALUE.fullmatch(value), member
        assert member in given, member
