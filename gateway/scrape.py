"""Asks engines how busy they are, several times a second, and says so to whoever keeps the candidates. (T)

Each endpoint has its own time (`gateway.rounds`): a hung one delays nobody. A load that is not renewed is declared lost
rather than believed; an endpoint without a metrics page is asked seldom, and is none the worse for it. What all of it
costs is bounded: beyond so many endpoints the idle ones are asked more seldom, those at work as often as ever.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec
import trio

from gateway.errors import Exhausted, GatewayError, UpstreamError, UpstreamTimeout
from gateway.ports import Adapter, Transport
from gateway.recent import Recent
from gateway.rounds import Rounds
from gateway.types import Endpoint, Load, UpstreamRequest
from gateway.wire.exposition import Layout

_log = logging.getLogger("infer_gateway.scrape")
_NO_PAGE_S: Final = 30.0
_SLOWEST_S: Final = 1.0
_STALE_S: Final = 2.0
_PATROL_S: Final = 0.25
_AT_FULL_RATE: Final = 256
"""So many are asked once an interval each, which takes a quarter of a core; of more, those at work share half as many
questions, and all others half of that: nobody waits for what these say.
"""
_RATE: Final = 2000.0
"""Questions begun a second at most."""
_KEPT_S: Final = 1.0
"""Beyond this between two questions a connection is not kept for the next one: it might be closed before (3.5 s), and a
question that needs a new one costs up to `_NEW` times as much."""
_NEW: Final = 3.0
_PATIENCE: Final = 4.0
"""An engine that has let a question time out is given up to so many times the timeout for the next ones."""
_PAGE_MAX: Final = 4 << 20
_HEADERS: Final = (
    (b"accept", b"text/plain;version=0.0.4"),  # offered OpenMetrics, newer Python engines escape the names' colons
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"infer-gateway"),
)
_CLOSING: Final = (*_HEADERS, (b"connection", b"close"))


class _NoPage(Exception):
    """There are no metrics to be had; asking again at once is of no use."""


class _Asked:
    """What is known of one endpoint. ``at``: when it last told its load, None while its load is not known.
    ``patience``: seconds that it is known to need for an answer, more or less. ``period``: those to the next question.
    """

    __slots__ = (
        "adapter", "at", "endpoint", "failures", "layout", "patience", "period", "recent", "refused", "target",
        "watched", "why",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, adapter: Adapter) -> None:
        self.endpoint = endpoint
        self.adapter = adapter
        self.target = _unversioned(endpoint)
        self.layout = Layout()
        self.recent = Recent()
        self.at: float | None = None
        self.failures = 0
        self.patience = self.period = 0.0
        self.refused = False
        self.watched = True  # an answer may come in the very turn in which its endpoint is given up
        self.why = ""


class Scrapes:
    """Calls back in this thread, with the endpoint: ``loaded`` with each new load, ``restarted`` before the first load
    of another engine process, ``lost`` once when the last load is older than ``stale`` seconds (default: five
    intervals, two seconds at least), ``refused`` when a connection is refused or breaks and did not do so before,
    ``failed`` with each question that came to nothing; ``polled`` with the seconds to the next question when one was
    answered, whatever the answer, and with None when it is not asked any more, or hardly ever.

    ``interval`` is the time between two questions in seconds, give or take a tenth, ``timeout`` the time for an answer;
    both may be set while it runs. Who needs longer is given longer: a page that is slow to come is no sign of death.
    ``busy`` gives the endpoints that have requests and, up to so many in all, those that may get some; where there are
    too many for ``interval``, these come first.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        loaded: Callable[[Endpoint, Load], object],
        lost: Callable[[Endpoint], object],
        restarted: Callable[[Endpoint], object] = lambda endpoint: None,
        refused: Callable[[Endpoint], object] = lambda endpoint: None,
        failed: Callable[[Endpoint], object] = lambda endpoint: None,
        polled: Callable[[Endpoint, float | None], object] = lambda endpoint, period: None,
        busy: Callable[[int], Iterable[Endpoint]] = lambda most: (),
        interval: float = 0.2,
        timeout: float = 1.0,
        stale: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._transport = transport
        self._loaded = loaded
        self._lost = lost
        self._restarted = restarted
        self._refused = refused
        self._question_failed = failed
        self._polled = polled
        self._busy_now = busy
        self.interval = interval
        self.timeout = timeout
        self._stale = stale
        self._rng = rng or random.Random()
        self._asked: dict[Endpoint, _Asked] = {}
        self._busy: frozenset[Endpoint] = frozenset()
        self._looking: Iterator[_Asked] = iter(())
        self._rounds = Rounds(self._question, lambda asked: f"scraping of {asked.endpoint.url}", _RATE)

    async def run(self) -> None:
        """Until cancelled. Endpoints given to `watch` before are asked from now on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._rounds.run)
            await self._patrol()

    def watch(self, adapters: Mapping[Endpoint, Adapter]) -> None:
        """Ask these from now on, each in its dialect, and no others. Of one no longer watched nothing more is said."""
        for endpoint in self._asked.keys() - adapters.keys():
            self.drop(endpoint)
        for endpoint, adapter in adapters.items():
            self.add(endpoint, adapter)

    def add(self, endpoint: Endpoint, adapter: Adapter) -> None:
        """Ask this one, too, from now on, in this dialect."""
        known = self._asked.get(endpoint)
        if known is not None and known.adapter is adapter:
            return
        self.drop(endpoint)
        if adapter.metrics_path():
            asked = self._asked[endpoint] = _Asked(endpoint, adapter)
            self._rounds.add(asked, self._rng.uniform(0, self.interval))  # what begins together must not ask in step

    def drop(self, endpoint: Endpoint) -> None:
        """Ask it no more."""
        asked = self._asked.pop(endpoint, None)
        if asked is not None:
            asked.watched = False
            self._rounds.drop(asked)
            self._polled(endpoint, None)

    async def _patrol(self) -> None:
        """Loads expire also while their engine lets a question wait; who was given a request is asked sooner."""
        while True:
            await trio.sleep(_PATROL_S)
            now = trio.current_time()
            least = max(5 * self.interval, _STALE_S) if self._stale is None else self._stale
            idle = max(least, 3 * self._period(None)) if len(self._asked) > _AT_FULL_RATE else least
            for asked in self._looked_at():
                if asked.at is None or asked.at > now - least or not asked.watched:
                    continue
                if asked.at < now - max(3 * asked.period, least if asked.endpoint in self._busy else idle):
                    asked.at = None
                    _log.warning(
                        "the load of %s is not known any more: %s", asked.endpoint.url, asked.why or "it hangs"
                    )
                    self._lost(asked.endpoint)
            self._look_who_is_busy()

    def _looked_at(self) -> list[_Asked]:
        """Of many, those at work, and a part of the others each time: these are not asked often, either."""
        if len(self._asked) <= _AT_FULL_RATE:
            return list(self._asked.values())
        part = list(islice(self._looking, _AT_FULL_RATE))
        if not part:
            self._looking = iter(tuple(self._asked.values()))
        return [*part, *(self._asked[endpoint] for endpoint in self._busy if endpoint in self._asked)]

    def _look_who_is_busy(self) -> None:
        if len(self._asked) <= _AT_FULL_RATE:
            return
        before, self._busy = self._busy, frozenset(self._busy_now(int(_KEPT_S * self._half())))
        for endpoint in self._busy - before:
            asked = self._asked.get(endpoint)
            if asked is not None and not asked.why:
                self._rounds.hurry(asked, self._rng.uniform(0, self._period(endpoint)))

    def _half(self) -> float:
        """Questions a second that those at work may take, and all others together half as many."""
        return _AT_FULL_RATE / self.interval / 2

    def _period(self, endpoint: Endpoint | None) -> float:
        """Seconds between two questions; None: of any that is not at work."""
        many, working = len(self._asked), len(self._busy)
        if many <= _AT_FULL_RATE:
            return self.interval
        sharing = working if endpoint in self._busy else 2 * (many - working)
        period = max(self.interval, sharing / self._half())
        return period if period <= _KEPT_S else _NEW * period

    async def _question(self, asked: _Asked) -> float:
        if not asked.watched:  # given up before it began
            return 0.0
        began = trio.current_time()
        period = await self._ask(asked) * self._rng.uniform(0.9, 1.1)
        return max(period - (trio.current_time() - began), self.interval / 2)

    async def _ask(self, asked: _Asked) -> float:
        """Ask once; the time from now to the next question."""
        asked.period = self._period(asked.endpoint)
        try:
            page = await self._page(asked)
            if page is None:
                return self._failed(asked, "no answer in time")
            self._polled(asked.endpoint, asked.period)
            load = asked.adapter.parse_load(page, trio.current_time(), asked.layout)
        except _NoPage as error:
            return self._without_page(asked, str(error))
        except (ValueError, RecursionError) as error:
            return self._without_page(asked, f"its metrics page cannot be read: {error}")
        except (UpstreamError, UpstreamTimeout) as error:
            return self._failed(asked, str(error), refused=isinstance(error, UpstreamError))
        except Exhausted:  # ours: nothing was asked
            self._polled(asked.endpoint, None)
            return asked.period
        except GatewayError as error:
            self._polled(asked.endpoint, asked.period)
            return self._failed(asked, str(error))
        self._note(asked, load)
        return asked.period

    def _note(self, asked: _Asked, load: Load) -> None:
        if not asked.watched:
            return
        load, restarted = asked.recent.note(load)
        if asked.why and asked.at is None:
            _log.info("%s tells its load", asked.endpoint.url)
        asked.at = load.at
        asked.failures, asked.refused, asked.why = 0, False, ""
        if restarted:
            self._restarted(asked.endpoint)
        self._loaded(asked.endpoint, load)

    def _without_page(self, asked: _Asked, why: str) -> float:
        if why != asked.why:
            _log.info("%s does not tell its load: %s; asked again every %.0f s", asked.endpoint.url, why, _NO_PAGE_S)
        self._question_failed(asked.endpoint)
        self._polled(asked.endpoint, None)
        asked.why, asked.refused = why, False
        return _NO_PAGE_S

    def _failed(self, asked: _Asked, why: str, *, refused: bool = False) -> float:
        news = refused and not asked.refused
        asked.why, asked.refused = why, refused
        asked.failures += 1
        self._question_failed(asked.endpoint)
        if news and asked.watched:
            self._refused(asked.endpoint)
        return max(asked.period, min(self.interval * 2.0 ** min(asked.failures - 1, 10), _SLOWEST_S))

    async def _page(self, asked: _Asked) -> bytes | None:
        """None if it does not come in time. Raises as `_get`."""
        began = trio.current_time()
        asked.patience = min(max(asked.patience, self.timeout), _PATIENCE * self.timeout)
        with trio.move_on_after(asked.patience):
            page = await self._get(asked.target, asked.adapter.metrics_path(), keep=asked.period <= _KEPT_S)
            asked.patience = min(asked.patience, 2.0 * (trio.current_time() - began))
            return page
        asked.patience *= 2.0
        return None

    async def _get(self, endpoint: Endpoint, path: bytes, *, keep: bool) -> bytes:
        parts: list[bytes] = []
        size = 0
        sending = self._transport.send(endpoint, UpstreamRequest(b"GET", path, _HEADERS if keep else _CLOSING))
        async with sending as upstream:
            status = upstream.status
            while True:
                data = await upstream.receive()
                parts.append(data)
                size += len(data)
                if not data or upstream.complete:
                    if not keep:
                        sending.abort()
                    break
                if size > _PAGE_MAX:
                    raise _NoPage(f"its metrics page exceeds {_PAGE_MAX >> 20} MiB")
        if status == 200:
            return b"".join(parts)
        why = f"GET {path.decode()} answered {status}"
        if status == 501 or (400 <= status < 500 and status not in (408, 429)):
            raise _NoPage(why)
        raise GatewayError(why)


def _unversioned(endpoint: Endpoint) -> Endpoint:
    """Where the metrics are: a base path as SDKs take it ends with the API's version, the metrics page stands above."""
    base = endpoint.base_path
    return msgspec.structs.replace(endpoint, base_path=base[:-3]) if base.endswith("/v1") else endpoint
