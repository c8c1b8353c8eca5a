"""Where a request stands in a trace, and what of its life is worth a span, by W3C Trace Context. (P)

Invariant: a request that is not sampled costs its ids and a header, with a caller that says so not even these; steps
are noted only of those that are sampled. Times are on Trio's clock, in seconds; whoever exports them knows what time
that was.

Source: https://www.w3.org/TR/trace-context-2/ (level 2).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.types import Headers, InferenceRequest

SAMPLED: Final = 1
RANDOM: Final = 2
"""Flags: the trace is kept; its id was drawn at random. No others are defined, and undefined ones are not passed on."""
FIELDS: Final = frozenset({b"traceparent", b"tracestate"})
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER: Final = re.compile(
    rb"([a-z0-9][a-z0-9_*/@-]{0,255})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_STATE_MAX: Final = 512
_MEMBERS_MAX: Final = 32
_KEPT: Final = 256 * 1024
_LOW: Final = (1 << 64) - 1


class Context(msgspec.Struct, frozen=True, gc=False):
    """A span as others know it. ``state``: the vendors' members, comma-separated."""

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
    if not parent:
        return None
    found = _PARENT.fullmatch(parent)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return Context(trace_id, span_id, int(found[4], 16) & (SAMPLED | RANDOM), _members(state) if state else b"")


def _members(state: bytes) -> bytes:
    """What vendors say, if all of it makes sense; b"" otherwise, and where it is more than anybody has to pass on."""
    if len(state) > _STATE_MAX:
        return b""
    kept: dict[bytes, bytes] = {}
    for part in state.split(b","):
        member = part.strip(b" \t")
        if member:
            found = _MEMBER.fullmatch(member)
            if found is None or found[1] in kept:
                return b""
            kept[found[1]] = member
    return b",".join(kept.values()) if len(kept) <= _MEMBERS_MAX else b""


class Sampling(msgspec.Struct, frozen=True, gc=False):
    """Which requests are followed: what its caller has decided for its own trace, if ``by_parent``; of others those
    whose trace id is below ``bound``, in its last 64 bits, as OpenTelemetry's TraceIdRatioBased has it: whoever knows
    the id and the ratio decides alike.
    """

    bound: int = 1 << 64
    by_parent: bool = True

    @classmethod
    def of(cls, ratio: float, *, by_parent: bool = True) -> Sampling:
        """``ratio``: the share of all trace ids, 0 to 1."""
        return cls(round(ratio * (1 << 64)), by_parent)

    def wanted(self, parent: Context | None, trace_id: int) -> bool:
        if parent is not None and self.by_parent:
            return bool(parent.flags & SAMPLED)
        return trace_id & _LOW < self.bound


class Step:
    """A part of a request's life: a span beneath its own. ``events`` happen in it, each at its time."""

    __slots__ = ("attributes", "ended", "events", "name", "span_id", "started")

    def __init__(self, name: str, started: float, span_id: int) -> None:
        self.name = name
        self.started = self.ended = started
        self.span_id = span_id
        self.attributes: dict[str, str | int | float | bool] = {}
        self.events: tuple[tuple[str, float], ...] = ()


class Trace:
    """One request's. ``span_id`` is that of its own span, ``parent`` the caller's; ``steps`` only of a sampled one.
    ``random`` gives that many bits, never all zero. ``request``: a sampled one's, until it is over. ``content``: what
    is asked and said is wanted, too; ``said`` is what its client was sent.
    """

    __slots__ = (
        "_random", "content", "flags", "method", "parent", "request", "said", "sampled", "span_id", "state", "steps",
        "trace_id",
    )  # fmt: skip

    def __init__(
        self, parent: Context | None, trace_id: int, sampled: bool, random: Callable[[int], int], content: bool = False
    ) -> None:
        self.parent = parent
        self.trace_id = trace_id
        self.sampled = sampled
        self.content = content
        self.flags = (RANDOM if parent is None else parent.flags & RANDOM) | sampled
        self.state = b"" if parent is None else parent.state
        self.span_id = random(64) if sampled or parent is None else parent.span_id
        self.steps: list[Step] = []
        self.request: InferenceRequest | None = None
        self.method = "POST"
        self.said = bytearray()
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

    def say(self, out: bytes) -> None:
        """Keep what the client is sent, as far as there is room."""
        if len(self.said) < _KEPT:
            self.said += out[: _KEPT - len(self.said)]

    def headers(self, headers: Headers, step: Step | None) -> Headers:
        """A request's fields on their way to an endpoint, as sent by ``step``. What a caller says of a trace that is
        not sampled goes on as it is.
        """
        parent = self.parent
        if parent is not None and not self.sampled and not parent.flags & SAMPLED:
            return headers
        span_id = self.span_id if step is None else step.span_id
        ours = [(b"traceparent", b"00-%032x-%016x-%02x" % (self.trace_id, span_id, self.flags))]
        if self.state:
            ours.append((b"tracestate", self.state))
        return [field for field in headers if field[0] not in FIELDS] + ours
