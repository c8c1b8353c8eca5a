"""Carries what replicas tell each other over one Redis stream. (IO)

Beside the path of requests: two connections of its own, one that says something every 200 ms and one that listens.
Invariant: Redis slow or gone means that nothing is exchanged, and nothing else; a message whose fate is not known is
sent again as it is, and who has heard it passes over it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import trio

from gateway.config import redis_url
from gateway.config.sharing import Redis as Settings
from gateway.replicas import Count, Replicas
from gateway.store.connect import NONSENSE, Failed, Open, open_client

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from coredis.client import Client

INTERVAL_S: Final = 0.2
KEPT: Final = 1000
"""Messages that the stream holds for those who join, about: what was placed lately is in caches."""
GONE_S: Final = 600
"""A stream that nobody writes to any more goes away."""
BLOCK_S: Final = 1.0
PATIENCE_S: Final = 5.0
RETRY_S: Final = (0.1, 5.0)
"""The first pause before it is tried again, and the longest; being connected for as long as that starts over."""
_RENEWED: Final = 300
_BATCH: Final = 16
"""Messages in one answer of Redis, which is bounded in size (`gateway.store.bounded`)."""
_MESSAGE: Final = b"m"

_log: Final = logging.getLogger("infer_gateway.store")
_T = TypeVar("_T")


class Statistics(msgspec.Struct, frozen=True, gc=False):
    """``reason``: why it is not connected. ``away``: how often it went away. ``replicas``: others there are.
    ``malformed`` messages were not understood.
    """

    connected: bool
    reason: str
    away: int
    replicas: int
    malformed: int
    sent: int
    heard: int


class Carrier:
    """``counts`` tells what is under way here; `run` runs until cancelled."""

    def __init__(
        self,
        settings: Settings,
        replicas: Replicas,
        counts: Callable[[], Mapping[str, Mapping[str, Count]]],
        connect: Open = open_client,
    ) -> None:
        self._settings = settings
        self._replicas = replicas
        self._counts = counts
        self._connect = connect
        self._key = f"{{{settings.prefix}}}:replicas"
        self._where = str(redis_url.parse(settings.url.reveal()))
        self._unsent: bytes | None = None
        self._connected = False
        self._history = True  # unless it could not be read the last time
        self._reason = ""
        self._delay, self._since = RETRY_S[0], 0.0
        self._away = self._sent = self._heard = 0

    def statistics(self) -> Statistics:
        replicas = self._replicas
        return Statistics(
            self._connected, self._reason, self._away, replicas.live, replicas.malformed, self._sent, self._heard
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            while True:
                try:
                    async with self._connect(self._settings) as client, self._connect(self._settings) as listener:
                        await self._exchange(client, listener)
                except Failed as error:
                    self._leave(str(error))
                await trio.sleep(self._delay * random.uniform(0.5, 1.0))
                self._delay = min(self._delay * 2, RETRY_S[1])

    async def _expire(self) -> None:
        """Whether or not there is a connection: who is not heard of has nothing under way."""
        while True:
            await trio.sleep(INTERVAL_S)
            self._replicas.expire(trio.current_time())

    async def _exchange(self, client: Client[bytes], listener: Client[bytes]) -> None:
        said = await self._tell(client)
        last = await self._join(listener, said) if self._history else said
        self._connected, self._history, self._reason, self._since = True, True, "", trio.current_time()
        _log.info("replicas meet at Redis at %s", self._where)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, listener, last)
            nursery.start_soon(self._say, client)

    def _leave(self, reason: str) -> None:
        """Told once, until it is back."""
        if self._connected:
            self._connected = False
            self._away += 1
            if trio.current_time() - self._since >= RETRY_S[1]:
                self._delay = RETRY_S[0]
        if not self._reason:
            _log.warning("Redis at %s is away, other replicas are not heard: %s", self._where, reason)
        self._reason = reason

    # -- listening -------------------------------------------------------------------------------------------------

    async def _join(self, client: Client[bytes], said: str) -> str:
        """Hear what was said lately, the oldest first; the id of the last message. What is known already is passed
        over. ``said``: the id of a message just sent, up to which it is read.
        """
        self._history = False
        now, last = _order(said), "0-0"
        for _ in range(2 * KEPT // _BATCH):
            entries = await self._read(client, last)
            for entry in entries:
                last = _text(entry.identifier)
                await self._hear(entry, max(0.0, (now[0] - _order(last)[0]) / 1000.0))
            if not entries or _order(last) >= now:
                break
        return last if _order(last) >= now else said

    async def _listen(self, client: Client[bytes], last: str) -> None:
        while True:
            for entry in await self._read(client, last, block=int(BLOCK_S * 1000)):
                await self._hear(entry)
                last = _text(entry.identifier)

    async def _read(self, client: Client[bytes], last: str, block: int | None = None) -> Sequence[Any]:
        """The next messages after that one; none after ``block`` ms, or if there are none."""
        read = client.xread({self._key: last}, count=_BATCH, block=block)
        streams = await _within(BLOCK_S + PATIENCE_S, read)
        return [entry for entries in (streams or {}).values() for entry in entries]

    async def _hear(self, entry: Any, age: float = 0.0) -> None:
        self._heard += 1
        message = entry.field_values.get(_MESSAGE)
        self._replicas.hear(message if isinstance(message, bytes) else b"", trio.current_time(), age)
        await trio.lowlevel.checkpoint()  # requests go on between any two

    # -- saying ----------------------------------------------------------------------------------------------------

    async def _say(self, client: Client[bytes]) -> None:
        while True:
            await _within(PATIENCE_S, client.expire(self._key, GONE_S))
            for _ in range(_RENEWED):
                await trio.sleep(INTERVAL_S)
                await self._tell(client)

    async def _tell(self, client: Client[bytes]) -> str:
        """One message; its id."""
        from coredis import PureToken

        if self._unsent is None:
            self._unsent = self._replicas.digest(self._counts())
        added = client.xadd(
            self._key,
            {_MESSAGE: self._unsent},
            trim_strategy=PureToken.MAXLEN,
            trim_operator=PureToken.APPROXIMATELY,
            threshold=KEPT,
        )
        said = await _within(PATIENCE_S, added)
        assert said is not None, "without NOMKSTREAM there is always an id"
        self._unsent = None
        self._sent += 1
        return _text(said)


async def _within(seconds: float, answer: Awaitable[_T]) -> _T:
    with trio.move_on_after(seconds):
        try:
            return await answer
        except NONSENSE as error:
            raise Failed(f"what it answers is not understood: {error}") from None
    raise Failed(f"no answer within {seconds:g} s")


def _text(id: str | bytes) -> str:
    """Raises Failed for what is no id."""
    try:
        text = id if isinstance(id, str) else id.decode("ascii")
        _ = _order(text)
    except ValueError:
        raise Failed(f"what it answers is not understood: a message called {id!r}") from None
    return text


def _order(id: str) -> tuple[int, int]:
    """Milliseconds by the server's clock, and a number. Raises ValueError."""
    at, _, number = id.partition("-")
    return int(at), int(number)
