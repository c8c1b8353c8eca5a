"""How the process logs: one line to stderr for each message, secrets blotted out. (IO)

A message stays on one line whatever a client or an engine put into it; only tracebacks take more. However often what
others do is worth a message, each logger says so many in a while, and then how many it left out.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

_NAMED = r"(?:api[-_]?key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?"
_SECRET = re.compile(
    rf"((?:{_NAMED})?(?:bearer|basic)\s+|{_NAMED})[^\s\"',;&]{{6,}}" r"|\b(sk-|hf_)[A-Za-z0-9_-]{6,}", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


RATE, BURST = 20.0, 2000.0
"""Messages of one logger: a second in the long run, and at once."""


class Bounded(logging.StreamHandler[TextIO]):
    """``clock``: seconds that never go back."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
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
            text = f"{missed} messages were left out, as there were too many"
            super().emit(logging.LogRecord(record.name, logging.WARNING, "", 0, text, None, None))
        super().emit(record)


class Formatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z WARNING logger: message``, in UTC."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(_escaped, super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return _SECRET.sub(_blotted, super().format(record))


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send everything logged in this process at ``level`` or above to ``stream`` (stderr). Replaces earlier handlers.

    Libraries are heard from warnings up, so that one of them cannot flood the log or tell what a request holds.
    """
    handler = Bounded(sys.stderr if stream is None else stream)
    handler.setFormatter(Formatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("infer_gateway").setLevel(number)


def _blotted(found: re.Match[str]) -> str:
    return f"{found[1] or found[2]}***"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
