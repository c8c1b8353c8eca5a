"""To which pool a request goes that a proxy forwards, where no route says so. (P)

Invariant: only where one answer is right there is one. A pool that routes lead to is not found behind their backs: of
requests that name a model, only those go here that are for InferencePools, which need no route.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from gateway.directives import Directives
from gateway.errors import ModelNotFound, NoEndpoints
from gateway.listing import Listing
from gateway.member import Member
from gateway.types import InferenceRequest


class Pool(Protocol):
    """`gateway.pool.Pool`."""

    @property
    def name(self) -> str: ...
    @property
    def bare(self) -> bool: ...
    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def listing(self) -> Listing: ...


def implied(
    request: InferenceRequest, pools: Iterable[Pool], directives: Directives, chance: float = 0.0
) -> Sequence[str]:
    """The pool's name first, then those that may stand in for it; none where it is not for us to say.

    In this order: the pools whose members the proxy lists, the one that serves the model or rewrites it, the only one.
    Listed members of several pools that might be meant share by their number and ``chance``, uniform in [0, 1).
    Raises NoEndpoints where all that the proxy lists are no members, ModelNotFound where several pools are left.
    """
    among = {pool.name: pool for pool in pools if pool.bare or not request.model}
    if not among:
        return ()
    if request.only is not None:
        among = _listed(among, frozenset(request.only))
        if not among:
            raise NoEndpoints("none of the endpoints that the proxy lists is a member of a pool", retry_after=1.0)
    if len(among) > 1 and request.model:
        serving = {name: pool for name, pool in among.items() if _serves(pool, request.model, directives)}
        among = serving or among
    if len(among) > 1 and request.only is None:
        raise ModelNotFound(_unclear(request.model, among), param="model")
    return _shared(among, frozenset(request.only or ()), chance)


def _listed(pools: dict[str, Pool], only: Collection[str]) -> dict[str, Pool]:
    return {name: pool for name, pool in pools.items() if _count(pool, only)}


def _count(pool: Pool, only: Collection[str]) -> int:
    return len(pool.listing.among(only))


def _serves(pool: Pool, model: str, directives: Directives) -> bool:
    return directives.names(pool.name, model) or any(
        card.id == model for member in pool.members for card in member.cards
    )


def _shared(pools: dict[str, Pool], only: Collection[str], chance: float) -> list[str]:
    """One first, by how many of its members are listed."""
    names = sorted(pools)
    if len(names) == 1:
        return names
    counts = [_count(pools[name], only) for name in names]
    left = chance * sum(counts)
    for index, count in enumerate(counts):
        left -= count
        if left < 0.0:
            return [names[index], *names[:index], *names[index + 1 :]]
    return names


def _unclear(model: str, pools: Iterable[str]) -> str:
    asked = f"The model `{model[:256]}` could be of" if model else "A request without a model could be for"
    return f"{asked} several pools ({', '.join(sorted(pools)[:8])}), and nothing says which one is meant"
