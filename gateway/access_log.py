"""One line for each finished request, written beside the traffic. (IO)

`AccessLog.log` only encodes into a buffer; a thread writes it, ten times a second. A reader that stalls, a full disk, a
file out of reach cost lines, which are counted and told of, never requests.

Invariant: a record is exactly one line of at most `LONGEST` bytes, of printable characters, whatever its values hold;
what looks like a credential is not among them.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from gateway import stdio
from gateway.config.observing import AccessLog as Settings
from gateway.journal import Journal
from gateway.lines import Lines, Stamp
from gateway.live_json import visible
from gateway.logs import blot, shaped
from gateway.meter import Record
from gateway.outcome import is_error

LONGEST: Final = 4096
"""Bytes, the line end included: what pipes take whole."""
_CUTS: Final = (160, 40, 8)
"""Characters of each value, where a line would be longer otherwise."""
_FAILURES: Final = 8
_log: Final = logging.getLogger("infer_gateway.access_log")


class Line(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A line as JSON. Times are in seconds; members that say nothing are left out. ``model`` is what was asked for."""

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
    why: str = ""
    route: str = ""
    failures: tuple[tuple[str, str], ...] = ()
    trace_id: str = ""
    hedge: str = ""
    beside: str = ""


class AccessLog:
    """``everything``: all requests are logged, whatever the settings say. ``wall`` is seconds since the epoch.

    As a context, a thread writes what goes to a file; stderr has its own.
    """

    def __init__(
        self,
        settings: Settings = Settings(),  # noqa: B008 — frozen
        everything: bool = False,
        stderr: stdio.Stderr = stdio.stderr,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._everything = everything
        self._stamp = Stamp(wall)
        self._stderr = stderr
        self.journal = Journal("lines of the access log", _log, settings.file)
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """From now on so. A file that was moved away is made anew. Never waits."""
        self._all = self._everything or settings.requests == "all"
        self._failed = settings.requests != "off"
        self._encode = as_json if settings.format == "json" else as_text
        self._lines = self.journal.lines if settings.file else self._stderr.lines
        self.journal.reopen(settings.file)

    @property
    def lost(self) -> int:
        """Lines that were not written; those of any kind that stderr did not take included."""
        return self.journal.lost + self._stderr.lost

    def log(self, record: Record) -> None:
        """Note a finished request, if its kind is logged. Never waits."""
        if (self._all or (self._failed and is_error(record.status, record.reason))) and self._lines.room():
            self._lines.add(self._encode(self._stamp.now(), record))

    def note(self, record: Record) -> None:
        """As `log`, of what never became a request: only where all have a line, lest strangers fill a disk. The path
        they ask for is their own word.
        """
        if self._all:
            self.log(msgspec.structs.replace(record, operation=blot(record.operation)))

    def __enter__(self) -> Lines:
        return self.journal.lines.__enter__()

    def __exit__(self, *exception: object) -> None:
        self.journal.lines.close()


# -- JSON ------------------------------------------------------------------------------------------------------------

_encoder = msgspec.json.Encoder()
_DELETE: Final = 0x7F


def as_json(now: str, record: Record) -> bytes:
    """A `Line`. What is not printable is escaped."""
    try:
        line = _plain_json(now, record)
    except UnicodeEncodeError:  # half a surrogate pair
        return _tamed(_visible_json, now, record)
    if line.isascii() and len(line) <= LONGEST and _DELETE not in line and not _tells(record):
        return line
    return _tamed(_visible_json, now, record)


def _plain_json(now: str, record: Record) -> bytes:
    ttft = record.ttft_s
    line = Line(
        now,
        record.id,
        record.operation,
        record.model or record.asked,
        record.status,
        _to_us(record.ended - record.started),
        record.reason,
        record.pool,
        record.endpoint,
        record.attempts,
        record.stream,
        None if ttft != ttft else _to_us(ttft),
        record.tokens_in,
        record.tokens_out,
        record.tokens_cached,
        record.user,
        record.tenant,
        record.tier,
        _to_us(record.queue_s) if record.queue_s > 0 else None,  # NaN is not above 0 either
        record.protocol,
        record.why,
        record.route,
        record.failures,
        record.trace_id,
        record.hedge,
        record.beside,
    )
    return _encoder.encode(line) + b"\n"


def _to_us(seconds: float) -> float:
    """To the microsecond; `round` goes by way of text."""
    return int(seconds * 1e6 + 0.5) / 1e6


def _visible_json(now: str, record: Record) -> bytes:
    return visible(_plain_json(now, record)[:-1]) + b"\n"


# -- text ------------------------------------------------------------------------------------------------------------

FIELDS: Final = (
    "time", "id", "operation", "model", "status", "reason", "duration", "ttft", "tokens", "pool", "endpoint",
    "attempts", "user", "protocol", "tenant", "tier", "route", "queue", "stream", "why", "failures", "trace_id",
    "hedge",
)  # fmt: skip
"""Of a line as text, in order."""
_SPACES: Final = len(FIELDS) - 1


def as_text(now: str, record: Record) -> bytes:
    """`FIELDS` between single spaces, - for what is not known. Spaces in values, backslashes and what is not
    printable are escaped as in a Python string.
    """
    line = _words(now, record)
    plain = line.isascii() and line.isprintable() and line.count(" ") == _SPACES and "\\" not in line
    if plain and len(line) < LONGEST and not _tells(record):
        return line.encode() + b"\n"
    return _tamed(_escaped_text, now, record)


def _escaped_text(now: str, record: Record) -> bytes:
    return _words(now, _each(record, _word)).encode() + b"\n"


def _words(now: str, record: Record) -> str:
    ttft = "-" if record.ttft_s != record.ttft_s else f"{record.ttft_s:.6f}"
    queue = f"{record.queue_s:.6f}" if record.queue_s > 0 else "-"
    failures = ",".join([f"{endpoint}={reason}" for endpoint, reason in record.failures]) if record.failures else "-"
    return (
        f"{now} {record.id or '-'} {record.operation or '-'} {record.model or record.asked or '-'} {record.status}"
        f" {record.reason or '-'} {record.ended - record.started:.6f} {ttft}"
        f" {record.tokens_in}/{record.tokens_cached}/{record.tokens_out} {record.pool or '-'} {record.endpoint or '-'}"
        f" {record.attempts} {record.user or '-'} {record.protocol or '-'} {record.tenant or '-'} {record.tier or '-'}"
        f" {record.route or '-'} {queue} {'stream' if record.stream else '-'} {record.why or '-'} {failures}"
        f" {record.trace_id or '-'} {f'{record.hedge}={record.beside}' if record.hedge else '-'}"
    )


def _word(value: str) -> str:
    if value.isprintable() and " " not in value and "\\" not in value:
        return value
    return "".join(map(_text_character, value))


def _text_character(character: str) -> str:
    if character.isprintable() and character not in " \\":
        return character
    return "\\x20" if character == " " else character.encode("unicode_escape").decode()


# -- values that need care -------------------------------------------------------------------------------------------

_TEXTS: Final = tuple(
    name
    for name, default in zip(Record.__struct_fields__, Record.__struct_defaults__, strict=True)
    if isinstance(default, str)
)
_HALVES: Final = re.compile("[\ud800-\udfff]")


def _tells(record: Record) -> bool:
    """Whether a value that clients choose looks like a credential. Those have one of these in them, which takes a tenth
    of the time to rule out.
    """
    said = f"{record.id} {record.model or record.asked} {record.user}"
    hinted = "sk-" in said or "hf_" in said or "eyJ" in said or "earer" in said
    return hinted and shaped(said) is not None


def _tamed(write: Callable[[str, Record], bytes], now: str, record: Record) -> bytes:
    """What ``write`` makes of values without credentials and halves of surrogate pairs, cut as much as they must be."""
    whole = _each(record, lambda value: blot(_HALVES.sub("\ufffd", value[:LONGEST])))
    line = write(now, whole)
    for longest in _CUTS:
        if len(line) <= LONGEST:
            break
        line = write(now, _each(whole, partial(_cut, longest)))
    return line


def _each(record: Record, then: Callable[[str], str]) -> Record:
    """With each value made into something else."""
    texts = {name: then(getattr(record, name)) for name in _TEXTS}
    failures = tuple([(then(endpoint), then(reason)) for endpoint, reason in record.failures[:_FAILURES]])
    return msgspec.structs.replace(record, **texts, failures=failures)


def _cut(longest: int, value: str) -> str:
    return value if len(value) <= longest else value[: longest - 1] + "…"
