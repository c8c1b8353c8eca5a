"""Names that lead to metadata addresses when they are resolved: nobody in this process is connected to them."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import requests
import trio
import trio.testing

from adapters.transport import HTTPTransport
from gateway import egress, otlp
from gateway.addresses import Addresses
from gateway.config.access import OAuth
from gateway.config.address import refusal
from gateway.config.decode import Hidden
from gateway.config.sharing import ForeignRedis, Redis
from gateway.errors import UpstreamError
from gateway.sources.introspection import Introspection
from gateway.sources.jwks import KeySet
from gateway.sources.kube.messages import Unreachable
from gateway.sources.kube.wire import Tls, Wire
from gateway.store.connect import Failed, open_client
from gateway.types import Endpoint
from tests.gateway.test_otlp import followed
from tests.process import eventually

NAME = "rebound.test"
METADATA = (
    "169.254.169.254",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fe80::1",
    "100.100.100.200",
)
Names = dict[str, list[str]]


class _Net:
    """Behind the guard: what gets past it fails, and never reaches a network."""

    hooked = False
    caught: list[object] = []  # noqa: RUF012

    @classmethod
    def stretch(cls) -> None:
        egress.guard()
        if not cls.hooked:
            cls.hooked = True
            sys.addaudithook(cls.look)

    @staticmethod
    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple) and refusal(str(arguments[1][0])):
            _Net.caught.append(arguments[1])
            raise AssertionError(f"connected to {arguments[1]}")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Addresses by name; names that are not in it are resolved as ever."""
    known: Names = {NAME: ["169.254.169.254"]}
    resolve = socket.getaddrinfo

    def looked_up(host: Any, port: Any, *options: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        found: list[Any] = []
        for address in known.get(name, ()):
            found += resolve(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return found if name in known else resolve(host, port, *options, **more)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    _Net.stretch()
    yield known
    egress.guard()
    caught = _Net.caught[:]
    _Net.caught.clear()
    assert not caught


def refused(asked: Callable[[], Awaitable[Any]], error: type[Exception]) -> str:
    """What it says."""

    async def main() -> None:
        with trio.fail_after(20):
            await asked()

    with pytest.raises(error) as caught:
        trio.run(main)
    return str(caught.value)


@pytest.mark.parametrize("address", METADATA)
def test_the_data_path(names: Names, address: str) -> None:
    names[NAME] = [address]
    endpoint = Endpoint("vllm", "http", NAME, 80)
    said = refused(lambda: HTTPTransport().dial(endpoint), UpstreamError)
    assert said.endswith("its address is one that egress.allow does not name")


def test_of_several_addresses_the_others_serve(names: Names) -> None:
    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        (await HTTPTransport().dial(Endpoint("vllm", "http", NAME, port))).close()
        await listener.aclose()

    names[NAME] = ["169.254.169.254", "127.0.0.1"]
    trio.run(main)


def test_keys_of_issuers(names: Names) -> None:
    said = refused(KeySet(f"https://{NAME}/keys").fetch, OSError)
    assert f"{NAME} cannot be asked" in said
    assert "169.254.169.254 is not connected to" in said


def test_introspection(names: Names, tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("s")
    oauth = OAuth(introspection_url=f"https://{NAME}/ask", client_id="c", client_secret_file=str(tmp_path / "secret"))

    async def ask() -> None:
        asked = Introspection(oauth)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.run)
            await trio.testing.wait_all_tasks_blocked()
            try:
                await asked.ask("token")
            except OSError as error:
                raise ValueError(str(error)) from None
            finally:
                nursery.cancel_scope.cancel()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(ask)
    assert caught.group_contains(ValueError, match=r"169\.254\.169\.254 is not connected to")


def test_an_api_server(names: Names) -> None:
    async def ask() -> None:
        wire = await Wire.made(Tls())
        try:
            await wire.ask("GET", f"http://{NAME}/api", {}, None)
        finally:
            await wire.close()

    assert "is not connected to" in refused(ask, Unreachable)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"redis://{NAME}", "is not connected to"),
        (f"redis+cluster://{NAME}", "is not connected to"),
        (f"redis+sentinel://{NAME}/service", "No primary found"),
    ],
)
def test_redis(names: Names, url: str, why: str) -> None:
    async def ask() -> None:
        async with open_client(Redis(url=Hidden(url))) as client:
            await client.ping()

    assert why in refused(ask, Failed)


def test_a_redis_that_an_object_of_a_cluster_names_is_not_this_machine(names: Names) -> None:
    async def ask(kind: type[Redis]) -> None:
        async with open_client(kind(url=Hidden(f"redis://{NAME}:1"))) as client:
            await client.ping()

    names[NAME] = ["127.0.0.1"]
    assert "own machine" in refused(lambda: ask(ForeignRedis), Failed)
    assert "own machine" not in refused(lambda: ask(Redis), Failed)


def test_a_collector_of_traces(names: Names, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    pipeline = otlp.Pipeline(f"http://{NAME}/v1/traces", {}, 0.2, "")
    pipeline.add(followed(), 0.0)
    assert eventually(lambda: pipeline.dropped == 1)
    pipeline.close()
    assert any("traces cannot be sent" in record.getMessage() for record in caplog.records)


def test_traces_go_by_no_proxy_that_the_configuration_does_not_name(monkeypatch: pytest.MonkeyPatch) -> None:
    session = otlp._session()
    assert session is not None
    assert not session.trust_env
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "mine")
    assert otlp._session() is None


def test_what_proxies_are_told(names: Names) -> None:
    async def of(name: str, *, outward: bool = False) -> str:
        return await Addresses().of(Endpoint("vllm", "http", name, 80, outward=outward))

    names["both.test"], names["here.test"] = ["169.254.169.254", "10.0.0.7"], ["127.0.0.1"]
    assert trio.run(of, NAME) == ""
    assert trio.run(of, "both.test") == "10.0.0.7:80"
    assert trio.run(of, "here.test") == "127.0.0.1:80"
    assert trio.run(lambda: of("here.test", outward=True)) == ""


def test_plugins_and_what_they_bring(names: Names) -> None:
    with pytest.raises(requests.ConnectionError, match="is not connected to"):
        requests.get(f"http://{NAME}/", timeout=5)
    with pytest.raises(egress.RefusedAddress):
        socket.create_connection((NAME, 80), 5)
    for host in ("2852039166", "169.254.169.254"):
        with socket.socket() as sock, pytest.raises(egress.RefusedAddress):
            sock.connect((host, 80))
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(egress.RefusedAddress):
        sock.sendto(b"x", ("169.254.169.254", 80))
    with socket.socket() as sock, egress.outward(), pytest.raises(egress.RefusedAddress):
        sock.connect(("localhost", 9))  # a name that only the kernel's side has looked up


def test_an_allowed_network_is_reached(names: Names) -> None:
    egress.guard([ipaddress.ip_network("169.254.169.254/32")])
    assert not egress.is_refused("169.254.169.254")
    with socket.socket() as sock, pytest.raises(AssertionError, match="connected to"):
        sock.connect(("169.254.169.254", 80))  # as far as the net
    assert _Net.caught.pop() == ("169.254.169.254", 80)
    egress.guard()
    assert egress.is_refused("169.254.169.254")


def test_nobody_else_is_kept_from_anything(names: Names, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()[:2], 5) as sock,
    ):
        assert sock.getpeername() == server.getsockname()
    here, there = socket.socketpair()
    here.sendmsg([b"x"])
    assert there.recv(1) == b"x"
    here.close()
    there.close()
