"""Accounts of limits that replicas share: `Redis`, by one script on one server, beside the path of requests. (IO)

A task of its own talks to the server, one batch after another; whatever wants something while one is under way goes
with the next. So a request's end never touches a connection, many requests share a round trip, and a batch whose
answer was lost is sent again under its number and answered as it was the first time.

Measured with two rates a request on two cores that the server shares; CPU is this process's, taking and settling:
requests one after another 2,500/s at 290 µs (190 of them coredis, once a batch), 8 at once 11,000/s at 48 µs, 32 at
once 22,000/s at 21 µs, 200 at once 30,000/s at 13 µs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import random
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import outcome
import trio

from gateway.config import redis_url
from gateway.config.sharing import Redis as Settings
from gateway.ports import Store
from gateway.store.batch import REQUESTS, Batch, Granted, Outbox, answers
from gateway.store.connect import NONSENSE, Failed, Open, open_client
from gateway.types import Demand, Taken

if TYPE_CHECKING:
    from coredis.client import Client

LEASE_S: Final = 10.0
"""How long the places of a replica that says nothing more are held for it."""
SETTLE_S: Final = 0.05
PATIENCE_S: Final = 5.0
"""Nobody waits for it, but an answer that takes longer is given up, and the connection with it."""
LAST_WORDS_S: Final = 0.5
RETRY_S: Final = (0.1, 5.0)
"""The first pause before it is tried again, and the longest; being in use for as long as that starts over."""
_PASSING: Final = ("OOM ", "MISCONF ", "BUSY ", "MASTERDOWN ", "NOREPLICAS ")

_log = logging.getLogger("infer_gateway.store")


class Statistics(msgspec.Struct, frozen=True, gc=False):
    """``reason``: why it is not connected. ``away``: how often it went away. ``takes`` were answered by Redis,
    ``fallbacks`` by this process alone; ``dropped`` settlements were too many while it was away or were refused.
    ``latency``: of a batch, in seconds, a moving mean.
    """

    connected: bool
    reason: str
    away: int
    takes: int
    fallbacks: int
    dropped: int
    latency: float


class _Wanted:
    """A request that waits for an answer. ``task`` is None as soon as nobody waits any more."""

    __slots__ = ("at", "demands", "task")

    def __init__(self, demands: Sequence[Demand], at: float) -> None:
        self.demands = demands
        self.at = at
        self.task: trio.lowlevel.Task | None = None

    async def answer(self) -> Taken:
        self.task = trio.lowlevel.current_task()
        taken: Taken = await trio.lowlevel.wait_task_rescheduled(self._leave)
        return taken

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def tell(self, taken: Taken) -> None:
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Value(taken))


class Redis:
    """Implements `gateway.ports.Store` while `run` runs. Shared: all keys begin with ``{prefix}``.

    While Redis is away — not yet connected, slower than ``settings.timeout``, or gone — ``local`` decides for this
    process alone, at once. What was taken there is settled there; what was taken from Redis waits for its return.
    ``replica`` tells this process from others and must not be used by two.
    """

    def __init__(self, settings: Settings, local: Store, replica: str = "", connect: Open = open_client) -> None:
        self._settings = settings
        self._local = local
        self._connect = connect
        self._outbox = Outbox(settings.prefix, replica or secrets.token_hex(8), LEASE_S)
        self._script = Path(__file__).with_name("limits.lua").read_bytes()
        self._digest = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()
        self._where = str(redis_url.parse(settings.url.reveal()))
        self._slow = f"no answer within {settings.timeout:g} s"
        self._wanted: deque[_Wanted] = deque()
        self._under_way: list[_Wanted] = []
        self._unanswered: Batch | None = None
        self._due = self._renewal = self._since = self._latency = 0.0
        self._nap = trio.CancelScope()
        self._patience = trio.CancelScope()
        self._connected = False
        self._reason = ""
        self._delay = RETRY_S[0]
        self._away = self._takes = self._fallbacks = 0

    def statistics(self) -> Statistics:
        return Statistics(
            self._connected,
            self._reason,
            self._away,
            self._takes,
            self._fallbacks,
            self._outbox.dropped,
            self._latency,
        )

    # -- what the ledger asks -----------------------------------------------------------------------------------

    def take_nowait(self, demands: Sequence[Demand], now: float, /) -> Taken | None:
        return None if self._connected else self._alone(demands, now)

    async def take(self, demands: Sequence[Demand], /) -> Taken:
        now = trio.current_time()
        if not self._connected:
            return self._alone(demands, now)
        wanted = _Wanted(demands, now)
        self._wanted.append(wanted)
        self._nap.cancel()
        return await wanted.answer()

    def settle(self, demands: Sequence[Demand], taken: Taken, given_back: Sequence[float], now: float, /) -> None:
        if not isinstance(taken, Granted):
            self._local.settle(demands, taken, given_back, now)
            return
        self._outbox.settle(demands, given_back, taken.at)
        self._tell_within(now)

    def _alone(self, demands: Sequence[Demand], now: float) -> Taken:
        self._fallbacks += 1
        taken = self._local.take_nowait(demands, now)
        assert taken is not None, "the local store needs nobody else"
        return taken

    def _tell_within(self, now: float) -> None:
        self._due = min(self._due, now + SETTLE_S)
        self._nap.deadline = min(self._nap.deadline, self._due)

    # -- the task that talks ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; what is still to be told then is, if that is quickly done."""
        try:
            while True:
                try:
                    async with self._connect(self._settings) as client:
                        await self._converse(client)
                except Failed as error:
                    self._leave(str(error))
                await trio.sleep(self._pause())
        finally:
            used = self._connected
            self._part()
            if used:
                await self._last_words()

    async def _converse(self, client: Client[bytes]) -> None:
        """Until something fails. Redis is in use once it answers in time; the answer that connects does not count."""
        self._outbox.renew()
        await self._exchange(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                self._outbox.renew()
                began = trio.current_time()
                await self._exchange(client)
                if trio.current_time() - began <= self._settings.timeout:
                    await self._serve(client)
                self._leave(self._slow)
                await trio.sleep(self._pause())

    async def _serve(self, client: Client[bytes]) -> None:
        """While answers come in time."""
        self._join()
        while self._connected:
            while not self._wanted and trio.current_time() < self._due:
                with trio.move_on_at(self._due) as self._nap:
                    await trio.sleep_forever()
            await self._exchange(client)

    async def _watch(self) -> None:
        """Lets nobody wait longer than the timeout, though the connection does."""
        while True:
            with trio.CancelScope() as self._patience:
                await trio.sleep_forever()
            self._leave(self._slow)

    async def _exchange(self, client: Client[bytes]) -> None:
        """One batch: the one whose answer never came, or the next."""
        began = trio.current_time()
        if self._unanswered is None:
            self._unanswered = self._next(began)
        if self._connected:
            oldest = self._under_way[0].at if self._under_way else began
            self._patience.deadline = oldest + self._settings.timeout
        all_taken = await self._ask(client, self._unanswered)
        self._patience.deadline = math.inf
        self._latency += (trio.current_time() - began - self._latency) * 0.1
        self._unanswered = None
        self._deliver(all_taken)

    def _next(self, now: float) -> Batch:
        if now >= self._renewal:
            self._outbox.renew()
            self._renewal = now + LEASE_S / 3
        while self._wanted and len(self._under_way) < REQUESTS:
            wanted = self._wanted.popleft()
            if wanted.task is not None:
                self._under_way.append(wanted)
        batch = self._outbox.batch([wanted.demands for wanted in self._under_way])
        self._due = now if batch.full else self._renewal
        return batch

    async def _ask(self, client: Client[bytes], batch: Batch) -> list[Granted]:
        """The script's answer. A batch that the server will never answer is dropped."""
        from coredis.exceptions import NoScriptError, RedisError

        with trio.move_on_after(PATIENCE_S):
            try:
                try:
                    reply = await client.evalsha(self._digest, keys=batch.keys, args=(batch.body,))
                except NoScriptError:  # restarted, or another server than before
                    reply = await client.eval(self._script, keys=batch.keys, args=(batch.body,))
                return self._understood(answers(reply))
            except (OSError, RedisError, *NONSENSE) as error:
                self._part()
                if _is_final(error):
                    self._unanswered = None
                    self._under_way.clear()
                    self._outbox.dropped += batch.settlements
                if isinstance(error, NONSENSE):
                    raise Failed(f"what it answers is not understood: {error}") from None
                raise
        raise Failed(f"no answer within {PATIENCE_S:g} s")

    def _understood(self, all_taken: list[Granted]) -> list[Granted]:
        """Raises ValueError unless they are about what is under way."""
        if [len(taken.used) for taken in all_taken] != [len(wanted.demands) for wanted in self._under_way]:
            raise ValueError("not an answer to this batch")
        return all_taken

    def _deliver(self, all_taken: Sequence[Granted]) -> None:
        under_way, self._under_way = self._under_way, []
        self._takes += len(under_way)
        for wanted, taken in zip(under_way, all_taken, strict=True):
            if taken.granted and wanted.task is None:
                self._outbox.unwanted(wanted.demands, taken.at)
                self._tell_within(trio.current_time())
            elif taken.granted:
                self._outbox.granted(wanted.demands)
            wanted.tell(taken)

    # -- there or away ------------------------------------------------------------------------------------------

    def _join(self) -> None:
        self._connected = True
        self._since = trio.current_time()
        self._reason = ""
        _log.info("Redis at %s keeps the limits", self._where)

    def _leave(self, reason: str) -> None:
        """Told once, until it is back."""
        self._part()
        if not self._reason:
            _log.warning("Redis at %s is away, this process keeps limits by itself: %s", self._where, reason)
        self._reason = reason

    def _part(self) -> None:
        """Whoever waits is answered without it, and so is who comes."""
        now = trio.current_time()
        if self._connected:
            self._connected = False
            self._away += 1
            if now - self._since >= RETRY_S[1]:
                self._delay = RETRY_S[0]
        for wanted in (*self._under_way, *self._wanted):
            if wanted.task is not None:
                wanted.tell(self._alone(wanted.demands, now))
        self._wanted.clear()

    def _pause(self) -> float:
        delay, self._delay = self._delay, min(self._delay * 2, RETRY_S[1])
        return delay * random.uniform(0.5, 1.0)

    async def _last_words(self) -> None:
        with trio.move_on_after(LAST_WORDS_S, shield=True), contextlib.suppress(Failed):
            async with self._connect(self._settings) as client:
                while self._unanswered is not None or self._outbox.waiting:
                    await self._exchange(client)


def _is_final(error: Exception) -> bool:
    """Whether a batch would fare no better another time: its own script or keys are at fault, or nobody knows why.
    Else it is the state that the server is in, which passes, and what has ended meanwhile is settled then.
    """
    from coredis.exceptions import ResponseError, WrongTypeError

    if type(error) is ResponseError:  # one that coredis has no name for
        return not str(error).startswith(_PASSING)
    return isinstance(error, (WrongTypeError, *NONSENSE))
