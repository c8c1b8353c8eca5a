"""A run as JSON, for programs: everything that is known, in a shape that only grows. (P)"""

from __future__ import annotations

import msgspec

from conformance.suite.outcome import Kind, Run

FORMAT = 1


def write(run: Run) -> bytes:
    found = run.count()
    document = {
        "format": FORMAT,
        "badge": run.badge(),
        "counts": {str(kind): found[kind] for kind in Kind},
        **msgspec.to_builtins(run),
    }
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def read(data: bytes) -> Run:
    """Raises msgspec.DecodeError, msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Run)
