"""The live feed over HTTP: events leave at once, whoever does not read holds nobody up, and nobody holds up the end."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
import trustme

from gateway import live
from gateway.config.settings import TLS, AdminListener, Listeners
from gateway.doors import context
from gateway.listen import Listener
from gateway.live import Live
from protocols.admin import server
from tests.protocols.admin.test_server import FakeAdmin, listening

_OTHERS = 8
TOKEN = "a token that nobody guesses"
ASK = b"GET /api/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Plain(Live):
    """States are ``size`` bytes of nothing in particular. ``gone``: somebody was dropped, or has left."""

    def __init__(self, size: int = 100) -> None:
        super().__init__(cast(Any, None))
        self.size = size
        self.gone = trio.Event()

    def _drop(self, watcher: Any) -> None:
        super()._drop(watcher)
        self.gone.set()

    def _sample(self) -> None:
        pass

    async def _state(self) -> bytes:
        return json.dumps({"filler": "x" * self.size}).encode()


class Elsewhere(Listener, frozen=True):
    """On loopback, though it says that it is not."""

    @property
    def address(self) -> tuple[str, int]:
        return "0.0.0.0", super().address[1]


def served(admin: FakeAdmin, listener: Listener, visit: Callable[[int], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, admin, listener)
                nursery.start_soon(admin.live.run)
                await visit(listener.address[1])
                nursery.cancel_scope.cancel()

    trio.run(main)


@contextmanager
def quick(monkeypatch: pytest.MonkeyPatch, interval: float = 0.01) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(live, "_INTERVAL_S", interval)
        yield


async def watch(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(ASK)
    return stream


async def read_until(stream: trio.SocketStream, wanted: bytes) -> bool:
    """Whether it came before the end."""
    received = b""
    while wanted not in received:
        part = await stream.receive_some()
        if not part:
            return False
        received = received[-len(wanted) :] + part
    return True


def test_an_event_leaves_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def visit(port: int) -> None:
        stream = await watch(port)
        for wanted in (b"retry: 2000\n\n", b"event: hello\ndata: {", b'x"}\n\n', b"event: state\ndata: {", b'x"}\n\n'):
            assert await read_until(stream, wanted)
        await stream.aclose()

    admin = FakeAdmin()
    admin.live = Plain()
    with quick(monkeypatch, 0.1):
        served(admin, Listener(listening()), visit)


def test_who_stops_reading_is_cut_and_others_read_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others read beside one that does not; so many may watch, one more is told so, and a place may come free."""
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(live, "WATCHERS", _OTHERS + 1)
    admin = FakeAdmin()
    admin.live = Plain()

    async def visit(port: int) -> None:
        stuck = trio.socket.from_stdlib_socket(socket.socket())
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stuck.connect(("127.0.0.1", port))
        await stuck.send(ASK)
        done = trio.Event()

        async def read(*, task_status: trio.TaskStatus[None]) -> None:
            reader = await watch(port)
            assert await read_until(reader, b"event: hello")
            task_status.started()
            while not done.is_set():
                assert await reader.receive_some()
            await reader.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(_OTHERS):
                await nursery.start(read)
            crowded = await watch(port)
            assert await read_until(crowded, b" 503 ")
            await crowded.aclose()
            assert len(admin.live._watchers) == _OTHERS + 1
            admin.live.size = 1_000_000  # more than the kernel keeps for one who does not read
            await admin.live.gone.wait()
            again = await watch(port)
            assert await read_until(again, b"event: hello")
            done.set()
            await again.aclose()
        stuck.close()

    with quick(monkeypatch, 0.2):
        served(admin, Listener(listening()), visit)
    assert caplog.messages == []


def test_a_stream_ends_in_order_when_the_gateway_does() -> None:
    admin = FakeAdmin()
    admin.live = Plain()

    async def visit(port: int) -> None:
        async with httpx.AsyncClient() as client:
            async with client.stream("GET", f"http://127.0.0.1:{port}/api/live") as answer:
                lines = answer.aiter_lines()
                while await anext(lines) != "event: hello":
                    pass
                await admin.live.end()
                assert [line async for line in lines if not line.startswith("data: ")] == [""]
            assert (await client.get(f"http://127.0.0.1:{port}/api/live")).status_code == 503
            assert (await client.head(f"http://127.0.0.1:{port}/api/live")).status_code == 200

    served(admin, Listener(listening()), visit)


