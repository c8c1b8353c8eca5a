"""The ASGI application, alone under trio and hosted by hypercorn on a real socket (HTTP/1.1, HTTP/2, Quart-Trio)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import hypercorn.config
import hypercorn.trio
import pytest
import quart_trio
import trio
import trio.testing

from gateway.errors import UpstreamError
from gateway.ports import Exchange
from gateway.types import Headers, Identity, ModelCard
from protocols.openai.asgi import AsgiApp
from protocols.openai.serve import OpenAIApp
from tests.protocols.openai.fakes import EVENTS, JSON, FakeCore, echo, stream

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
STREAMED = CHAT[:-1] + b', "stream": true}'
PATH = "/v1/chat/completions"
Message = MutableMapping[str, Any]


class Conversation:
    """An ASGI server's side of one request: what it delivers, and what it was sent."""

    def __init__(self, path: str, *parts: bytes, method: str = "POST", more: bool = False, **scope: object) -> None:
        self.scope: Message = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"Content-Type", b"application/json")],
            **scope,
        }
        self.sent: list[Message] = []
        self._put, self._get = trio.open_memory_channel[Message](100)
        for index, part in enumerate(parts):
            self._put.send_nowait(
                {"type": "http.request", "body": part, "more_body": more or index < len(parts) - 1},
            )

    def disconnect(self) -> None:
        self._put.send_nowait({"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, core: FakeCore, **options: int) -> None:
        await AsgiApp(OpenAIApp(core), **options)(self.scope, self._get.receive, self.send)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def ended(self) -> bool:
        return not self.sent[-1].get("more_body", False)


def held(path: str, *parts: bytes, core: FakeCore | None = None, max_body: int = 1000, **scope: Any) -> Conversation:
    conversation = Conversation(path, *parts, **scope)

    async def main() -> None:
        await conversation.run(core or FakeCore(), max_body=max_body)

    trio.run(main)
    return conversation


@pytest.mark.parametrize("parts", [[CHAT], [CHAT[:5], CHAT[5:]], [CHAT, b""]])
def test_a_whole_answer(parts: list[bytes]) -> None:
    conversation = held(PATH, *parts)
    assert (conversation.status, conversation.body) == (200, CHAT)
    assert conversation.headers[b"content-length"] == b"%d" % len(CHAT)
    assert conversation.headers[b"x-request-id"]
    assert len(conversation.sent) == 2
    assert conversation.ended


def test_a_stream_goes_out_chunk_by_chunk() -> None:
    conversation = held(PATH, STREAMED, core=FakeCore(stream))
    assert [message.get("body") for message in conversation.sent] == [None, b"data: 1\n\n", b"data: [DONE]\n\n"]
    assert b"content-length" not in conversation.headers
    assert conversation.ended


def test_a_head_request_has_no_body() -> None:
    conversation = held("/v1/models", b"", method="HEAD")
    assert conversation.body == b""
    assert int(conversation.headers[b"content-length"]) > 0


@pytest.mark.parametrize("raw_path", [b"/openai/v1/models/a%2Fb", None])
def test_mounted_below_a_path(raw_path: bytes | None) -> None:
    core = FakeCore(cards=[ModelCard("a/b")])
    conversation = held("/openai/v1/models/a/b", b"", method="GET", root_path="/openai", raw_path=raw_path, core=core)
    assert json.loads(conversation.body)["id"] == "a/b"


@pytest.mark.parametrize("parts", [[b"x" * 1001], [b"x" * 500, b"x" * 500, b"x"]])
def test_a_body_too_large(parts: list[bytes]) -> None:
    core = FakeCore()
    conversation = held(PATH, *parts, core=core)
    assert conversation.status == 413
    assert json.loads(conversation.body)["error"]["code"] == "request_too_large"
    assert conversation.headers[b"x-request-id"]
    assert not core.seen


def test_a_body_of_just_the_size_allowed() -> None:
    assert held(PATH, CHAT, max_body=len(CHAT)).status == 200


def test_a_client_that_leaves_before_its_body_is_whole() -> None:
    async def main() -> None:
        conversation = Conversation(PATH, CHAT[:5], more=True)
        conversation.disconnect()
        core = FakeCore()
        await conversation.run(core)
        assert not core.seen
        assert not conversation.sent

    trio.run(main)


def test_a_client_that_leaves_cancels_its_request() -> None:
    ended: list[str] = []

    async def endless(exchange: Exchange) -> None:
        try:
            await exchange.start(200, (EVENTS,))
            await exchange.send(b"data: 1\n\n")
            await trio.sleep_forever()
        finally:
            ended.append("core")

    async def main() -> None:
        conversation = Conversation(PATH, STREAMED)
        with trio.fail_after(5):
            await leave(conversation)
        assert ended == ["core"]
        assert not conversation.ended

    async def leave(conversation: Conversation) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.run, FakeCore(endless))
            await trio.testing.wait_all_tasks_blocked()
            assert not ended
            conversation.disconnect()

    trio.run(main)


def test_a_disconnect_reported_by_the_last_send_does_not_cancel_it() -> None:
    class Eager(Conversation):
        completed = False

        async def send(self, message: Message) -> None:
            await super().send(message)
            if self.ended and message["type"] == "http.response.body":
                self.disconnect()
                await trio.testing.wait_all_tasks_blocked()
                self.completed = True

    async def main() -> None:
        conversation = Eager(PATH, CHAT)
        await conversation.run(FakeCore())
        assert conversation.completed

    trio.run(main)


@pytest.mark.parametrize(("version", "ended"), [("1.1", False), ("2", True)])
def test_a_broken_answer_ends_only_where_nothing_else_would_end_it(version: str, ended: bool) -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.start(200, (JSON,))
        await exchange.send(b'{"half":')
        await exchange.fail(UpstreamError("The engine left."))

    conversation = held(PATH, CHAT, core=FakeCore(breaks), http_version=version)
    assert conversation.body == b'{"half":'
    assert conversation.ended is ended


def test_comments_do_not_cross_a_send() -> None:
    async def silent(exchange: Exchange) -> None:
        exchange.keep_alive()
        await trio.testing.wait_all_tasks_blocked()
        await exchange.start(200, (EVENTS,))
        await exchange.send(b"data: 1\n\n")
        exchange.keep_alive()  # its turn comes after the end: dropped
        await exchange.finish(b"data: 2\n\n")

    conversation = held(PATH, STREAMED, core=FakeCore(silent))
    assert conversation.body == b": keep-alive\n\ndata: 1\n\ndata: 2\n\n"


def test_lifespan_and_websocket() -> None:
    async def main() -> None:
        app = AsgiApp(OpenAIApp(FakeCore()))
        sent: list[Message] = []
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Message:
            return next(events)

        async def send(message: Message) -> None:
            sent.append(message)

        await app({"type": "lifespan"}, receive, send)
        await app({"type": "websocket"}, receive, send)
        assert [message["type"] for message in sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
            "websocket.close",
        ]

    trio.run(main)


# -- hosted ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def hosted(app: Any, **client: Any) -> AsyncIterator[httpx.AsyncClient]:
    """``app`` under hypercorn on a free port, and a client of it."""
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 0.2
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        binds = await nursery.start(
            lambda task_status: hypercorn.trio.serve(
                app, config, shutdown_trigger=stop.wait, task_status=task_status, mode="asgi"
            )
        )
        async with httpx.AsyncClient(base_url=binds[0], trust_env=False, timeout=5, **client) as session:
            yield session
        stop.set()


VERSIONS = [{}, {"http1": False, "http2": True}]


@pytest.mark.parametrize("options", VERSIONS, ids=["HTTP/1.1", "HTTP/2"])
def test_under_hypercorn(options: dict[str, bool]) -> None:
    async def main() -> None:
        core = FakeCore(stream, cards=[ModelCard("a/b")])
        async with hosted(AsgiApp(OpenAIApp(core), max_body=100_000), **options) as client:
            answer = await client.post(PATH, content=STREAMED)
            assert answer.http_version == ("HTTP/2" if options else "HTTP/1.1")
            assert answer.content == b"data: 1\n\ndata: [DONE]\n\n"
            assert answer.headers["x-request-id"] == core.seen[0].request.id
            refused = await client.post(PATH, content=b"{}")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
            assert (await client.get("/v1/models/a%2Fb")).json()["id"] == "a/b"
            assert (await client.head("/healthz")).status_code == 200
            core.handler = echo
            assert (await client.post(PATH, content=CHAT)).content == CHAT

    trio.run(main)


@pytest.mark.parametrize("options", VERSIONS, ids=["HTTP/1.1", "HTTP/2"])
def test_a_huge_body_under_hypercorn(options: dict[str, bool]) -> None:
    async def main() -> None:
        async with hosted(AsgiApp(OpenAIApp(FakeCore()), max_body=100_000), **options) as client:
            for _ in range(2):
                answer = await client.post(PATH, content=b"x" * 1_000_000)
                assert answer.status_code == 413
            assert (await client.get("/healthz")).status_code == 200

    trio.run(main)


@pytest.mark.parametrize("options", VERSIONS, ids=["HTTP/1.1", "HTTP/2"])
def test_a_client_of_hypercorn_that_leaves(options: dict[str, bool]) -> None:
    async def main() -> None:
        left = trio.Event()

        async def endless(exchange: Exchange) -> None:
            try:
                await exchange.start(200, (EVENTS,))
                await exchange.send(b"data: 1\n\n")
                await trio.sleep_forever()
            finally:
                left.set()

        async with hosted(AsgiApp(OpenAIApp(FakeCore(endless))), **options) as client:
            with trio.CancelScope() as scope:
                async with client.stream("POST", PATH, content=STREAMED) as answer:
                    async for chunk in answer.aiter_raw():
                        assert chunk == b"data: 1\n\n"
                        scope.cancel()
            await client.aclose()  # httpx does not reset an HTTP/2 stream that it gives up
            with trio.fail_after(2):
                await left.wait()

    trio.run(main)


@pytest.mark.parametrize("options", VERSIONS, ids=["HTTP/1.1", "HTTP/2"])
def test_a_reply_that_breaks_under_hypercorn(options: dict[str, bool]) -> None:
    async def main() -> None:
        async def breaks(exchange: Exchange) -> None:
            await exchange.start(200, (JSON,))
            await exchange.send(b'{"id":')
            await exchange.fail(UpstreamError("The engine left."))

        async with hosted(AsgiApp(OpenAIApp(FakeCore(breaks))), **options) as client:
            if options:
                assert (await client.post(PATH, content=CHAT)).content == b'{"id":'
            else:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.post(PATH, content=CHAT)

    trio.run(main)


def test_mounted_beside_a_quart_trio_application() -> None:
    host = quart_trio.QuartTrio("host")

    @host.get("/own")
    async def own() -> str:
        return "own"

    api, rest = AsgiApp(OpenAIApp(FakeCore())), host.asgi_app

    async def split(scope: Message, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/openai/"):
            await api({**scope, "root_path": "/openai"}, receive, send)
        else:
            await rest(scope, receive, send)  # type: ignore[arg-type]

    host.asgi_app = split  # type: ignore[method-assign, assignment]

    async def main() -> None:
        async with hosted(host) as client:
            assert (await client.get("/own")).text == "own"
            assert (await client.post("/openai" + PATH, content=CHAT)).content == CHAT

    trio.run(main)


def test_the_server_says_who_is_at_the_other_end() -> None:
    asked: list[tuple[str, str]] = []

    def known(headers: Headers, peer: str, subject: str) -> Identity | None:
        asked.append((peer, subject))
        return Identity("ann")

    async def main() -> None:
        certified = {"client_cert_name": "CN=lb", "client_cert_error": None}
        rejected = {"client_cert_name": "CN=lb", "client_cert_error": "expired"}
        for scope in (
            {"client": ("192.0.2.7", 4711), "extensions": {"tls": certified}},
            {"client": ("192.0.2.7", 4711), "extensions": {"tls": rejected}},
            {"client": None, "extensions": {"tls": {}}},
            {"extensions": None},
            {},
        ):
            core = FakeCore(known=known)
            await Conversation(PATH, CHAT, **scope).run(core)
            assert core.seen[0].request.identity == Identity("ann")

    trio.run(main)
    assert asked == [("192.0.2.7", "CN=lb"), ("192.0.2.7", ""), ("", ""), ("", ""), ("", "")]
