"""Sends the load, closed or open loop, and times what comes back. (IO)

Invariant: in an open loop every time is taken from when the request was due, however late it was sent, so a server
that stalls cannot hide it by slowing the generator (no coordinated omission).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import trio

from .answers import Check
from .arrivals import Arrival, Chance, arrival_times
from .client import Address, Broken, Connection
from .measure import Measurements, Window

_now = time.perf_counter
_AFTER_REFUSAL_S = 0.1
_BUFFER_BYTES = 128 * 1024


class Plan(msgspec.Struct, frozen=True):
    """How requests are sent and for how long: until ``duration_s`` after the warm-up, or until ``requests`` were sent.

    ``connections`` is the concurrency of a closed loop and the ceiling of an open one. ``drain_s`` is how long requests
    still open at the end of the measured time may take; their times count, the rates do not include them.
    """

    mode: Literal["closed", "open"] = "closed"
    connections: int = 32
    rate: float = 10.0
    arrival: Arrival = "poisson"
    burstiness: float = 0.5
    duration_s: float | None = 10.0
    requests: int | None = None
    warmup_s: float = 0.0
    drain_s: float = 30.0
    timeout_s: float = 600.0


class _Probe:
    """One request under way: turns its reads into times. ``start`` is when it was due (open) or sent (closed)."""

    __slots__ = ("_check", "_drive", "_events", "_first", "_last", "_measured", "_start")

    def __init__(self, drive: Drive, check: Check, start: float) -> None:
        self._drive = drive
        self._check = check
        self._start = start
        self._first = 0.0
        self._last = 0.0
        self._events = 0
        # A run of so many requests measures exactly those; a run of so many seconds measures what happens in them.
        self._measured = drive.measured if drive.plan.requests else None

    def received(self, data: bytes) -> None:
        """One read's body bytes. The gap before a read belongs to its first event, the others came with no gap."""
        now = _now()
        measured = self._drive.measured
        measured.bytes += len(data)
        events = self._check.feed(data)
        if not events:
            return
        measured.events += events
        self._events += events
        if self._first:
            measured.itl.record(now - self._last)
            if events > 1:
                measured.itl.record(0.0, events - 1)
        elif self._check.begun:
            self._first = now
            measured.ttft.record(now - self._start)
        self._last = now

    def finish(self, status: int) -> None:
        """The answer is whole: judge and count it."""
        now = _now()
        measured = self._measured or self._drive.measured
        measured.statuses[status] += 1
        check = self._check
        if not 200 <= status < 300:
            measured.errors[f"http_{status}"] += 1
            measured.refused.record(now - self._start)
            return
        if wrong := check.finish():
            measured.errors[wrong] += 1
            return
        measured.ok += 1
        measured.latency.record(now - self._start)
        tokens = check.output_tokens if check.output_tokens is not None else self._events
        measured.tokens += tokens
        measured.prompt_tokens += check.prompt_tokens or 0
        if self._first and tokens > 1:
            measured.tpot.record((self._last - self._first) / (tokens - 1))

    def fail(self, kind: str) -> None:
        """The exchange broke."""
        (self._measured or self._drive.measured).errors[kind] += 1


