"""The client on a real socket, against servers that behave and servers that do not."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio
import trio.testing
import trustme

from conformance.load.client import Address, Broken, Connection, resolve, tls_context

from .served import WHOLE, listening, plain, scripted

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def to(port: int, context: ssl.SSLContext | None = None, host: str = "localhost") -> Connection:
    return Connection(Address(socket.AF_INET, ("127.0.0.1", port), host, context), memoryview(bytearray(4096)), 5.0)


def exchanged(*answers: bytes | None, times: int = 1) -> tuple[list[int], bytes, int]:
    """Statuses, all body bytes and the reconnects of some exchanges on one connection."""
    parts: list[bytes] = []

    async def main() -> tuple[list[int], bytes, int]:
        async with listening(scripted(*answers)) as port:
            connection = to(port)
            try:
                with trio.fail_after(10):
                    statuses = [await connection.exchange(REQUEST, parts.append) for _ in range(times)]
            finally:
                connection.close()
            return statuses, b"".join(parts), connection.reconnects

    return trio.run(main)


def test_answers_follow_each_other_on_one_connection() -> None:
    assert exchanged(plain(b"a"), plain(b"b", "503 Busy"), CHUNKED + b"2\r\ncd\r\n0\r\n\r\n", times=3) == (
        [200, 503, 200],
        b"abcd",
        0,
    )


def test_a_connection_that_the_server_ends_is_opened_again() -> None:
    statuses, body, reconnects = exchanged(plain(b"a", head="connection: close\r\n"), plain(b"b"), times=2)
    assert (statuses, body, reconnects) == ([200, 200], b"ab", 0)


def test_a_reused_connection_that_died_is_replaced_once() -> None:
    assert exchanged(plain(b"a"), None, plain(b"b"), times=2) == ([200, 200], b"ab", 1)


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    assert exchanged(b"HTTP/1.1 200 OK\r\nx: close-now\r\n\r\nto the end")[:2] == ([200], b"to the end")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (None, "cut"),
        (b"HTTP/1.1 200 OK\r\nx: close-now\r\ncontent-length: 9\r\n\r\nshort", "cut"),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nx: close-now\r\n\r\n") + b"5\r\nhello\r\n", "cut"),
        (CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n", "framing"),
        (b"not http\r\n\r\n", "framing"),
    ],
)
def test_a_broken_answer_is_named(answer: bytes | None, kind: str) -> None:
    async def main() -> None:
        async with listening(scripted(answer)) as port:
            with pytest.raises(Broken) as caught, trio.fail_after(10):
                await to(port).exchange(REQUEST, lambda _: None)
            assert caught.value.kind == kind

    trio.run(main)


def test_a_refused_connection_is_named() -> None:
    with socket.socket() as held:  # bound and not listening: nobody else gets the port
        held.bind(("127.0.0.1", 0))

        async def main() -> None:
            await to(held.getsockname()[1]).exchange(REQUEST, lambda _: None)

        with pytest.raises(Broken) as caught:
            trio.run(main)
        assert caught.value.kind == "connect"


def test_an_expired_exchange_is_a_timeout() -> None:
    async def main() -> None:
        async with listening(scripted(WHOLE, after=30)) as port, trio.open_nursery() as nursery:
            connection = to(port)

            @nursery.start_soon
            async def expire() -> None:
                while not connection.started_at:
                    await trio.testing.wait_all_tasks_blocked()
                await trio.testing.wait_all_tasks_blocked(0.01)
                connection.expire()

            with pytest.raises(Broken) as caught:
                await connection.exchange(REQUEST, lambda _: None)
            assert caught.value.kind == "timeout"

    trio.run(main)


def test_a_cancelled_exchange_closes_its_connection() -> None:
    closed = []

    async def serve(stream: trio.abc.Stream) -> None:
        while await stream.receive_some(100):
            pass
        closed.append(True)

    async def main() -> None:
        async with listening(serve) as port:
            with trio.move_on_after(0.05):
                await to(port).exchange(REQUEST, lambda _: None)
            with trio.fail_after(5):
                while not closed:
                    await trio.testing.wait_all_tasks_blocked(0.001)

    trio.run(main)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("trust", "host", "wrong"), [(True, "localhost", None), (True, "other", "tls"), (False, "localhost", "tls")]
)
def test_certificates_are_verified(authority: trustme.CA, trust: bool, host: str, wrong: str | None) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    with authority.cert_pem.tempfile() as pem:
        client = tls_context(ca_file=pem) if trust else tls_context()

    async def main() -> str | None:
        got: list[bytes] = []
        async with listening(scripted(plain(b"x" * 100_000)), server) as port:
            connection = to(port, client, host)
            try:
                for _ in range(2):
                    assert await connection.exchange(REQUEST, got.append) == 200
            except Broken as broken:
                return broken.kind
            finally:
                connection.close()
        assert len(b"".join(got)) == 200_000
        return None

    assert trio.run(main) == wrong


def test_insecure_verifies_nothing() -> None:
    context = tls_context(insecure=True)
    assert context.verify_mode == ssl.CERT_NONE
    assert not context.check_hostname


def test_resolving_a_name() -> None:
    addresses = trio.run(resolve, "localhost", 80, None)
    assert {address.family for address in addresses} <= {socket.AF_INET, socket.AF_INET6}
    with pytest.raises(Broken):
        trio.run(resolve, "no-such-host.invalid", 80, None)
