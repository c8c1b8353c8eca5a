"""A gateway over endpoints that play scripts in virtual time, and a client that notes what it is told. (T)"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

import trio
import trio.testing

from gateway.config.snapshot import Policy, PoolSpec
from gateway.core import Gateway
from gateway.errors import GatewayError, Unsupported, UpstreamError
from gateway.meter import Record, Totals
from gateway.observe import Observers
from gateway.pools import Pools
from gateway.ports import Candidate
from gateway.route import Target
from gateway.schedule.ask import Ask
from gateway.schedule.profile import Profile, Weighted
from gateway.types import (
    Endpoint,
    Headers,
    InferenceRequest,
    Load,
    ModelCard,
    Operation,
    Ration,
    UpstreamRequest,
    Usage,
)
from gateway.wire.exposition import Layout

A, B, C = (Endpoint("fake", "http", name, 1) for name in "abc")
Step = bytes | float | GatewayError | None
"""A script of one answer: bytes arrive, floats are silences in seconds, errors are raised, None is silence for ever."""


class FakeDecoder:
    """Passes bytes on. b"role" is no token, nor is b":…"; b"err" is an error in the answer, b"useless" one that shows
    when it is told; b"half" a piece of an event that is not whole yet; b"!" at the end makes the answer whole, b"$"
    also says that nothing follows.
    """

    content_type = b"text/event-stream"

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.error: GatewayError | None = None
        self.progress = 0
        self.tokens = 0
        self.ended = False
        self.whole = False

    def feed(self, data: bytes, /) -> bytes:
        if data == b"err":
            self.error = UpstreamError("the engine's queue is full", status=503, retryable=True)
            return b""
        if data == b"half":
            return b""
        if data == b"useless":
            self.error, self.progress = UpstreamError("the engine's answer cannot be told"), 2
            return b""
        token = data != b"role" and not data.startswith(b":")
        self.progress = max(self.progress, 2 if token else 1)
        self.tokens += token
        self.whole = data.endswith((b"!", b"$"))
        self.ended = data.endswith(b"$")
        return data

    def finish(self) -> bytes:
        if not self.whole:
            self.error = UpstreamError("the engine closed the stream before finishing", retryable=True)
            return b""
        self.usage = Usage(prompt=3, completion=self.tokens)
        return b""


class FakeAdapter:
    name = "fake"

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.ignored: dict[str, tuple[str, ...]] = {}
        self.bodies: list[bytes] = []

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        self.ids.append(request.id)
        if model == "picky":
            raise Unsupported("n is not supported", param="n")
        for name in self.ignored.get(endpoint.host, ()):
            if b'"%b"' % name.encode() in request.body:
                raise Unsupported(f"{name} is not supported", param=name, droppable=(name,))
        self.bodies.append(request.body)
        return UpstreamRequest(b"POST", b"/" + model.encode())

    def decoder(self, request: InferenceRequest, status: int, headers: Headers, /) -> FakeDecoder:
        return FakeDecoder()

    def error(self, status: int, headers: Headers, body: bytes, /) -> UpstreamError:
        retry_after = float(dict(headers).get(b"retry-after", b"nan"))
        return UpstreamError(
            body.decode(),
            status=status,
            retryable=status in (429, 502, 503),
            retry_after=None if retry_after != retry_after else retry_after,
        )

    def ration(self, headers: Headers, /) -> Ration | None:
        left = dict(headers).get(b"left")
        return None if left is None else Ration(*map(float, left.split()))

    def metrics_path(self) -> bytes:
        return b""

    def parse_load(self, exposition: bytes, now: float, layout: Layout | None = None, /) -> Load:
        raise ValueError("no metrics")

    def models_path(self) -> bytes:
        return b"/v1/models"

    def parse_models(self, body: bytes, /) -> list[ModelCard]:
        return []


class FakeUpstream:
    def __init__(self, script: list[Step], status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self.complete = False
        self.script = script
        self.cut = trio.Event()

    async def receive(self) -> bytes:
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, bytes):
                self.complete = not self.script
                return step
            if isinstance(step, GatewayError):
                raise step
            with trio.move_on_after(float("inf") if step is None else step):
                await self.cut.wait()
                raise UpstreamError("the connection was closed")
        self.complete = True
        return b""


class FakeTransport:
    """Plays an endpoint's scripts one after the other and notes what happened to each."""

    def __init__(self, scripts: dict[Endpoint, list[tuple[int, list[Step]]]], headers: Headers = ()) -> None:
        self.scripts = scripts
        self.headers = headers
        self.log: list[str] = []

    def send(self, endpoint: Endpoint, request: UpstreamRequest, /) -> FakeSending:
        return FakeSending(self, endpoint)


