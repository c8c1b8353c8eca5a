"""Keeps one kind of objects in step with an API server: listed once, watched from then on. (T)

Invariant: what is told is a difference to what was told before, in the order it happened; while the server is away,
sends garbage or has forgotten where we were, nothing is told to be gone that it has not said is gone.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final, Generic, Literal, TypeVar

import msgspec
import trio

from gateway.sources.kube.client import MAX_PAGE, ApiError, Client, Query, Reply, Stream, TooLong, Unreachable
from gateway.sources.kube.kinds import Kind
from gateway.sources.kube.messages import (
    Garbage,
    Key,
    Lines,
    Page,
    event_of,
    named,
    page_of,
    refusal,
    status_of,
    version_of,
)
from gateway.sources.kube.outage import Outage

T = TypeVar("T")
State = Literal["syncing", "live", "absent", "forbidden", "broken"]

_PAGE: Final = 250
"""Of pods of 4 kB, what is taken apart in less than a millisecond."""
_PAGE_BYTES: Final = 4 << 20
"""More than that is asked for again in smaller parts: objects may have a megabyte each."""
_SLICE_S: Final = 0.001
_LIST_S: Final = 60.0
_WATCH_S: Final = (300, 600)
_MARGIN_S: Final = 30.0
_PAUSE_S: Final = (0.5, 30.0)
_OFF_S: Final = (30.0, 60.0)
_HEALTHY_S: Final = 60.0
_SHORT_S: Final = 1.0
_RETRY_AFTER_S: Final = 300.0
_TRANSIENT: Final = (401, 429, 503)
_PATIENCE: Final = 3
_BARREN: Final = 10
"""Parts of a list in a row that bring nothing new: whoever sends those sends them without an end."""

_log = logging.getLogger("infer_gateway.kubernetes")


class Statistics(msgspec.Struct, frozen=True):
    """``since`` is on Trio's clock. ``error``: what went wrong last, "" while live.

    So far: ``events`` of watches, ``lists`` read to their end, ``restarts`` after a failure.
    """

    state: State
    since: float
    error: str
    objects: int
    events: int
    lists: int
    restarts: int


class Reflector(Generic[T]):
    """Objects of one kind, in one namespace ("": all), chosen by selectors.

    ``decode`` makes an object of its JSON (those in lists of built-in kinds have no apiVersion and kind); one that it
    refuses (ValueError) is told in the log and left as it was. ``upsert`` gets what is new or has another
    resourceVersion, ``removed`` the key of what is gone, refused ones included, ``synced`` is called at the end of
    each complete list. They are called in the order of events, by the task in `run`, and must not wait. ``silence``:
    seconds without a byte after which a watch that sends bookmarks has stalled. ``outage`` tells, for all reflectors of
    the server, that it cannot be reached. ``every``: instead of a watch, which is
    a connection, the list is read again after so many seconds.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        decode: Callable[[msgspec.Raw], T],
        upsert: Callable[[Key, T], None],
        removed: Callable[[Key], None],
        synced: Callable[[], None] = lambda: None,
        *,
        outage: Outage,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        page: int = _PAGE,
        silence: float = 180.0,
        every: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self._client, self._outage = client, outage
        self._decode, self._upsert, self._removed, self._synced = decode, upsert, removed, synced
        self._path = kind.path(namespace)
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._page = page
        self._silence = silence
        self._every = every
        self._rng = random.Random() if rng is None else rng
        self._pace = _Pace(self._rng)
        self._pages = 1
        self._size = page
        self._versions: dict[Key, str] = {}
        self._refused: dict[Key, str] = {}
        self._version = ""
        self._latest = ""
        self._garbled_at = ""
        self._bookmarks = False
        self._state: State = "syncing"
        self._since = -1.0
        self._error = self._told = ""
        self._events = self._lists = self._restarts = 0
        self._settled = trio.Event()
        self._hurried = trio.Event()
        self._worked = 0.0

    @property
    def name(self) -> str:
        """For logs and metrics: "pods in team-a"."""
        chosen = "".join(f" ({selector})" for selector in self._selectors.values() if selector)
        return f"{self.kind}{chosen} in {self.namespace}" if self.namespace else f"{self.kind}{chosen}"

    def statistics(self) -> Statistics:
        return Statistics(
            self._state, self._since, self._error, len(self._versions), self._events, self._lists, self._restarts
        )

    @property
    def synced(self) -> bool:
        """Whether all objects were told once, or the kind turned out to be absent or forbidden."""
        return self._settled.is_set()

    async def wait_synced(self) -> None:
        """Until all objects were told once, or the kind turns out to be absent or forbidden."""
        await self._settled.wait()

    async def run(self) -> None:
        """Until cancelled, which is immediate. Raises nothing but what the callbacks do."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await (self._watch() if self._every is None else self._pause(self._every()))
            except (Garbage, ApiError, Unreachable) as error:
                pause = self._failed(error)
            else:
                continue
            await self._rest(pause)

    # --- what is there

    async def _list(self) -> None:
        """Tell how what is there now differs; what is gone comes last, when the list was read to its end."""
        seen: set[Key] = set()
        self._size = self._page * self._pages
        page = await self._part("")
        version = page.version  # later parts continue the list as of the first
        self._check_history(version)
        barren = 0
        while True:
            known = len(seen)
            for raw in page.items:
                key, listed = named(raw)
                seen.add(key)
                self._put(key, listed, raw)
                await self._give_way()
            if not page.token:
                break
            barren = 0 if len(seen) > known else barren + 1
            if barren >= _BARREN:
                raise Garbage("the parts of the list have no end")
            page = await self._part(page.token)
        for key in [key for key in self._versions if key not in seen]:
            self._drop(key)
            await self._give_way()
        self._version = version
        self._pages = 1
        self._lists += 1
        self._settled.set()
        self._synced()

    def _check_history(self, version: str) -> None:
        """A server that was put back to an earlier state gives out versions for the second time: they say nothing."""
        if _number(version) < _number(self._latest):
            self._versions = dict.fromkeys(self._versions, "")
        self._latest = version

    async def _part(self, token: str) -> Page:
        try:
            reply = await self._bounded(token)
        except ApiError as error:
            if error.status == 410 and token:
                self._pages *= 4  # reading it in so many parts took longer than the server remembers
            raise
        self._worked = time.perf_counter()
        return page_of(reply.body, self.kind)

    async def _bounded(self, token: str) -> Reply:
        """A part of as many objects as are no more bytes than can be taken apart without keeping requests waiting."""
        while True:
            query: Query = {"limit": self._size, "continue": token, **self._selectors}
            most = _PAGE_BYTES if self._size > 1 else MAX_PAGE
            try:
                return await self._client.request("GET", self._path, query=query, timeout=_LIST_S, limit=most)
            except TooLong:
                if self._size == 1:
                    raise
                self._size = max(1, self._size // 4)

    async def _pause(self, seconds: float) -> None:
        """Instead of a watch."""
        self._pace.reset()
        self._told = ""
        self._live()
        await self._rest(self._rng.uniform(0.5, 1.0) * seconds)
        self._version = ""

    # --- what happens

    async def _watch(self) -> None:
        """Until the server ends the watch in order."""
        lasts = self._rng.randint(*_WATCH_S)
        query: Query = {
            "watch": 1,
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": lasts,
            **self._selectors,
        }
        before = self._events
        async with self._client.stream(self._path, query) as stream:
            began = trio.current_time()
            self._live()
            try:
                await self._follow(stream, lasts + _MARGIN_S)
            finally:
                if trio.current_time() - began >= _HEALTHY_S:
                    self._pace.reset()
                    self._told = ""
        if trio.current_time() - began < _SHORT_S:
            if self._events == before:
                raise Unreachable("the watch ended as soon as it had begun")
            await self._rest(self._rng.uniform(0.0, _SHORT_S))

    async def _follow(self, stream: Stream, patience: float) -> None:
        lines = Lines()
        while chunk := await _next(stream, self._silence if self._bookmarks else patience):
            self._worked = time.perf_counter()
            for line in lines.feed(chunk):
                self._happened(line)
                await self._give_way()
        if lines.rest:
            raise Garbage("the last line is cut off")

    def _happened(self, line: bytes) -> None:
        event = event_of(line)
        match event.type:
            case "ADDED" | "MODIFIED":
                key, version = named(event.object)
                self._put(key, version, event.object)
            case "DELETED":
                key, version = named(event.object)
                self._drop(key)
            case "BOOKMARK":
                version = version_of(event.object)
                self._bookmarks = True
            case "ERROR":
                raise refusal(status_of(event.object))
            case _:
                raise Garbage(f"a watch event of type {event.type[:40]!r}")
        self._version = self._latest = version
        self._events += 1

    # --- what is told

    def _put(self, key: Key, version: str, raw: msgspec.Raw) -> None:
        if self._versions.get(key) == version:
            return
        try:
            decoded = self._decode(raw)
        except (ValueError, RecursionError) as error:
            self._refuse(key, str(error))
        else:
            self._refused.pop(key, None)
            self._upsert(key, decoded)
        self._versions[key] = version

    def _drop(self, key: Key) -> None:
        if key in self._versions:
            self._removed(key)
            del self._versions[key]
            self._refused.pop(key, None)

    def _refuse(self, key: Key, why: str) -> None:
        if self._refused.get(key) != why:
            self._refused[key] = why
            _log.warning("%s: %s cannot be read, what was there before stays: %s", self.name, "/".join(key), why)

    async def _give_way(self) -> None:
        if time.perf_counter() - self._worked > _SLICE_S:
            await trio.lowlevel.checkpoint()
            self._worked = time.perf_counter()

    # --- how it goes

    def _enter(self, state: State, error: str = "") -> None:
        self._error = error
        if state != self._state:
            self._state = state
            self._since = trio.current_time()

    def _live(self) -> None:
        if self._state in ("absent", "forbidden"):
            _log.info("%s: in step again", self.name)
            self._told = ""
        self._outage.live(self.name)
        self._enter("live")

    def _failed(self, error: Garbage | ApiError | Unreachable) -> float:
        """What follows from it; in seconds, when to try again."""
        self._restarts += 1
        status = error.status if isinstance(error, ApiError) else 0
        if status == 410:
            self._version = ""
            if self._pace.expiries >= _PATIENCE:
                self._enter("broken", str(error))
                self._outage.failed(self.name, str(error), answered=True)
            return self._pace.expired()
        if status in (403, 404):
            self._version = ""
            self._off("forbidden" if status == 403 else "absent", error)
            return self._rng.uniform(*_OFF_S)
        if isinstance(error, Garbage):
            if self._garbled_at == self._version:  # where it stood at the last garbage: going on from there is no way
                self._version = ""
            self._garbled_at = self._version
        elif status and status not in _TRANSIENT and self._pace.failures >= _PATIENCE:
            self._version = ""  # a server put back to an earlier state may never know it again
        self._enter("broken", str(error))
        self._outage.failed(self.name, str(error), answered=not isinstance(error, Unreachable))
        return self._pace.failed(error.retry_after if isinstance(error, ApiError) else None)

    def _off(self, state: State, error: Exception) -> None:
        self._enter(state, str(error))
        self._outage.left(self.name)
        self._settled.set()
        feature, kind = self.kind.feature or self.kind.plural, self.kind
        if state == "absent":
            why = f"the API server does not know {kind} {kind.version}; to have them, install their CRD"
            self._tell(logging.INFO, f"{feature}: off, {why}", "")
            return
        where = f'a Role in namespace "{self.namespace}"' if self.namespace else "a ClusterRole"
        why = f'grant the verbs get, list and watch on "{kind.plural}" of API group "{kind.group}" by {where}'
        self._tell(logging.WARNING, f"{feature}: off, the API server forbids it; {why}", f" ({error})")

    def _tell(self, level: int, words: str, said: str) -> None:
        """Once, until something else is told or all is well again. ``said``: the server, each time differently."""
        if words != self._told:
            self._told = words
            _log.log(level, "%s: %s%s", self.name, words, said)

    def hurry(self) -> None:
        """Ask again now, if the next attempt is being waited for."""
        self._hurried.set()

    async def _rest(self, seconds: float) -> None:
        self._hurried = trio.Event()
        with trio.move_on_after(seconds):
            await self._hurried.wait()


class _Pace:
    """When to try again: the later the more often it failed, at random so that replicas do not return together."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.reset()

    def reset(self) -> None:
        self.failures = 0
        self.expiries = 0

    def failed(self, retry_after: float | None) -> float:
        pause = self._rng.uniform(0.0, min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** min(self.failures, 10)))
        self.failures += 1
        return pause + min(retry_after or 0.0, _RETRY_AFTER_S)

    def expired(self) -> float:
        """At once, unless that happens again and again."""
        self.expiries += 1
        return 0.0 if self.expiries == 1 else self.failed(None)


def _number(version: str) -> int:
    """For comparing; 0 where that cannot be done."""
    return int(version) if version.isdecimal() and len(version) < 20 else 0


async def _next(stream: Stream, patience: float) -> bytes:
    with trio.move_on_after(patience):
        return await stream.receive()
    raise Unreachable(f"the watch has been silent for {patience:g} s")
