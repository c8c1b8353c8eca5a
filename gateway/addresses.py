"""IP addresses of endpoints that are known by name, for proxies that are told where to send a request. (IO)

Invariant: an address is looked up at most once in `FRESH_S` seconds, by one for all who want it (in a system task: who
is cancelled takes it from nobody). One that was found once is not lost to a name server that is silent, and nobody
waits long for that: `PATIENCE_S` where an address is known, else `FIRST_S`, and then not again for a while.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
from collections.abc import Iterable
from typing import Final

import trio

from gateway.config.address import is_inward
from gateway.egress import is_refused
from gateway.types import Endpoint, bracketed

FRESH_S: Final = 30.0
AGAIN_S: Final = 5.0
"""What was not found is looked up again sooner."""

HOSTS_MAX: Final = 10_000
PATIENCE_S: Final = 1.0
FIRST_S: Final = 5.0

_log = logging.getLogger("infer_gateway.addresses")


class _Question:
    """A name that is being looked up, since ``asked``."""

    __slots__ = ("answered", "asked")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.asked = trio.current_time()


class Addresses:
    """What was looked up lately, by host."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, float]] = {}
        self._questions: dict[str, _Question] = {}

    async def of(self, endpoint: Endpoint) -> str:
        """ "address:port"; "" where its name stands for none. Waits only for a name server."""
        host = endpoint.host
        address, until = self._known(host)
        if trio.current_time() >= until:
            address = await self._answer(host)
        if endpoint.outward and is_inward(address):  # the proxy's machine is no more theirs to name than ours
            return ""
        return f"{bracketed(address)}:{endpoint.port}" if address else ""

    async def among(self, endpoints: Iterable[Endpoint], only: Iterable[str]) -> tuple[str, ...]:
        """``only`` ("address:port", or "address" for all its ports) in terms of what ``endpoints`` are called."""
        wanted, endpoints = frozenset(only), tuple(endpoints)
        for endpoint in endpoints:  # all at once, then wait for each
            if trio.current_time() >= self._known(endpoint.host)[1]:
                self._ask(endpoint.host)
        meant = []
        for endpoint in endpoints:
            address = await self.of(endpoint)
            if address in wanted or address.rpartition(":")[0].strip("[]") in wanted:
                meant.append(endpoint.address)
        return tuple(meant)

    def _known(self, host: str) -> tuple[str, float]:
        """The address, "" if there is none, and until when that may be relied on."""
        return self._found.get(host) or self._literal(host)

    def _literal(self, host: str) -> tuple[str, float]:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return "", -math.inf
        return self._store(host, host, math.inf)

    def _ask(self, host: str) -> _Question:
        question = self._questions.get(host)
        if question is None:
            question = self._questions[host] = _Question()
            trio.lowlevel.spawn_system_task(self._resolve, host)
        return question

    async def _answer(self, host: str) -> str:
        question, (known, _) = self._ask(host), self._known(host)
        with trio.move_on_at(question.asked + (PATIENCE_S if known else FIRST_S)) as patience:
            await question.answered.wait()
        if patience.cancelled_caught:
            self._keep(host, "")
        return self._known(host)[0]

    async def _resolve(self, host: str) -> None:
        try:
            self._keep(host, await self._look_up(host))
        except Exception:  # noqa: BLE001 — the boundary of a system task
            _log.exception("cannot look up %s", host)
            self._keep(host, "")
        finally:
            self._questions.pop(host).answered.set()

    def _keep(self, host: str, found: str) -> None:
        address = found or self._known(host)[0]
        self._store(host, address, trio.current_time() + (FRESH_S if address else AGAIN_S))

    def _store(self, host: str, address: str, until: float) -> tuple[str, float]:
        if host not in self._found and len(self._found) >= HOSTS_MAX:
            self._found.clear()  # endpoints come and go
        self._found[host] = address, until
        return address, until

    async def _look_up(self, host: str) -> str:
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # the latter: no name of a host at all
            return ""
        given = (str(each[4][0]) for each in found)
        return next((address for address in given if not is_refused(address)), "")
