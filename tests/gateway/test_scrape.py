"""Scraping under virtual time, and once against simulated engines behind real sockets."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from types import TracebackType

import pytest
import trio
import trio.testing

from adapters import registry
from adapters.transport import HTTPTransport
from conformance.engines import Served, serve_engine
from gateway.errors import GatewayError, UpstreamError, UpstreamTimeout
from gateway.ports import Adapter
from gateway.scrape import Scrapes
from gateway.types import Endpoint, Load, UpstreamRequest
from tests.gateway.scripted import FakeAdapter as Base

A, B = Endpoint("fake", "http", "a", 1), Endpoint("fake", "http", "b", 1, base_path="/prefix/v1")
Answer = bytes | int | GatewayError | None
"""A page; a status; an error; None: no answer at all."""


class FakeAdapter(Base):
    """A page is "waiting tokens": a gauge and a counter."""

    def metrics_path(self) -> bytes:
        return b"/metrics"

    def parse_load(self, exposition: bytes, now: float, layout: object = None, /) -> Load:
        waiting, tokens = map(float, exposition.split())
        return Load(at=now, waiting=waiting, prompt_tokens=tokens, ttft_sum=tokens / 100, ttft_count=tokens)


class Reply:
    headers = ()

    def __init__(self, answer: bytes | int) -> None:
        self.status = answer if isinstance(answer, int) else 200
        body = b"no" if isinstance(answer, int) else answer
        middle = len(body) - 1
        self.pieces = [body[:middle], body[middle:]]
        self.complete = False

    async def receive(self) -> bytes:
        piece = self.pieces.pop(0)
        self.complete = not self.pieces
        return piece


class FakeSending:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.aborted = False

    async def __aenter__(self) -> Reply:
        await trio.lowlevel.checkpoint()
        if self.answer is None:
            await trio.sleep_forever()
        if isinstance(self.answer, GatewayError):
            raise self.answer
        assert self.answer is not None
        return Reply(self.answer)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def abort(self) -> None:
        self.aborted = True


class Fleet:
    """Endpoints that answer what ``answers`` says now, and the log of what is said of them, with times."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {"a": b"1 0", "b": b"2 0"}
        self.asked: list[tuple[float, str]] = []
        self.requests: list[tuple[Endpoint, UpstreamRequest]] = []
        self.loads: list[Load] = []
        self.log: list[str] = []
        self.busy: list[Endpoint] = []
        self.failed: list[str] = []
        self.sent: list[FakeSending] = []
        self.periods: dict[str, float | None] = {}
        self.scrapes = Scrapes(
            self,
            loaded=self.loaded,
            lost=lambda endpoint: self.log.append(f"lost {endpoint.host}"),
            restarted=lambda endpoint: self.log.append(f"restarted {endpoint.host}"),
            refused=lambda endpoint: self.log.append(f"refused {endpoint.host}"),
            failed=lambda endpoint: self.failed.append(endpoint.host),
            polled=lambda endpoint, period: self.periods.__setitem__(endpoint.host, period),
            busy=lambda most: self.busy,
            rng=random.Random(1),
        )

    def loaded(self, endpoint: Endpoint, load: Load) -> None:
        self.loads.append(load)
        self.log.append(f"loaded {endpoint.host}")

    def send(self, endpoint: Endpoint, request: UpstreamRequest, /) -> FakeSending:
        self.asked.append((trio.current_time(), endpoint.host))
        self.requests.append((endpoint, request))
        self.sent.append(FakeSending(self.answers[endpoint.host]))
        return self.sent[-1]

    def times(self, host: str) -> list[float]:
        return [at for at, asked in self.asked if asked == host]

    async def news(self, seconds: float) -> list[str]:
        """What is said in so many seconds, repetitions once."""
        self.log.clear()
        self.asked.clear()
        await trio.sleep(seconds)
        return list(dict.fromkeys(self.log))


def run(scenario: Callable[[Fleet, FakeAdapter], Awaitable[None]]) -> None:
    async def main() -> None:
        fleet = Fleet()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.scrapes.run)
            await scenario(fleet, FakeAdapter())
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_every_interval_give_or_take_a_tenth_and_not_in_step() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.watch({A: adapter, B: adapter})
        assert sorted(await fleet.news(20)) == ["loaded a", "loaded b"]
        times = fleet.times("a")
        periods = [after - before for before, after in itertools.pairwise(times)]
        assert 90 <= len(periods) <= 110
        assert 0.18 - 1e-6 <= min(periods) < 0.19
        assert 0.21 < max(periods) <= 0.22 + 1e-6
        assert 0 < abs(times[0] - fleet.times("b")[0]) < 0.2
        assert {(target.id, request.path) for target, request in fleet.requests} == {
            ("a:1", b"/metrics"),
            ("b:1/prefix", b"/metrics"),
        }
        _, request = fleet.requests[0]
        assert dict(request.headers)[b"accept"] == b"text/plain;version=0.0.4"

    run(scenario)


