"""By which Gateway a request comes in: the port and the host it was sent to → the listeners that stand there. (P)

Invariant: an `Entrances` never changes, and neither does what is in it; of the hostnames that hold for a host the most
specific decides, the exact one, then the longest wildcard, then none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from gateway.httproute import HttpRouteTable

MAIN: Final = 0
"""In place of a port: the program's own HTTP listener, which stands for all ports that have none of their own."""
_LONGEST: Final = 253
"""Characters of a hostname. Of a host that has more no hostname is the end: it may have as many dots as it likes."""


class Parent(msgspec.Struct, frozen=True):
    """What a ModelRoute is bound to: a Gateway, "namespace/name", or one listener of it, by its name or its port.
    ``gateway`` is "" where no Gateway is named.
    """

    gateway: str
    listener: str = ""
    port: int = 0


class Inlet(msgspec.Struct, frozen=True):
    """An open listener of a Gateway. ``takes``: of which namespaces ModelRoutes may be bound to it: "All", "Same" (the
    Gateway's own), or "" for none.
    """

    gateway: str
    listener: str
    port: int
    takes: str

    @property
    def namespace(self) -> str:
        return self.gateway.partition("/")[0]

    def named(self, parent: Parent) -> bool:
        return (
            parent.gateway == self.gateway
            and parent.listener in ("", self.listener)
            and parent.port in (MAIN, self.port)
        )

    def lets_in(self, namespace: str) -> bool:
        return self.takes == "All" or (self.takes == "Same" and self.namespace == namespace)

    def admits(self, namespace: str, parents: Iterable[Parent]) -> bool:
        """Whether requests that come in here are for ModelRoutes of that namespace bound to these."""
        return self.lets_in(namespace) and any(self.named(parent) for parent in parents)


class Entrance(msgspec.Struct, frozen=True, eq=False):
    """Where a request came in: several Gateways may have the same host. ``namespaces``: whose ModelRoutes that are
    bound to no Gateway are served here, too; None: everybody's. Entrances are told apart by identity.
    """

    inlets: tuple[Inlet, ...] = ()
    namespaces: frozenset[str] | None = frozenset()


NOWHERE: Final = Entrance()
"""A Gateway's port, and no listener of it for the host."""


class Entrances:
    """All entrances, by port and hostname ("" for any, "*." in front of those below it). ``http``: the HTTPRoutes of
    each port; ``ports``: those to be listened on, besides the program's own.
    """

    __slots__ = ("_sites", "http", "ports")

    def __init__(
        self,
        sites: Mapping[tuple[int, str], Entrance] | None = None,
        http: Mapping[int, HttpRouteTable] | None = None,
        ports: Iterable[int] = (),
    ) -> None:
        self.http: Final = http or {}
        self.ports: Final = frozenset(ports)
        self._sites: dict[int, dict[str, Entrance]] = {}
        for (port, hostname), entrance in (sites or {}).items():
            self._sites.setdefault(port, {})[hostname] = entrance

    def of(self, port: int, host: str) -> Entrance | None:
        """Where a request came in that was sent to ``host``, as its field has it, with a port or not. None: by no
        Gateway.
        """
        sites = self._sites.get(port)
        if sites is not None:
            if (found := sites.get(host)) is not None:
                return found
            for hostname in hostnames(host_and_port(host)[0].lower()):
                if (found := sites.get(hostname)) is not None:
                    return found
        return NOWHERE if port else None


def hostnames(host: str) -> Iterator[str]:
    """Those that hold for a host in lower case, the most specific first."""
    if host:
        yield host
    rest = host if len(host) <= _LONGEST else ""
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    yield ""


def host_and_port(host: str) -> tuple[str, str]:
    """The two parts of a Host field; the port is "" where there is none."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        name, port = host.removesuffix(":"), ""
    return name.removesuffix("."), port
