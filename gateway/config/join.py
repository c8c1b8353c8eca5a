"""What files say and what a cluster says → one snapshot. (P)

Invariant: settings are the files'; of two pools or routes of one name the files' serves, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from gateway.config.settings import Settings
from gateway.config.sharing import Redis, State
from gateway.config.snapshot import Snapshot
from gateway.entrance import Entrances
from gateway.route import Route, RouteTable

if TYPE_CHECKING:  # whoever has no cluster need not load what reads one
    from gateway.config.cluster import Part


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


class Joining:
    """Joins again and again; what has not changed since the last time is not made again, and stays the same object."""

    def __init__(self) -> None:
        self._table = RouteTable()
        self._of: tuple[RouteTable, tuple[Route, ...]] = RouteTable(), ()
        self._settings: tuple[Settings, Redis | None, Settings] | None = None

    def joined(self, base: Snapshot, part: Part) -> Snapshot:
        """``base``: what files say, or a ConfigMap in their stead."""
        warnings: list[str] = []
        pools = (*base.pools, *_others(base.pools, part.pools, "pool", warnings))
        routes = tuple(_others(base.routes.routes, part.routes, "ModelRoute", warnings))
        return msgspec.structs.replace(
            base,
            settings=self._settled(base.settings, part.redis),
            routes=self._routed(base.routes, routes),
            pools=pools,
            route_limits=(*base.route_limits, *part.route_limits),
            objectives=(*base.objectives, *part.objectives),
            rewrites=(*base.rewrites, *part.rewrites),
            entrances=next((made for made in part.more if isinstance(made, Entrances)), None),
            warnings=(*base.warnings, *part.warnings, *warnings),
            files=tuple(dict.fromkeys((*base.files, *part.files))),
        )

    def _settled(self, settings: Settings, redis: Redis | None) -> Settings:
        if redis is None or settings.state.redis is not None:
            return settings
        known = self._settings
        if known is None or known[0] is not settings or known[1] != redis:
            known = self._settings = settings, redis, msgspec.structs.replace(settings, state=State(redis=redis))
        return known[2]

    def _routed(self, base: RouteTable, routes: tuple[Route, ...]) -> RouteTable:
        if base is not self._of[0] or routes != self._of[1]:
            self._table = RouteTable((*base.routes, *routes), self._table) if routes else base
            self._of = base, routes
        return self._table


def _others(mine: Iterable[T], theirs: tuple[T, ...], what: str, warnings: list[str]) -> Iterable[T]:
    """Of ``theirs``, what has a name of its own."""
    files = {each.name for each in mine}
    names: set[str] = set()
    for each in theirs:
        if each.name in files or each.name in names:
            whose = "files have one" if each.name in files else "there is another one"
            warnings.append(f"{what} {each.name} of the cluster: not used: {whose} of that name")
        else:
            names.add(each.name)
            yield each
