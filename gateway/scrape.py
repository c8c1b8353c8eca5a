"""Asks engines how busy they are, several times a second, and says so to whoever keeps the candidates. (T)

One loop an endpoint, as in `gateway.discover`: a hung one delays nobody. A load that is not renewed is declared lost
rather than believed; an endpoint without a metrics page is asked seldom, and is none the worse for it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec
import trio

from gateway.errors import GatewayError, UpstreamError, UpstreamTimeout
from gateway.ports import Adapter, Transport
from gateway.recent import Recent
from gateway.supervise import Loops
from gateway.types import Endpoint, Load, UpstreamRequest
from gateway.wire.exposition import Layout

_log = logging.getLogger("infer_gateway.scrape")
_NO_PAGE_S: Final = 30.0
_SLOWEST_S: Final = 1.0
_STALE_S: Final = 2.0
_PATROL_S: Final = 0.25
_PATIENCE: Final = 4.0
"""An engine that has let a question time out is given up to so many times the timeout for the next ones."""
_PAGE_MAX: Final = 4 << 20
_HEADERS: Final = (
    (b"accept", b"text/plain;version=0.0.4"),  # offered OpenMetrics, newer Python engines escape the names' colons
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"infer-gateway"),
)

_Key: TypeAlias = tuple[Endpoint, Adapter]


class _NoPage(Exception):
    """There are no metrics to be had; asking again at once is of no use."""


class _Asked:
    """What is known of one endpoint. ``at``: when it last told its load, None while its load is not known.
    ``patience``: seconds that it is known to need for an answer, more or less.
    """

    __slots__ = (
        "adapter", "at", "endpoint", "failures", "layout", "patience", "recent", "refused", "request", "target",
        "watched", "why",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, adapter: Adapter) -> None:
        self.endpoint = endpoint
        self.adapter = adapter
        self.target = _unversioned(endpoint)
        self.request = UpstreamRequest(b"GET", adapter.metrics_path(), _HEADERS)
        self.layout = Layout()
        self.recent = Recent()
        self.at: float | None = None
        self.failures = 0
        self.patience = 0.0
        self.refused = False
        self.watched = True  # an answer may come in the very turn in which its endpoint is given up
        self.why = ""


class Scrapes:
    """Calls back in this thread, with the endpoint: ``loaded`` with each new load, ``restarted`` before the first load
    of another engine process, ``lost`` once when the last load is older than ``stale`` seconds (default: five
    intervals, two seconds at least), ``refused`` when a connection is refused or breaks and did not do so before;
    ``polled`` with True when a question was answered, whatever the answer, and with False when it is not asked any
    more, or hardly ever.

    ``interval`` is the time between two questions in seconds, give or take a tenth, ``timeout`` the time for an answer;
    both may be set while it runs. Who needs longer is given longer: a page that is slow to come is no sign of death.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        loaded: Callable[[Endpoint, Load], object],
        lost: Callable[[Endpoint], object],
        restarted: Callable[[Endpoint], object] = lambda endpoint: None,
        refused: Callable[[Endpoint], object] = lambda endpoint: None,
        polled: Callable[[Endpoint, bool], object] = lambda endpoint, answers: None,
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
        self._polled = polled
        self.interval = interval
        self.timeout = timeout
        self._stale = stale
        self._rng = rng or random.Random()
        self._asked: dict[_Key, _Asked] = {}
        self._loops = Loops[_Key](self._keep_asking, lambda key: f"scraping of {key[0].url}")

    async def run(self) -> None:
        """Until cancelled. Endpoints given to `watch` before are asked from now on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._loops.run)
            await self._patrol()

    def watch(self, adapters: Mapping[Endpoint, Adapter]) -> None:
        """Ask these from now on, each in its dialect, and no others. Of one no longer watched nothing more is said."""
        keys = [key for key in adapters.items() if key[1].metrics_path()]
        for key in keys:
            if key not in self._asked:
                self._asked[key] = _Asked(*key)
        for key in self._loops.keep(keys):
            self._asked.pop(key).watched = False
            self._polled(key[0], False)

    async def _patrol(self) -> None:
        """Loads expire also while their engine lets a question wait."""
        while True:
            await trio.sleep(_PATROL_S)
            oldest = trio.current_time() - (max(5 * self.interval, _STALE_S) if self._stale is None else self._stale)
            for asked in list(self._asked.values()):
                if asked.at is not None and asked.at < oldest:
                    asked.at = None
                    _log.warning(
                        "the load of %s is not known any more: %s", asked.endpoint.url, asked.why or "it hangs"
                    )
                    self._lost(asked.endpoint)

    async def _keep_asking(self, key: _Key) -> None:
        asked = self._asked.get(key)
        if asked is None:  # given up before it began
            return
        await trio.sleep(self._rng.uniform(0, self.interval))  # those that begin together must not ask in step
        while True:
            began = trio.current_time()
            period = await self._ask(asked) * self._rng.uniform(0.9, 1.1)
            await trio.sleep(max(period - (trio.current_time() - began), self.interval / 2))

    async def _ask(self, asked: _Asked) -> float:
        """Ask once; the time from now to the next question."""
        try:
            page = await self._page(asked)
            if page is None:
                return self._failed(asked, "no answer in time")
            self._polled(asked.endpoint, True)
            load = asked.adapter.parse_load(page, trio.current_time(), asked.layout)
        except _NoPage as error:
            return self._without_page(asked, str(error))
        except (ValueError, RecursionError) as error:
            return self._without_page(asked, f"its metrics page cannot be read: {error}")
        except (UpstreamError, UpstreamTimeout) as error:
            return self._failed(asked, str(error), refused=isinstance(error, UpstreamError))
        except GatewayError as error:
            self._polled(asked.endpoint, True)
            return self._failed(asked, str(error))
        self._note(asked, load)
        return self.interval

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
        self._polled(asked.endpoint, False)
        asked.why, asked.refused = why, False
        return _NO_PAGE_S

    def _failed(self, asked: _Asked, why: str, *, refused: bool = False) -> float:
        news = refused and not asked.refused
        asked.why, asked.refused = why, refused
        asked.failures += 1
        if news and asked.watched:
            self._refused(asked.endpoint)
        return max(self.interval, min(self.interval * 2.0 ** min(asked.failures - 1, 10), _SLOWEST_S))

    async def _page(self, asked: _Asked) -> bytes | None:
        """None if it does not come in time. Raises as `_get`."""
        began = trio.current_time()
        asked.patience = min(max(asked.patience, self.timeout), _PATIENCE * self.timeout)
        with trio.move_on_after(asked.patience):
            page = await self._get(asked.target, asked.request)
            asked.patience = min(asked.patience, 2.0 * (trio.current_time() - began))
            return page
        asked.patience *= 2.0
        return None

    async def _get(self, endpoint: Endpoint, request: UpstreamRequest) -> bytes:
        parts: list[bytes] = []
        size = 0
        async with self._transport.send(endpoint, request) as upstream:
            status = upstream.status
            while True:
                data = await upstream.receive()
                parts.append(data)
                size += len(data)
                if not data or upstream.complete:
                    break
                if size > _PAGE_MAX:
                    raise _NoPage(f"its metrics page exceeds {_PAGE_MAX >> 20} MiB")
        if status == 200:
            return b"".join(parts)
        why = f"GET {request.path.decode()} answered {status}"
        if status == 501 or (400 <= status < 500 and status not in (408, 429)):
            raise _NoPage(why)
        raise GatewayError(why)


def _unversioned(endpoint: Endpoint) -> Endpoint:
    """Where the metrics are: a base path as SDKs take it ends with the API's version, the metrics page stands above."""
    base = endpoint.base_path
    return msgspec.structs.replace(endpoint, base_path=base[:-3]) if base.endswith("/v1") else endpoint
