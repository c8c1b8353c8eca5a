"""Connections to the Redis that the configuration names; with `gateway.store.redis` what knows coredis. (IO)

Invariant: TLS means a verified certificate for the host asked for; no password leaves this module but to the server;
no server is heard without a bound.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.config import redis_url
from gateway.config.sharing import ForeignRedis
from gateway.config.sharing import Redis as Settings
from gateway.egress import outward
from gateway.pem import copied, secret

if TYPE_CHECKING:
    from coredis.client import Client

CONNECT_S: Final = 2.0
"""How long a TCP connection and its TLS handshake may take."""
NONSENSE: Final = (ValueError, TypeError, LookupError, AssertionError, AttributeError)
"""What coredis makes of answers that no Redis gives."""
_LONGEST: Final = 300


class Failed(Exception):
    """Redis cannot be reached, or refuses. The text is for operators: one line without secrets."""


class Open(Protocol):
    """What makes a client, entered as long as it is in use: `open_client`, or a test's own."""

    def __call__(self, settings: Settings, /) -> Any: ...


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[Client[bytes]]:
    """A coredis client for as long as the block runs; it connects with its first command. Raises Failed.

    The password file is read anew, so that a password may change. Errors of the block, too, become Failed, with the
    deepest cause for a reason: every error of a connection says the same otherwise.
    """
    password = ""
    failures: list[BaseException] = []
    try:
        address = redis_url.parse(settings.url.reveal())
        password = address.password
        if settings.password_file:
            password = secret(settings.password_file)
        context = _context(settings.ca_file) if address.tls else None
        client = _client(address, settings.username or address.username, password, context)
        with outward(isinstance(settings, ForeignRedis)):
            async with client as entered:
                yield entered
    except* _errors() as group:
        failures.append(group)
    if failures:
        reason = _reason(failures[0])
        reason = reason.replace(password, "***") if password else reason
        raise Failed(reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}…")


def load() -> None:
    """Have the library at hand."""
    _errors()


def _context(ca_file: str) -> ssl.SSLContext:
    with copied(*filter(None, [ca_file])) as names:
        return ssl.create_default_context(cafile=next(iter(names), None))


def _errors() -> tuple[type[Exception], ...]:
    from coredis.exceptions import RedisError

    return OSError, RedisError, Failed


def _client(address: redis_url.Address, username: str, password: str, context: ssl.SSLContext | None) -> Any:
    """A context manager, whatever kind of Redis it is."""
    import coredis
    from coredis.connection import TCPLocation
    from coredis.retry import NoRetryPolicy

    from gateway.store.bounded import bound

    bound()
    logging.getLogger("coredis").setLevel(logging.CRITICAL)  # tracebacks of every attempt; who connects tells of it
    options: dict[str, Any] = {
        "username": username or None,
        "password": password or None,
        "connect_timeout": CONNECT_S,
    }
    if address.kind == "unix":
        return _single(unix_socket_path=address.path, db=address.database, **options)
    if context is not None:
        options["ssl_context"] = context
    if address.kind == "single":
        ((host, port),) = address.hosts
        return _single(host, port, db=address.database, **options)
    places = [TCPLocation(host, port) for host, port in address.hosts]
    if address.kind == "cluster":
        return coredis.RedisCluster(
            startup_nodes=places,
            retry_policy=NoRetryPolicy(),
            verify_version=False,
            skip_full_coverage_check=True,  # it asks for CONFIG GET, which few users may
            **options,
        )
    return _behind_sentinels(places, address, options)


def _single(*place: Any, **options: Any) -> Any:
    import coredis

    return coredis.Redis(*place, verify_version=False, max_connections=1, **options)


@asynccontextmanager
async def _behind_sentinels(
    places: list[Any], address: redis_url.Address, options: dict[str, Any]
) -> AsyncIterator[Any]:
    """The master of a service, as sentinels say. They are asked without credentials, over TLS if the master is."""
    from coredis import Sentinel

    bare = {name: value for name, value in options.items() if name not in ("username", "password")}
    async with (
        Sentinel(places, sentinel_kwargs=bare, db=address.database, **options) as sentinels,
        sentinels.primary_for(address.service) as client,
    ):
        yield client


def _reason(error: BaseException) -> str:
    """One line for what is at the bottom of an error."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, Failed) and text
        else f"{type(error).__name__}: {text}"
        if text
        else type(error).__name__
    )