def test_a_stream_ends_when_its_session_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    admin = FakeAdmin()
    admin.live = Plain()
    admin.listener = AdminListener(token_file=str(file))

    async def visit(port: int) -> None:
        shown, url = {"authorization": f"Bearer {TOKEN}"}, f"http://127.0.0.1:{port}/api/live"
        async with httpx.AsyncClient(headers=shown) as client, client.stream("GET", url) as answer:
            lines = answer.aiter_lines()
            while await anext(lines) != "event: state":
                pass
            file.write_text("the token was changed")
            async for _ in lines:
                pass

    with quick(monkeypatch):
        served(admin, Listener(listening()), visit)


def test_beyond_loopback_only_health_is_open_without_a_token(caplog: pytest.LogCaptureFixture) -> None:
    admin = FakeAdmin()
    admin.live = Plain()

    async def visit(port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"host": "any.example"}) as client:
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path)).status_code == 200
            for path in ("/", "/metrics", "/api/config", "/api/live", "/login", "/static/theme.js", "/debug/tasks"):
                answer = await client.get(path)
                assert answer.status_code == 403
                assert "listeners.admin.tokenFile" in answer.json()["error"]["message"]
            admin.listener = AdminListener(anonymous_metrics=True)
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/api/config")).status_code == 403

    served(admin, Elsewhere(listening()), visit)
    warned = [record for record in caplog.records if "tokenFile" in record.getMessage()]
    assert [record.levelname for record in warned] == ["WARNING"]


@pytest.mark.parametrize(
    ("fields", "status", "secure"),
    [
        ({"host": "localhost:9090", "origin": "http://localhost:9090"}, 303, False),
        ({"host": "admin.example", "origin": "https://admin.example"}, 303, True),
        ({"host": "upstream:9090", "origin": "https://admin.example", "sec-fetch-site": "same-origin"}, 303, True),
        ({"host": "upstream:9090", "origin": "https://admin.example", "x-forwarded-host": "admin.example"}, 403, False),
        ({"host": "localhost:9090", "origin": "http://evil.example"}, 403, False),
    ],
)
def test_one_logs_in_through_a_forwarded_port_and_behind_a_proxy(
    fields: dict[str, str], status: int, secure: bool, tmp_path: Path
) -> None:
    admin = FakeAdmin()
    admin.live = Plain()
    admin.listener = AdminListener(token_file=str(tmp_path / "token"))
    (tmp_path / "token").write_text(TOKEN)

    async def visit(port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=fields) as client:
            answer = await client.post("/login", data={"token": TOKEN})
            cookie = answer.headers.get("set-cookie", "")
            assert (answer.status_code, "Secure" in cookie, "__Host-" in cookie) == (status, secure, False)
            shown = await client.get("/api/config", headers={"cookie": cookie.partition(";")[0]})
            assert shown.status_code == (200 if status == 303 else 401)

    served(admin, Elsewhere(listening()), visit)


def test_tls_and_a_cookie_that_stays_in_it(tmp_path: Path) -> None:
    authority, file = trustme.CA(), tmp_path / "token"
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    file.write_text(TOKEN)
    admin = FakeAdmin()
    admin.live = Plain(100_000)
    files = TLS(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    admin.listener = AdminListener(tls=files, token_file=str(file))

    async def visit(port: int) -> None:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        async with httpx.AsyncClient(base_url=f"https://localhost:{port}", verify=trusted) as client:
            assert (await client.get("/api/config")).status_code == 401
            answer = await client.post("/login", data={"token": TOKEN})
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
            cookie = answer.headers["set-cookie"]
            for part in ("__Host-infer-gateway-admin=", "Secure", "HttpOnly", "SameSite=Strict", "Path=/"):
                assert part in cookie
            assert "Domain" not in cookie
            assert TOKEN not in cookie
            assert (await client.get("/api/config")).status_code == 200
            async with client.stream("GET", "/api/live") as answer, aclosing(answer.aiter_lines()) as lines:
                while await anext(lines) != "event: hello":
                    pass
                await admin.live.end()
                async for _ in lines:
                    pass
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        await plain.send_all(ASK)
        assert b"HTTP/1.1 200" not in await plain.receive_some()
        await plain.aclose()

    listener = Listener(listening(), context("admin", Listeners(admin=admin.listener)))
    served(admin, listener, visit)
