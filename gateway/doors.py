"""The doors of the process: a listener a protocol, bound before anything runs, drained together. (IO)

Invariant: `run` returns once every door has drained; cancelled, it cuts what is under way.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import trio

from gateway.burden import burden
from gateway.config.settings import OFF, TLS, ExtProcListener, Listeners, Settings
from gateway.descriptors import bound
from gateway.entrance import MAIN
from gateway.gateway_ports import GatewayPorts
from gateway.http_refusals import HttpRefusals
from gateway.inherit import Inherited, inherited
from gateway.listen import Listener, close_listeners, open_listeners, resolved
from gateway.pem import copied
from gateway.types import bracketed
from protocols.http.listener import Limits
from protocols.http.listener import Server as HttpServer
from protocols.openai.serve import OpenAIApp

if TYPE_CHECKING:
    from gateway import grpc_door, picker_door
    from gateway.access_log import AccessLog
    from gateway.errors import GatewayError
    from gateway.meter import Totals
    from gateway.types import Headers, Identity, Operation
    from protocols.openai import serve

    class Core(serve.Core, grpc_door.Core, picker_door.Core, Protocol):
        """What all of them stand on."""

        @property
        def totals(self) -> Totals: ...
        @property
        def access_log(self) -> AccessLog: ...
        def refused(
            self,
            operation: Operation,
            error: GatewayError,
            request_id: str,
            identity: Identity | None,
            headers: Headers,
            protocol: str = "http",
            /,
        ) -> None: ...


_log = logging.getLogger("infer_gateway")

Address = tuple[str, int]


class Wanted(msgspec.Struct, frozen=True):
    """Addresses from the command line, before those of the configuration; "off" is no listener."""

    http: Address | None = None
    grpc: Address | str | None = None
    admin: Address | None = None
    ext_proc: Address | None = None

    def of(self, settings: Listeners) -> dict[str, Address]:
        """Every listener there is to be, by name."""
        found: dict[str, Address] = {"http": self.http or (settings.http.host, settings.http.port)}
        if self.grpc is None and settings.grpc.address != OFF:
            found["grpc"] = settings.grpc.host, settings.grpc.port
        elif self.grpc is not None and not isinstance(self.grpc, str):
            found["grpc"] = self.grpc
        found["admin"] = self.admin or (settings.admin.host, settings.admin.port)
        picker = settings.ext_proc
        if self.ext_proc is not None:
            host, port = self.ext_proc
            found["ext_proc"] = self.ext_proc
            found["health"] = picker.health if picker and picker.health_address else (host, port and port + 1)
        elif picker is not None:
            found["ext_proc"], found["health"] = (picker.host, picker.port), picker.health
        return found


class Server(Protocol):
    """What a door has behind it."""

    async def run(self, *, task_status: trio.TaskStatus[Any]) -> None: ...
    def settle(self) -> None: ...
    def hand_over(self) -> None: ...
    def drain(self) -> None: ...
    def statistics(self) -> Statistics: ...


class Statistics(Protocol):
    @property
    def connections(self) -> int: ...
    @property
    def busy(self) -> int: ...


class Doors:
    """``addresses`` are those that were had, by listener. The admin plane's is bound here, too, as ``admin``;
    ``admin_named`` is what its address was called, ``hosts`` where the others listen, or have: files are read by those
    that drain, too.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, Address] = {}
        self.hosts: list[str] = []
        self.admin_named = ""
        self._listeners: dict[str, list[Listener]] = {}
        self._servers: dict[str, Server] = {}
        self._make: Callable[[int, list[Listener]], HttpServer] | None = None
        self._gateways: GatewayPorts | None = None

    async def bind(self, wanted: Wanted, settings: Listeners) -> None:
        """Every address, before anything runs; sockets that were inherited are taken as they are. Raises OSError naming
        the one that cannot be had. From then on what clients may have in all is bounded.
        """
        bound(settings)
        given, problems = inherited(os.environ)
        for name, (host, port) in wanted.of(settings).items():
            if name == "admin":
                self.admin_named = host
            listeners = self._listeners[name] = await _open(name, host, port, context(name, settings), given)
            self.addresses[name] = listeners[0].address
            if name != "admin":
                self.hosts = list(dict.fromkeys([*self.hosts, *(listener.address[0] for listener in listeners)]))
        for problem in (*problems, *(f"the inherited socket {each} is not used" for each in given.close())):
            _log.warning("%s", problem)
        if "health" in self.addresses:
            _log.info("health of the endpoint picker on %s", text(self.addresses["health"]))

    def sockets(self) -> list[tuple[str, socket.socket]]:
        """What a successor listens on. Ports of Gateways it opens itself."""
        return [(name, listener.socket) for name, listeners in self._listeners.items() for listener in listeners]

    @property
    def admin(self) -> Listener:
        return self._listeners["admin"][0]

    def build(self, core: Core, settings: Settings, pool: str | None = None) -> None:
        """The servers, with ``core`` behind them. ``pool``: the one to pick from, instead of that of the settings."""
        limits = _limits(settings)
        refusals = HttpRefusals(core.totals.http_refusals, core.access_log.note)
        self._make = lambda port, at: HttpServer(OpenAIApp(core, port, burden(), refusals), at, limits, refusals)
        self._servers["http"] = self._make(MAIN, self._listeners["http"])
        wanted, at = settings.listeners, self._listeners
        # what follows is imported where it is wanted: HTTP alone can do without
        if "grpc" in at:
            from gateway.grpc_door import inference_door

            self._servers["grpc"] = inference_door(core, wanted.grpc, at["grpc"], settings.timeouts.client_write)
        if "ext_proc" in at:
            from gateway.picker_door import picker_doors

            picking = wanted.ext_proc or ExtProcListener()
            picking = msgspec.structs.replace(picking, pool=pool or picking.pool)
            self._servers |= picker_doors(core, picking, at["ext_proc"], at["health"])

    def extend(self, tried: Callable[[Mapping[int, str]], object]) -> None:
        """Besides, listen on ports of Gateways as on the program's own: at its address, with its TLS, and its limits
        for each. ``tried`` is told what came of those that `keep` says.
        """
        assert self._make is not None
        host = self.addresses["http"][0]
        tls = self._listeners["http"][0].ssl_context
        taken = {port: name for name, (_, port) in self.addresses.items()}
        self._gateways = GatewayPorts(lambda port: open_listeners(host, port, tls), self._make, tried, taken)
        self._servers["gateways"] = self._gateways

    def keep(self, ports: Iterable[int]) -> None:
        """These are the ports of Gateways, if they are to be listened on."""
        if self._gateways is not None:
            self._gateways.keep(ports)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            for server in self._servers.values():
                await nursery.start(server.run)
            task_status.started()

    def settle(self) -> None:
        """Those who ask whether to come are told not to; whoever comes is served."""
        for server in self._servers.values():
            server.settle()

    def hand_over(self) -> None:
        """Nobody new, as a successor takes them from the same sockets; those who are in are told to go there."""
        close_listeners(self._listeners["admin"])
        for server in self._servers.values():
            server.hand_over()

    def drain(self) -> None:
        """Nobody new; `run` returns when those who are in are done."""
        for server in self._servers.values():
            server.drain()

    @property
    def busy(self) -> int:
        """Requests under way."""
        return sum(server.statistics().busy for server in self._servers.values())

    def connections(self) -> dict[str, int]:
        """Open client connections by listener."""
        return {name: server.statistics().connections for name, server in self._servers.items()}

    def renew(self, settings: Listeners) -> None:
        """New connections get what the files hold now: certificates are renewed without a restart, and authorities of
        clients besides those that there were.
        """
        for name, listeners in self._listeners.items():
            used, tls = listeners[0].ssl_context, _files(name, settings)
            if used is None or tls is None:
                continue
            authorities = _authorities(name, settings)
            try:
                with copied(tls.cert_file, tls.key_file, *authorities) as (cert, key, *copies):
                    trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                    for each in (trial, used):  # half a renewal must not spoil the one in use
                        _load(each, cert, key, copies)
            except OSError as error:
                files = " and ".join((tls.cert_file, tls.key_file, *authorities))
                _log.error("cannot use %s: %s; the old one stays in use", files, error)

    def announcement(self) -> str:
        """The one line on stdout that scripts wait for."""
        shown = {"http": "", "grpc": OFF, "admin": "", **{name: text(at) for name, at in self.addresses.items()}}
        shown.pop("health", None)
        return "ready " + " ".join(f"{name}={at}" for name, at in shown.items())


