"""What of a finished request goes into spans: one for itself, one for each step, in OpenTelemetry's words. (P)

Invariant: every text is bounded and can be written as UTF-8, whatever clients and engines sent; no header field's value
and, unless `Trace.content` says so, nothing that was asked or answered is in a span.

Source: OpenTelemetry's conventions for generative AI (client inference), HTTP and RPC spans, as of late 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from gateway.meter import Record
from gateway.outcome import CLIENT_GONE, is_error
from gateway.spoken import answered, asked
from gateway.trace import Step, Trace
from gateway.types import Operation

Value = str | int | float | bool
OPERATIONS: Final[Mapping[str, str]] = {
    Operation.CHAT: "chat",
    Operation.COMPLETIONS: "text_completion",
    Operation.EMBEDDINGS: "embeddings",
    Operation.RESPONSES: "chat",
    Operation.RERANK: "rerank",
    Operation.MESSAGES: "chat",
    Operation.COUNT_TOKENS: "count_tokens",
    Operation.TOKENIZE: "tokenize",
    Operation.DETOKENIZE: "detokenize",
}
_PROVIDERS: Final = {"gemini": "gcp.gemini"}
"""Engines that the conventions call otherwise."""
_CANCELLED: Final = "cancelled"
"""The outcome of an attempt that nobody waits for any more: no error of its own."""
_TEXT_MAX: Final = 1024
_NAME_MAX: Final = 256
_CONTENT_MAX: Final = 64 * 1024
_JSON_MAX: Final = 1 << 21


class Span(msgspec.Struct, frozen=True, gc=False):
    """``parent_id`` 0: none. ``error``: what failed, "" if nothing did. ``events``: (name, time)."""

    name: str
    kind: Literal["server", "client", "internal"]
    span_id: int
    parent_id: int
    started: float
    ended: float
    attributes: Mapping[str, Value]
    events: tuple[tuple[str, float], ...] = ()
    error: str = ""


class Followed(msgspec.Struct, frozen=True, gc=False):
    """A finished request that was sampled. ``model`` and ``path`` as its client wrote them; ``body`` b"" where content
    is not wanted.
    """

    trace: Trace
    record: Record
    model: str = ""
    path: str = ""
    body: bytes = b""


def of(followed: Followed) -> list[Span]:
    """Its own span first, then its steps in the order in which they began."""
    trace, record = followed.trace, followed.record
    operation = OPERATIONS.get(record.operation, "")
    steps = [_step(step, trace.span_id, operation) for step in trace.steps]
    parent_id = 0 if trace.parent is None else trace.parent.span_id
    failed = is_error(record.status, record.reason)
    own = Span(
        _name(followed, operation),
        "server",
        trace.span_id,
        parent_id,
        record.started,
        max([record.ended, *[step.ended for step in steps]]),
        _cleaned(_said(followed) if trace.content and operation else {}, _JSON_MAX)
        | _cleaned(_own(followed, operation, failed)),
        error=record.reason if failed else "",
    )
    return [own, *steps]


def _name(followed: Followed, operation: str) -> str:
    """Only names that the configuration or an engine knows: others would make a name of their own each."""
    if not operation:
        return clean(followed.trace.method, _NAME_MAX)
    return clean(f"{operation} {followed.record.model}".strip(), _NAME_MAX)


def _own(followed: Followed, operation: str, failed: bool) -> dict[str, Value]:
    record = followed.record
    found: dict[str, Value] = {
        **_protocol(followed),
        **(_generation(followed, operation) if operation else {}),
        "error.type": (record.reason or str(record.status)) if failed else "",
        "infer_gateway.request_id": record.id,
        "infer_gateway.route": record.route,
        "infer_gateway.pool": record.pool,
        "infer_gateway.endpoint": record.endpoint,
        "infer_gateway.tenant": record.tenant,
        "infer_gateway.tier": record.tier,
        "infer_gateway.reason": record.reason,
        "infer_gateway.why": record.why,
    }
    found = {name: value for name, value in found.items() if value}
    found["infer_gateway.attempts"] = record.attempts
    if record.queue_s == record.queue_s:  # not nan
        found["infer_gateway.queue_seconds"] = record.queue_s
    if record.ttft_s == record.ttft_s:
        found["infer_gateway.ttft_seconds"] = record.ttft_s
    return found


def _generation(followed: Followed, operation: str) -> dict[str, Value]:
    record = followed.record
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _provider(record.engine),
        "gen_ai.request.model": followed.model[:_NAME_MAX],
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.model": _answering(followed.trace) if record.status < 400 else "",
        "gen_ai.response.time_to_first_chunk": record.ttft_s if record.stream and record.ttft_s > 0 else 0.0,
        "gen_ai.usage.input_tokens": record.tokens_in,
        "gen_ai.usage.output_tokens": record.tokens_out,
        "gen_ai.usage.cache_read.input_tokens": record.tokens_cached,
        "gen_ai.usage.reasoning.output_tokens": record.tokens_reasoning,
    }


def _protocol(followed: Followed) -> dict[str, Value]:
    record = followed.record
    found: dict[str, Value] = {"infer_gateway.protocol": record.protocol}
    if record.protocol == "grpc":
        return found | {"rpc.system.name": "grpc", "infer_gateway.status": record.status}
    found |= {"http.request.method": followed.trace.method, "http.route": record.operation, "url.path": followed.path}
    if record.status != CLIENT_GONE:
        found["http.response.status_code"] = record.status
    return found


def _answering(trace: Trace) -> Value:
    """What the endpoint that answered calls the model."""
    attempts = [step for step in trace.steps if step.name == "attempt"]
    return attempts[-1].attributes.get("gen_ai.request.model", "") if attempts else ""


def _provider(engine: str) -> str:
    return _PROVIDERS.get(engine.lower(), engine.lower())


def _step(step: Step, parent_id: int, operation: str) -> Span:
    attributes = dict(step.attributes)
    if step.name == "attempt":
        engine = str(attributes.pop("infer_gateway.engine", ""))
        if operation:
            attributes |= {"gen_ai.operation.name": operation, "gen_ai.provider.name": _provider(engine)}
        else:
            attributes.pop("gen_ai.request.model", None)
    return Span(
        step.name,
        "client" if step.name == "attempt" else "internal",
        step.span_id,
        parent_id,
        step.started,
        step.ended,
        _cleaned(attributes),
        step.events,
        str(attributes["error.type"]) if attributes.get("error.type", _CANCELLED) != _CANCELLED else "",
    )


def _said(followed: Followed) -> dict[str, Value]:
    """The conversation as JSON, which is what an attribute can hold everywhere."""
    found: dict[str, Value] = {
        "gen_ai.input.messages": asked(followed.body, _CONTENT_MAX),
        "gen_ai.output.messages": answered(bytes(followed.trace.said), _CONTENT_MAX),
    }
    return {name: value for name, value in found.items() if value}


def _cleaned(attributes: Mapping[str, Value], limit: int = _TEXT_MAX) -> dict[str, Value]:
    return {name: clean(value, limit) if isinstance(value, str) else value for name, value in attributes.items()}


def clean(text: str, limit: int = _TEXT_MAX) -> str:
    """``text`` as far as it can be sent: lone surrogates cannot, nor can what never ends."""
    text = text[:limit]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
