"""Tells once that an API server is away, whatever number of watches wait for it. (T)

Invariant: what goes wrong with a minority of the watches is told of each of them, also while the server is away if it
is an answer of the server; the same of one watch is not told again within `_AGAIN_S`.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

_GATHER_S: Final = 1.0
"""How long what goes wrong is gathered. A connection that was lost and is back by then is not worth a word."""
_AGAIN_S: Final = 600.0
_NAMED: Final = 5

_log: Final = logging.getLogger("infer_gateway.kubernetes")
_FAULT: Final = "%s: cannot be followed, what is known stays: %s"


class Outage:
    """The watches of one API server, by name: which are in step, which wait and why. ``server``: its URL."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._waiting: dict[str, str] = {}
        self._live: set[str] = set()
        self._answers: dict[str, str] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._open: set[str] = set()
        self._words: set[str] = set()
        self._since: float | None = None
        self._trouble = trio.Event()

    @property
    def away(self) -> bool:
        return self._since is not None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._trouble.wait()
            await trio.sleep(_GATHER_S)
            self._trouble = trio.Event()
            self._gathered()

    def failed(self, name: str, why: str, answered: bool) -> None:
        """A watch waits to be opened again. ``answered``: ``why`` is about what the server said."""
        self._live.discard(name)
        self._waiting[name] = why
        _log.debug(_FAULT, name, why)
        if not self.away:
            if answered:
                self._answers[name] = why
            self._trouble.set()
        elif answered and why not in self._words:
            self._words.add(why)
            self._tell(name, why)

    def live(self, name: str) -> None:
        """It is in step."""
        self._live.add(name)
        if self._waiting.pop(name, None) is not None:
            _log.log(logging.INFO if name in self._open else logging.DEBUG, "%s: in step again", name)
            self._open.discard(name)
        self._settle()

    def left(self, name: str) -> None:
        """It is not watched any more, or cannot be, which is no outage."""
        self._live.discard(name)
        self._open.discard(name)
        self._waiting.pop(name, None)

    def _most(self) -> bool:
        return len(self._waiting) > max(1, len(self._live))

    def _gathered(self) -> None:
        answers, self._answers = self._answers, {}
        if self._most():
            self._begin({name: why for name, why in answers.items() if name in self._waiting})
        elif not self.away:
            for name, why in {**answers, **self._waiting}.items():
                self._tell(name, why)

    def _begin(self, answers: dict[str, str]) -> None:
        self._since = trio.current_time() - _GATHER_S
        first = next(iter((answers or self._waiting).values()))
        self._words = set(self._waiting.values())
        waiting, followed, names = len(self._waiting), len(self._waiting) + len(self._live), sorted(self._waiting)
        which = "" if waiting == followed else f" ({', '.join(names[:_NAMED])}{', …' if waiting > _NAMED else ''})"
        _log.warning(
            "API server %s: %d of %d watches wait for it%s, what is known stays: %s",
            *(self._server, waiting, followed, which, first),
        )

    def _tell(self, name: str, why: str) -> None:
        now = trio.current_time()
        if now - self._told.get((name, why), -_AGAIN_S) < _AGAIN_S:
            return
        self._told = {told: at for told, at in self._told.items() if now - at < _AGAIN_S} | {(name, why): now}
        if name in self._waiting:
            self._open.add(name)
        _log.warning(_FAULT, name, why)

    def _settle(self) -> None:
        """It is back when most are in step; what goes on failing is told one by one from then on."""
        if self._since is None or self._most():
            return
        away, live = trio.current_time() - self._since, len(self._live)
        self._since = None
        _log.info(
            "API server %s: back after %.0f s, %d of %d watches are in step again",
            *(self._server, away, live, live + len(self._waiting)),
        )
