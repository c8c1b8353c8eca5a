"""Asks endpoints what they serve, and so learns whether they answer. (T)

Each endpoint has its own time (`gateway.rounds`), as configurations come and go: a hung one delays nobody. A refused
connection takes an endpoint out of use at once, a slow answer only when it repeats (a busy engine is slow to answer).
Those that answer are asked ever more seldom the more there are: their number must not show in what asking costs.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
import trio

from gateway.config.resources import PROVIDERS
from gateway.errors import Exhausted, GatewayError, UpstreamError
from gateway.ports import Adapter, Transport
from gateway.rounds import Rounds
from gateway.types import ANY, PLAIN, UNKNOWN, Endpoint, Headers, ModelCard, UpstreamRequest

_log = logging.getLogger("infer_gateway.discover")
_UP_S: Final = 5.0
_PROVIDER_S: Final = 60.0
_DOWN_S: Final = (0.25, 0.5, 1.0)
_RATE: Final = 100.0
"""Of endpoints that answer so many are asked a second; beyond five hundred of them the 5 s grow."""
_TIMEOUT_S: Final = 5.0
_SLOW_ANSWERS: Final = 3
_BODY_MAX: Final = 4 << 20
_HEADERS: Final = ((b"accept", b"application/json"), (b"accept-encoding", b"identity"))
_CLOSING: Final = (*_HEADERS, (b"connection", b"close"))
_KEPT: Final = 1024
"""Of more endpoints connections are not kept for whoever may need one next."""

NO_FIELDS: Final[Mapping[str, Headers]] = MappingProxyType({})

Detect = Callable[[Mapping[str, bytes]], str | None]
"""The answers of an unknown engine by path → the engine's name, or None."""


class Answer(msgspec.Struct, frozen=True):
    """What is known of an endpoint. ``up`` None: it has not answered yet, nor failed to. ``why``: what put it down."""

    up: bool | None = None
    engine: str = ""
    cards: tuple[ModelCard, ...] = ()
    why: str = ""


