"""Introspection against a real HTTPS server: how it is asked, what its answers mean, and how it fails."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import trio

from gateway.config.access import OAuth
from gateway.config.decode import Duration
from gateway.sources.introspection import Introspection
from gateway.wire.h1 import Request
from tests.gateway.sources.issuer import Answer, Web, serving

SECRET = "s:ecret/%ü"


def run(
    tmp_path: Path,
    answer: Callable[[Request], Answer | Awaitable[Answer]],
    scenario: Callable[[Web, Introspection], Awaitable[None]],
    timeout: float = 5,
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")

    async def main() -> None:
        web = Web(answer)
        async with serving(web, tmp_path) as ca_file, trio.open_nursery() as nursery:
            asked = Introspection(
                OAuth(
                    introspection_url=web.url("/introspect"),
                    client_id="the gateway",
                    client_secret_file=str(secret),
                    ca_file=ca_file,
                    timeout=Duration(timeout),
                )
            )
            nursery.start_soon(asked.run)
            await trio.testing.wait_all_tasks_blocked()
            await scenario(web, asked)
            nursery.cancel_scope.cancel()

    trio.run(main)


def json(body: bytes) -> Callable[[Request], Answer]:
    return lambda request: (200, [(b"content-type", b"application/json")], body)


def test_how_it_is_asked(tmp_path: Path) -> None:
    async def scenario(web: Web, asked: Introspection) -> None:
        assert await asked.ask("t&o=k") == {"active": True, "sub": "ann"}
        (request,) = web.seen
        assert (request.method, request.target) == (b"POST", b"/introspect")
        assert parse_qs(request.body.decode()) == {"token": ["t&o=k"], "token_type_hint": ["access_token"]}
        scheme, _, pair = (request.header(b"authorization") or b"").partition(b" ")
        assert scheme == b"Basic"
        assert base64.b64decode(pair) == b"the+gateway:s%3Aecret%2F%25%C3%BC"

    run(tmp_path, json(b'{"active": true, "sub": "ann"}'), scenario)


def test_a_secret_that_changes_is_read_again(tmp_path: Path) -> None:
    async def scenario(web: Web, asked: Introspection) -> None:
        await asked.ask("t")
        (tmp_path / "secret").write_text("new")
        await asked.ask("t")
        (tmp_path / "secret").unlink()
        with pytest.raises(OSError, match="secret"):
            await asked.ask("t")
        fields = [request.header(b"authorization") or b"" for request in web.seen]
        assert [base64.b64decode(field[6:]).split(b":")[1] for field in fields][1:] == [b"new"]

    run(tmp_path, json(b'{"active": false}'), scenario)


@pytest.mark.parametrize("body", [b'{"active": false}', b"{}", b'{"active": "true", "sub": "ann"}', b'{"active": 1}'])
def test_only_true_is_active(tmp_path: Path, body: bytes) -> None:
    async def scenario(web: Web, asked: Introspection) -> None:
        assert await asked.ask("t") is None

    run(tmp_path, json(body), scenario)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda request: (401, [], b"{}"), "answered 401"),
        (lambda request: (302, [(b"location", b"/")], b""), "answered 302"),
        (lambda request: (500, [], b""), "answered 500"),
        (json(b"[]"), "not a JSON object"),
        (json(b"<html>"), "not a JSON object"),
    ],
)
def test_a_failing_server_is_left_alone_for_a_second(
    tmp_path: Path, answer: Callable[[Request], Answer], told: str
) -> None:
    async def scenario(web: Web, asked: Introspection) -> None:
        for expected in (told, "failed a moment ago"):
            with pytest.raises(OSError, match=expected) as caught:
                await asked.ask("sensitive-token")
            assert "sensitive" not in repr(caught.value)
            assert "ecret" not in repr(caught.value)
        assert len(web.seen) == asked.asked == 1
        await trio.sleep(1)
        with pytest.raises(OSError, match=told):
            await asked.ask("t")

    run(tmp_path, answer, scenario)


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    async def silent(request: Request) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    async def scenario(web: Web, asked: Introspection) -> None:
        with pytest.raises(OSError, match=r"did not answer within 0\.3 s"):
            await asked.ask("t")

    run(tmp_path, silent, scenario, timeout=0.3)


def test_few_questions_are_open_at_a_time(tmp_path: Path) -> None:
    open_now = most = 0
    full, going = trio.Event(), trio.Event()

    async def slow(request: Request) -> Answer:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now == 32:
            full.set()
        await going.wait()
        open_now -= 1
        return 200, [], b'{"active": false}'

    async def scenario(web: Web, asked: Introspection) -> None:
        refused = 0

        async def ask(number: int) -> None:
            nonlocal refused
            try:
                assert await asked.ask(f"t{number}") is None
            except OSError:
                refused += 1

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(ask, number)
            await full.wait()
            going.set()
        assert most == 32
        assert refused == 300 - 32 - 256

    run(tmp_path, slow, scenario, timeout=20)


def test_before_it_runs_nobody_is_asked() -> None:
    async def main() -> None:
        oauth = OAuth(introspection_url="https://server.example.com", client_id="a", client_secret_file="s")
        with pytest.raises(OSError, match="a moment ago"):
            await Introspection(oauth).ask("t")

    trio.run(main)