class FakeSending:
    def __init__(self, transport: FakeTransport, endpoint: Endpoint) -> None:
        self.transport = transport
        self.endpoint = endpoint
        self.upstream: FakeUpstream | None = None

    async def __aenter__(self) -> FakeUpstream:
        self.transport.log.append(f"to {self.endpoint.host}")
        scripts = self.transport.scripts.get(self.endpoint)
        if not scripts:
            raise UpstreamError("cannot connect", retryable=True)
        status, script = scripts.pop(0)
        self.upstream = FakeUpstream(list(script), status, self.transport.headers)
        return self.upstream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        assert self.upstream is not None
        self.transport.log.append(f"{'kept' if self.upstream.complete else 'closed'} {self.endpoint.host}")

    def abort(self) -> None:
        if self.upstream is not None:
            self.upstream.cut.set()


class FakeExchange:
    def __init__(self, model: str = "m", *, stream: bool = True, body: bytes = b"{}") -> None:
        self.request = InferenceRequest("r1", Operation.CHAT, model, body, stream=stream)
        self.started = False
        self.headers: dict[bytes, bytes] = {}
        self.said: list[tuple[float, str]] = []

    def _say(self, what: str) -> None:
        self.said.append((round(trio.current_time(), 2), what))

    async def start(self, status: int, headers: Headers, /) -> None:
        self.started = True
        self.headers = dict(headers)

    async def send(self, chunk: bytes, /) -> None:
        await trio.lowlevel.checkpoint()
        self._say(chunk.decode())

    async def finish(self, chunk: bytes = b"", /) -> None:
        await self.send(chunk)
        self._say("END")

    async def fail(self, error: GatewayError, /) -> None:
        self._say(f"FAIL {error.status} {error.code}")

    def keep_alive(self, headers: Headers = (), /) -> None:
        if not self.started:
            self.headers = dict(headers)
        self.started = True
        self._say(":")


def least_in_flight(spec: PoolSpec, old: Profile | None = None) -> Profile:
    """Fewest requests first, in the configuration's order among equals."""

    def scores(ask: Ask, candidates: Sequence[Candidate]) -> list[float]:
        return [1.0 / (1.0 + candidate.inflight) for candidate in candidates]

    def pick(candidates: Sequence[Candidate], scores: Sequence[float]) -> list[Candidate]:
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return [candidates[index] for index in order]

    return old or Profile((), (Weighted("least", scores),), pick)


class World:
    """A gateway over scripted endpoints, in virtual time that begins at 0."""

    def __init__(
        self,
        scripts: dict[Endpoint, list[tuple[int, list[Step]]]],
        *,
        headers: Headers = (),
        policy: Policy = Policy(first_token=10, between_tokens=2),  # noqa: B008 — frozen
    ) -> None:
        self.transport = FakeTransport(scripts, headers)
        self.adapter = FakeAdapter()
        pools = Pools({"fake": self.adapter}, least_in_flight)
        self.specs = [
            PoolSpec("p", "fake", (A, B), policy=policy),
            PoolSpec("q", "fake", (C,), policy=policy),
            PoolSpec("e", "fake"),
        ]
        pools.apply(self.specs)
        for member in pools.members():
            member.up = True
        self.pools = pools
        self.drop = False
        self.records: list[Record] = []
        self.gateway = Gateway(
            pools,
            self.transport,
            lambda request: Target("p", request.model, (Target("q"),), drop=self.drop),
            observer=Observers(Totals(), self.records.append),
        )

    async def ask(self, exchange: FakeExchange) -> list[str]:
        await self.gateway.serve(exchange)
        return [what for _, what in exchange.said]

    def prefer(self, endpoint: Endpoint) -> None:
        """Make the other member of the pool look busier."""
        for member in self.pools["p"].members:
            member.inflight = 0 if member.endpoint == endpoint else 1


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def with_watch(world: World, work: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gateway.run)
        await work()
        nursery.cancel_scope.cancel()