def test_a_hung_endpoint_delays_nobody() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.answers["b"] = None
        fleet.scrapes.watch({A: adapter, B: adapter})
        assert await fleet.news(20) == ["loaded a"]
        assert len(fleet.times("a")) >= 90
        assert 5 <= len(fleet.times("b")) <= 20

    run(scenario)


def test_an_engine_that_is_slow_to_tell_has_a_rest_between_questions() -> None:
    class Slow(FakeAdapter):
        def metrics_path(self) -> bytes:
            return b"/slow"

    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        real = fleet.send

        def send(endpoint: Endpoint, request: UpstreamRequest, /) -> FakeSending:
            sending = real(endpoint, request)
            enter = sending.__aenter__

            class Late(FakeSending):
                async def __aenter__(self) -> Reply:
                    await trio.sleep(0.9)
                    return await enter()

            return Late(sending.answer)

        fleet.send = send  # type: ignore[method-assign]
        fleet.scrapes.watch({A: Slow()})
        assert await fleet.news(10) == ["loaded a"]
        times = fleet.times("a")
        assert min(after - before for before, after in itertools.pairwise(times)) == pytest.approx(1.0)

    run(scenario)


@pytest.mark.parametrize("answer", [None, UpstreamTimeout("slow"), 503, 429], ids=repr)
def test_a_load_that_is_not_renewed_is_lost_once_and_found_again(answer: Answer) -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.watch({A: adapter})
        assert await fleet.news(1) == ["loaded a"]
        fleet.answers["a"] = answer
        assert "lost a" not in await fleet.news(1.7)
        assert await fleet.news(0.9) == ["lost a"]
        assert await fleet.news(60) == []
        times = fleet.times("a")
        assert max(after - before for before, after in itertools.pairwise(times)) <= 4.2
        fleet.answers["a"] = b"1 0"
        assert await fleet.news(4.2) == ["loaded a"]

    run(scenario)


def test_a_page_that_is_always_slow_to_come_is_waited_for() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        real = fleet.send

        def send(endpoint: Endpoint, request: UpstreamRequest, /) -> FakeSending:
            class Late(FakeSending):
                async def __aenter__(self) -> Reply:
                    await trio.sleep(1.5)
                    return await real(endpoint, request).__aenter__()

            return Late(b"")

        fleet.send = send  # type: ignore[method-assign]
        fleet.scrapes.watch({A: adapter})
        assert await fleet.news(3) == ["loaded a"]
        assert await fleet.news(60) == ["loaded a"]
        assert len(fleet.loads) > 30

    run(scenario)


def test_a_longer_interval_lets_loads_live_longer() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.watch({A: adapter})
        await fleet.news(1)
        fleet.scrapes.interval = 10.0
        assert await fleet.news(100) == ["loaded a"]

    run(scenario)


def test_a_refused_connection_is_told_of_once_in_a_row_and_tried_every_second() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.watch({A: adapter})
        await fleet.news(1)
        fleet.answers["a"] = UpstreamError("refused")
        assert await fleet.news(10) == ["refused a", "lost a"]
        assert fleet.log.count("refused a") == 1
        assert 9 <= len(fleet.times("a")) <= 14
        assert fleet.failed == ["a"] * len(fleet.times("a"))
        fleet.answers["a"] = b"1 0"
        await fleet.news(2)
        fleet.answers["a"] = UpstreamError("refused")
        assert await fleet.news(1) == ["refused a"]

    run(scenario)


@pytest.mark.parametrize(
    "answer", [404, 501, 401, b"rubbish", b"0" * (9 << 20)], ids=["404", "501", "401", "?", "huge"]
)
def test_without_a_page_an_endpoint_is_asked_seldom(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "infer_gateway.scrape")

    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.answers["a"] = answer
        fleet.scrapes.watch({A: adapter})
        assert await fleet.news(100) == []
        assert len(fleet.asked) == len(fleet.failed) == 4
        assert len(caplog.records) == 1
        fleet.answers["a"] = b"1 0"
        assert await fleet.news(34) == ["loaded a"]

    run(scenario)


def test_ttft_comes_of_differences_and_a_counter_that_fell_is_a_restart() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.answers["a"] = b"1 50"
        fleet.scrapes.watch({A: adapter})
        await fleet.news(0.5)
        assert {load.ttft for load in fleet.loads} == {None}
        fleet.answers["a"] = b"1 80"
        assert await fleet.news(0.5) == ["loaded a"]
        assert fleet.loads[-1].ttft == pytest.approx(0.01)
        fleet.answers["a"] = b"1 7"
        assert "restarted a" in await fleet.news(1)
        assert fleet.log.count("restarted a") == 1
        assert fleet.log.index("restarted a") <= 1

    run(scenario)


