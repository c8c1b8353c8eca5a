"""Files of a certificate as they are at one moment, for who reads them several times while somebody replaces them. (IO)

Invariant: what is copied is in memory where the system can have files there, else in a file for this user alone, and
gone when the block is left.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

_MOST: Final = 1 << 20


@contextmanager
def copied(*names: str) -> Iterator[list[str]]:
    """The names under which what these files hold now can be read in the block. Raises OSError."""
    with ExitStack() as stack:
        yield [stack.enter_context(_copy(content(name))) for name in names]


def content(name: str) -> bytes:
    """Of a plain file, a MiB at most. Never waits, as for the writer of a named pipe. Raises OSError."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name} is no plain file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST)
    finally:
        os.close(descriptor)  # which a file object does not for what is a directory


def secret(name: str) -> str:
    """What is in such a file, without the space around it. Raises OSError, which does not quote it."""
    try:
        return content(name).decode().strip()
    except UnicodeDecodeError:
        raise OSError(f"{name} is no text") from None


@contextmanager
def _copy(content: bytes) -> Iterator[str]:
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with open(os.memfd_create("pem"), "wb", buffering=0) as file:
            file.write(content)
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(buffering=0) as kept:
            kept.write(content)
            yield kept.name
