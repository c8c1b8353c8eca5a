"""What of a configuration leads to where no connection may lead, and what leads back to the gateway. (P)

Invariant: hosts are told of by the path that names them; nothing is quoted that may hold a credential.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from gateway.config import redis_url
from gateway.config.address import Network, literal, refusal
from gateway.config.document import ConfigError
from gateway.config.settings import Settings
from gateway.config.url import is_loopback
from gateway.types import Endpoint

HOW: Final = "; where that is meant, name its network in egress.allow"


def refused(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """(section, path from the root, why) of what settings name and may not be connected to."""
    allowed = settings.egress.networks
    for section, path, host in _named(settings):
        if why := refusal(host, allowed):
            yield section, f"$.{section}{path}", f"{host}: {why}{HOW}"


def _named(settings: Settings) -> Iterator[tuple[str, str, str]]:
    auth, redis = settings.auth, settings.state.redis
    urls = [("auth", ".jwksUri", auth.jwks_uri), ("tracing", ".endpoint", settings.tracing.endpoint)]
    urls += [("auth", f".issuers[{index}].jwksUri", issuer.jwks_uri) for index, issuer in enumerate(auth.issuers)]
    if auth.oauth is not None:
        urls.append(("auth", ".oauth.introspectionUrl", auth.oauth.introspection_url))
    for section, path, url in urls:
        if host := urlsplit(url).hostname:
            yield section, path, host
    if redis is not None:
        for host, _ in redis_url.parse(redis.url.reveal()).hosts:
            yield "state", ".redis.url", host


def allowed_backends(backends: Iterable[Endpoint], allowed: tuple[Network, ...]) -> tuple[Endpoint, ...]:
    """All of them. Raises ConfigError for those that no connection may lead to."""
    backends = tuple(backends)
    problems = [
        f"--backend {each.engine}={each.url}: {why}{HOW}" for each in backends if (why := refusal(each.host, allowed))
    ]
    if problems:
        raise ConfigError(problems)
    return backends


def loops(endpoint: Endpoint, listening: Mapping[str, tuple[str, int]]) -> str:
    """The listener of ``listening`` (host and port by its name) that an endpoint plainly is, "" if it is none.

    Only literal addresses and localhost are plain; a listener on all interfaces is at every address of loopback.
    """
    for name, (host, port) in listening.items():
        if port == endpoint.port and port and _same(host, endpoint.host):
            return name
    return ""


def _same(listening: str, host: str) -> bool:
    here, there = literal(listening), literal(host)
    if here is not None and here == there:
        return True
    everywhere = here is not None and here.is_unspecified
    local = is_loopback(host) or (there is not None and (there.is_loopback or there.is_unspecified))
    return local and (everywhere or (is_loopback(listening) and there is None))


def told(where: str, endpoints: Iterable[Endpoint], listening: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """A warning for each endpoint that is the gateway itself."""
    for endpoint in endpoints:
        if name := loops(endpoint, listening):
            yield f"{where}: {endpoint.address} is this gateway's own {name} listener: requests come back for ever"
