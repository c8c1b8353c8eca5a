"""What a gateway reads from an engine's metrics page, and how a case waits for it to change. (T)

Invariant: waiting is bounded and polls gently; a page that was switched off skips the case and says what turns it on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from conformance.cases.engines.shared.page import Page
from conformance.suite.target import Target

ACCEPT = (("accept", "text/plain;version=0.0.4"),)
"""As a gateway asks: offered OpenMetrics, newer Python engines escape the colons of their names."""
_POLL_S = 0.03
_QUIET_S = 15.0


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """Names of samples, the newest first; empty where an engine has none. ``ttft`` and ``tpot`` are histograms.

    ``mark`` begins the engine's own names. ``off``: what a server whose page is not there has to be started with; ""
    where the page is always there. With ``capacity`` KV usage is a part of that. ``apart``: prompt tokens found in the
    cache are not among ``prompt``. ``stream_noticed``, ``whole_noticed``: seconds in which the engine has to notice
    that its client is gone. ``crowd``: requests at once that most servers let wait; 0 is one more than there are
    slots. ``open``: the page asks for no key.
    """

    mark: str
    path: str = "/metrics"
    off: str = ""
    open: bool = True
    crowd: int = 24
    apart: bool = False
    stream_noticed: float = 2.0
    whole_noticed: float = 2.0
    capacity: Sequence[str] = ()
    running: Sequence[str]
    waiting: Sequence[str]
    usage: Sequence[str] = ()
    prompt: Sequence[str] = ()
    generated: Sequence[str] = ()
    finished: Sequence[str] = ()
    queried: Sequence[str] = ()
    hits: Sequence[str] = ()
    ttft: Sequence[str] = ()
    tpot: Sequence[str] = ()

    @property
    def gauges(self) -> list[Sequence[str]]:
        return [names for names in (self.running, self.waiting, self.usage) if names]

    @property
    def counters(self) -> list[Sequence[str]]:
        return [n for n in (self.prompt, self.generated, self.finished, self.queried, self.hits) if n]

    @property
    def histograms(self) -> list[Sequence[str]]:
        return [names for names in (self.ttft, self.tpot) if names]

    def held(self, page: Page) -> float:
        """Requests in the engine, running or waiting; a gauge that was never set is 0."""
        return (page.total(self.running) or 0.0) + (page.total(self.waiting) or 0.0)

    def kv_usage(self, page: Page) -> float | None:
        """A fraction, the mean of all ranks; None if the page does not tell."""
        series = [each.value for each in page.series(*self.usage)]
        if not self.capacity:
            return sum(series) / len(series) if series else None
        capacity = page.total(self.capacity)
        return sum(series) / capacity if capacity else None

    def prompt_tokens(self, page: Page) -> float:
        return (page.total(self.prompt) or 0.0) + ((page.total(self.hits) or 0.0) if self.apart else 0.0)


async def read(target: Target, signals: Signals) -> Page:
    """The page as it is now. Skips the case where the server was started without one."""
    answer = await target.ask(signals.path, headers=ACCEPT)
    if signals.off and answer.status in (404, 501):
        target.skip(f"there is no metrics page ({answer.status}): start the server with {signals.off}")
    return Page(answer.expect(200).text)


async def until(
    target: Target,
    signals: Signals,
    reached: Callable[[Page], object],
    within: float,
    over: Callable[[], object] = bool,
) -> tuple[Page, bool]:
    """Read the page until it is as ``reached`` wants, ``within`` seconds have passed or it is ``over``; the last page
    read and whether it was reached.
    """
    deadline = trio.current_time() + patience(target, within)
    while True:
        ending = bool(over()) or trio.current_time() >= deadline
        page = await read(target, signals)
        if reached(page):
            return page, True
        if ending:
            return page, False
        _forget(target, signals)
        await trio.sleep(_POLL_S)


def _forget(target: Target, signals: Signals) -> None:
    """Of pages polled the report needs the last."""
    for at in range(len(target.traces) - 1, -1, -1):
        if target.traces[at].url.endswith(signals.path):
            target.forget(at)
            return


async def quiet(target: Target, signals: Signals) -> Page:
    """Once nothing runs or waits. Skips the case on a server that somebody else keeps busy."""
    page, reached = await until(target, signals, lambda page: not signals.held(page), _QUIET_S)
    if not reached:
        target.skip(f"the server is busy with {signals.held(page):g} other requests")
    return page


def patience(target: Target, seconds: float) -> float:
    """``seconds`` on a server as slow as ``--set patience=FACTOR`` says."""
    return seconds * float(target.setup.extra.get("patience", 1.0))


def release(target: Target) -> tuple[int, ...]:
    """The server's version as numbers: "0.11.2rc1" is (0, 11, 2). () if it is not known."""
    numbers: list[int] = []
    for part in target.setup.version.removeprefix("v").split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
