"""The listeners of the process: ports of Gateways beside its own, with the same TLS and limits, drained together."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trustme

from gateway.config.settings import TLS, HttpListener, Listeners, Settings
from gateway.doors import Doors, Wanted
from tests.protocols.openai.fakes import FakeCore

WANTED = Wanted(http=("127.0.0.1", 0), grpc="off", admin=("127.0.0.1", 0))
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def certificate(folder: Path, authority: trustme.CA) -> TLS:
    """In files of the same names each time."""
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    return TLS(str(folder / "cert.pem"), str(folder / "key.pem"))


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def answer(port: int, trusted: ssl.SSLContext | None = None, asked: bytes = HEALTH) -> bytes:
    if trusted is None:
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    else:
        stream = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=trusted)
    with trio.fail_after(10):
        async with stream:
            await stream.send_all(asked)
            return bytes(await stream.receive_some())


class Tried(dict[int, str]):
    """What came of ports, to wait for."""

    def __init__(self) -> None:
        self.told = trio.Event()

    def __call__(self, outcomes: Mapping[int, str]) -> None:
        self.clear()
        self.update(outcomes)
        self.told.set()
        self.told = trio.Event()


def test_ports_of_gateways_have_the_tls_of_the_programs_own_and_its_renewals(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    settings = Settings(listeners=Listeners(http=HttpListener(tls=certificate(tmp_path, first))))

    async def main() -> None:
        doors, tried, port = Doors(), Tried(), free()
        await doors.bind(WANTED, settings.listeners)
        doors.build(cast(Any, FakeCore()), settings)
        doors.keep([port])  # nobody listens there yet, nor is to
        doors.extend(tried)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(doors.run)
                told = tried.told
                doors.keep([port])
                await told.wait()
                assert tried == {port: ""}
                for authority in (first, second):
                    trusted = ssl.create_default_context()
                    authority.configure_trust(trusted)
                    for each in (port, doors.addresses["http"][1]):
                        assert (await answer(each, trusted)).startswith(b"HTTP/1.1 200")
                    certificate(tmp_path, second)
                    doors.renew(settings.listeners)
                assert doors.connections().keys() == {"http", "gateways"}
                doors.drain()
        doors.admin.socket.close()

    trio.run(main)


def test_ports_of_gateways_have_the_limits_of_the_programs_own() -> None:
    http = HttpListener(max_header_bytes=1024)
    settings = Settings(listeners=Listeners(http=http))

    async def main() -> None:
        doors, tried, port = Doors(), Tried(), free()
        await doors.bind(WANTED, settings.listeners)
        doors.build(cast(Any, FakeCore()), settings)
        doors.extend(tried)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(doors.run)
                told = tried.told
                doors.keep([port, doors.addresses["admin"][1]])
                await told.wait()
                assert sorted(tried.values()) == [
                    "",
                    f"{doors.addresses['admin'][1]} is the port of the admin listener",
                ]
                assert (await answer(port)).startswith(b"HTTP/1.1 200")
                long = HEALTH.replace(b"\r\n\r\n", b"\r\nx: " + b"x" * 2000 + b"\r\n\r\n")
                assert (await answer(port, asked=long)).startswith(b"HTTP/1.1 431")
                doors.drain()
                assert doors.busy == 0
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", port)
        doors.admin.socket.close()

    trio.run(main)


def test_without_the_switch_nothing_is_listened_on() -> None:
    doors = Doors()
    doors.keep([8081])
    assert doors.connections() == {}
