"""Writes what is to be said of objects into their statuses: on change, at a bounded rate, as long as we lead. (T)

Invariants: only the latest verdict of an object is written, and only where the object does not say so already; what a
server does not keep is not written again and again; an outage loses nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import trio

from gateway.config.verdict import Verdict
from gateway.sources.kube.api import APPLY, Api, Tree
from gateway.sources.kube.client import ApiError, Unreachable
from gateway.sources.kube.conditions import MANAGER, Owner, Write, kind_of, write
from gateway.sources.kube.kinds import Kind
from gateway.sources.kube.pace import Agenda, Bucket, backoff
from gateway.sources.kube.spoken import Spoken

RATE: Final = 20.0
"""Writes a second."""
BURST: Final = 30.0
QUIET_S: Final = 600.0
"""How long a kind is left alone, in a namespace, whose status cannot be written."""
TIMEOUT_S: Final = 10.0
PAUSE_S: Final = (0.5, 30.0)
"""After the first failure that is the server's, and at most."""
MAX_RETRY_AFTER_S: Final = 60.0
RETRY_S: Final = (0.2, 30.0)
"""The same for one object."""
STUBBORN: Final = 8
"""Of one object: so many in a row, some 25 s, are told."""
MAX_OBJECTS: Final = 100_000

Key = tuple[str, str, str, str]
Observed = Callable[[Key], Tree | None]

_log: Final = logging.getLogger("infer_gateway.kubernetes")


class Statistics(msgspec.Struct, frozen=True):
    """``waiting``: objects to be looked at. ``quiet``: kinds whose status cannot be written now."""

    objects: int
    waiting: int
    written: int
    failed: int
    quiet: tuple[str, ...]


