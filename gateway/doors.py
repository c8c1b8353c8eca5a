"""The doors of the process: a listener a protocol, bound before anything runs, drained together. (IO)

Invariant: `run` returns once every door has drained; cancelled, it cuts what is under way.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import trio

from gateway.config.settings import OFF, TLS, ExtProcListener, Listeners, Settings
from gateway.entrance import MAIN
from gateway.gateway_ports import GatewayPorts
from gateway.listen import Listener, open_listeners
from protocols.http.listener import Limits
from protocols.http.listener import Server as HttpServer
from protocols.openai.serve import OpenAIApp

if TYPE_CHECKING:
    from gateway import grpc_door, picker_door
    from gateway.errors import GatewayError
    from gateway.types import Headers, Identity, Operation
    from protocols.openai import serve

    class Core(serve.Core, grpc_door.Core, picker_door.Core, Protocol):
        """What all of them stand on."""

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
    def drain(self) -> None: ...
    def statistics(self) -> Statistics: ...


class Statistics(Protocol):
    @property
    def connections(self) -> int: ...
    @property
    def busy(self) -> int: ...


class Doors:
    """``addresses`` are those that were had, by listener. The admin plane's is bound here, too, as ``admin``;
    ``admin_named`` is what its address was called.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, Address] = {}
        self.admin_named = ""
        self._listeners: dict[str, list[Listener]] = {}
        self._servers: dict[str, Server] = {}
        self._make: Callable[[int, list[Listener]], HttpServer] | None = None
        self._gateways: GatewayPorts | None = None

    async def bind(self, wanted: Wanted, settings: Listeners) -> None:
        """Every address, before anything runs. Raises OSError naming the one that cannot be had."""
        for name, (host, port) in wanted.of(settings).items():
            if name == "admin":
                self.admin_named = host
                listeners = [Listener(_bind_admin(host, port), context(name, settings))]
            else:
                listeners = await open_listeners(host, port, context(name, settings))
            self._listeners[name] = listeners
            self.addresses[name] = listeners[0].address
        if "health" in self.addresses:
            _log.info("health of the endpoint picker on %s", text(self.addresses["health"]))

    @property
    def admin(self) -> Listener:
        return self._listeners["admin"][0]

    def build(self, core: Core, settings: Settings, pool: str | None = None) -> None:
        """The servers, with ``core`` behind them. ``pool``: the one to pick from, instead of that of the settings."""
        limits = _limits(settings)
        self._make = lambda port, at: HttpServer(OpenAIApp(core, port), at, limits)
        self._servers["http"] = self._make(MAIN, self._listeners["http"])
        wanted, at = settings.listeners, self._listeners
        # what follows is imported where it is wanted: HTTP alone can do without
        if "grpc" in at:
            from gateway.grpc_door import inference_door

            self._servers["grpc"] = inference_door(core, wanted.grpc, at["grpc"])
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
        """New connections get what the files hold now: certificates are renewed without a restart."""
        for name, listeners in self._listeners.items():
            used, tls = listeners[0].ssl_context, _files(name, settings)
            if used is None or tls is None:
                continue
            try:
                context(name, settings)  # on trial: half a renewal must not spoil the one in use
                used.load_cert_chain(tls.cert_file, tls.key_file)
            except OSError as error:
                _log.error("%s; the old one stays in use", error)

    def announcement(self) -> str:
        """The one line on stdout that scripts wait for."""
        shown = {"http": "", "grpc": OFF, "admin": "", **{name: text(at) for name, at in self.addresses.items()}}
        shown.pop("health", None)
        return "ready " + " ".join(f"{name}={at}" for name, at in shown.items())


def text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    authorities = {"http": settings.http.client_ca_file, "grpc": settings.grpc.client_ca_file}.get(name)
    if authorities:
        try:
            made.load_verify_locations(authorities)
        except OSError as error:
            raise OSError(f"cannot use the authorities in {authorities}: {error}") from error
        made.verify_mode = ssl.CERT_OPTIONAL if name == "http" else ssl.CERT_REQUIRED
    return made


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


def _bind_admin(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} for the admin plane: {error.strerror or error}") from error
