"""The live feed: the running gateway as a stream of events for whoever watches. (T)

Invariant: one sample a second is taken always, in microseconds; everything else is done while somebody watches, once
for all of them, in slices of a millisecond; who does not read is dropped, and nobody waits for anybody.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import trio

import gateway
from gateway.live_attempts import Attempts
from gateway.live_figures import Counted, Rates, counted, rates
from gateway.live_json import encode
from gateway.live_state import Before, Parts, Picture, around
from gateway.live_verdict import Around, Ended
from gateway.live_view import Ways, ways

WATCHERS: Final = 32
_INTERVAL_S: Final = 1.0
_WINDOW: Final = 10
_HISTORY: Final = 300
_BEHIND: Final = 4
"""Events that may be on their way to a watcher that does not take them."""
_MINUTES: Final = 3
_QUEUE_S: Final = 30
_MINUTE_S: Final = 60
_MARK_S: Final = 10
_LAST_S: Final = 0.2

Event = tuple[str, bytes]
"""Its name, and its data as JSON."""


class Crowded(Exception):
    """There are as many watchers as may be."""


class _Watcher:
    """One who watches; ``cut`` ends what stands between."""

    def __init__(self, cut: Callable[[], object]) -> None:
        self.cut = cut
        self.greeted = False
        self.send, self.receive = trio.open_memory_channel[Event](_BEHIND)


class Live:
    """``problems``: why the last reload failed. Times in events are seconds of ``clock``, since the epoch."""

    def __init__(
        self, parts: Parts, problems: Callable[[], Sequence[str]] = tuple, clock: Callable[[], float] = time.time
    ) -> None:
        self._parts = parts
        self._problems = problems
        self._clock = clock
        self._started = clock()
        self._history: deque[list[float | None]] = deque(maxlen=_HISTORY)
        self._counted: deque[tuple[float, Counted]] = deque(maxlen=_WINDOW)
        self._picture = Picture(parts, _WINDOW)
        self._ended_so_far: deque[Ended] = deque([Ended()], maxlen=_MINUTE_S + 1)
        self._ways: deque[Ways] = deque([{}], maxlen=_MINUTES * 60 // _MARK_S)
        self._attempts: deque[Attempts] = deque([{}], maxlen=2)
        self._around: deque[Around] = deque([Around()], maxlen=_MINUTE_S + 1)
        self._samples = 0
        self._watchers: dict[_Watcher, None] = {}
        self._joined = trio.Event()
        self._left = trio.Event()
        self._rates: Rates = rates(Counted(), Counted(), 1.0)
        self._ended = False

    async def run(self) -> None:
        """Until cancelled."""
        due = trio.current_time()
        state = b""
        while True:
            if trio.current_time() >= due:
                due = max(due + _INTERVAL_S, trio.current_time())
                self._sample()
                state = b""
            self._joined = trio.Event()
            if self._watchers and not self._ended:
                fresh = not state
                state = state or await self._state()
                self._send(state, fresh)
            else:
                self._picture.forget()
            with trio.move_on_at(due):
                await self._joined.wait()

    # -- watching ---------------------------------------------------------------------------------------------------

    @contextmanager
    def watch(self, cut: Callable[[], object]) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """Events from now on, "hello" first; the channel ends when the gateway does, or for one who falls behind, after
        ``cut`` was called. Raises Crowded.
        """
        if len(self._watchers) >= WATCHERS or self._ended:
            raise Crowded
        watcher = _Watcher(cut)
        self._watchers[watcher] = None
        self._joined.set()
        try:
            yield watcher.receive
        finally:
            self._drop(watcher)
            watcher.receive.close()

    def _drop(self, watcher: _Watcher) -> None:
        self._watchers.pop(watcher, None)
        watcher.send.close()
        if not self._watchers:
            self._left.set()

    async def end(self) -> None:
        """No more events; returns when the last ones are out, or soon anyway."""
        self._ended = True
        self._left = trio.Event()
        for watcher in self._watchers:
            watcher.send.close()
        if self._watchers:
            with trio.move_on_after(_LAST_S):
                await self._left.wait()

    def _send(self, state: bytes, fresh: bool) -> None:
        hello = b""
        for watcher in list(self._watchers):
            if not watcher.greeted:
                hello = hello or self._hello(state)
                watcher.greeted = True
                event = "hello", hello
            elif fresh:
                event = "state", state
            else:
                continue
            try:
                watcher.send.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                self._drop(watcher)
                watcher.cut()

    def _hello(self, state: bytes) -> bytes:
        head = {
            "version": gateway.__version__,
            "started": self._started,
            "interval": _INTERVAL_S,
            "history": list(self._history),
            "state": msgspec.Raw(state),
        }
        return bytes(encode(head))

    # -- always -----------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        now = trio.current_time()
        new = counted(self._parts.totals.flows.values())
        at, old = self._counted[0] if self._counted else (now - _INTERVAL_S, new)
        self._counted.append((now, new))
        self._ended_so_far.append(Ended(new.requests, new.errors))
        self._around.append(around(self._parts))
        found = self._rates = rates(new, old, max(now - at, 1e-3))
        inflight, queued = self._under_way()
        self._history.append(
            [
                round(self._clock(), 3), found.rps, found.errors, found.tokens_in, found.tokens_out,
                found.ttft_p50, found.ttft_p99, inflight, queued,
            ]
        )  # fmt: skip
        self._mark()

    def _mark(self) -> None:
        """What routes have counted, now and then, for their shares of the last minutes; and attempts at endpoints."""
        if not self._samples % _MARK_S:
            self._ways.append(ways(self._parts.totals.routes))
            self._attempts.append(dict(self._parts.totals.attempts))
        self._samples += 1

    def _under_way(self) -> tuple[int, int]:
        """Requests at endpoints, and those that wait for one."""
        inflight = queued = 0
        for pool in self._parts.pools.by_name().values():
            inflight += pool.inflight
            if pool.gate is not None:
                queued += len(pool.gate.order)
        return inflight, queued

    # -- while somebody watches -------------------------------------------------------------------------------------

    async def _state(self) -> bytes:
        parts, now = self._parts, self._clock()
        inflight, queued = self._under_way()
        head = {
            "at": round(now, 3),
            "uptime": round(now - self._started, 3),
            "ready": parts.ready(),
            "draining": parts.draining,
            "generation": parts.totals.generation,
            "problems": list(self._problems()),
        }
        figures = msgspec.to_builtins(self._rates)
        totals = {"inflight": inflight, "queued": queued, **figures, "connections": parts.connections()}
        return await self._picture.take(head, totals, self._before())

    def _before(self) -> Before:
        return Before(
            self._ways[0],
            self._attempts[0],
            self._history[-_QUEUE_S][-1] if len(self._history) >= _QUEUE_S else None,
            self._within(_WINDOW),
            self._within(_MINUTE_S),
            (self._around[-1], self._around[0]),
        )

    def _within(self, seconds: int) -> Ended:
        """What has ended in so many of the last seconds, or since the beginning."""
        so_far = self._ended_so_far
        new, old = so_far[-1], so_far[max(0, len(so_far) - 1 - seconds)]
        return Ended(new.requests - old.requests, new.errors - old.errors)
