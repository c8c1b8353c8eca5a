"""Files of keys, secrets and authorities that are no files, or without an end: refused at once by all who read them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from gateway.config.access import OAuth
from gateway.config.decode import Hidden
from gateway.config.sharing import Redis
from gateway.pem import content, secret
from gateway.sources.https import opened
from gateway.sources.introspection import Introspection
from gateway.sources.jwks import KeySet
from gateway.store.connect import Failed, open_client

WITHIN_S = 20.0


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def gone(path: Path) -> None:
    pass


async def keys(file: str) -> None:
    await KeySet(f"file://{file}").fetch()


async def authorities(file: str) -> None:
    async with opened(file):
        pass


async def introspecting(file: str) -> None:
    asked = Introspection(OAuth("https://127.0.0.1:1/", client_id="c", client_secret_file=file))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.run)
        await trio.testing.wait_all_tasks_blocked()
        try:
            await asked.ask("token")
        finally:
            nursery.cancel_scope.cancel()


async def password(file: str) -> None:
    async with open_client(Redis(url=Hidden("redis://127.0.0.1:1"), password_file=file)):
        pass


async def redis_authorities(file: str) -> None:
    async with open_client(Redis(url=Hidden("rediss://127.0.0.1:1"), ca_file=file)):
        pass


@pytest.mark.parametrize("made", [pipe, endless, folder, gone])
@pytest.mark.parametrize("read", [keys, authorities, introspecting, password, redis_authorities])
def test_what_is_no_file(tmp_path: Path, made: Callable[[Path], None], read: Callable[[str], Awaitable[None]]) -> None:
    file = tmp_path / "file"
    made(file)

    async def main() -> None:
        with trio.fail_after(WITHIN_S):
            await read(str(file))

    with pytest.raises((OSError, Failed, ExceptionGroup)) as caught:
        trio.run(main)
    found = caught.value
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, (OSError, Failed))
    assert str(file) in str(found)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(9):
        with pytest.raises(OSError, match="no plain file"):
            content(str(tmp_path))
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("read", [introspecting, password])
def test_a_secret_that_is_no_text_is_not_quoted(tmp_path: Path, read: Callable[[str], Awaitable[None]]) -> None:
    (tmp_path / "file").write_bytes(b"hush\xff\xfe")
    with pytest.raises((OSError, Failed, ExceptionGroup)) as caught:
        trio.run(read, str(tmp_path / "file"))
    found = caught.value
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert "is no text" in str(found)
    assert "hush" not in str(found)


def test_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b" open sesame\n")
    assert content(str(tmp_path / "file")) == b" open sesame\n"
    assert secret(str(tmp_path / "file")) == "open sesame"
