"""Ids of requests: the client's where it can go into logs and header fields as it stands, else one of our own. (IO)

Invariant: no two that are made here are the same, in this process or another.
"""

from __future__ import annotations

import os
from itertools import count
from typing import Final

_CHARACTERS: Final = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"._:-"
_LIMIT: Final = 128
HERE: Final = b"infer-gateway-" + os.urandom(6).hex().encode()
"""What this process calls itself to whom it asks (Via, RFC 9110 §7.6.3), so that it knows a request that comes back."""


class RequestIds:
    """The ids that one front end gives."""

    __slots__ = ("_prefix", "_serial")

    def __init__(self) -> None:
        self._prefix = f"req-{os.urandom(6).hex()}-"
        self._serial = count(1)

    def of(self, given: bytes | None) -> str:
        """``given``, if it is one that can go anywhere; else the next."""
        if given and len(given) <= _LIMIT and not given.translate(None, _CHARACTERS):
            return given.decode()
        return self.next()

    def next(self) -> str:
        return f"{self._prefix}{next(self._serial):x}"
