"""Key sets from a real HTTPS server and from files: what is taken, what is not, and what is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gateway.sources.jwks import KeySet, freshness
from gateway.supervise import supervise
from gateway.wire.h1 import Request
from tests.gateway.issuing import Signer, key_set
from tests.gateway.sources.issuer import Answer, Web, serving

GOOD = key_set(Signer().jwk())


def run(tmp_path: Path, answer: Callable[[Request], Answer], scenario: Callable[[Web, str], Awaitable[None]]) -> None:
    async def main() -> None:
        web = Web(answer)
        async with serving(web, tmp_path) as ca_file:
            await scenario(web, ca_file)

    trio.run(main)


def test_a_set_over_https(tmp_path: Path) -> None:
    async def scenario(web: Web, ca_file: str) -> None:
        changes: list[int] = []
        keys = KeySet(web.url("/jwks"), ca_file, lambda: changes.append(len(keys.keys)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keys.run)
            await keys.renew()
            nursery.cancel_scope.cancel()
        assert [key.kid for key in keys.keys] == ["k1"]
        assert (changes, keys.failed, keys.fetches) == ([1], False, 1)
        assert web.seen[0].path == b"/jwks"
        assert (await keys.fetch())[1] == 600

    run(tmp_path, lambda request: (200, [(b"cache-control", b"public, max-age=600")], GOOD), scenario)


def big(request: Request) -> Answer:
    return 200, [], GOOD[:-1] + b" " * (2 << 20) + b"}"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda request: (404, [], GOOD), "answered 404"),
        (lambda request: (302, [(b"location", b"/elsewhere")], b""), "answered 302"),
        (lambda request: (200, [], b"<html>"), "not JSON"),
        (lambda request: (200, [], b'{"keys": []}'), "no key"),
        (lambda request: (200, [(b"content-encoding", b"gzip")], b"\x1f\x8b"), "not JSON"),
        (big, "more than"),
    ],
)
def test_what_is_not_taken(tmp_path: Path, answer: Callable[[Request], Answer], told: str) -> None:
    async def scenario(web: Web, ca_file: str) -> None:
        keys = KeySet(web.url("/jwks"), ca_file)
        with pytest.raises(OSError, match=told) as caught:
            await keys.run()
        assert web.url("/jwks") in str(caught.value)
        assert keys.failed
        assert not keys.keys
        assert {request.path for request in web.seen} == {b"/jwks"}

    run(tmp_path, answer, scenario)


def test_a_server_that_nobody_vouches_for(tmp_path: Path) -> None:
    async def scenario(web: Web, ca_file: str) -> None:
        with pytest.raises(OSError, match="certificate verify failed"):
            await KeySet(web.url("/jwks")).run()
        with pytest.raises(OSError, match="cannot use the authorities in"):
            await KeySet(web.url("/jwks"), str(tmp_path / "none.pem")).run()
        assert not web.seen

    run(tmp_path, lambda request: (200, [], GOOD), scenario)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1 cannot be asked: .*[Cc]onnection refused"):
        trio.run(KeySet("http://127.0.0.1:1/jwks").run)


def test_a_set_in_a_file_is_read_again_and_kept_when_it_breaks(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(GOOD)

    async def main() -> None:
        changes, changed = trio.open_memory_channel[list[str]](10)
        keys = KeySet(f"file://{file}", changed=lambda: changes.send_nowait([key.kid for key in keys.keys]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: supervise(keys.run, name="keys", base=0.01, ceiling=0.01))
            with trio.fail_after(10):
                assert await changed.receive() == ["k1"]
                file.write_bytes(b"{")
                keys.read_again()
                before = keys.fetches
                while keys.fetches < before + 2:
                    await keys.renew()
                    await trio.lowlevel.checkpoint()
                assert keys.failed
                assert [key.kid for key in keys.keys] == ["k1"]
                file.write_bytes(key_set(Signer("k2").jwk()))
                assert await changed.receive() == ["k2"]
                assert not keys.failed
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("", 3600),
        ("max-age=600", 600),
        ("public, MAX-AGE=600, must-revalidate", 600),
        ('max-age="600"', 600),
        ("max-age=1", 300),
        ("max-age=99999999", 86_400),
        ("no-cache", 300),
        ("no-store", 300),
        ("s-maxage=600", 3600),
        ("max-age=-5", 3600),
    ],
)
def test_freshness(field: str, seconds: float) -> None:
    assert freshness(field) == seconds


@given(st.text(max_size=50))
def test_freshness_is_bounded(field: str) -> None:
    assert 300 <= freshness(field) <= 86_400