class Drive:
    """One run. ``measured`` is what has been measured so far (a new one starts when the warm-up ends)."""

    def __init__(
        self,
        plan: Plan,
        address: Address,
        messages: Sequence[bytes],
        new_check: Callable[[], Check],
        chance: Chance,
    ) -> None:
        self.plan = plan
        self.measured = Measurements()
        self.window: Window | None = None
        self.open_requests = 0
        self.started_at = _now()
        self.warm = plan.warmup_s == 0
        self._address = address
        self._messages = itertools.cycle(messages)
        self._new_check = new_check
        self._chance = chance
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._connections: list[Connection] = []
        self._stopping = False
        self._backlog = 0  # due, not yet sent
        self._left = math.inf if plan.requests is None else plan.requests
        self._arrivals = trio.CancelScope()
        self._work = trio.CancelScope()

    async def run(self) -> Window:
        """Drive to the end of the plan, or of ``stop``. Returns the window of the rates."""
        self.started_at = _now()
        async with trio.open_nursery() as background:
            background.start_soon(self._expire_late)
            background.start_soon(self._keep_time)
            with self._work:
                async with trio.open_nursery() as work:
                    if self.plan.mode == "open":
                        await self._open_loop(work)
                    else:
                        for _ in range(self.plan.connections):
                            work.start_soon(self._closed_worker)
            background.cancel_scope.cancel()
        self._end_window()
        assert self.window is not None
        self.measured.unfinished += self._backlog
        self.measured.reconnects = sum(connection.reconnects for connection in self._connections)
        return self.window

    def stop(self) -> None:
        """End at once; what is open counts as unfinished."""
        self._end_window()
        self._work.cancel()

    async def _keep_time(self) -> None:
        plan = self.plan
        if plan.warmup_s:
            await trio.sleep(plan.warmup_s)
            self.measured, self.started_at, self.warm = Measurements(), _now(), True
        if plan.duration_s is not None:
            await trio.sleep(plan.duration_s)
            self._end_window()
            await trio.sleep(plan.drain_s)
            self._work.cancel()

    def _end_window(self) -> None:
        self._stopping = True
        self._arrivals.cancel()
        if self.window is None:
            self.window = Window(self.measured, _now() - self.started_at)

    async def _expire_late(self) -> None:
        """One sweep twice a second instead of a deadline for each request, which would cost a tenth of the rate."""
        while True:
            await trio.sleep(min(0.5, self.plan.timeout_s / 4))
            before = _now() - self.plan.timeout_s
            for connection in self._connections:
                if 0 < connection.started_at < before:
                    connection.expire()

    def _connect(self) -> Connection:
        connection = Connection(self._address, self._buffer, min(10.0, self.plan.timeout_s))
        self._connections.append(connection)
        return connection

    async def _request(self, connection: Connection, start: float) -> None:
        probe = _Probe(self, self._new_check(), start)
        self.open_requests += 1
        try:
            status = await connection.exchange(next(self._messages), probe.received)
        except Broken as broken:
            probe.fail(broken.kind)
            self.open_requests -= 1
            if broken.kind in ("connect", "tls"):
                await trio.sleep(_AFTER_REFUSAL_S)
        except trio.Cancelled:
            self.measured.unfinished += 1
            raise
        else:
            probe.finish(status)
            self.open_requests -= 1

    def _may_send(self) -> bool:
        """Whether one more request is to be sent; the warm-up's are not counted."""
        if self._stopping or self._left <= 0:
            return False
        if self.warm:
            self._left -= 1
        return True

    async def _closed_worker(self) -> None:
        connection = self._connect()
        try:
            while self._may_send():
                await self._request(connection, _now())
        finally:
            connection.close()

    async def _open_loop(self, work: trio.Nursery) -> None:
        """Hand each due time to an idle worker, to a new one, or to the backlog once all connections are busy."""
        due, waiting = trio.open_memory_channel[float](math.inf)
        workers = 0
        times = arrival_times(self.plan.arrival, self.plan.rate, self._chance, self.plan.burstiness)
        origin = _now()
        with due, self._arrivals:
            for offset in times:
                await trio.sleep(max(0.0, origin + offset - _now()))
                if not self._may_send():
                    break
                if not waiting.statistics().tasks_waiting_receive and workers < self.plan.connections:
                    workers += 1
                    work.start_soon(self._open_worker, waiting)
                due.send_nowait(origin + offset)
                self._backlog += 1

    async def _open_worker(self, waiting: trio.MemoryReceiveChannel[float]) -> None:
        connection = self._connect()
        try:
            async for due in waiting:
                self._backlog -= 1
                self.measured.late.record(_now() - due)
                await self._request(connection, due)
        finally:
            connection.close()
