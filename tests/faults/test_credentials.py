"""Certificates, keys and configuration that are replaced under open connections: by good ones, by half of them, by
something else.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import CHAT, pool, settings, written


class Stage(NamedTuple):
    gateway: InferGateway
    directory: Path
    authority: trustme.CA
    clients: trustme.CA
    context: ssl.SSLContext

    def dial(self) -> socket.socket:
        return self.context.wrap_socket(raw.connect(self.gateway.address), server_hostname="localhost")

    def unharmed(self) -> AbstractContextManager[None]:
        return unharmed(self.gateway, dial=self.dial)

    def serial(self) -> object:
        with self.dial() as secure:
            assert isinstance(secure, ssl.SSLSocket)
            return (secure.getpeercert() or {})["serialNumber"]

    def renew(self) -> None:
        renew(self.directory, self.authority)


def renew(directory: Path, authority: trustme.CA) -> None:
    made = authority.issue_cert("localhost")
    for name, content in (("key.pem", made.private_key_pem), ("cert.pem", made.cert_chain_pems[0])):
        content.write_to_path(str(directory / "next"))
        (directory / "next").replace(directory / name)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("credentials")
    authority, clients = trustme.CA(), trustme.CA()
    renew(directory, authority)
    clients.cert_pem.write_to_path(str(directory / "clients.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    http = {"tls": {"certFile": "cert.pem", "keyFile": "key.pem"}, "clientCAFile": "clients.pem"}
    calm, slow = simulate("vllm", "m"), simulate("vllm", "m", "--itl", "0.05")
    with together(calm, slow):
        pools = pool(CALM, [calm]), pool("slow", [slow])
        config = written(directory, *pools, settings(listeners={"http": http}))
        with serve("-c", config) as gateway:
            yield Stage(gateway, directory, authority, clients, context)


def gone(path: Path) -> None:
    path.unlink()


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def another(path: Path) -> None:
    """That does not match."""
    made = trustme.CA().issue_cert("localhost")
    (made.private_key_pem if path.name == "key.pem" else made.cert_chain_pems[0]).write_to_path(str(path))


def put_right(stage: Stage, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    stage.clients.cert_pem.write_to_path(str(stage.directory / "clients.pem"))
    stage.renew()


def test_credentials_that_become_something_else(stage: Stage) -> None:
    """Those in use stay; the next that are good are taken, at once."""
    with stage.unharmed(), stage.dial() as client, raw.Reader(client) as reader:
        body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100, "stream": True}
        client.sendall(raw.post(CHAT, body))
        for replace in (gone, half, empty, noise, folder, pipe, endless, another):
            for name in ("cert.pem", "key.pem", "clients.pem"):
                before, told = stage.serial(), stage.gateway.stderr
                replace(stage.directory / name)
                stage.gateway.signal(signal.SIGHUP)
                assert eventually(lambda: len(stage.gateway.stderr) > len(told))  # noqa: B023
                assert stage.serial() == before
                put_right(stage, stage.directory / name)
                stage.gateway.signal(signal.SIGHUP)
                assert eventually(lambda: stage.serial() != before), (replace, name)  # noqa: B023
        answer = reader.answer()
        assert answer is not None
        assert raw.events(answer.body)[-1] == "[DONE]"


def test_a_certificate_and_its_key_are_read_while_they_are_replaced(stage: Stage) -> None:
    pairs = [stage.authority.issue_cert("localhost") for _ in range(20)]
    with stage.unharmed():
        for made in pairs * 10:
            for name, content in (("key.pem", made.private_key_pem), ("cert.pem", made.cert_chain_pems[0])):
                content.write_to_path(str(stage.directory / name))
            stage.gateway.signal(signal.SIGHUP)
        before = stage.serial()
        stage.renew()
        assert eventually(lambda: stage.serial() != before)


def test_an_authority_of_clients_is_succeeded(stage: Stage) -> None:
    """Whoever shows a certificate of the next one is let in without a restart."""
    following = trustme.CA()
    context = ssl.create_default_context()
    stage.authority.configure_trust(context)
    following.issue_cert("ann.example.com").configure_cert(context)

    def let_in() -> bool:
        try:
            with context.wrap_socket(raw.connect(stage.gateway.address), server_hostname="localhost") as secure:
                secure.sendall(raw.get("/healthz", "connection: close"))
                return secure.recv(1) == b"H"
        except OSError:
            return False

    assert not let_in()
    with stage.unharmed():
        both = b"".join(each.cert_pem.bytes() for each in (stage.clients, following))
        (stage.directory / "clients.pem").write_bytes(both)
        assert eventually(let_in)
