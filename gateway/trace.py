"""Where a request stands in a trace, and what of its life is worth a span, by W3C Trace Context. (P)

Invariant: a request that is not sampled costs its ids and a header; steps are noted only of those that are. Times are
on Trio's clock, in seconds; whoever exports them knows what time that was.

Source: https://www.w3.org/TR/trace-context/ (level 2).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.types import Headers

SAMPLED: Final = 1
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_MAX: Final = 512
FIELDS: Final = frozenset({b"traceparent", b"tracestate"})


class Context(msgspec.Struct, frozen=True, gc=False):
    """A span as others know it. ``state``: the vendors' members, as they came."""

    trace_id: int
    span_id: int
    flags: int = 0
    state: bytes = b""

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)


def parse(headers: Headers) -> Context | None:
    """The caller's span; None where there is none or it is malformed, which starts a new trace (§4.3)."""
    parent, state = b"", b""
    for name, value in headers:
        if name == b"traceparent":
            if parent:
                return None
            parent = value
        elif name == b"tracestate":
            state = state + b"," + value if state else value
    found = _PARENT.fullmatch(parent)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return Context(trace_id, span_id, int(found[4], 16), state if len(state) <= _STATE_MAX else b"")


class Step:
    """A part of a request's life: a span beneath its own. ``span_id`` 0 until it is wanted."""

    __slots__ = ("attributes", "ended", "name", "span_id", "started")

    def __init__(self, name: str, started: float, span_id: int) -> None:
        self.name = name
        self.started = self.ended = started
        self.span_id = span_id
        self.attributes: dict[str, str | int | float | bool] = {}


class Trace:
    """One request's. ``span_id`` is that of its own span, ``parent`` the caller's; ``steps`` only of a sampled one.
    ``random`` gives that many bits, never all zero.
    """

    __slots__ = ("_random", "content", "flags", "parent", "sampled", "span_id", "state", "steps", "trace_id")

    def __init__(
        self, parent: Context | None, trace_id: int, sampled: bool, random: Callable[[int], int], content: bool = False
    ) -> None:
        self.parent = parent
        self.trace_id = trace_id
        self.sampled = sampled
        self.content = content
        self.flags = (0 if parent is None else parent.flags & ~SAMPLED) | sampled
        self.state = b"" if parent is None else parent.state
        self.span_id = random(64)
        self.steps: list[Step] = []
        self._random = random

    @property
    def id(self) -> str:
        """The trace's, as it is written: 32 hexadecimal digits."""
        return f"{self.trace_id:032x}"

    def step(self, name: str, started: float) -> Step:
        """Begin one. For sampled requests only."""
        step = Step(name, started, self._random(64))
        self.steps.append(step)
        return step

    def headers(self, headers: Headers, step: Step | None) -> Headers:
        """A request's fields on their way to an endpoint, as sent by ``step``."""
        span_id = self.span_id if step is None else step.span_id
        ours = [(b"traceparent", b"00-%032x-%016x-%02x" % (self.trace_id, span_id, self.flags))]
        if self.state:
            ours.append((b"tracestate", self.state))
        return [field for field in headers if field[0] not in FIELDS] + ours
