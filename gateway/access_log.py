"""One line for each finished request, written beside the traffic. (IO)

`AccessLog.log` only encodes into a buffer (about 2 µs); a thread writes it, ten times a second. A reader of stderr that
stalls costs lines, which are counted and told of, never requests.
"""

from __future__ import annotations

import enum
import math
import os
import time
from collections.abc import Callable

import msgspec

from gateway.lines import Lines, Stamp
from gateway.meter import Record


class Requests(enum.StrEnum):
    """Which requests are logged: those that failed by a server's fault (5xx, broken streams), or all."""

    OFF = "off"
    ERRORS = "errors"
    ALL = "all"


class Form(enum.StrEnum):
    JSON = "json"
    TEXT = "text"


class Line(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A line as JSON. Times are in seconds; members that say nothing are left out."""

    time: str
    id: str
    operation: str
    model: str
    status: int
    duration: float
    reason: str = ""
    pool: str = ""
    endpoint: str = ""
    attempts: int = 0
    stream: bool = False
    ttft: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    user: str = ""
    tenant: str = ""
    tier: str = ""
    queue: float | None = None
    protocol: str = "http"


class AccessLog:
    """``write`` takes whole lines and may block; ``wall`` is seconds since the epoch."""

    def __init__(
        self,
        requests: Requests = Requests.ERRORS,
        form: Form = Form.JSON,
        write: Callable[[bytes], None] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.requests = requests
        self._encode, tell_dropped = (_json, _json_dropped) if form is Form.JSON else (_text, _text_dropped)
        self._stamp = Stamp(wall)
        self.lines = Lines(write or to_stderr, lambda dropped: tell_dropped(self._stamp.now(), dropped))

    def log(self, record: Record) -> None:
        """Note a finished request, if its kind is logged. Never waits."""
        wanted = self.requests is Requests.ALL or (self.requests is Requests.ERRORS and _failed(record))
        if wanted and self.lines.room():
            self.lines.add(self._encode(self._stamp.now(), record))

    async def run(self) -> None:
        """Write what is logged until cancelled; what is left then is given another second."""
        await self.lines.run()


def to_stderr(lines: bytes) -> None:
    """Write to descriptor 2; a closed one takes nothing and stops nothing."""
    rest = memoryview(lines)
    try:
        while rest:
            try:
                rest = rest[os.write(2, rest) :]
            except BlockingIOError:  # whoever shares the terminal has made it so
                time.sleep(0.01)
    except OSError:
        pass


def _failed(record: Record) -> bool:
    return record.status >= 500 or (record.status < 400 and record.reason != "")


_encoder = msgspec.json.Encoder()


def _json(now: str, record: Record) -> bytes:
    ttft = record.ttft_s
    line = Line(
        now,
        record.id,
        record.operation,
        record.model,
        record.status,
        round(record.ended - record.started, 6),
        record.reason,
        record.pool,
        record.endpoint,
        record.attempts,
        record.stream,
        None if ttft != ttft else round(ttft, 6),
        record.tokens_in,
        record.tokens_out,
        record.tokens_cached,
        record.user,
        record.tenant,
        record.tier,
        round(record.queue_s, 6) if record.queue_s > 0 else None,  # NaN is not above 0 either
        record.protocol,
    )
    return _encoder.encode(line) + b"\n"


def _text(now: str, record: Record) -> bytes:
    """Fields in a fixed order, - for what is not known; values hold no spaces or line ends."""
    ttft = "-" if math.isnan(record.ttft_s) else f"{record.ttft_s:.6f}"
    fields = (record.id, record.operation, record.model, record.pool, record.endpoint, record.reason, record.user)
    words = [_word(field) for field in fields]
    line = (
        f"{now} {words[0]} {words[1]} {words[2]} {record.status} {words[5]} {record.duration_s:.6f} {ttft}"
        f" {record.tokens_in}/{record.tokens_cached}/{record.tokens_out} {words[3]} {words[4]} {record.attempts}"
        f" {words[6]} {record.protocol}\n"
    )
    return line.encode()


def _word(value: str) -> str:
    if value.isprintable() and " " not in value:
        return value or "-"
    return "".join(c if c.isprintable() and c != " " else f"\\x{ord(c):02x}" for c in value)


def _json_dropped(now: str, dropped: int) -> bytes:
    return _encoder.encode({"time": now, "dropped": dropped}) + b"\n"


def _text_dropped(now: str, dropped: int) -> bytes:
    return f"{now} - {dropped} lines dropped\n".encode()
