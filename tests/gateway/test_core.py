"""The data walk under virtual time: failover, timeouts, cancellation, what a stream says when it breaks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from types import TracebackType

import pytest
import trio
import trio.testing

from gateway.config.snapshot import Policy, PoolSpec
from gateway.core import Gateway
from gateway.errors import GatewayError, Unsupported, UpstreamError
from gateway.meter import Record
from gateway.pools import Pools
from gateway.route import Target
from gateway.types import Endpoint, Headers, InferenceRequest, ModelCard, Operation, UpstreamRequest, Usage

A, B, C = (Endpoint("fake", "http", name, 1) for name in "abc")
Step = bytes | float | GatewayError | None
"""A script of one answer: bytes arrive, floats are silences in seconds, errors are raised, None is silence for ever."""


class FakeDecoder:
    """Passes bytes on. b"role" is no token, b"err" an error in the answer, b"!" at the end what makes it whole."""

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
        self.progress = max(self.progress, 1 if data == b"role" else 2)
        self.tokens += data != b"role"
        self.whole = data.endswith(b"!")
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

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        self.ids.append(request.id)
        if model == "picky":
            raise Unsupported("n is not supported", param="n")
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
    def __init__(self, model: str = "m", *, stream: bool = True) -> None:
        self.request = InferenceRequest("r1", Operation.CHAT, model, b"{}", stream=stream)
        self.started = False
        self.said: list[tuple[float, str]] = []

    def _say(self, what: str) -> None:
        self.said.append((round(trio.current_time(), 2), what))

    async def start(self, status: int, headers: Headers, /) -> None:
        self.started = True

    async def send(self, chunk: bytes, /) -> None:
        await trio.lowlevel.checkpoint()
        self._say(chunk.decode())

    async def finish(self, chunk: bytes = b"", /) -> None:
        await self.send(chunk)
        self._say("END")

    async def fail(self, error: GatewayError, /) -> None:
        self._say(f"FAIL {error.status} {error.code}")

    def keep_alive(self) -> None:
        self.started = True
        self._say(":")


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
        pools = Pools({"fake": self.adapter})
        pools.apply(
            [
                PoolSpec("p", "fake", (A, B), policy=policy),
                PoolSpec("q", "fake", (C,), policy=policy),
                PoolSpec("e", "fake"),
            ]
        )
        for member in pools.members():
            member.up = True
        self.pools = pools
        self.records: list[Record] = []
        self.gateway = Gateway(
            pools,
            self.transport,
            lambda request: Target("p", request.model, (Target("q"),)),
            finished=self.records.append,
            rng=random.Random(1),
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


def test_a_stream_passes_through_and_everything_is_given_back() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"role", b"one", 1.0, b"two!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        assert await world.ask(exchange) == ["roleone", "two!", "END"]
        assert world.transport.log == ["to a", "kept a"]
        record = world.records[0]
        assert (record.status, record.reason, record.tokens_out, record.attempts) == (200, "", 2, 1)
        assert (record.ttft_s, record.duration_s) == (0.0, 1.0)
        assert [member.inflight for member in world.pools["p"].members] == [0, 1]
        assert not world.gateway.calls

    run(scenario)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param([], id="cannot connect"),
        pytest.param([(503, [b"busy"])], id="503"),
        pytest.param([(200, [b"err"])], id="an error event first"),
        pytest.param([(200, [b"role", b"err"])], id="an error event before the first token"),
        pytest.param([(200, [b"role", b""])], id="ends before the first token"),
        pytest.param([(200, [UpstreamError("broke", retryable=True)])], id="breaks before the first byte"),
    ],
)
def test_what_fails_before_the_first_token_is_tried_elsewhere_unseen(first: list[tuple[int, list[Step]]]) -> None:
    async def scenario() -> None:
        world = World({A: first, B: [(200, [b"fine!"])]})
        world.prefer(A)
        assert await world.ask(FakeExchange()) == ["fine!", "END"]
        assert world.transport.log[0] == "to a"
        assert world.transport.log[-2:] == ["to b", "kept b"]
        assert world.records[0].attempts == 2

    run(scenario)


def test_the_fallback_target_comes_after_the_pool_and_nothing_is_tried_twice() -> None:
    async def scenario() -> None:
        world = World({C: [(200, [b"saved!"])]})
        assert await world.ask(FakeExchange()) == ["saved!", "END"]
        assert sorted(world.transport.log) == ["kept c", "to a", "to b", "to c"]

    run(scenario)


def test_the_last_error_is_what_the_client_sees() -> None:
    async def scenario() -> None:
        world = World(
            {A: [(503, [b"x"])], B: [(503, [b"x"])], C: [(429, [b"slow down"])]}, headers=[(b"retry-after", b"7")]
        )
        exchange = FakeExchange()
        assert await world.ask(exchange) == ["FAIL 429 upstream_error"]
        assert all(member.cool_until > 0 for member in world.pools.members())

    run(scenario)


def test_a_4xx_and_a_refusal_by_the_adapter_are_never_retried() -> None:
    async def scenario() -> None:
        world = World({A: [(400, [b"bad"])], B: [(400, [b"bad"])]})
        assert await world.ask(FakeExchange()) == ["FAIL 400 upstream_error"]
        assert len([entry for entry in world.transport.log if entry.startswith("to")]) == 1
        assert await world.ask(FakeExchange("picky")) == ["FAIL 400 unsupported_parameter"]

    run(scenario)


def test_an_error_after_the_first_token_is_the_last_event() -> None:
    async def scenario() -> None:
        for broken in (b"err", b"", UpstreamError("reset", retryable=True)):
            world = World({A: [(200, [b"one", broken])], B: [(200, [b"never!"])]})
            world.prefer(A)
            said = await world.ask(FakeExchange())
            assert said[0] == "one"
            assert said[-1].startswith("FAIL")
            assert "END" not in said
            assert world.records[0].status == 200
            assert world.records[0].reason

    run(scenario)


def test_an_engine_that_gives_no_token_in_time_is_cut_and_not_retried() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"role", None])], B: [(200, [b"never!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said[-1] == (10.25, "FAIL 504 upstream_timeout")
        assert world.transport.log == ["to a", "closed a"]

    run(scenario)


def test_an_engine_that_falls_silent_is_cut_by_the_between_tokens_timeout() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one", 1.5, b"two", None])]})
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(0.0, "one"), (1.5, "two"), (3.75, "FAIL 504 upstream_timeout")]
        assert world.transport.log == ["to a", "closed a"]

    run(scenario)


def test_a_silent_stream_shows_life() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [20.0, b"one", 16.0, b"two!"])]}, policy=Policy(first_token=100, between_tokens=100))
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(15.0, ":"), (20.0, "one"), (35.0, ":"), (36.0, "two!"), (36.0, "END")]

    run(scenario)


def test_a_sign_of_life_does_not_stand_in_the_way_of_failover() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [20.0, b"err"])], B: [(200, [b"fine!"])]}, policy=Policy(first_token=100))
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert [what for _, what in exchange.said] == [":", "fine!", "END"]

    run(scenario)


def test_a_preamble_is_not_held_for_long() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"role", 3.0, b"one!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(0.5, "role"), (3.0, "one!"), (3.0, "END")]

    run(scenario)


@pytest.mark.parametrize("script", [[None], [b"role", None], [b"one", None]])
def test_a_client_that_leaves_closes_the_engines_connection_at_once(script: list[Step]) -> None:
    async def scenario() -> None:
        world = World({A: [(200, script)]})
        world.prefer(A)
        with trio.move_on_after(1):
            await world.ask(FakeExchange())
        assert world.transport.log == ["to a", "closed a"]
        assert world.records[0].status == 499
        assert world.pools["p"].members[0].inflight == 0
        assert not world.gateway.calls

    run(scenario)


def test_a_request_deadline_bounds_all_attempts() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [None])]}, policy=Policy(first_token=100, request=5))
        world.prefer(A)
        exchange = FakeExchange()
        await with_watch(world, lambda: world.ask(exchange))
        assert exchange.said == [(5.25, "FAIL 504 upstream_timeout")]

    run(scenario)


def test_who_is_being_served_when_the_process_ends_is_told() -> None:
    async def scenario() -> None:
        world = World({A: [(200, [b"one", None])], B: [(200, [b"never!"])]})
        world.prefer(A)
        exchange = FakeExchange()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, exchange)
            await trio.testing.wait_all_tasks_blocked()
            world.gateway.give_up()
        assert [what for _, what in exchange.said] == ["one", "FAIL 503 overloaded"]
        assert world.transport.log == ["to a", "closed a"]

    run(scenario)


def test_no_usable_endpoint_is_503() -> None:
    async def scenario() -> None:
        world = World({})
        for member in world.pools.members():
            member.up = False
        assert await world.ask(FakeExchange()) == ["FAIL 503 no_endpoints"]
        assert world.transport.log == []

    run(scenario)


def test_ids_that_engines_see_are_unique_among_what_is_in_flight() -> None:
    async def scenario() -> None:
        world = World({A: [(503, [b"busy"]), (200, [1.0, b"x!"])], B: [(200, [1.0, b"x!"])] * 2})
        world.prefer(A)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(world.ask, FakeExchange())
        assert len(set(world.adapter.ids)) == 3
        assert world.adapter.ids[0] == "r1"
        assert "r1-2" in world.adapter.ids
        assert not world.gateway.ids

    run(scenario)


def test_retries_stay_within_their_budget() -> None:
    async def scenario() -> None:
        world = World({})
        for _ in range(100):
            for member in world.pools.members():
                member.succeeded()
                member.open_until = 0
            await world.ask(FakeExchange())
        sent = len(world.transport.log)
        assert 100 + 10 <= sent <= 100 + 10 + 20 + 1

    run(scenario)


def test_an_endpoint_that_keeps_failing_is_set_aside_and_tried_again_later() -> None:
    async def scenario() -> None:
        world = World({B: [(200, [b"x!"])] * 9})
        for _ in range(6):
            world.prefer(A)
            await world.ask(FakeExchange())
        assert world.transport.log.count("to a") == 3
        await trio.sleep(1.5)
        world.prefer(A)
        await world.ask(FakeExchange())
        assert world.transport.log.count("to a") == 4

    run(scenario)
