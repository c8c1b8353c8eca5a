import errno
import gc
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import pytest
import trio

from gateway import live
from gateway.config.settings import AdminListener
from gateway.listen import Listener
from gateway.live import Live
from protocols.admin import server

HEALTHZ = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"


class FakeAdmin:
    """Answers from its attributes; remembers which endpoints were drained."""

    def __init__(self) -> None:
        self.draining = False
        self.usable = True
        self.drained: list[str] = []
        self.exposition = b"up 1\n"
        self.listener = AdminListener()
        self.live: Any = Live(cast(Any, None))

    def ready(self) -> bool:
        return self.usable

    def config(self) -> object:
        return {"listeners": {"http": {"address": "127.0.0.1:8080"}}}

    def routes(self) -> object:
        return [{"model": "llama", "pool": "main"}]

    def pools(self) -> object:
        return [{"name": "main", "endpoints": 1}]

    def flows(self) -> object:
        return [{"pool": "p", "flows": []}]

    def statistics(self) -> object:
        return {"calls": 0}

    def endpoints(self) -> object:
        return [{"endpoint": "10.0.0.1:8000", "state": "ready"}]

    def decisions(self, limit: int, request: str, /) -> object:
        return [{"id": request, "limit": limit}]

    async def metrics(self, accept: str, /) -> tuple[bytes, str]:
        return self.exposition, "text/plain; version=0.0.4; charset=utf-8"

    def drain(self, endpoint_id: str, draining: bool, /) -> bool:
        if endpoint_id not in ("10.0.0.1:8000", "api.example.com:443/v1beta/openai"):
            return False
        (self.drained.append if draining else self.drained.remove)(endpoint_id)
        return True


