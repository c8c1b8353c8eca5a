"""A core that keeps what it is told, and a stream between a handler and a proxy, both in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from adapters.openai import OpenAI
from gateway.errors import GatewayError
from gateway.types import ANONYMOUS, Headers, Identity, InferenceRequest, Operation, Usage
from protocols.extproc import messages
from protocols.extproc.serve import ExternalProcessor
from tests.protocols.extproc.proxy import Proxy


class FakePick:
    """Reads responses by the adapter that endpoints of the OpenAI kind have."""

    def __init__(self, core: FakeCore, request: InferenceRequest) -> None:
        self.request = request
        self.addresses = core.addresses
        self.model = core.models.get(request.model, request.model)
        self.limits: Headers = core.limits
        self.scores = core.scores
        self.head: tuple[int, Headers, str] | None = None
        self.heard: list[bytes] = []
        self.finished = 0
        self.left = False
        self.decoder: Any = None

    def responded(self, status: int, headers: Headers, served: str = "") -> None:
        assert self.head is None
        self.head = status, headers, served
        if 200 <= status < 300 and self.request.model:
            self.decoder = OpenAI().decoder(self.request, status, headers)

    def feed(self, data: bytes) -> None:
        assert self.head is not None
        self.heard.append(data)
        if self.decoder is not None:
            self.decoder.feed(data)

    def finish(self) -> None:
        self.finished += 1
        if self.decoder is not None and not self.decoder.ended:
            self.decoder.finish()

    @property
    def usage(self) -> Usage | None:
        return None if self.decoder is None else self.decoder.usage


class FakeCore:
    """``error``: raised instead of picking. ``waiting``: picks wait for it. ``models``: asked for → engine's name."""

    def __init__(self, *addresses: str, error: Exception | None = None, models: dict[str, str] | None = None) -> None:
        self.addresses = addresses or ("192.168.1.1:8000",)
        self.error = error
        self.models = models or {}
        self.limits: Headers = ()
        self.scores: dict[str, float] = {}
        self.waiting: trio.Event | None = None
        self.who: Callable[[Headers], Identity | None] = lambda headers: ANONYMOUS
        self.picks: list[FakePick] = []
        self.pools: list[str | None] = []
        self.refusals: list[tuple[Operation, str, Identity | None]] = []
        self.inside = 0

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None:
        return self.who(headers)

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        await trio.lowlevel.checkpoint()
        return Identity(user="found")

    def refused(
        self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, headers: Headers, /
    ) -> None:
        self.refusals.append((operation, error.reason, identity))

    @contextlib.asynccontextmanager
    async def pick(self, request: InferenceRequest, pool: str | None = None, /) -> AsyncIterator[FakePick]:
        self.inside += 1
        self.pools.append(pool)
        picked = FakePick(self, request)
        self.picks.append(picked)
        try:
            if self.waiting is not None:
                await self.waiting.wait()
            if self.error is not None:
                raise self.error
            yield picked
        finally:
            self.inside -= 1
            picked.left = True


class FakeStream:
    """The handler's end; the proxy's are `say` and ``replies``."""

    peer_address = "10.0.0.1"
    subject = ""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.speaker, self._said = trio.open_memory_channel[bytes | None](1000)
        self._replied, self.replies = trio.open_memory_channel[bytes](1000)

    def say(self, message: Any) -> None:
        self.speaker.send_nowait(self.proxy.say(message))

    def hang_up(self) -> None:
        """The proxy has said everything."""
        self.speaker.send_nowait(None)

    async def recv_message(self) -> Any:
        data = await self._said.receive()
        return None if data is None else messages.ProcessingRequest.FromString(data)

    async def send_bytes(self, payload: bytes, /) -> None:
        await self._replied.send(payload)

    async def hear(self, replies: int = 1) -> None:
        """Wait for that many replies, and take them in."""
        for _ in range(replies):
            self.proxy.hear(await self.replies.receive())

    def hear_all(self) -> None:
        """Take in what has been replied so far."""
        with contextlib.suppress(trio.WouldBlock):
            while True:
                self.proxy.hear(self.replies.receive_nowait())


async def played(service: ExternalProcessor, proxy: Proxy, *said: Any, end: bool = True) -> Proxy:
    """Say everything at once, then hang up; the handler runs to its end."""
    stream = FakeStream(proxy)
    for message in said:
        stream.say(message)
    if end:
        stream.hang_up()
    await service.process(stream)
    stream.hear_all()
    return proxy
