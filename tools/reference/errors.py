"""Every error that a client can be told of, as each front end says it. (P)"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from gateway import errors
from gateway.errors import GatewayError, UpstreamError
from protocols.grpc.errors import BY_CODE, BY_STATUS
from protocols.openai.errors import anthropic_type
from tools.reference.markdown import NOTE, code, plain, table

_HEAD = """# Errors

An error is OpenAI's object under `error` (`message`, `type`, `param`, `code`), for Anthropic's paths wrapped as its
clients want it, over gRPC a status with one `ErrorInfo` whose reason is the word in capitals. After a stream has begun
it is the stream's last event, and no `[DONE]` follows ([the OpenAI API](../openai-api.md#errors)). The gateway tries
other endpoints before any of these is sent, as far as that can help; `x-should-retry: false` on a 5xx without
`Retry-After` tells SDKs so. `reason` is the metrics' and the logs' word for it. What to do about them, as an operator,
is told in the [runbook](../runbook.md).

"""
_WHYS = """## Why there was no room

`why` stands beside the reason in logs and metrics.

"""
WHYS = {
    "queue_full": "the queue of its pool is full (`fairness.maxQueued`, `maxQueuedBytes`), and the caller has at least "
    "as much in it as anybody",
    "queue_long": "its turn would come after `fairness.queueTimeout`, or after its own deadline",
    "queue_timeout": "its turn did not come within `fairness.queueTimeout`",
    "too_large": "its body alone is larger than `fairness.maxQueuedBytes`",
    "sheddable": "its objective's priority is below 0, and there is no room at once",
    "stopping": "the process is told to end",
    "bytes": "the gateway holds as many bytes for requests as it may (`listeners.maxBufferedBytes`)",
    "descriptors": "the gateway has no descriptor, port or memory left for a connection to an engine",
    "late": "the gateway's processor does not keep up (`listeners.maxLateness`)",
    "unverified": "the introspection endpoint or the issuer's key set cannot be had",
}
"""Beside these, the name of a filter of the scheduler that has left every endpoint out."""
_FILTERS = (
    "Any other word is the scheduler's filter that has left every endpoint out ([Scheduling](../scheduling.md)).\n"
)
_HEADS = ("Status", "`code`", "`type`", "Anthropic's", "gRPC", "`reason`", "When")


def page() -> tuple[str, list[str]]:
    """The page, and which errors say nothing of themselves."""
    kinds = sorted(_kinds(GatewayError), key=lambda kind: (kind.status, str(kind.code)))
    lacking = [kind.__name__ for kind in kinds if not kind.__dict__.get("__doc__")]
    text = NOTE + _HEAD + table(_HEADS, map(_row, kinds))
    text += _WHYS + table(("`why`", "When"), ((code(why), said) for why, said in WHYS.items()))
    text += _FILTERS
    return text.rstrip("\n") + "\n", lacking


def _kinds(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    if kind.__module__ == errors.__name__:
        yield kind
        for each in kind.__subclasses__():
            yield from _kinds(each)


def _row(kind: type[GatewayError]) -> tuple[str, ...]:
    row = BY_CODE.get((kind.status, str(kind.code))) or BY_STATUS[kind.status]
    status = f"{kind.status} or the engine's" if kind is UpstreamError else str(kind.status)
    grpc = f"{row.code.name} {code(row.reason)}"
    reason = code(kind.reason) + (f" ({code(kind.why)})" if kind.why else "")
    return status, code(kind.code or ""), code(kind.type), code(anthropic_type(kind.status)), grpc, reason, _about(kind)


def _about(kind: type[GatewayError]) -> str:
    """The first paragraph of its docstring."""
    return plain(inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("\n\n")[0])
