"""IP addresses of endpoints that are known by name, for proxies that are told where to send a request. (IO)

Invariant: an address is looked up at most once in `FRESH_S` seconds; one that was found once is not lost to a name
server that is silent.
"""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Iterable
from typing import Final

import trio

from gateway.types import Endpoint, bracketed

FRESH_S: Final = 30.0


class Addresses:
    """What was looked up lately, by host."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, float]] = {}

    async def of(self, endpoint: Endpoint) -> str:
        """ "address:port"; "" where its name stands for none."""
        host = endpoint.host
        address, until = self._found.get(host) or self._literal(host)
        if trio.current_time() >= until:
            address = await self._look_up(host) or address
            self._found[host] = address, trio.current_time() + FRESH_S
        return f"{bracketed(address)}:{endpoint.port}" if address else ""

    async def among(self, endpoints: Iterable[Endpoint], only: Iterable[str]) -> tuple[str, ...]:
        """``only`` ("address:port", or "address" for all its ports) in terms of what ``endpoints`` are called."""
        wanted = frozenset(only)
        meant = []
        for endpoint in endpoints:
            address = await self.of(endpoint)
            if address in wanted or address.rpartition(":")[0].strip("[]") in wanted:
                meant.append(endpoint.address)
        return tuple(meant)

    def _literal(self, host: str) -> tuple[str, float]:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return "", -math.inf
        self._found[host] = host, math.inf
        return self._found[host]

    async def _look_up(self, host: str) -> str:
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return ""
        return str(found[0][4][0]) if found else ""