class Discovery:
    """``changed`` is called with an endpoint, in this thread, whenever its `Answer` is another than before. ``fields``:
    what some engines want to be told whenever they are asked, by engine. ``wall`` is seconds since the epoch.
    """

    def __init__(
        self,
        transport: Transport,
        adapters: Mapping[str, Adapter],
        changed: Callable[[Endpoint], None],
        *,
        detect: Detect = lambda answers: None,
        detect_paths: Iterable[str] = (),
        fields: Mapping[str, Headers] = NO_FIELDS,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._wall = wall
        self._rng = rng or random.Random()
        self._transport = transport
        self._adapters = adapters
        self._changed = changed
        self._detect = detect
        self._detect_paths = tuple(detect_paths)
        self._fields = fields
        self._answers: dict[Endpoint, Answer] = {}
        self._failures: dict[Endpoint, int] = {}
        self._rounds = Rounds(self._ask, lambda endpoint: f"discovery of {endpoint.url}")
        self._unknown: set[Endpoint] = set()
        self._settled = trio.lowlevel.ParkingLot()

    def __getitem__(self, endpoint: Endpoint) -> Answer:
        return self._answers.get(endpoint, _NOTHING)

    async def run(self) -> None:
        """Until cancelled. Endpoints given to `watch` before are asked from now on."""
        await self._rounds.run()

    def watch(self, endpoints: Iterable[Endpoint]) -> None:
        """Ask these from now on, and no others."""
        wanted = set(endpoints)
        for endpoint in self._rounds.keys - wanted:
            self.drop(endpoint)
        for endpoint in wanted:
            self.add(endpoint)

    def add(self, endpoint: Endpoint) -> None:
        """Ask this one, too, from now on."""
        if endpoint not in self._rounds.keys:
            self._unknown.add(endpoint)
            self._rounds.add(endpoint, -math.inf)  # before those whose turn has come, of whom something is known

    def drop(self, endpoint: Endpoint) -> None:
        """Ask it no more, and forget what is known of it."""
        self._rounds.drop(endpoint)
        self._answers.pop(endpoint, None)
        self._failures.pop(endpoint, None)
        self._settle(endpoint)

    def hurry(self, endpoint: Endpoint) -> None:
        """Something is wrong with it, or has changed: ask now and not when its turn comes."""
        self._rounds.hurry(endpoint)

    async def wait_settled(self) -> None:
        """Until every endpoint watched has answered or failed to, once."""
        while self._unknown:
            await self._settled.park()

    def _settle(self, endpoint: Endpoint) -> None:
        self._unknown.discard(endpoint)
        if not self._unknown:
            self._settled.unpark_all()

    async def _ask(self, endpoint: Endpoint) -> float:
        """Ask once; the seconds until the next time."""
        known = self[endpoint]
        try:
            with trio.fail_after(_TIMEOUT_S):
                answer = await self._learn(endpoint, known)
        except Exhausted:  # ours: nothing was asked
            return _DOWN_S[-1]
        except (trio.TooSlowError, GatewayError, ValueError, RecursionError) as error:
            failures = self._failures[endpoint] = self._failures.get(endpoint, 0) + 1
            gone = known.up is not True or isinstance(error, UpstreamError) or failures >= _SLOW_ANSWERS
            why = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
            self._note(endpoint, msgspec.structs.replace(known, up=False, why=why) if gone else known)
            return _DOWN_S[min(failures, len(_DOWN_S)) - 1]
        self._failures.pop(endpoint, None)
        self._note(endpoint, answer)
        often = _PROVIDER_S if endpoint.engine in PROVIDERS and endpoint.scheme == "https" else _UP_S
        shared = len(self._rounds.keys) / _RATE
        return often if often >= shared else shared * self._rng.uniform(0.75, 1.25)  # many have begun together

    def _note(self, endpoint: Endpoint, answer: Answer) -> None:
        if endpoint not in self._rounds.keys:  # given up in the very turn in which the answer came
            return
        known = self[endpoint]
        self._settle(endpoint)
        if answer == known:
            return
        self._answers[endpoint] = answer
        if answer.up != known.up:
            if answer.up:
                names = ", ".join(card.id for card in answer.cards) or "no model"
                _log.info("%s answers as %s, serving %s", endpoint.url, answer.engine, names)
            else:
                _log.warning("%s does not answer: %s; asking again until it does", endpoint.url, answer.why)
        self._changed(endpoint)

    async def _learn(self, endpoint: Endpoint, known: Answer) -> Answer:
        engine = known.engine or endpoint.engine
        if engine not in self._adapters or engine == PLAIN:  # it may have become an engine
            engine = await self._recognise(endpoint)
        elif known.up is False and endpoint.engine in UNKNOWN:
            engine = await self._another(endpoint, engine)
        if engine == PLAIN:
            return Answer(True, PLAIN)
        adapter = self._adapters[engine]
        status, body = await self._get(endpoint, adapter.models_path(), self._told(engine, endpoint))
        if status != 200:
            path = adapter.models_path().decode()
            raise ValueError(f"GET {path} answered {status}; is it {engine}? An engine named `auto` is recognised")
        return Answer(True, engine, _unmoved(known.cards, adapter.parse_models(body), self._wall()))

    def _told(self, engine: str, endpoint: Endpoint) -> Headers:
        """What this engine wants to be told, as far as its endpoint's own fields do not."""
        own = dict(endpoint.headers)
        return [field for field in self._fields.get(engine, ()) if field[0] not in own]

    async def _recognise(self, endpoint: Endpoint) -> str:
        """Which engine an endpoint is of which that is not known. Raises ValueError if it is none, unless it may be."""
        answers = {}
        for path in self._detect_paths:
            status, body = await self._get(endpoint, path.encode())
            if status == 200:
                answers[path] = body
        engine = self._detect(answers)
        if engine is None and endpoint.engine == ANY:
            return PLAIN
        if engine is None:
            raise ValueError("it answers like no engine that is known; name the engine instead of `auto`")
        return engine

    async def _another(self, endpoint: Endpoint, engine: str) -> str:
        """Which engine it is that was ``engine`` and went: the one that answers at its address need not be the same.
        What cannot be told in time is the one that it was.
        """
        with trio.move_on_after(_TIMEOUT_S / 2), contextlib.suppress(ValueError):
            return await self._recognise(endpoint)
        return engine

    async def _get(self, endpoint: Endpoint, path: bytes, fields: Headers = ()) -> tuple[int, bytes]:
        if endpoint.versioned and path.startswith(b"/v1/"):
            path = path[3:]  # the base path names another version
        body = b""
        keep = len(self._rounds.keys) <= _KEPT
        headers = _HEADERS if keep else _CLOSING
        sending = self._transport.send(endpoint, UpstreamRequest(b"GET", path, headers, extra=fields))
        async with sending as upstream:
            while True:
                data = await upstream.receive()
                body += data
                if not data or upstream.complete or len(body) > _BODY_MAX:
                    if not keep:
                        sending.abort()
                    return upstream.status, body


def _unmoved(known: Iterable[ModelCard], cards: Iterable[ModelCard], wall: float) -> tuple[ModelCard, ...]:
    """``cards``, each with the time of creation it was first seen with: vLLM tells the time of asking instead, and TGI
    and Gemini none, for which that of being found stands.
    """
    found = {card.id: card.created for card in known}
    return tuple(
        msgspec.structs.replace(card, created=found.get(card.id) or card.created or int(wall)) for card in cards
    )


_NOTHING: Final = Answer()
