"""How the process ends, is reloaded and is succeeded: its signals, and what follows from each. (T)

SIGTERM    not ready; listeners go on for `settleTime`, so that whoever sends clients notices; then it drains
SIGINT     drains at once
SIGHUP     reads the configuration again
SIGUSR1    nothing: who is used to have log files opened again by it would end the process
SIGUSR2    starts a successor on the same sockets, and drains when that one could serve

Draining takes `drainTimeout` at most; a second SIGTERM or SIGINT ends it at once. The last three that come while the
process starts are heeded when it has.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

import trio

from gateway.notify import READY, STOPPING, notify, reloading
from gateway.succession import NoSuccessor, successor

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.core import Gateway
    from gateway.doors import Doors

_log = logging.getLogger("infer_gateway")
_HELD: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, *_HELD)
_LAST_WORDS_S: Final = 0.1
_IDLE_S: Final = 1.0
"""So long clients of a process that was succeeded may keep silent before their connections are closed."""


class Parts(Protocol):
    """What of the program it has to do with. ``draining``: it was told to stop."""

    draining: bool
    gateway: Gateway

    @property
    def settings(self) -> Settings: ...
    def ready(self) -> bool: ...
    def reload(self) -> bool:
        """Whether there is anything to read again."""


class Life:
    """``end`` is called at the end of it, when the last words are said. ``serves``: whether clients come here; a
    successor has none until it is its turn.
    """

    def __init__(self, parts: Parts, doors: Doors, end: Callable[[], Awaitable[None]]) -> None:
        self._parts = parts
        self._doors = doors
        self._end = end
        self.serves = True
        self._succeeded = False
        self._succession: trio.CancelScope | None = None
        self._begun = self._reloading = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Heed signals until cancelled."""
        with trio.open_signal_receiver(*_SIGNALS) as received:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
            async with trio.open_nursery() as nursery:
                task_status.started()
                async for number in received:
                    self._heed(number, nursery)

    def begun(self) -> None:
        """Requests are served now."""
        self._begun = True
        if not self._parts.draining:
            notify(READY, f"MAINPID={os.getpid()}")

    def reloaded(self) -> None:
        """The configuration has been read again, whatever came of it."""
        if self._reloading and not self._parts.draining:
            self._reloading = False
            notify(READY)

    def _heed(self, number: int, nursery: trio.Nursery) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1:
            _log.info("SIGUSR1 is not needed here: files that are moved away are made anew without it")
        elif number == signal.SIGUSR2:
            nursery.start_soon(self._hand_over)
        elif self._parts.draining:
            nursery.start_soon(self._stop)
        else:
            self._parts.draining = True
            if self._succession is not None:
                self._succession.cancel()
            if not self._succeeded:  # else it drains already
                notify(STOPPING)
                nursery.start_soon(self._drain, number == signal.SIGTERM)

    def _reload(self) -> None:
        if self._begun:  # else the manager waits for us to be ready, which this must not make us
            self._reloading = True
            reloading()
        if not self._parts.reload():
            self.reloaded()

    # -- ending -------------------------------------------------------------------------------------------------

    async def _drain(self, settle: bool) -> None:
        """``settle``: clients still come for a while."""
        if not self.serves:
            await self._end()
            return
        settings = self._parts.settings
        wait = min(settings.settle_time, settings.drain_timeout / 2) if settle else 0.0
        _log.info("draining: %d requests under way, %g s at most", self._doors.busy, settings.drain_timeout)
        if wait:
            self._doors.settle()
        await self._finish(wait, settings.drain_timeout)

    async def _finish(self, wait: float, within: float) -> None:
        """The process ends when the doors are done, or when the time is over."""
        with trio.move_on_after(within):
            await trio.sleep(wait)
            self._doors.drain()
            await trio.sleep_forever()
        _log.warning("drain timeout: %d requests are cut", self._doors.busy)
        await self._stop()

    async def _stop(self) -> None:
        """Now; but clients in mid-stream are told that it breaks off."""
        self._parts.gateway.give_up()
        await trio.sleep(_LAST_WORDS_S)
        await self._end()

    # -- succession ---------------------------------------------------------------------------------------------

    async def _hand_over(self) -> None:
        if problem := self._cannot_hand_over():
            _log.error("not restarted: %s", problem)
            return
        _log.info("restarting: a successor is started")
        with trio.CancelScope() as self._succession:
            try:
                async with successor(self._doors.sockets(), could_serve=self._parts.ready()) as process:
                    self._succeeded = True
                    notify(f"MAINPID={process.pid}")
                    self._doors.hand_over()
            except NoSuccessor as error:
                _log.error("not restarted, this process goes on: %s", error)
        self._succession = None
        if self._succeeded:
            within = self._parts.settings.drain_timeout
            _log.info("process %d has taken over; %d requests under way here", process.pid, self._doors.busy)
            await self._finish(min(max(self._parts.settings.settle_time, _IDLE_S), within / 2), within)

    def _cannot_hand_over(self) -> str:
        if self._parts.draining or self._succeeded:
            return "this process is about to end"
        if not self.serves:
            return "this process is itself a successor, and it is not its turn yet"
        if self._succession is not None:
            return "a successor is being started already"
        if os.getpid() == 1:
            return "this is process 1, at whose end its container ends"
        return ""
