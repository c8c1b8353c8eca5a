"""Tells people by Events what has become of their objects. (T)

Invariants: only the replica that leads tells; an object gets few Events however often it changes; what cannot be told
is dropped, and nothing waits for it.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import trio

from gateway.config.verdict import Verdict
from gateway.sources.kube import notes
from gateway.sources.kube.api import MERGE, Api, Tree
from gateway.sources.kube.client import ApiError, Unreachable
from gateway.sources.kube.conditions import Owner
from gateway.sources.kube.kinds import EVENT
from gateway.sources.kube.notes import Note, Told
from gateway.sources.kube.pace import Bucket, backoff

RATE: Final = 5.0
BURST: Final = 20.0
WINDOW_S: Final = 600.0
PER_OBJECT: Final = 10
"""Events, and changes of such, in a window."""
REPEAT_S: Final = 60.0
"""What happens again is counted here and told that often."""
SERIES_S: Final = 360.0
"""What has not happened for that long is an Event of its own; as client-go has it."""
QUIET_S: Final = 600.0
QUEUE: Final = 256
REMEMBERED: Final = 4096
TRIES: Final = 5
TIMEOUT_S: Final = 10.0

_log: Final = logging.getLogger("infer_gateway.kubernetes")
_K = TypeVar("_K")
_V = TypeVar("_V")


class _Series(msgspec.Struct):
    """``name`` of its Event; ``count`` of times it has happened, the last ``at``; last told at ``told``."""

    note: Note
    name: str = ""
    count: int = 0
    at: float = -math.inf
    told: float = -math.inf


class Events:
    """``identity`` is this replica's; ``leading``: whether it is for us to tell."""

    def __init__(
        self,
        api: Api,
        leading: Callable[[], bool],
        identity: str,
        owner: Owner,
        *,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._leading = leading
        self._identity = identity
        self._owner = owner
        self._wall = wall
        self._rng = random.Random() if rng is None else rng
        self._told: OrderedDict[tuple[object, ...], Told] = OrderedDict()
        self._series: OrderedDict[Note, _Series] = OrderedDict()
        self._spent: OrderedDict[notes.Regarding, deque[float]] = OrderedDict()
        self._queue: deque[_Series] = deque()
        self._quiet: dict[str, float] = {}
        self._bucket = Bucket(RATE, BURST)
        self._warned = False
        self._woken = trio.Event()

    def judged(self, verdict: Verdict, before: Tree) -> None:
        """Tell what this verdict changes; ``before`` is the object as it is before the verdict is written there."""
        key = (*verdict.key, verdict.uid)
        # where statuses are not kept, nothing stands there
        known = notes.stands(verdict, before, self._owner) or self._told.get(key, {})
        _remember(self._told, key, notes.said(verdict))
        for note in notes.changes(verdict, known):
            self.tell(note)

    def tell(self, note: Note) -> None:
        """If we lead, and unless too much has been told about its object already. Never waits."""
        if not self._leading():
            return
        now = trio.current_time()
        series = self._series.get(note)
        if series is None or now - series.at > SERIES_S:
            series = _Series(note)
        _remember(self._series, note, series)
        series.count, series.at = series.count + 1, now
        if now - series.told >= REPEAT_S and series not in self._queue and self._afford(note, now):
            series.told = now
            self._queue.append(series)
            self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while self._queue and self._leading():
                await self._tell(self._queue.popleft())
            self._queue.clear()
            self._woken = trio.Event()
            await self._woken.wait()

    def _afford(self, note: Note, now: float) -> bool:
        spent = self._spent.get(note.regarding)
        if spent is None:
            spent = deque[float](maxlen=PER_OBJECT)
        _remember(self._spent, note.regarding, spent)
        if len(self._queue) >= QUEUE or (len(spent) == PER_OBJECT and now - spent[0] < WINDOW_S):
            return False
        spent.append(now)
        return True

    async def _tell(self, series: _Series) -> None:
        space = notes.namespace(series.note)
        for tried in range(1, TRIES + 1):
            if self._quiet.get(space, -math.inf) > trio.current_time() or not self._leading():
                return
            if pause := self._bucket.take(trio.current_time()):
                await trio.sleep(pause)
                self._bucket.take(trio.current_time())
            try:
                await self._send(series, space)
                return
            except ApiError as error:
                if not self._is_passing(series, space, error):
                    return
                pause = min(error.retry_after or 0.0, REPEAT_S)
            except Unreachable:
                pause = 0.0
            await trio.sleep(max(pause, backoff(tried, 0.5, 30.0)))

    async def _send(self, series: _Series, space: str) -> None:
        if series.name and series.count > 1:
            body = notes.series(series.count, self._wall())
            path = EVENT.path(space, series.name)
            await self._api.request("PATCH", path, body=body, content_type=MERGE, timeout=TIMEOUT_S)
            return
        body = notes.event(series.note, self._identity, f"{self._rng.getrandbits(64):016x}", self._wall())
        await self._api.request("POST", EVENT.path(space), body=body, timeout=TIMEOUT_S)
        series.name = body["metadata"]["name"]

    def _is_passing(self, series: _Series, space: str, error: ApiError) -> bool:
        """Whether to try again."""
        if series.name and error.status == 404:
            series.name, series.count = "", 1  # events live an hour
            return True
        if error.status in (403, 404):
            self._quiet[space] = trio.current_time() + QUIET_S
            if not self._warned:
                self._warned = True
                _log.warning("no events are told: this needs create and patch on events of %s: %s", EVENT.group, error)
            return False
        return error.status in (401, 408, 429) or error.status >= 500


def _remember(place: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    place[key] = value
    place.move_to_end(key)
    if len(place) > REMEMBERED:
        place.popitem(last=False)
