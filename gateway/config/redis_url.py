"""URLs of Redis, in the forms an operator may write them → `Address`. (P)

Invariant: no message of this module quotes a URL or a part of one, for it may hold a password.
"""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import unquote

import msgspec

Kind = Literal["single", "unix", "sentinel", "cluster"]

_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
SCHEMES: Final = tuple(f"{scheme}://" for scheme in _SCHEMES)
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?\Z")


class Address(msgspec.Struct, frozen=True, gc=False):
    """Where a Redis is. ``hosts``: one server, or whom to ask for the others (sentinels, members of a cluster).

    ``path`` is a socket's, ``service`` what sentinels call the master. It shows itself without the password.
    """

    kind: Kind
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    username: str = ""
    password: str = ""

    def __str__(self) -> str:
        where = self.path or ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        return f"{where}/{self.service}" if self.service else where

    def __repr__(self) -> str:
        return f"Address({self.kind!r}, {str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("kind", self.kind), ("where", str(self))]


def parse(url: str) -> Address:
    """The address in ``url``. Raises ValueError, which never quotes what may be a credential.

    ``redis[s]://[user:password@]host[:port][/database]``, ``unix://[user:password@]/path[?db=database]``,
    ``redis[s]+sentinel://…@host[:port],…/service[/database]`` and ``redis[s]+cluster://…@host[:port],…``. Ports are
    6379 by default, those of sentinels 26379. Credentials are percent-encoded, and meant for Redis, not for sentinels.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _SCHEMES:
        raise ValueError(f"expected a URL that begins with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    kind, tls = _SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    credentials, at, rest = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    known = {"kind": kind, "tls": tls, "username": unquote(username), "password": unquote(password)}
    if kind == "unix":
        return msgspec.convert({**known, **_socket(rest, query)}, Address)
    if query:
        raise ValueError("no query may follow this URL; a database is written as /number")
    hosts, _, path = rest.partition("/")
    if at and not hosts:
        raise ValueError("no host follows the credentials")
    if kind == "single" and "," in hosts:
        raise ValueError("several hosts: write redis+sentinel:// or redis+cluster://")
    port = 26379 if kind == "sentinel" else 6379
    return msgspec.convert(
        {**known, "hosts": [_host(host, port) for host in hosts.split(",")], **_behind(kind, path)}, Address
    )


def _host(text: str, port: int) -> tuple[str, int]:
    found = _HOST.match(text)
    if not found:
        raise ValueError("expected host or host:port, several of them separated by commas")
    number = int(found["port"] or port)
    if not 0 < number < 65536:
        raise ValueError("expected a port from 1 to 65535")
    return found["six"] or found["name"], number


def _behind(kind: Kind, path: str) -> dict[str, str | int]:
    """What the path says: a database, a service and perhaps a database, or nothing."""
    service, _, database = path.partition("/") if kind == "sentinel" else ("", "", path)
    if kind == "sentinel" and not service:
        raise ValueError("expected the name of a service behind the sentinels: redis+sentinel://host,host/service")
    if kind == "cluster" and database:
        raise ValueError("a cluster has no databases: nothing may follow its hosts")
    return {"service": unquote(service), "database": _database(database)}


def _socket(path: str, query: str) -> dict[str, str | int]:
    name, _, database = query.partition("=")
    if not path.startswith("/"):
        raise ValueError("expected an absolute path behind unix://")
    if query and name != "db":
        raise ValueError("expected nothing but db=number behind a socket's path")
    return {"path": unquote(path), "database": _database(database)}


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError("expected a number as the database")
    return int(text or 0)
