"""A run as files: JSON, JUnit XML, one HTML page. (IO)

Invariant: a report is written whole or not at all; which kind is decided by the file's name.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from conformance.suite.outcome import Run
from conformance.suite.reports import html, junit, plain

KINDS: dict[str, Callable[[Run], bytes]] = {".json": plain.write, ".xml": junit.write, ".html": html.write}


def kind(path: Path) -> Callable[[Run], bytes]:
    """What writes this file. Raises ValueError for a name that says nothing of the kind."""
    found = KINDS.get(path.suffix.lower())
    if found is None:
        raise ValueError(f"{path}: a report is a {', '.join(KINDS)} file")
    return found


def save(run: Run, path: Path) -> None:
    """Raises OSError, ValueError."""
    data = kind(path)(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
