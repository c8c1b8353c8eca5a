"""What `infer-gateway check FILE…` says. (IO)

Invariant: it accepts exactly what `serve` would start with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.config.document import ConfigError
from gateway.config.exposure import exposed
from gateway.sources.file import read


def check(paths: Sequence[str | Path]) -> tuple[int, list[str]]:
    """(exit status, lines to print): 0 with a summary, else a line per problem; then warnings. Blocks on the disk."""
    try:
        snapshot = read(paths)
    except ConfigError as error:
        return 1, [*error.problems, *_warnings(error.warnings, error.inert)]
    listeners = snapshot.settings.listeners
    if problem := exposed(snapshot.settings, listeners.hosts):
        return 1, [problem]
    lines = _warnings(snapshot.warnings, snapshot.inert)
    return 0, [*lines, f"ok: {_count(len(snapshot.routes.routes), 'route')}, {_count(len(snapshot.pools), 'pool')}"]


def _warnings(warnings: Sequence[str], inert: Sequence[str]) -> list[str]:
    return [f"warning: {each}" for each in (*warnings, *(f"{place}: has no effect yet" for place in inert))]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
