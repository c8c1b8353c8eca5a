"""Configuration plus what discovery knows → pools, who is asked, and the snapshot in force. (T)

Invariant: a new configuration costs what is different in it: a pool whose spec is the very object it was is not looked
at. At every moment a route in force leads to pools that are there: pools come first, then routes, then pools go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
import trio

from gateway.config.discover import discovered
from gateway.config.snapshot import PoolSpec, Snapshot, resolved
from gateway.discover import Answer, Discovery
from gateway.member import Member
from gateway.pools import Pools
from gateway.scrape import Scrapes
from gateway.types import UNKNOWN, Endpoint

_SLICE: Final = 8
"""Pools put in force between two checkpoints: about a millisecond."""
_PUBLIC: Final = Answer(True)
"""Public providers are not asked: they count as answering."""


class Fleet:
    """``serve`` is told the snapshot whose routes are in force, ``gone`` members that left. ``backends`` are asked too,
    and served by the models that they tell.
    """

    def __init__(
        self,
        pools: Pools,
        discovery: Discovery,
        scrapes: Scrapes,
        *,
        backends: Iterable[Endpoint] = (),
        serve: Callable[[Snapshot], object] = lambda snapshot: None,
        gone: Callable[[Member], object] = lambda member: None,
    ) -> None:
        self._pools = pools
        self._discovery = discovery
        self._scrapes = scrapes
        self._backends = tuple(backends)
        self._serve = serve
        self._gone = gone
        self._configured = self._shown = Snapshot()
        self._stale = False
        self._specs: dict[str, PoolSpec] = {}
        self._found: dict[str, PoolSpec] = {}
        self._asked: dict[Endpoint, tuple[str, ...]] = {}
        self._versions = 0
        for backend in self._backends:
            self._asked[backend] = ()
            discovery.add(backend)

    # -- configurations -------------------------------------------------------------------------------------------

    def apply(self, configured: Snapshot) -> None:
        """Put it in force at once."""
        self._versions += 1
        for _ in self._steps(configured):
            pass

    async def follow(self, configured: Snapshot) -> None:
        """The same, giving way to others every millisecond or so. A newer configuration ends the work on this one."""
        self._versions += 1
        version = self._versions
        for _ in self._steps(configured):
            await trio.lowlevel.checkpoint()
            if version != self._versions:
                return

    def _steps(self, configured: Snapshot) -> Iterator[None]:
        """Does as much as can be done between two checkpoints with each step."""
        self._pools.judge()
        wanted = {spec.name: spec for spec in configured.pools}
        changed = [spec for name, spec in wanted.items() if self._specs.get(name) is not spec]
        for count, spec in enumerate(changed, 1):
            self._put(spec)
            if not count % _SLICE:
                yield
        self._configured = configured
        self._show()
        for count, name in enumerate([name for name in self._specs if name not in wanted], 1):
            self._remove(name)
            if not count % _SLICE:
                yield
        self._sort()

    def _sort(self) -> None:
        self._pools.sort((*(spec.name for spec in self._configured.pools), *self._found))

    def _put(self, spec: PoolSpec) -> None:
        former, self._specs[spec.name] = self._specs.get(spec.name), spec
        before = _asked(former)
        for endpoint in _asked(spec) - before:
            self._asked[endpoint] = (*self._asked.get(endpoint, ()), spec.name)
            self._discovery.add(endpoint)
        self._resolve(spec)
        self._leave(before - _asked(spec), spec.name)

    def _remove(self, name: str) -> None:
        spec = self._specs.pop(name)
        if name not in self._found:
            self._left(self._pools.remove(name))
        self._leave(_asked(spec), name)

    def _leave(self, endpoints: Iterable[Endpoint], pool: str) -> None:
        """The pool has these no more."""
        for endpoint in endpoints:
            names = self._asked[endpoint] = tuple(name for name in self._asked[endpoint] if name != pool)
            if not names and endpoint not in self._backends:
                del self._asked[endpoint]
                self._discovery.drop(endpoint)

    def _resolve(self, spec: PoolSpec) -> None:
        """Members of engines that have been recognised since join."""
        found = {endpoint: self._discovery[endpoint].engine for endpoint in spec.endpoints}
        engines = {endpoint: engine for endpoint, engine in found.items() if engine and engine != endpoint.engine}
        self._place(resolved(spec, engines))

    def _place(self, spec: PoolSpec) -> None:
        self._left(self._pools.put(spec))
        for member in self._pools[spec.name].members:
            self._mark(member.endpoint)

    def _left(self, members: Iterable[Member]) -> None:
        for member in members:
            self._gone(member)
            if not any(True for _ in self._pools.at(member.endpoint)):
                self._scrapes.drop(member.endpoint)

    def _show(self) -> None:
        """The snapshot in force: what is configured, and what backends turned out to serve."""
        configured, found = self._configured, {}
        for endpoint in self._backends:
            answer = self._discovery[endpoint]
            if answer.engine:
                found[msgspec.structs.replace(endpoint, engine=answer.engine)] = answer.cards
        shown = discovered(configured, found) if found else configured
        former, self._found = self._found, {}
        for spec in shown.pools[len(configured.pools) :]:
            known = former.get(spec.name)
            self._found[spec.name] = known if known == spec else spec
        for spec in self._found.values():
            self._place(spec)
        self._shown, self._stale = shown, True
        self._serve(shown)
        for name in former.keys() - self._found.keys():
            self._left(self._pools.remove(name))

    @property
    def snapshot(self) -> Snapshot:
        """What is in force, models that were found and engines that were recognised included."""
        if self._stale:
            pools = (self._pools.spec(spec.name) for spec in self._configured.pools)
            self._shown = msgspec.structs.replace(self._shown, pools=(*pools, *self._found.values()))
            self._stale = False
        return self._shown

    # -- what endpoints tell --------------------------------------------------------------------------------------

    def answered(self, endpoint: Endpoint) -> None:
        """Something else is known of it (`Discovery`)."""
        engine = self._discovery[endpoint].engine
        recognised = endpoint if not engine else msgspec.structs.replace(endpoint, engine=engine)
        if recognised != endpoint:
            for name in self._asked[endpoint]:
                if all(member.endpoint != recognised for member in self._pools[name].members):
                    self._resolve(self._specs[name])
                    self._stale = True
        if endpoint in self._backends:
            self._show()
        self._mark(recognised)

    def _mark(self, endpoint: Endpoint) -> None:
        """Members learn whether their endpoint answers, and it is scraped while it does."""
        asked = self._question(endpoint)
        answer = _PUBLIC if asked is None else self._discovery[asked]
        now = trio.current_time()
        for member in self._pools.at(endpoint):
            if member.up and answer.up is False:
                self._pools.restarted(endpoint)
            member.health.reached(now, answer.up, answer.why)
            member.cards = answer.cards
            if asked is not None and answer.up:
                self._scrapes.add(endpoint, member.adapter)
        if asked is None or not answer.up:
            self._scrapes.drop(endpoint)

    def _question(self, endpoint: Endpoint) -> Endpoint | None:
        """As whom it is asked, be its engine known by now or not."""
        if endpoint in self._asked:
            return endpoint
        unknown = (msgspec.structs.replace(endpoint, engine=engine) for engine in UNKNOWN)
        return next((asked for asked in unknown if asked in self._asked), None)

    def unreachable(self, endpoint: Endpoint) -> None:
        """A connection for its load failed: find out at once whether it is gone."""
        asked = self._question(endpoint)
        if asked is not None:
            self._discovery.hurry(asked)

    def unanswered(self) -> bool:
        """Whether some backend has never told what it serves."""
        return not all(self._discovery[endpoint].cards for endpoint in self._backends)


def _asked(spec: PoolSpec | None) -> set[Endpoint]:
    """Endpoints that discovery asks."""
    return set() if spec is None or spec.external else set(spec.endpoints)
