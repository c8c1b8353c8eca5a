"""What the follower makes of whatever answers, over real sockets."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme

from gateway.top.address import Address, UnreachableError
from gateway.top.follow import Link
from tests.gateway.topfeed import HEAD, event, hello, serving, state


def answer(status: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def refusal(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


def unreachable(address: Address) -> UnreachableError:
    with pytest.raises(UnreachableError) as caught:
        trio.run(Link(address).hello)
    return caught.value


def test_hello_is_enough_and_the_token_is_shown() -> None:
    with serving(HEAD + event("hello", hello())) as admin:
        link = Link(Address(admin.url, token="s3cret"))
        trio.run(link.hello)
        assert link.feed.version == "0.9"
        assert len(link.feed.history) == 10
        assert admin.asked[0].startswith(b"GET /api/live HTTP/1.1\r\n")
        assert b"authorization: bearer s3cret" in admin.asked[0].lower()


def test_an_address_without_a_scheme_and_a_path_before_ours() -> None:
    with serving(HEAD + event("hello", hello())) as admin:
        link = Link(Address(f"127.0.0.1:{admin.port}/gw/"))
        trio.run(link.hello)
        assert b"GET /gw/api/live" in admin.asked[0]
        assert b"authorization" not in admin.asked[0].lower()


def test_a_tokens_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving(HEAD + event("hello", hello())) as admin:
        link = Link(Address(admin.url, token="not-this", token_file=file))
        for token in ("first", "second"):
            file.write_text(f"{token}\n")
            trio.run(link.hello)
            assert f"Bearer {token}\r\n".encode() in admin.asked[-1]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (answer("401 Unauthorized"), "the gateway demands a token"),
        (answer("303 See Other"), "the gateway demands a token"),
        (answer("403 Forbidden", refusal("set tokenFile\x1b[2J")), "the gateway refuses: set tokenFile\ufffd[2J"),
        (answer("403 Forbidden", b"no\n", "text/plain"), "the gateway refuses: no"),
        (answer("404 Not Found"), "there is no live feed at this address"),
        (answer("500 Oh", b'{"error": []}'), 'it answers 500: {"error": []}'),
        (answer("200 OK", b"<html>", "text/html"), "something else than a gateway's admin listener answers"),
        (b"SSH-2.0-OpenSSH_9\r\n", "it does not speak HTTP as we do"),
        (b"", "it does not speak HTTP as we do"),
        (HEAD, "the gateway ended the connection"),
        (HEAD + b"data: hi\n\nevent: state\ndata: {\n\n", "the gateway ended the connection"),
        (HEAD + b"data: " + b"x" * (17 << 20), "it sends an event that is too long"),
    ],
)
def test_what_answers_but_not_well(said: bytes, what: str) -> None:
    with serving(said) as admin:
        assert unreachable(Address(admin.url)).what == what


def test_a_token_that_is_not_accepted() -> None:
    with serving(answer("401 Unauthorized")) as admin:
        error = unreachable(Address(admin.url, token="x"))
    assert error.what == "the gateway does not accept the token"
    assert "--token-file" in error.hint


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://127.0.0.1:1", "nothing listens there"),
        ("http://" + "a" * 70 + ".invalid", "no host has such a name"),
        ("ftp://127.0.0.1", "this is no address of a gateway"),
        ("http://", "this is no address of a gateway"),
        ("http://user:password@127.0.0.1", "this is no address of a gateway"),
        ("http://127.0.0.1:99999", "this is no address of a gateway"),
        ("http://127.0.0.1:http", "this is no URL"),
    ],
)
def test_addresses_where_nothing_is(url: str, what: str) -> None:
    assert what in unreachable(Address(url)).what


def test_tokens_and_files_that_cannot_be(tmp_path: Path) -> None:
    assert "characters that no token has" in unreachable(Address("http://127.0.0.1:1", token="a\r\nb")).what
    assert "No such file" in unreachable(Address("http://127.0.0.1:1", token_file=tmp_path / "no")).what
    (tmp_path / "bad").write_text("no certificate")
    assert "no certificates in" in unreachable(Address("https://127.0.0.1:1", ca_file=tmp_path / "bad")).what


async def _tls(context: ssl.SSLContext, task_status: trio.TaskStatus[int]) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        try:
            tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await tls.receive_some()
            await tls.send_all(HEAD + event("hello", hello()))
            await tls.aclose()
        except trio.BrokenResourceError:
            pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(serve, listeners)


def test_certificates_are_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(_tls, context)
            trusting = Link(Address(f"https://127.0.0.1:{port}", ca_file=tmp_path / "ca.pem"))
            await trusting.hello()
            assert trusting.feed.version == "0.9"
            for url, what, hint in (
                (f"https://127.0.0.1:{port}", "its certificate is not trusted", "--ca-file"),
                (f"http://127.0.0.1:{port}", "it does not speak HTTP as we do", "https://"),
            ):
                with pytest.raises(UnreachableError) as caught:
                    await Link(Address(url)).hello()
                assert what in caught.value.what
                assert hint in caught.value.hint
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_tls_where_there_is_none() -> None:
    with serving(answer("400 Bad Request")) as admin:
        error = unreachable(Address(admin.url.replace("http", "https")))
    assert error.what == "it does not speak TLS as we do"


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.01)


def test_it_comes_back_and_says_why_it_was_away() -> None:
    at = iter(range(1, 10**9))
    with serving(HEAD + event("hello", hello()), lambda: event("state", state(generation=next(at)))) as admin:

        async def main() -> None:
            said: list[str] = []
            link = Link(Address(admin.url))
            link.told = lambda: said.append(link.why)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.follow)
                await until(lambda: link.feed.state.get("generation", 0) > 2)
                connections = len(admin.asked)
                admin.hang_up()
                await until(lambda: said[-1] == "the gateway ended the connection")
                await until(lambda: said[-1] == "")
                assert len(admin.asked) > connections
                nursery.cancel_scope.cancel()

        trio.run(main)
