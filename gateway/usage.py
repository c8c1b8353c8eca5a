"""One JSON line a request in a file, for whoever charges for it or wants to know. (IO)

`UsageLog.log` only encodes into a buffer (about 3 µs); a thread writes it. A file that cannot be written costs lines,
which are counted, never requests. A file that was moved away or removed is made anew before the next line.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from gateway.lines import Lines, Stamp
from gateway.meter import Record

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE: Final = 0o640
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
    """``path`` "" writes nothing. ``lost`` counts lines that were not written; ``wall`` is seconds since the epoch."""

    def __init__(self, path: str = "", wall: Callable[[], float] = time.time) -> None:
        self.lines = Lines(self._write, self._missed)
        self.lost = 0
        self._path = path
        self._stamp = Stamp(wall)
        self._file: _File | None = None
        self._failing = False
        self.lines.wake()  # a file that cannot be had is told of at the start

    def log(self, record: Record) -> None:
        """Note a finished request, whatever came of it. Never waits."""
        if self._path and self.lines.room():
            self.lines.add(_line(self._stamp.now(), record))

    async def run(self) -> None:
        """Write what is logged until cancelled; what is left then is given another second."""
        await self.lines.run()

    def reopen(self, path: str) -> None:
        """From now on there; if it is the same file that was moved away, a new one is made at once. Never waits."""
        self._path = path
        self.lines.wake()

    def _missed(self, dropped: int) -> bytes:
        self.lost += dropped
        return b""

    def _write(self, lines: bytes) -> None:
        """In a thread. What cannot be written is lost: kept, it would only be lost later."""
        path, rest = self._path, lines
        try:
            self._open(path)
            if self._file is not None:
                for written in self._file.write(lines):
                    rest = lines[written:]
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            self.lost += rest.count(b"\n")
            if not self._failing:
                why = getattr(error, "strerror", None) or error
                _log.error("cannot write usage events to %r, they are lost: %s", path, why)
            self._failing = True
            return
        if self._failing and lines:
            self._failing = False
            _log.warning("usage events are written to %r again; %d were lost so far", path, self.lost)

    def _open(self, path: str) -> None:
        if self._file is not None and not self._file.stands_at(path):
            self._file.close()
            self._file = None
        if path and self._file is None:
            self._file = _File(path)


class _File:
    """An open file that lines are appended to. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, _FLAGS, _MODE)
        self._torn = False

    def stands_at(self, path: str) -> bool:
        """Whether this is the file that has the name now."""
        try:
            there = os.stat(path)
        except OSError:
            return False
        return os.path.samestat(os.fstat(self._descriptor), there)

    def write(self, lines: bytes) -> Iterator[int]:
        """Bytes written so far, after each step. A line that a full disk cut short is ended before the next one."""
        if self._torn and lines:
            os.write(self._descriptor, b"\n")
            self._torn = False
        done = 0
        while done < len(lines):
            done += os.write(self._descriptor, lines[done:])
            self._torn = lines[done - 1 : done] != b"\n"
            yield done

    def close(self) -> None:
        os.close(self._descriptor)


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
    return _encode(event) + b"\n"
