"""How the process logs: one line to stderr for each message, secrets blotted out. (IO)

A message stays on one line whatever a client or an engine put into it; only tracebacks take more.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TextIO

_NAMED = r"(?:api[-_]?key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?"
_SECRET = re.compile(
    rf"((?:{_NAMED})?(?:bearer|basic)\s+|{_NAMED})[^\s\"',;&]{{6,}}" r"|\b(sk-|hf_)[A-Za-z0-9_-]{6,}", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
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