def test_what_is_no_longer_watched_is_asked_no_more() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.watch({A: adapter, B: adapter})
        await fleet.news(1)
        fleet.scrapes.watch({B: adapter})
        assert await fleet.news(60) == ["loaded b"]
        assert fleet.times("a") == []

    run(scenario)


def test_nothing_is_said_of_an_endpoint_given_up_while_its_answer_came() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        class Last(FakeAdapter):
            def parse_load(self, exposition: bytes, now: float, layout: object = None, /) -> Load:
                fleet.scrapes.watch({})
                return super().parse_load(exposition, now)

        fleet.scrapes.watch({A: Last()})
        assert await fleet.news(10) == []
        assert len(fleet.asked) == 1

    run(scenario)


def many(fleet: Fleet, count: int) -> list[Endpoint]:
    """As many endpoints, which all answer."""
    endpoints = [Endpoint("fake", "http", str(number), 1) for number in range(count)]
    fleet.answers |= dict.fromkeys((endpoint.host for endpoint in endpoints), b"1 0")
    return endpoints


def test_a_large_fleet_is_asked_no_more_in_all_and_those_at_work_as_often_as_ever() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.interval = 1.0  # 256 a second at most
        fleet.scrapes.watch(dict.fromkeys(many(fleet, 2048), adapter))
        await fleet.news(200)
        assert set(await fleet.news(110)) == {f"loaded {number}" for number in range(2048)}
        assert len(fleet.asked) <= 110 * 64 / 2  # as each takes a connection of its own
        assert all(sending.aborted for sending in fleet.sent[-1000:])
        assert dict(fleet.requests[-1][1].headers)[b"connection"] == b"close"
        fleet.busy = [Endpoint("fake", "http", "7", 1)]
        news = await fleet.news(60)
        assert 54 <= len(fleet.times("7")) <= 67
        assert not any(each.startswith("lost") for each in news)
        assert fleet.periods["7"] == 1.0
        assert fleet.periods["8"] == pytest.approx(3 * 2048 / 64, abs=0.1)

    run(scenario)


def test_a_load_of_a_large_fleet_lives_as_long_as_three_questions_are_apart() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.watch(dict.fromkeys(many(fleet, 1024), adapter))
        await fleet.news(10)
        assert not any(each.startswith("lost") for each in await fleet.news(20))
        period = fleet.periods["7"]
        assert period == pytest.approx(3 * 1024 / 320)
        fleet.answers["7"] = None
        assert "lost 7" not in await fleet.news(2 * period - 0.5)
        assert "lost 7" in await fleet.news(2.5 * period)

    run(scenario)


def test_without_a_path_nothing_is_asked() -> None:
    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.scrapes.watch({A: Base()})
        assert await fleet.news(60) == []
        assert fleet.asked == []

    run(scenario)


def test_another_adapter_is_asked_in_its_dialect_at_once() -> None:
    class Other(FakeAdapter):
        def metrics_path(self) -> bytes:
            return b"/other"

    async def scenario(fleet: Fleet, adapter: FakeAdapter) -> None:
        fleet.answers["a"] = 404
        fleet.scrapes.watch({A: adapter})
        await fleet.news(1)
        fleet.answers["a"] = b"1 0"
        fleet.scrapes.watch({A: Other()})
        assert await fleet.news(1) == ["loaded a"]
        assert fleet.requests[-1][1].path == b"/other"

    run(scenario)


def test_simulated_engines_tell_their_load_over_sockets() -> None:
    async def main() -> None:
        loads: dict[str, Load] = {}
        enough = trio.Event()

        def loaded(endpoint: Endpoint, load: Load) -> None:
            loads[endpoint.engine] = load
            if len(loads) == 3:
                enough.set()

        transport = HTTPTransport()
        scrapes = Scrapes(transport, loaded=loaded, lost=lambda endpoint: None)
        adapters = registry.load()
        async with trio.open_nursery() as nursery:
            watched: dict[Endpoint, Adapter] = {}
            for engine in ("vllm", "sglang", "tgi"):
                served: Served = await nursery.start(serve_engine, engine)
                watched[Endpoint(engine, "http", served.host, served.port)] = adapters[engine]
            nursery.start_soon(scrapes.run)
            scrapes.watch(watched)
            with trio.fail_after(30):
                await enough.wait()
            nursery.cancel_scope.cancel()
        transport.close_idle()
        assert {engine: (load.waiting, load.running) for engine, load in loads.items()} == dict.fromkeys(loads, (0, 0))
        assert loads["vllm"].blocks > 0
        assert loads["vllm"].block_size > 0
        assert loads["vllm"].kv_usage == 0
        assert loads["sglang"].blocks > 0

    trio.run(main)