def text(address: Address) -> str:
    host, port = address
    return f"{bracketed(host)}:{port}"


def context(name: str, settings: Listeners) -> ssl.SSLContext | None:
    """What a listener's TLS is made of. Raises OSError naming the file."""
    tls = _files(name, settings)
    if tls is None:
        return _own(name, settings)
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if name in ("http", "admin"):  # others say themselves what they speak
        made.set_alpn_protocols(["http/1.1"])
    try:
        made.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:
        raise OSError(f"cannot use certificate {tls.cert_file} with key {tls.key_file}: {error}") from error
    for authorities in _authorities(name, settings):
        try:
            made.load_verify_locations(authorities)
        except OSError as error:
            raise OSError(f"cannot use the authorities in {authorities}: {error}") from error
        made.verify_mode = ssl.CERT_OPTIONAL if name == "http" else ssl.CERT_REQUIRED
    return made


def _load(into: ssl.SSLContext, cert: str, key: str, authorities: Iterable[str]) -> None:
    into.load_cert_chain(cert, key)
    for each in authorities:
        into.load_verify_locations(each)


def _authorities(name: str, settings: Listeners) -> list[str]:
    """The file of those that vouch for clients, if there is one."""
    found = {"http": settings.http.client_ca_file, "grpc": settings.grpc.client_ca_file}.get(name)
    return [found] if found else []


def _own(name: str, settings: Listeners) -> ssl.SSLContext | None:
    """TLS whose certificate nobody has signed."""
    if name != "ext_proc" or settings.ext_proc is None or not settings.ext_proc.self_signed:
        return None
    from protocols.extproc.certificate import self_signed_context

    return self_signed_context()


def _files(name: str, settings: Listeners) -> TLS | None:
    if name == "ext_proc":
        return settings.ext_proc.tls if settings.ext_proc is not None else None
    return {"http": settings.http.tls, "grpc": settings.grpc.tls, "admin": settings.admin.tls}.get(name)


def _limits(settings: Settings) -> Limits:
    http = settings.listeners.http
    return Limits(
        max_header=http.max_header_bytes,
        max_body=http.max_body_bytes,
        header_timeout=http.header_timeout,
        idle_timeout=http.idle_timeout,
        write_timeout=settings.timeouts.client_write,
        max_connections=http.max_connections,
    )


async def _open(name: str, host: str, port: int, tls: ssl.SSLContext | None, given: Inherited) -> list[Listener]:
    """Raises OSError naming the address."""
    taken = given.take(name, await resolved(host, port)) if given else []
    if taken:
        return [Listener(sock, tls, shared=True) for sock in taken]
    if name == "admin":
        return [Listener(_bind_admin(host, port), tls)]
    return await open_listeners(host, port, tls)


def _bind_admin(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} for the admin plane: {error.strerror or error}") from error
