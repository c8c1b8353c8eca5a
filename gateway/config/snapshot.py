"""What a configuration comes to: settings, pools and routes, frozen. (P)

Invariant: a `Snapshot` never changes; a reload makes another, and a request keeps the one it began with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gateway.config import duration
from gateway.config.decode import Duration, Hidden
from gateway.config.resources import PDGroup, SessionSticky, TrafficPolicy
from gateway.config.settings import Settings
from gateway.config.url import shown
from gateway.directives import Objective, Rewrite
from gateway.entrance import Entrances
from gateway.route import Route, RouteTable
from gateway.types import UNKNOWN, Endpoint

MASK = "***"


class Policy(msgspec.Struct, frozen=True):
    """How long each phase of a request to a pool may take, and how often it is tried elsewhere. Seconds; inf: no limit.

    ``attempts`` counts endpoints, the first included.
    """

    connect: float = 5.0
    first_token: float = 600.0
    between_tokens: float = 180.0
    request: float = math.inf
    attempts: int = 3
    retry_interval: float = 0.0


def policy_of(settings: Settings, traffic: TrafficPolicy | None = None) -> Policy:
    """The program's own timeouts and tries, where a pool's traffic policy says nothing else."""
    timeouts = settings.timeouts
    timeout = None if traffic is None else traffic.timeout
    retry = None if traffic is None else traffic.retry
    return Policy(
        connect=float(timeouts.connect),
        first_token=float(timeouts.first_token if timeout is None else timeout),
        between_tokens=float(timeouts.between_tokens),
        request=float(timeouts.request),
        # the published field counts the tries after the first
        attempts=settings.retry.attempts if retry is None else retry.attempts + 1,
        retry_interval=0.0 if retry is None else float(retry.retry_interval),
    )


class Selector(msgspec.Struct, frozen=True):
    """Which Kubernetes pods are members, and how to reach them. ``ports``: each makes an endpoint of its own."""

    namespace: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[int, ...]
    scheme: str = "http"
    pd_group: PDGroup | None = None


class PoolSpec(msgspec.Struct, frozen=True):
    """A pool as configured. ``name`` is "namespace/name"; ``model`` is its engines' name for it, None for the client's.

    ``profile`` names one of the scheduler section's, "" its own. ``template`` is what every member has in common
    (credentials, TLS), for members that a selector finds. ``bare`` (an InferencePool): where a picker chooses, whatever
    its endpoints serve can be asked of it without a route.
    """

    name: str
    engine: str
    endpoints: tuple[Endpoint, ...] = ()
    model: str | None = None
    policy: Policy = Policy()
    sticky: SessionSticky | None = None
    profile: str = ""
    selector: Selector | None = None
    template: Endpoint | None = None
    kv_connector: str | None = None
    external: bool = False
    bare: bool = False

    @property
    def static(self) -> bool:
        """True if the members are these and no others."""
        return self.selector is None


class Vocabulary(Protocol):
    """By which a model's prompts are counted."""

    def count(self, text: bytes, /) -> int | None:
        """Tokens of a text in UTF-8; None if that cannot be told."""


