"""Durations as Go writes them ("1h30m", "100ms"), to and from float seconds. (P)

Invariant: `parse(render(s)) == s` for every value `parse` can return.
"""

from __future__ import annotations

import math
import re

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TERM = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?(ns|us|µs|μs|ms|s|m|h)")
_EXPECTED = 'expected a duration such as "30s", "100ms" or "1h30m"'


def parse(text: object) -> float:
    """Seconds, never negative. A bare 0 needs no unit; any other number does. Raises ValueError.

    Source: time.ParseDuration of Go, without signs. Counts whole nanoseconds, so terms add up without rounding.
    """
    if text in ("0", 0) and not isinstance(text, bool):
        return 0.0
    if not isinstance(text, str):
        raise ValueError(_EXPECTED)
    at = total = 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None:
            raise ValueError(f"{_EXPECTED}, got {text[:40]!r}")
        whole, fraction, unit = term.group(1), term.group(2) or "", _UNITS[term.group(3)]
        total += int(whole) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        at = term.end()
    if not text:
        raise ValueError(f"{_EXPECTED}, got an empty string")
    if total >= 2**63:
        raise ValueError(f"{text[:40]!r} is longer than 292 years")
    return total / 10**9


def render(seconds: float) -> str:
    """The shortest Go form; infinity, which stands for "no limit", is written as it is configured: 0."""
    if math.isinf(seconds):
        return "0"
    left = round(seconds * 10**9)
    parts = []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"
