"""A call that keeps what it is told, and a core that serves it by a script."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from gateway.auth import allowed
from gateway.errors import GatewayError
from gateway.ports import Exchange
from gateway.types import ANONYMOUS, Headers, Identity, ModelCard, Operation

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream")
LATER = Identity("later", models=("my-*",))


class FakeStream:
    """`protocols.grpc.exchange.Stream`. ``full``: what `send_soon` says; `room` waits for ``read``."""

    def __init__(self, message: Any, headers: Headers = (), deadline_at: float = math.inf) -> None:
        self.headers = headers
        self.deadline_at = deadline_at
        self.peer_address, self.subject = "192.0.2.7", "proxy"
        self.message = message
        self.taken = False
        self.initial: dict[str, str] | None = None
        self.trailing: list[tuple[bytes, bytes]] = []
        self.sent: list[bytes] = []
        self.full = False
        self.read = trio.Event()

    async def recv_message(self) -> Any:
        await trio.lowlevel.checkpoint()
        self.taken = True
        return self.message

    async def send_initial_metadata(self, *, metadata: Any = None) -> None:
        assert self.initial is None
        assert not self.sent
        self.initial = dict(metadata)

    def send_soon(self, payload: bytes) -> bool:
        assert self.initial is not None
        self.sent.append(payload)
        return self.full

    async def room(self) -> None:
        await self.read.wait()

    def trailers(self, fields: Headers) -> None:
        self.trailing += fields


class FakeCore:
    """Serves by ``handler``, an async function of the exchange. ``identify`` makes LATER of whom ``known`` leaves."""

    def __init__(
        self,
        handler: Callable[[Exchange], Awaitable[None]],
        cards: Sequence[ModelCard] = (),
        known: Callable[[Headers, str, str], Identity | None] = lambda headers, peer, subject: ANONYMOUS,
    ) -> None:
        self.handler = handler
        self.cards = cards
        self.who = known
        self.seen: list[Exchange] = []
        self.refusals: list[tuple[Operation, str, str, Identity | None, str]] = []

    def serve(self, exchange: Exchange, /) -> Awaitable[None]:
        self.seen.append(exchange)
        return self.handler(exchange)

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None:
        return self.who(headers, peer, subject)

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        await trio.lowlevel.checkpoint()
        return LATER

    def models(self, identity: Identity, /) -> Sequence[ModelCard]:
        return [card for card in self.cards if allowed(identity, card.id)]

    def refused(
        self,
        operation: Operation,
        error: GatewayError,
        request_id: str,
        identity: Identity | None,
        headers: Headers,
        protocol: str,
        /,
    ) -> None:
        self.refusals.append((operation, error.reason, request_id, identity, protocol))
