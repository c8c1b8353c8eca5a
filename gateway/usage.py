"""One JSON line a request in a file, for whoever charges for it or wants to know. (IO)

`UsageLog.log` only encodes into a buffer (about 3 µs); a thread writes it, see `gateway.journal`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.journal import Journal
from gateway.lines import Lines, Stamp
from gateway.meter import Record

_log: Final = logging.getLogger("infer_gateway.usage")


class Tokens(msgspec.Struct, frozen=True, gc=False):
    """``cached`` is a part of ``input``, ``reasoning`` of ``output``."""

    input: int
    output: int
    cached: int
    reasoning: int


class Event(msgspec.Struct, frozen=True, gc=False):
    """A line. Every line has every member; what does not apply is "", 0 or null. ``time`` is that of the end."""

    time: str
    id: str
    operation: str
    model: str
    route: str
    pool: str
    endpoint: str
    user: str
    tenant: str
    tier: str
    status: int
    reason: str
    stream: bool
    tokens: Tokens
    queue_s: float | None
    ttft_s: float | None
    duration_s: float
    attempts: int
    protocol: str


_encode: Final = msgspec.json.Encoder().encode


class UsageLog:
    """``path`` "" writes nothing. ``wall`` is seconds since the epoch. As a context, a thread writes."""

    def __init__(self, path: str = "", wall: Callable[[], float] = time.time) -> None:
        self.journal = Journal("usage events", _log, path)
        self._stamp = Stamp(wall)

    @property
    def lost(self) -> int:
        """Lines that were not written."""
        return self.journal.lost

    def log(self, record: Record) -> None:
        """Note a finished request, whatever came of it. Never waits."""
        journal = self.journal
        if journal.path and journal.lines.room():
            journal.lines.add(_line(self._stamp.now(), record))

    def reopen(self, path: str) -> None:
        """From now on there; if it is the same file that was moved away, a new one is made at once. Never waits."""
        self.journal.reopen(path)

    def __enter__(self) -> Lines:
        return self.journal.lines.__enter__()

    def __exit__(self, *exception: object) -> None:
        self.journal.lines.close()


def _line(now: str, record: Record) -> bytes:
    ttft, waited = record.ttft_s, record.queue_s
    event = Event(
        now,
        record.id,
        record.operation,
        record.model,
        record.route,
        record.pool,
        record.endpoint,
        record.user,
        record.tenant,
        record.tier,
        record.status,
        record.reason,
        record.stream,
        Tokens(record.tokens_in, record.tokens_out, record.tokens_cached, record.tokens_reasoning),
        None if waited != waited else round(waited, 6),
        None if ttft != ttft else round(ttft, 6),
        round(record.ended - record.started, 6),
        record.attempts,
        record.protocol,
    )
    try:
        line = _encode(event)
        if (line.isascii() and b"\x7f" not in line) or line.decode().isprintable():
            return line + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair in what a token says
        pass
    # what is not printable would end lines for some readers (U+0085, U+2028), or steer a terminal (U+009B)
    return json.dumps(msgspec.to_builtins(event)).replace("\x7f", "\\u007f").encode() + b"\n"
