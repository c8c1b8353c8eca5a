"""A core and an HTTP reply that keep what they are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from gateway.access_log import AccessLog
from gateway.auth import allowed
from gateway.entrance import MAIN, Entrance, Entrances
from gateway.errors import GatewayError
from gateway.httproute import HttpRouteTable, Way
from gateway.meter import Totals
from gateway.ports import Exchange
from gateway.types import ANONYMOUS, Headers, Identity, InferenceRequest, ModelCard, Operation, UpstreamRequest
from gateway.wire.h1 import Request

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream")
LATER = Identity("later", models=("my-*",))


class FakeCore:
    """Serves by ``handler``, an async function of the exchange. ``identify`` makes LATER of whom ``known`` leaves.

    What HTTPRoutes lead elsewhere is in ``forwarded``: to which pool, and what is said there if not the request itself.
    ``owned``: the models that ModelRoutes have.
    """

    def __init__(
        self,
        handler: Callable[[Exchange], Awaitable[None]] | None = None,
        cards: Sequence[ModelCard] = (),
        ready: bool = True,
        known: Callable[[Headers, str, str], Identity | None] = lambda headers, peer, subject: ANONYMOUS,
        http_routes: HttpRouteTable | None = None,
        owned: Sequence[str] = (),
        entrances: Entrances | None = None,
    ) -> None:
        self.entrances = entrances if http_routes is None else Entrances(http={MAIN: http_routes})
        self.owns = owned
        self.listed: list[Entrance | None] = []
        self.forwarded: list[tuple[str, UpstreamRequest | None]] = []
        self.who = known
        self.asked: list[tuple[str, str]] = []
        self.handler = handler or echo
        self.cards = cards
        self.is_ready = ready
        self.seen: list[Exchange] = []
        self.refusals: list[tuple[str, Identity | None]] = []
        self.totals = Totals()
        self.access_log = AccessLog()

    def serve(self, exchange: Exchange, /) -> Awaitable[None]:
        self.seen.append(exchange)
        return self.handler(exchange)

    def forward(self, exchange: Exchange, way: Way, raw: UpstreamRequest | None = None, /) -> Awaitable[None]:
        self.forwarded.append((way.pick(0.0).pool, raw))
        return self.serve(exchange)

    def owned(self, request: InferenceRequest, /) -> bool:
        return request.path.startswith("/v1/") and request.model in self.owns

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None:
        return self.who(headers, peer, subject)

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        self.asked.append((peer, subject))
        await trio.lowlevel.checkpoint()
        return LATER

    def models(self, identity: Identity, entrance: Entrance | None = None, /) -> Sequence[ModelCard]:
        self.listed.append(entrance)
        return [card for card in self.cards if allowed(identity, card.id)]

    def ready(self) -> bool:
        return self.is_ready

    def refused(
        self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, headers: Headers, /
    ) -> None:
        self.refusals.append((error.reason, identity))


async def echo(exchange: Exchange) -> None:
    """The client's body back."""
    await exchange.start(200, (JSON,))
    await exchange.finish(exchange.request.body)


async def stream(exchange: Exchange) -> None:
    await exchange.start(200, (EVENTS,))
    await exchange.send(b"data: 1\n\n")
    await exchange.finish(b"data: [DONE]\n\n")


class FakeHttp:
    """`protocols.openai.exchange.HttpReply`; the reply is in ``status``, ``fields`` and ``chunks``."""

    def __init__(
        self, method: bytes, target: bytes, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self.request = Request(method, target, list(headers), body, True, False, dict(headers))
        self.peer, self.subject = "192.0.2.7", "proxy"
        self.started = self.finished = self.aborted = self.ended = False
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def field(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.fields if key == name]
        assert len(values) < 2, f"{name!r} given twice"
        return values[0] if values else None

    def start_nowait(self, status: int, headers: Headers) -> None:
        assert not self.started
        self.started = True
        self.status, self.fields = status, list(headers)

    async def send(self, chunk: bytes) -> None:
        assert self.started
        assert not self.finished
        self.chunks.append(chunk)

    async def finish(self, chunk: bytes = b"") -> None:
        await self.send(chunk)
        self.finished = True

    async def end(self, chunk: bytes) -> None:
        self.ended = True
        await self.finish(chunk)

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self.start_nowait(status, headers)
        await self.finish(body)

    def send_soon(self, chunk: bytes) -> None:
        if self.started and not self.finished:
            self.chunks.append(chunk)

    def abort(self) -> None:
        self.finished = self.aborted = True
