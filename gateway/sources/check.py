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
    """(exit status, lines to print): 0 with a summary, 1 with one line per problem. Blocks on the disk."""
    try:
        snapshot = read(paths)
    except ConfigError as error:
        return 1, error.problems
    listeners = snapshot.settings.listeners
    if problem := exposed(snapshot.settings, listeners.hosts):
        return 1, [problem]
    lines = [f"warning: {warning}" for warning in snapshot.warnings]
    lines.extend(f"warning: {place}: has no effect yet" for place in snapshot.inert)
    return 0, [*lines, f"ok: {_count(len(snapshot.routes.routes), 'route')}, {_count(len(snapshot.pools), 'pool')}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
