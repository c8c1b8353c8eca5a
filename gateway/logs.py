"""How the process logs: one line to stderr for each message, secrets blotted out, never waiting for a reader. (IO)

A message stays on one line of bounded length whatever a client or an engine put into it; only tracebacks take more,
which are indented. However often what others do is worth a message, each logger says so many in a while, and then how
many it left out.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from gateway.stdio import Stderr, stderr

_NAMED = r"(?:api[-_]?key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?"
_SHAPED = r"\b(?:sk-|hf_|eyJ)[A-Za-z0-9_.-]{6,}"
_SECRET = re.compile(
    rf"((?:{_NAMED})?(?:bearer|basic)\s+|{_NAMED})[^\s\"',;&]{{6,}}|(?<=://)[^\s/@\"']+(?=@)|({_SHAPED})",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_LONGEST: Final = 4000
_LONGEST_TRACEBACK: Final = 32_000
"""Characters."""

RATE, BURST = 20.0, 2000.0
"""Messages of one logger: a second in the long run, and at once."""

_SELDOM_S: Final = 60.0
_REPEATING: Final = "trio.serve_listeners"
"""Says ten times a second that there are no file descriptors left."""

shaped: Final = re.compile(rf"{_SHAPED}|\b[Bb]earer\s").search
"""What looks like a key or a token by itself."""


def blot(text: str) -> str:
    """The same without what looks like a credential."""
    return _SECRET.sub(_blotted, text)


class Bounded(logging.StreamHandler[Any]):
    """``clock``: seconds that never go back."""

    def __init__(self, stream: TextIO | Stderr, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._left: dict[str, tuple[float, float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        left, at, missed = self._left.get(record.name, (BURST, now, 0))
        left = min(BURST, left + (now - at) * RATE)
        # a while of silence at a time: who left something out says so once a second, not before every message
        if left < (RATE if missed else 1.0):
            self._left[record.name] = left, now, missed + 1
            return
        self._left[record.name] = left - 1.0, now, 0
        if missed:
            super().emit(_warning(record.name, f"{missed} messages were left out, as there were too many"))
        super().emit(record)


class Seldom(logging.Filter):
    """What a library says of a trouble many times a second: once a minute, without a traceback."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        now = self._clock()
        if now - self._said < _SELDOM_S:
            return False
        self._said = now
        return True


class Formatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z WARNING logger: message``, in UTC."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {_message(record)}"
        trace = "".join(f"\n    {_visible(row)}" for row in self.traceback(record))
        return line + trace

    def traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        text = self.formatException(record.exc_info)
        if len(text) > _LONGEST_TRACEBACK:  # what matters is at its end
            text = f"… {text[-_LONGEST_TRACEBACK:]}"
        return blot(text).split("\n")


class JSONFormatter(Formatter):
    """The same as an object."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if rows := self.traceback(record):
            told["traceback"] = "\n".join(map(_visible, rows))
        return json.dumps(told)


def configure(level: str = "info", stream: TextIO | None = None, form: str = "text") -> None:
    """Send everything logged in this process at ``level`` or above to ``stream``, or else to stderr, by a thread where
    it is not taken at once. ``form``: text or json. Replaces earlier handlers.

    Libraries are heard from warnings up, so that one of them cannot flood the log or tell what a request holds.
    """
    handler = Bounded(_stderr() if stream is None else stream)
    formatter = JSONFormatter() if form == "json" else Formatter()
    handler.setFormatter(formatter)
    stderr.notice = lambda lost: formatter.format(_warning("infer_gateway.logs", f"{lost} lines were lost")) + "\n"
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger(_REPEATING).filters[:] = [Seldom()]
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("infer_gateway").setLevel(number)


def crashed(error: BaseException) -> bool:
    """Tell of what ended the process, if its messages go to stderr; else False."""
    if not stderr.lines.started:
        return False
    logging.getLogger("infer_gateway").critical("crashed: %s", type(error).__name__, exc_info=error)
    return True


def _stderr() -> Stderr:
    """Begin to write there, and do so for what the interpreter itself has to say."""
    if not stderr.lines.started:
        stderr.lines.start()
        atexit.register(stderr.lines.close)
        logging.captureWarnings(True)
        sys.unraisablehook = lambda about: _raised(f"ignored: {about.err_msg or 'an exception'}", about.exc_value)
        threading.excepthook = lambda about: _raised("a thread failed", about.exc_value)
    return stderr


def _raised(what: str, error: BaseException | None) -> None:
    logging.getLogger("infer_gateway").error("%s", what, exc_info=error)


def _warning(name: str, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, text, None, None)


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text) - _LONGEST} more)"
    return blot(_visible(text))


def _visible(text: str) -> str:
    return text if text.isprintable() else _CONTROL.sub(_escaped, text)


def _blotted(found: re.Match[str]) -> str:
    return f"{found[1] or (found[2] or '')[:3]}***"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