class StatusWriter:
    """``observed``: an object as last seen, by a verdict's key. ``leading``: whether it is for us to write.

    ``said`` hears once of a verdict that is about to be written, with the object as it is before that.
    """

    def __init__(
        self,
        api: Api,
        observed: Observed,
        leading: Callable[[], bool],
        owner: Owner,
        *,
        said: Callable[[Verdict, Tree], object] = lambda verdict, before: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._observed = observed
        self._leading = leading
        self._owner = owner
        self._said = said
        self._wall = wall
        self._objects: dict[Key, Spoken] = {}
        self._agenda: Agenda[Key] = Agenda()
        self._bucket = Bucket(RATE, BURST)
        self._quiet: dict[tuple[Kind, str], float] = {}
        self._warned: set[str] = set()
        self._paused, self._outage, self._logged = -math.inf, 0, -math.inf
        self._woken = trio.Event()
        self._written = self._failed = 0

    def statistics(self) -> Statistics:
        now = trio.current_time()
        quiet = tuple(dict.fromkeys(str(kind) for (kind, _), until in self._quiet.items() if until > now))
        return Statistics(len(self._objects), len(self._agenda), self._written, self._failed, quiet)

    def put(self, verdicts: Iterable[Verdict]) -> None:
        """These are to be said from now on."""
        now = trio.current_time()
        for verdict in verdicts:
            key = verdict.key
            found = self._objects.get(key)
            if found is not None and found.verdict.uid == verdict.uid:
                found.told = found.told and found.verdict == verdict
                found.verdict = verdict
            elif kind_of(verdict) is not None and len(self._objects) < MAX_OBJECTS:
                found = self._objects[key] = Spoken(verdict)
            else:
                continue
            self._agenda.add(key, max(now, found.not_before))
        self._woken.set()

    def look(self, key: Key) -> None:
        """The object has changed: see whether it still says what it should. Unknown keys are passed over."""
        found = self._objects.get(key)
        if found is not None:
            self._agenda.add(key, max(trio.current_time(), found.not_before))
            self._woken.set()

    def forget(self, key: Key) -> None:
        """The object has gone."""
        self._objects.pop(key, None)
        self._agenda.discard(key)

    def wake(self) -> None:
        """``leading`` may have changed. Whoever begins to lead looks at whatever came or changed since it last led."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            key = await self._next()
            if (found := self._objects.get(key)) is not None:
                await self._consider(key, found)

    async def _next(self) -> Key:
        while True:
            await trio.lowlevel.checkpoint()
            self._woken = trio.Event()
            at = max(self._agenda.first, self._paused) if self._leading() else math.inf
            if at <= trio.current_time():
                return self._agenda.pop()
            with trio.CancelScope(deadline=at):
                await self._woken.wait()

    async def _consider(self, key: Key, found: Spoken) -> None:
        cached = self._observed(key)
        if cached is None:
            self.forget(key)
            return
        observed = found.known(cached)
        wanted = write(found.verdict, observed, self._wall(), self._owner)
        if wanted is None or found.futile(wanted, observed):
            return
        if (free_at := found.free_at(wanted)) > trio.current_time():
            self._agenda.add(key, free_at)
            return
        if not found.told:
            found.told = True
            self._said(found.verdict, observed)
        kind = kind_of(found.verdict)
        if kind is not None and self._may_write(key, kind):
            await self._send(key, found, kind, wanted, observed)

    def _may_write(self, key: Key, kind: Kind) -> bool:
        """Whether statuses of this kind can be written there, and one more now; if not the key's turn comes again."""
        now = trio.current_time()
        if (until := self._quiet.get((kind, key[2]), -math.inf)) > now:
            self._agenda.add(key, until)
            return False
        if pause := self._bucket.take(now):
            self._paused = now + pause
            self._agenda.add(key, now)
            return False
        return True

    async def _send(self, key: Key, found: Spoken, kind: Kind, wanted: Write, observed: Tree) -> None:
        try:
            tree = await self._patch(kind, found.verdict, wanted)
        except ApiError as error:
            self._failed += 1
            await self._refused(key, found, kind, wanted, observed, error)
        except Unreachable as error:
            self._failed += 1
            self._postpone(key, found, error)
        else:
            self._written += 1
            self._outage = 0
            found.settle(wanted, trio.current_time(), tree)

    async def _patch(self, kind: Kind, verdict: Verdict, wanted: Write) -> Tree:
        query: dict[str, str | int] = {"fieldManager": MANAGER}
        if wanted.content_type == APPLY:
            query["force"] = "true"
        path = kind.path(verdict.namespace, verdict.name, "status")
        reply = await self._api.request(
            "PATCH", path, query=query, body=wanted.body, content_type=wanted.content_type, timeout=TIMEOUT_S
        )
        tree = reply.json()
        return tree if isinstance(tree, dict) else {}

    async def _refused(
        self, key: Key, found: Spoken, kind: Kind, wanted: Write, observed: Tree, error: ApiError
    ) -> None:
        typed = "typed patch object" in error.message  # of an apply that the schema does not know: 500 for most servers
        if error.status == 409:
            self._retry(key, found, error)
        elif error.status == 404:
            await self._missing(key, found, kind)
        elif error.status == 403:
            self._silence(key, kind, f"this needs patch on {kind.plural}/status of {kind.group}, {_where(key[2])}")
        elif error.status in (405, 406, 415):
            self._silence(key, kind, f"this needs server-side apply, which the server does not know: {error.status}")
        elif error.status in (401, 408, 429) or (error.status >= 500 and not typed):
            self._postpone(key, found, error)
        else:
            found.keep(wanted, observed)
            self._warn(f"the status of {kind} is not taken by their schema: {error.message[:300]}")

    async def _missing(self, key: Key, found: Spoken, kind: Kind) -> None:
        """A 404 is the object's, or says that its kind has no status that could be written by itself."""
        verdict = found.verdict
        try:
            await self._api.request("GET", kind.path(verdict.namespace, verdict.name), timeout=TIMEOUT_S)
        except ApiError as error:
            if error.status != 404:
                self._retry(key, found, error)
            elif self._objects.get(key) is found:
                self.forget(key)
        except Unreachable as error:
            self._retry(key, found, error)
        else:
            self._silence(key, kind, "the CustomResourceDefinition has no status subresource")

    def _silence(self, key: Key, kind: Kind, why: str) -> None:
        self._quiet[kind, key[2]] = until = trio.current_time() + QUIET_S
        self._agenda.add(key, until)
        self._warn(f"no status is written for {kind}: {why}")

    def _retry(self, key: Key, found: Spoken, error: ApiError | Unreachable) -> None:
        found.failures += 1
        if found.failures == STUBBORN and isinstance(error, ApiError):  # whoever watches tells that the server is away
            named = "/".join(part for part in key[2:] if part)
            self._warn(f"the status of {key[1]} {named} is not written, and tried again now and then: {error}")
        found.not_before = trio.current_time() + backoff(found.failures, *RETRY_S)
        self._agenda.add(key, found.not_before)

    def _postpone(self, key: Key, found: Spoken, error: ApiError | Unreachable) -> None:
        """Everybody waits, and this one after the others: it may be the only one that fails."""
        self._retry(key, found, error)
        self._outage += 1
        after = error.retry_after if isinstance(error, ApiError) else None
        pause = max(backoff(self._outage, *PAUSE_S), min(after or 0.0, MAX_RETRY_AFTER_S))
        now = trio.current_time()
        self._paused = now + pause
        if self._outage == 1 and now - self._logged >= QUIET_S:
            self._logged = now
            _log.warning("statuses wait to be written: %s", error)

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 100:
            self._warned.add(text)
            _log.warning("%s", text)


def _where(namespace: str) -> str:
    return f"in namespace {namespace}" if namespace else "cluster-wide"