class RouteLimit(msgspec.Struct, frozen=True):
    """Tokens for each ``unit`` that a ModelRoute allows to everybody together. ``route``: "namespace/name"."""

    route: str
    model: str
    unit: str
    input_tokens: int | None = None
    output_tokens: int | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """One consistent configuration.

    ``inert``: places of fields that are read and checked but have no effect yet; ``warnings``: what is legal and
    probably not meant. ``files``: everything read besides the documents (keys), so that a change there is noticed too.
    ``vocabularies``: those of the tokenizers section, each with its glob of models. ``entrances``: by which Gateways
    of a cluster requests come in, with the HTTPRoutes there, if it has any.
    """

    settings: Settings = Settings()
    routes: RouteTable = RouteTable()
    pools: tuple[PoolSpec, ...] = ()
    route_limits: tuple[RouteLimit, ...] = ()
    inert: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    vocabularies: tuple[tuple[str, Vocabulary], ...] = ()
    objectives: tuple[Objective, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    entrances: Entrances | None = None

    def claims(self) -> frozenset[str]:
        """Names of those claims of callers' tokens that anything goes by."""
        settings = self.settings
        names = {name for _, profile in settings.scheduler.parts() for name in profile.claims()}
        for limit in settings.limits:
            names.update(limit.match.claims)
            names.update(part.removeprefix("claims.") for part in limit.per or () if part.startswith("claims."))
        for pool in self.pools:
            if pool.sticky is not None:
                names.update(source.name for source in pool.sticky.sources if source.type == "JWTClaim")
        return frozenset(names)

    def public(self) -> dict[str, Any]:
        """As JSON-ready values for operators' eyes: secrets, and header values, which may be ones, read as ***."""
        return {
            "settings": _without_credentials(msgspec.to_builtins(self.settings, enc_hook=_encode)),
            "routes": [_route(route) for route in self.routes.routes],
            "pools": [_pool(pool) for pool in self.pools],
            "routeLimits": msgspec.to_builtins(self.route_limits),
            "objectives": msgspec.to_builtins(self.objectives),
            "rewrites": msgspec.to_builtins(self.rewrites),
            "inert": list(self.inert),
            "warnings": list(self.warnings),
        }


def _encode(value: object) -> str:
    if isinstance(value, Hidden):
        return MASK
    if isinstance(value, Duration):
        return duration.render(value)
    raise NotImplementedError(f"{type(value).__name__} has no public form")


def _without_credentials(value: Any) -> Any:
    """In URLs, that is; everything else is as it was."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {name: _without_credentials(each) for name, each in value.items()}
    return [_without_credentials(each) for each in value] if isinstance(value, (list, tuple)) else value


def _route(route: Route) -> dict[str, Any]:
    return {
        "name": route.name,
        "modelName": route.model or None,
        "loraAdapters": list(route.loras),
        "unsupported": "drop" if route.drop else "refuse",
        "hedging": route.hedge,
        "parents": None if route.parents is None else msgspec.to_builtins(route.parents),
        "rules": [
            {
                "name": rule.name or str(index),
                "conditional": rule.match is not None,
                "sticky": rule.sticky is not None,
                "targets": [{"pool": s.pool, "weight": s.weight, "model": s.model} for s in rule.shares],
            }
            for index, rule in enumerate(route.rules)
        ],
    }


def _pool(pool: PoolSpec) -> dict[str, Any]:
    return {
        "name": pool.name,
        "engine": pool.engine,
        "model": pool.model,
        "external": pool.external,
        "endpoints": [_endpoint(endpoint) for endpoint in pool.endpoints],
        "profile": pool.profile or "default",
        "selector": None if pool.selector is None else dict(pool.selector.labels),
        "policy": {
            "connect": duration.render(pool.policy.connect),
            "firstToken": duration.render(pool.policy.first_token),
            "betweenTokens": duration.render(pool.policy.between_tokens),
            "request": duration.render(pool.policy.request),
            "attempts": pool.policy.attempts,
            "retryInterval": duration.render(pool.policy.retry_interval),
        },
    }


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "engine": endpoint.engine,
        "url": endpoint.url,
        "labels": dict(endpoint.labels),
        "verify": endpoint.verify,
        "headers": {name.decode("ascii"): MASK for name, _ in endpoint.headers},
        "query": {part.partition("=")[0]: MASK for part in endpoint.query.split("&") if part},
    }


def resolved(pool: PoolSpec, engines: Mapping[Endpoint, str]) -> PoolSpec:
    """``pool`` with the engines of endpoints configured as "auto" or "any" that have since been recognised; the very
    same object if none has.
    """
    if not engines:
        return pool
    members = tuple(
        msgspec.structs.replace(member, engine=engines.get(member, member.engine)) for member in pool.endpoints
    )
    named: Sequence[str] = [member.engine for member in members if member.engine not in UNKNOWN]
    engine = named[0] if pool.engine in UNKNOWN and named else pool.engine
    return msgspec.structs.replace(pool, endpoints=members, engine=engine)
