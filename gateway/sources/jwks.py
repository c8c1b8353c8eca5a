"""An issuer's keys, from https or from a file: fetched at once, then kept fresh, and kept when that fails. (IO)

Invariant: ``keys`` is the last good set; whoever asks for a newer one causes at most one fetch in 30 s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

import trio

from gateway.config.access import Issuer, file_of
from gateway.config.url import shown
from gateway.pem import content
from gateway.sources.https import opened
from gateway.tokens import Key, key_set

RENEWAL_S: Final = 30.0
_FRESH_S: Final = (300.0, 86_400.0)
_FRESH_DEFAULT_S: Final = 3600.0
_FILE_S: Final = 300.0
_PATIENCE_S: Final = 10.0
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=\"?([0-9]{1,9})")


class KeySet:
    """``failed``: the last fetch did, and nobody can say whether a key that is not in ``keys`` is good.

    ``changed`` is called with the new keys whenever they differ from those before.
    """

    def __init__(self, uri: str, ca_file: str = "", changed: Callable[[], None] = lambda: None) -> None:
        self.uri = uri
        self.ca_file = ca_file
        self.changed = changed
        self.keys: tuple[Key, ...] = ()
        self.failed = False
        self.fetches = 0
        self._fetched = trio.Event()
        self._wanted = trio.Event()
        self._tried = -math.inf
        self._fetching = True  # the first is about to begin

    @classmethod
    def of(cls, issuer: Issuer, changed: Callable[[], None] = lambda: None) -> KeySet:
        return cls(issuer.jwks_uri, issuer.ca_file, changed)

    @property
    def name(self) -> str:
        return f"key set {shown(self.uri)}"

    async def run(self) -> None:
        """Fetch, and again when what was fetched is stale or somebody wants it. Raises OSError and ValueError."""
        while True:
            self._wanted = trio.Event()
            fresh = await self._refresh()
            with trio.move_on_after(fresh):
                await self._wanted.wait()

    async def renew(self) -> None:
        """Wait for a newer set, 10 s at most; not at all if the last fetch began less than 30 s ago and is over.

        The background task fetches: a caller that goes away neither ends the fetch nor makes room for another.
        """
        if not self._fetching:
            if trio.current_time() < self._tried + RENEWAL_S:
                return
            self._wanted.set()
        with trio.move_on_after(_PATIENCE_S):
            await self._fetched.wait()

    def read_again(self) -> None:
        """A file may have changed."""
        if file_of(self.uri):
            self._wanted.set()

    async def _refresh(self) -> float:
        """For how long, in seconds, the set is fresh."""
        self._tried = trio.current_time()
        self.fetches += 1
        self._fetching = True
        try:
            body, fresh = await self.fetch()
            keys = key_set(body)
        except (OSError, ValueError) as error:
            self.failed = True
            raise OSError(f"{shown(self.uri)}: {error}") from None
        else:
            self.failed = False
            if [key.id for key in keys] != [key.id for key in self.keys]:
                self.keys = keys
                self.changed()
        finally:
            self._fetching = False
            self._fetched.set()
            self._fetched = trio.Event()
        return fresh

    async def fetch(self) -> tuple[bytes, float]:
        """The set as it is there now, and for how many seconds it is fresh. Raises OSError."""
        if name := file_of(self.uri):
            return content(name), _FILE_S
        async with opened(self.ca_file) as client:
            answer = await client.ask("GET", self.uri)
        if answer.status != 200:
            raise OSError(f"answered {answer.status}")
        return answer.body, freshness(answer.headers.get("cache-control", ""))


def freshness(cache_control: str) -> float:
    """Seconds, from 5 minutes to a day: what the server allows, within reason (RFC 9111 §5.2.2.1)."""
    low, high = _FRESH_S
    found = _MAX_AGE.search(cache_control.lower())
    if found is not None:
        return min(max(float(found[1]), low), high)
    return low if "no-cache" in cache_control.lower() or "no-store" in cache_control.lower() else _FRESH_DEFAULT_S
