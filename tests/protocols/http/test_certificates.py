"""Clients with and without a certificate, as the program's own TLS settings treat them."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from gateway.config.settings import TLS, HttpListener, Listeners
from gateway.doors import context
from protocols.http.connection import certified_name
from protocols.http.exchange import HttpExchange
from tests.protocols.http.rig import GET, TEXT, Rig, read_all, read_until, run


async def who(exchange: HttpExchange) -> None:
    await exchange.respond(200, TEXT, f"<{exchange.subject}> from {exchange.peer}.".encode())


class Authorities:
    """The server's, its clients', and one that nobody knows; their files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.servers, self.clients, self.strangers = trustme.CA(), trustme.CA(), trustme.CA()
        certificate = self.servers.issue_cert("127.0.0.1")
        files = [str(folder / name) for name in ("cert.pem", "key.pem", "clients.pem")]
        certificate.cert_chain_pems[0].write_to_path(files[0])
        certificate.private_key_pem.write_to_path(files[1])
        self.clients.cert_pem.write_to_path(files[2])
        self.listener = HttpListener(tls=TLS(cert_file=files[0], key_file=files[1]), client_ca_file=files[2])

    def client(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.servers.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context


def test_a_client_may_show_a_certificate(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path)

    async def scenario(rig: Rig) -> None:
        async def told(certificate: trustme.LeafCert | None) -> bytes:
            stream = await rig.secure(authorities.client(certificate))
            await stream.send_all(GET)
            return (await read_until(stream, b".1.")).rpartition(b"\r\n\r\n")[2]

        assert await told(None) == b"<> from 127.0.0.1."
        assert await told(authorities.clients.issue_cert("lb.example.com")) == b"<lb.example.com> from 127.0.0.1."
        assert await told(authorities.clients.issue_cert(common_name="the lb")) == b"<the lb> from 127.0.0.1."

    run(who, scenario, context=context("http", Listeners(http=authorities.listener)))


def test_a_certificate_of_strangers_is_turned_away(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path)

    async def scenario(rig: Rig) -> None:
        for authority in (authorities.strangers, authorities.servers):
            told = b""
            with contextlib.suppress(trio.BrokenResourceError):
                stream = await rig.secure(authorities.client(authority.issue_cert("lb.example.com")))
                await stream.send_all(GET)
                told = await read_all(stream)
            assert told == b""

    run(who, scenario, context=context("http", Listeners(http=authorities.listener)))


def test_without_authorities_nobody_is_asked(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path)
    listener = HttpListener(tls=authorities.listener.tls)

    async def scenario(rig: Rig) -> None:
        stream = await rig.secure(authorities.client(authorities.clients.issue_cert("lb.example.com")))
        await stream.send_all(GET)
        assert b"<> from" in await read_until(stream, b".1.")

    run(who, scenario, context=context("http", Listeners(http=listener)))


def test_authorities_that_cannot_be_read(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path)
    for content in (None, b"", b"not PEM"):
        file = tmp_path / "bad.pem"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(OSError, match=r"cannot use the authorities in .*bad\.pem"):
            context("http", Listeners(http=HttpListener(tls=authorities.listener.tls, client_ca_file=str(file))))


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        ({}, ""),
        ({"subject": ((("organizationName", "o"),), (("commonName", "lb"),))}, "lb"),
        ({"subject": ((("commonName", "lb"),),), "subjectAltName": (("DNS", "a"), ("DNS", "b"))}, "a"),
        ({"subjectAltName": (("DNS", "a"), ("URI", "spiffe://x/lb"))}, "spiffe://x/lb"),
        ({"subjectAltName": (("IP Address", "10.0.0.1"),)}, ""),
    ],
)
def test_the_name_in_a_certificate(certificate: Mapping[str, Any], name: str) -> None:
    assert certified_name(certificate) == name
