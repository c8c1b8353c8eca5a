"""The live view: the feed, the keyboard, signals and the clock, each of which may draw. (T)"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import trio

from gateway.top.feed import Picture, number
from gateway.top.follow import Link
from gateway.top.screen import frame
from gateway.top.terminal import Terminal
from gateway.top.view import Keys, View, press

_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SIGNALS: Final = (*_ENDS, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
_TICK_S = 1.0


async def show(link: Link, view: View, interval: float) -> None:
    """Until the one who looks wants no more, by key or by signal."""
    with trio.open_signal_receiver(*_SIGNALS) as signals, Terminal() as terminal:
        live = Live(link, terminal, view, interval)
        link.told = live.told
        live.draw()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live.keys)
            nursery.start_soon(live.signals, signals)
            nursery.start_soon(live.ticks)
            nursery.start_soon(link.follow)
            await live.over.wait()
            nursery.cancel_scope.cancel()


class Live:
    """``over`` is set when the view is to end."""

    def __init__(self, link: Link, terminal: Terminal, view: View, interval: float) -> None:
        self.over = trio.Event()
        self._link, self._terminal, self._view, self._interval = link, terminal, view, interval
        self._held: Picture | None = None
        self._page = 1
        self._next = 0.0

    def told(self) -> None:
        """The feed has something new; drawn at most once in the interval."""
        now = trio.current_time()
        if now >= self._next or self._link.why:
            self._next = now + self._interval * 0.9  # the feed's seconds are not exact
            self.draw()

    def draw(self) -> None:
        shown = self._held or picture(self._link, trio.current_time())
        drawn = frame(shown, self._view, *self._terminal.size)
        self._view = msgspec.structs.replace(self._view, first=drawn.first)
        self._page = drawn.page
        self._terminal.paint(drawn.lines)

    async def keys(self) -> None:
        terminal, decoded = self._terminal, Keys()
        while terminal.keys is not None:
            await trio.lowlevel.wait_readable(terminal.keys)
            if not terminal.foreground():
                await trio.sleep(0.2)  # reading would stop the process
                continue
            try:
                received = os.read(terminal.keys, 4096)
            except OSError:
                received = b""
            if not received:
                self.over.set()  # the terminal has gone
                return
            for key in decoded.feed(received):
                self._pressed(key)

    def _pressed(self, key: str) -> None:
        if key == "redraw":
            self._terminal.forget()
        self._view = press(self._view, key, self._page)
        if self._view.paused != (self._held is not None):
            self._held = picture(self._link, trio.current_time()) if self._view.paused else None
        if self._view.quit:
            self.over.set()
        else:
            self.draw()

    async def signals(self, signals: AsyncIterator[int]) -> None:
        async for came in signals:
            if came in _ENDS:
                self.over.set()
                return
            if came == signal.SIGTSTP:
                self._terminal.leave()
                os.kill(os.getpid(), signal.SIGSTOP)
            elif came == signal.SIGCONT:
                self._terminal.enter()
            self._terminal.forget()
            self.draw()

    async def ticks(self) -> None:
        """How long the gateway has been away goes on though nothing comes."""
        while True:
            await trio.sleep(_TICK_S)
            if self._link.why:
                self.draw()


def picture(link: Link, now: float) -> Picture:
    """``now`` by Trio's clock."""
    feed = link.feed
    away_s = now - link.since if link.why else 0.0
    return Picture(
        url=link.address.url,
        version=feed.version,
        state=feed.state,
        history=tuple(feed.history),
        away=link.why,
        away_s=away_s,
        away_since=_clock(time.time() - away_s),
        clock=_clock(number(feed.state, "at")),
    )


def _clock(at: float | None) -> str:
    try:
        return "" if at is None else time.strftime("%H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return ""
