"""What ModelRoutes limit: their ``rateLimit``s, and the Redis that those name. (P)

Invariant: a limit meant to be shared by replicas is shared by whoever shares anything; where routes disagree about the
place, it is said which one holds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

import msgspec

from gateway.config import redis_url
from gateway.config.address import Network, is_inward, refusal
from gateway.config.decode import Fault, Hidden
from gateway.config.envelope import Resource
from gateway.config.resources import ModelRoute
from gateway.config.sharing import ForeignRedis, Redis, State
from gateway.config.snapshot import RouteLimit

_ADDRESS = "$.spec.rateLimit.global.redis.address"


def route_limits(routes: Iterable[Resource], warnings: list[str]) -> Iterator[RouteLimit]:
    for resource in routes:
        spec: ModelRoute = resource.content
        limit = spec.rate_limit
        if limit is None:
            continue
        tokens = limit.input_tokens_per_unit, limit.output_tokens_per_unit
        if tokens == (None, None):
            warnings.append(resource.problem("$.spec.rateLimit", "limits nothing: no tokens are given"))
        else:
            yield RouteLimit(resource.name, spec.model_name, limit.unit, *tokens)


class Reach(msgspec.Struct, frozen=True):
    """Where routes may have replicas meet. ``guarded``: their authors may reach no more than the network; ``allowed``:
    networks that are refused otherwise, see `gateway.config.address.refusal`.
    """

    guarded: bool = False
    allowed: tuple[Network, ...] = ()

    def refusal(self, redis: Redis) -> str:
        """Why not there; "" if there."""
        at = redis_url.parse(redis.url.reveal())
        for host, _ in at.hosts:
            if why := refusal(host, self.allowed):
                return f"{host}: {why}; where that is meant, name its network in egress.allow"
        if self.guarded and (at.kind == "unix" or any(is_inward(host) for host, _ in at.hosts)):
            return "it is the gateway's own machine: only where the configuration says kubernetes.allowLoopback"
        return ""


ANYWHERE = Reach(allowed=(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))


def shared_state(
    state: State, routes: Iterable[Resource], problems: list[str], warnings: list[str], reach: Reach = ANYWHERE
) -> State:
    """``state``, or what the first route that names a Redis makes of it. Others that name another are warned about, and
    those of a guarded cluster about one that is out of ``reach``; files have a problem then.
    """
    chosen, by = state.redis, "state.redis"
    for resource in routes:
        address = _address(resource.content)
        if not address:
            continue
        try:
            kind = ForeignRedis if reach.guarded else Redis
            redis = kind(url=Hidden(address if "://" in address else f"redis://{address}"))
        except Fault as fault:
            problems.append(resource.problem(_ADDRESS, str(fault)))
            continue
        if why := reach.refusal(redis):
            (warnings if reach.guarded else problems).append(resource.problem(_ADDRESS, f"not used: {why}"))
        elif chosen is None:
            chosen, by = redis, f"{_shown(address)}, given by ModelRoute {resource.name},"
        elif chosen.url != redis.url:
            warnings.append(resource.problem(_ADDRESS, f"{_shown(address)} is not used: {by} is where replicas meet"))
    return State(redis=chosen)


def _address(route: ModelRoute) -> str:
    limit = route.rate_limit
    return limit.shared.redis.address if limit and limit.shared and limit.shared.redis else ""


def _shown(address: str) -> str:
    """Without what may be a password."""
    return address.rpartition("@")[2]