def listening() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def served(admin: FakeAdmin, visit: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Run ``visit`` against the admin plane on a real socket, then stop it."""

    async def main() -> None:
        sock = listening()
        host, port = sock.getsockname()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, admin, Listener(sock))
                async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
                    await visit(client)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_health_and_readiness() -> None:
    admin = FakeAdmin()

    async def visit(client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.head("/readyz")).status_code == 200
        admin.usable = False
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "no usable endpoint\n")
        admin.usable = admin.draining = True
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "draining\n")
        assert (await client.get("/healthz")).status_code == 200

    served(admin, visit)


@pytest.mark.usefixtures("uncollected")
def test_a_connection_that_has_ended_needs_no_garbage_collector() -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            assert (await client.get("/healthz", headers={"connection": "close"})).status_code == 200
        assert len([each for each in gc.get_objects() if isinstance(each, server._Connection)]) < 2  # the last one ends

    served(FakeAdmin(), visit)


def test_metrics_are_passed_on_with_their_type() -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.content == b"up 1\n"

    served(FakeAdmin(), visit)


def test_the_fleet_is_shown_as_json() -> None:
    admin = FakeAdmin()

    async def visit(client: httpx.AsyncClient) -> None:
        for name in ("config", "routes", "pools", "endpoints"):
            answer = await client.get(f"/api/{name}")
            assert answer.headers["content-type"] == "application/json"
            assert answer.json() == getattr(admin, name)()

    served(admin, visit)


def test_the_overview_needs_nothing_from_elsewhere() -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        answer = await client.get("/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "://" not in answer.text

    served(FakeAdmin(), visit)


def test_an_endpoint_is_drained_by_its_id() -> None:
    admin = FakeAdmin()

    async def visit(client: httpx.AsyncClient) -> None:
        answer = await client.post("/api/endpoints/10.0.0.1:8000/drain")
        assert answer.json() == {"endpoint": "10.0.0.1:8000", "draining": True}
        assert (await client.post("/api/endpoints/api.example.com:443/v1beta/openai/drain")).status_code == 200
        missing = await client.post("/api/endpoints/10.9.9.9:1/drain")
        assert missing.status_code == 404
        assert missing.json()["error"]["message"] == "there is no endpoint '10.9.9.9:1'"
        wrong = await client.get("/api/endpoints/10.0.0.1:8000/drain")
        assert wrong.status_code == 405
        assert "POST" in wrong.headers["allow"]
        again = await client.delete("/api/endpoints/api.example.com:443/v1beta/openai/drain")
        assert again.json() == {"endpoint": "api.example.com:443/v1beta/openai", "draining": False}

    served(admin, visit)
    assert admin.drained == ["10.0.0.1:8000"]


def test_pages_of_other_sites_change_nothing() -> None:
    admin = FakeAdmin()

    async def visit(client: httpx.AsyncClient) -> None:
        path = "/api/endpoints/10.0.0.1:8000/drain"
        for origin in ("https://evil.example", "null"):
            assert (await client.post(path, headers={"origin": origin})).status_code == 403
        assert admin.drained == []
        own = str(client.base_url).rstrip("/")
        assert (await client.post(path, headers={"origin": own})).status_code == 200
        assert (await client.get("/healthz", headers={"origin": "https://evil.example"})).status_code == 200

    served(admin, visit)


def test_errors_are_json_and_hold_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeAdmin):
        def pools(self) -> object:
            raise KeyError("secret of the house")

    async def visit(client: httpx.AsyncClient) -> None:
        answer = await client.get("/nowhere")
        assert answer.status_code == 404
        said = {"message": "there is nothing at /nowhere", "type": "invalid_request_error"}
        assert answer.json() == {"error": {**said, "param": None, "code": "not_found"}}
        answer = await client.get("/api/pools")
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.json()["error"]["code"] == "internal_error"
        assert (await client.get("/healthz")).status_code == 200

    served(Broken(), visit)
    assert "secret of the house" in caplog.text


def test_connections_wait_while_the_application_is_loaded() -> None:
    """The kernel accepts from the moment `serve` reports started."""

    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, FakeAdmin(), Listener(sock))
                stream = await trio.open_tcp_stream(*sock.getsockname())
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answer = b"".join([part async for part in stream])
                assert answer.startswith(b"HTTP/1.1 200")
                await stream.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_cancelling_cuts_idle_and_stuck_connections(caplog: pytest.LogCaptureFixture) -> None:
    admin = FakeAdmin()
    admin.exposition = bytes(32 << 20)  # more than the kernel buffers: the write waits for the client

    async def main() -> None:
        sock = listening()
        address = sock.getsockname()
        streams = []
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, admin, Listener(sock))
                for sent, received in ((HEALTHZ, b"HTTP/1.1 200"), (b"", b""), (METRICS, b"HTTP/1.1 200")):
                    stream = await trio.open_tcp_stream(*address)
                    streams.append(stream)
                    await stream.send_all(sent)
                    assert not received or await stream.receive_some(12) == received
                nursery.cancel_scope.cancel()
        for stream in streams:
            await stream.aclose()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*address)

    trio.run(main)
    gc.collect()
    assert caplog.messages == []


async def healthy(stream: trio.abc.Stream) -> bool:
    """Ask, and read to the answer's end."""
    await stream.send_all(HEALTHZ)
    answer = b""
    while not answer.endswith(b"ok\n"):
        part = await stream.receive_some()
        if not part:
            return False
        answer += part
    return answer.startswith(b"HTTP/1.1 200")


def test_the_oldest_connection_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 2)

    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, FakeAdmin(), Listener(sock))
                streams = []
                for _ in range(3):
                    stream = await trio.open_tcp_stream(*sock.getsockname())
                    streams.append(stream)
                    assert await healthy(stream)
                assert await streams[0].receive_some() == b""
                assert await healthy(streams[1])
                for stream in streams:
                    await stream.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_who_may_not_watch_gives_way_as_anybody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else those who were refused would stay, and whoever is being answered would have to go."""
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 3)
    monkeypatch.setattr(live, "WATCHERS", 1)
    watch = b"GET /api/live HTTP/1.1\r\nhost: localhost\r\n\r\n"

    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, FakeAdmin(), Listener(sock))
                streams = []
                for answer in (b"HTTP/1.1 200", b"HTTP/1.1 503", b"HTTP/1.1 503"):
                    streams.append(await trio.open_tcp_stream(*sock.getsockname()))
                    await streams[-1].send_all(watch)
                    assert await streams[-1].receive_some(12) == answer
                for _ in range(2):
                    streams.append(await trio.open_tcp_stream(*sock.getsockname()))
                    assert await healthy(streams[-1])
                assert await healthy(streams[-2])
                while await streams[1].receive_some():
                    pass
                for stream in streams:
                    await stream.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_rubbish_is_refused_and_the_server_lives(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, FakeAdmin(), Listener(sock))
                for sent in (b"\x16\x03\x01\x00\xa5\r\n\r\n", b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
                    stream = await trio.open_tcp_stream(*sock.getsockname())
                    await stream.send_all(sent)
                    assert not (await stream.receive_some()).startswith(b"HTTP/1.1 200")
                    await stream.aclose()
                stream = await trio.open_tcp_stream(*sock.getsockname())
                await stream.send_all(HEALTHZ)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
                await stream.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (b"GET http://evil/api/pools HTTP/1.1\r\nhost: localhost", b"400"),
        (b"GET ?x HTTP/1.1\r\nhost: localhost", b"400"),
        (b"OPTIONS * HTTP/1.1\r\nhost: localhost", b"400"),
        (b"GET /healthz HTTP/1.1\r\nhost: localhost..", b"400"),
        (b"GET /healthz HTTP/1.1\r\nhost: u@localhost", b"400"),
        (b"GET /healthz HTTP/1.0", b"200"),
        (b"GET /healthz HTTP/1.1\r\nhost: a_b.svc.:9090", b"200"),
        (
            b"GET /api/pools HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            b"403",
        ),
        (
            b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\n"
            b"http2-settings: AAMAAABkAAQAAP__",
            b"200",
        ),
        (b"GET /debug/profile?seconds=1e-300&hz=1e-300 HTTP/1.1\r\nhost: localhost", b"400"),
        (b"GET /debug/profile?seconds=0.01&hz=0.5 HTTP/1.1\r\nhost: localhost", b"400"),
    ],
)
def test_only_plain_requests_for_paths_here_are_answered(
    asked: bytes, answered: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, FakeAdmin(), Listener(sock))
                async with await trio.open_tcp_stream(*sock.getsockname()) as stream:
                    await stream.send_all(asked + b"\r\n\r\n")
                    assert (await stream.receive_some(12)) == b"HTTP/1.1 " + answered
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert "Traceback" not in caplog.text


def test_http2_is_not_spoken() -> None:
    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, FakeAdmin(), Listener(sock))
                async with await trio.open_tcp_stream(*sock.getsockname()) as stream:
                    await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                    assert b"\x00" not in b"".join([part async for part in stream])
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_watchers_stay_while_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 2)
    admin = FakeAdmin()
    watching = trio.Event()
    send, receive = trio.open_memory_channel[Any](1)

    @contextmanager
    def watch(cut: object) -> Iterator[trio.MemoryReceiveChannel[Any]]:
        watching.set()
        with send:
            yield receive

    monkeypatch.setattr(admin.live, "watch", watch)

    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, admin, Listener(sock))
                streams = [await trio.open_tcp_stream(*sock.getsockname())]
                await streams[0].send_all(b"GET /api/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                await watching.wait()
                for _ in range(3):
                    streams.append(await trio.open_tcp_stream(*sock.getsockname()))
                    assert await healthy(streams[-1])
                assert await streams[1].receive_some() == b""
                send.send_nowait(("state", b"still"))
                while (part := await streams[0].receive_some()) and b"still" not in part:
                    pass
                assert part, "it was not cut"
                for stream in streams:
                    await stream.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_nothing_heavy_is_imported_before_it_is_served() -> None:
    code = "import protocols.admin.server, sys; sys.exit(bool({'quart', 'hypercorn'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env=environment)


def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_IDLE_S", 0.05)

    async def main() -> None:
        sock = listening()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, FakeAdmin(), Listener(sock))
                used, unused = [await trio.open_tcp_stream(*sock.getsockname()) for _ in range(2)]
                assert await healthy(used)
                for stream in (used, unused):
                    assert await stream.receive_some() == b""
                    await stream.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("short", [errno.EMFILE, errno.EAGAIN], ids=["descriptors", "threads"])
def test_what_is_short_while_it_loads_ends_nothing(monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    tries: list[int] = []

    def load(*_: object) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(short, "there are none left")
        return "loaded"

    monkeypatch.setattr(server, "_load", load)
    monkeypatch.setattr(server, "_AGAIN_S", 0.0)
    assert trio.run(server._loaded, cast(Any, None), cast(Any, None)) == "loaded"
    assert len(tries) == 3
