"""What replicas say reaches the others, in memory under a clock of its own and over a real Redis; away is only away."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
import trio
import trio.testing

from gateway.config.decode import Hidden
from gateway.config.sharing import Redis as Settings
from gateway.replicas import NOTHING, Count, Placed, Replicas
from gateway.schedule.ask import Ask
from gateway.store import carrier
from gateway.store.carrier import Carrier
from gateway.store.connect import Failed, Open, open_client
from gateway.types import InferenceRequest, Operation
from tests.redis_server import RedisServer, needs_redis

SETTINGS = Settings(url=Hidden("redis://nowhere"))
WITHIN_S = 30.0


class Ear:
    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Count] = {}
        self.placed: list[Placed] = []
        self.charged = 0.0

    def elsewhere(self, pool: str, endpoint: str, count: Count, now: float) -> None:
        self.counts[pool, endpoint] = count

    def heard(self, placed: Placed, now: float) -> None:
        self.placed.append(placed)

    def charge(self, pool: str, tenant: str, caller: str, amount: float) -> None:
        self.charged += amount

    def unheard(self, pool: str, tokens: float, rank: int, replicas: int) -> None:
        pass


class Gateway:
    """One replica with two requests under way at one endpoint."""

    def __init__(self, name: str, settings: Settings = SETTINGS, connect: Open = open_client) -> None:
        self.ear = Ear()
        self.replicas = Replicas(name, self.ear)
        self.count = Count(2, 1, 50.0)
        self.carrier = Carrier(settings, self.replicas, lambda: {"p": {"e": self.count}}, connect)

    @property
    def elsewhere(self) -> Count:
        return self.ear.counts.get(("p", "e"), NOTHING)

    def serve(self, amount: float = 1.0) -> None:
        self.replicas.note_service("p", "t", "u", amount)

    def place(self) -> None:
        request = InferenceRequest("r", Operation.COMPLETIONS, "m", b"{}")
        self.replicas.note_placed("p", "e", Ask(request, "m", 0.0))


class Entry(NamedTuple):
    identifier: bytes
    field_values: Mapping[bytes, bytes]


class Stream:
    """A Redis that has one stream, in memory. ``away``: connections break. ``deaf``: what is said arrives, and then
    the connection breaks. ``stuck``: no answers."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.away = self.deaf = self.stuck = False
        self.connections = 0
        self.trimmed = 0
        self._count = itertools.count()
        self._lot = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def connect(self, settings: Settings) -> AsyncIterator[Stream]:
        self.connections += 1
        try:
            await self._turn()
            yield self
        except* Failed:
            raise Failed("away") from None

    async def _turn(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.stuck:
            await trio.sleep_forever()
        if self.away:
            raise Failed("away")

    async def xadd(self, key: str, fields: Mapping[bytes, bytes], *, threshold: int, **options: object) -> bytes:
        await self._turn()
        assert key == "{infer-gateway}:replicas"
        id = b"%d-%d" % (trio.current_time() * 1000 + 1_000_000, next(self._count))
        self.entries.append(Entry(id, dict(fields)))
        self.trimmed += max(0, len(self.entries) - threshold)
        del self.entries[:-threshold]
        self._lot.unpark_all()
        if self.deaf:
            self.away, self.deaf = True, False
            raise Failed("lost")
        return id

    async def xread(
        self, streams: Mapping[str, str], *, count: int, block: int | None
    ) -> dict[bytes, tuple[Entry, ...]] | None:
        await self._turn()
        ((key, last),) = streams.items()
        with trio.move_on_after((block or 0) / 1000):
            while not (newer := [e for e in self.entries if _order(e.identifier) > _order(last.encode())]):
                await self._lot.park()
                await self._turn()
            return {key.encode(): tuple(newer[:count])}
        return None

    async def expire(self, key: str, seconds: int) -> bool:
        await self._turn()
        return True


def _order(id: bytes) -> tuple[int, ...]:
    return tuple(map(int, id.split(b"-")))


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        trio.run(functools.partial(test, **fixtures), clock=trio.testing.MockClock(autojump_threshold=0.0))

    return run


def in_real_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        trio.run(functools.partial(test, **fixtures))

    return run


@pytest.fixture
def stream() -> Stream:
    return Stream()


@in_virtual_time
async def test_what_one_says_the_other_hears_a_moment_later(stream: Stream) -> None:
    one, two = Gateway("one", connect=stream.connect), Gateway("two", connect=stream.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.carrier.run)
        nursery.start_soon(two.carrier.run)
        await trio.sleep(1.0)
        assert (one.elsewhere, two.elsewhere) == (Count(2, 1, 50.0),) * 2
        two.count = Count(7)
        one.serve(3.0)
        one.place()
        await trio.sleep(0.21)
        assert one.elsewhere == Count(7)
        assert (two.ear.charged, len(two.ear.placed)) == (3.0, 1)
        assert two.carrier.statistics().replicas == 1
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_a_crashed_replica_has_nothing_under_way_after_the_lease(stream: Stream) -> None:
    one, two = Gateway("one", connect=stream.connect), Gateway("two", connect=stream.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.carrier.run)
        with trio.move_on_after(1.0):
            await one.carrier.run()
        assert two.elsewhere == one.count
        await trio.sleep(1.7)
        assert two.elsewhere == one.count
        await trio.sleep(0.6)
        assert (two.elsewhere, two.carrier.statistics().replicas) == (NOTHING, 0)
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_away_means_nothing_is_exchanged_and_a_return_costs_nothing(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = Gateway("one", connect=stream.connect), Gateway("two", connect=stream.connect)
    caplog.set_level(logging.INFO, "infer_gateway.store")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.carrier.run)
        nursery.start_soon(two.carrier.run)
        await trio.sleep(10.0)
        stream.away = True
        for _ in range(60):
            one.serve()
            await trio.sleep(1.0)
        assert (one.elsewhere, two.elsewhere, two.ear.charged) == (NOTHING, NOTHING, 0.0)
        assert (one.carrier.statistics().connected, one.carrier.statistics().reason) == (False, "away")
        assert stream.connections < 60
        stream.away = False
        await trio.sleep(6.0)
        assert (two.elsewhere, two.ear.charged) == (one.count, 60.0)
        assert (two.carrier.statistics().connected, two.carrier.statistics().away) == (True, 1)
        nursery.cancel_scope.cancel()
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2


@in_virtual_time
async def test_what_may_or_may_not_have_arrived_is_sent_again_and_counts_once(stream: Stream) -> None:
    one, two = Gateway("one", connect=stream.connect), Gateway("two", connect=stream.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.carrier.run)
        nursery.start_soon(two.carrier.run)
        await trio.sleep(1.0)
        before = [entry.field_values for entry in stream.entries]
        one.serve(5.0)
        two.serve(5.0)
        stream.deaf = True
        await trio.sleep(3.0)
        stream.away = False
        await trio.sleep(10.0)
        assert (one.ear.charged, two.ear.charged) == (5.0, 5.0)
        after = [entry.field_values[b"m"] for entry in stream.entries][len(before) :]
        assert len(after) == len(set(after)) + 1
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_a_server_that_answers_nothing_is_left(stream: Stream) -> None:
    one = Gateway("one", connect=stream.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.carrier.run)
        await trio.sleep(1.0)
        stream.stuck = True
        await trio.sleep(carrier.PATIENCE_S + 0.5)
        assert not one.carrier.statistics().connected
        assert one.carrier.statistics().reason == "away"
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_who_joins_learns_what_was_placed_lately_but_not_what_was_under_way(stream: Stream) -> None:
    one, two = Gateway("one", connect=stream.connect), Gateway("two", connect=stream.connect)
    with trio.move_on_after(30.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.carrier.run)
            for _ in range(29):
                one.place()
                await trio.sleep(1.0)
    await trio.sleep(3.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.carrier.run)
        await trio.sleep(0.1)
        assert (two.elsewhere, two.carrier.statistics().replicas) == (NOTHING, 0)
        assert len(two.ear.placed) == 29
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_the_stream_does_not_grow_for_ever(stream: Stream) -> None:
    one = Gateway("one", connect=stream.connect)
    with trio.move_on_after(300.0):
        await one.carrier.run()
    assert len(stream.entries) == carrier.KEPT
    assert stream.trimmed == pytest.approx(500, abs=5)


@in_virtual_time
async def test_what_is_no_message_of_ours_is_counted(stream: Stream) -> None:
    one = Gateway("one", connect=stream.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.carrier.run)
        await trio.sleep(1.0)
        await stream.xadd("{infer-gateway}:replicas", {b"other": b"x"}, threshold=carrier.KEPT)
        await stream.xadd("{infer-gateway}:replicas", {b"m": b"\xc1"}, threshold=carrier.KEPT)
        await stream.xadd(
            "{infer-gateway}:replicas", {b"m": msgspec.msgpack.encode({"serial": 1})}, threshold=carrier.KEPT
        )
        await trio.sleep(0.5)
        assert one.carrier.statistics().malformed == 3
        assert one.carrier.statistics().connected
        nursery.cancel_scope.cancel()


# -- a real server -------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WITHIN_S):
        while not condition():  # noqa: ASYNC110 — a server has no events
            await trio.sleep(0.005)


async def both(settings: Settings, check: Callable[[Gateway, Gateway], Awaitable[None]]) -> None:
    one, two = Gateway("one", settings), Gateway("two", settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.carrier.run)
        nursery.start_soon(two.carrier.run)
        await until(lambda: one.elsewhere == two.count and two.elsewhere == one.count)
        await check(one, two)
        nursery.cancel_scope.cancel()


@needs_redis
@in_real_time
async def test_replicas_meet_at_redis_and_meet_again_after_it_was_killed() -> None:
    with RedisServer() as server:

        async def check(one: Gateway, two: Gateway) -> None:
            one.serve(4.0)
            await until(lambda: two.ear.charged == 4.0)
            await trio.to_thread.run_sync(server.kill)
            await until(lambda: not (one.carrier.statistics().connected or two.carrier.statistics().connected))
            await until(lambda: two.elsewhere == NOTHING)
            one.serve(5.0)
            await trio.to_thread.run_sync(server.start)
            await until(lambda: two.ear.charged == 9.0 and two.elsewhere == one.count)
            assert one.carrier.statistics().malformed == two.carrier.statistics().malformed == 0

        await both(Settings(url=Hidden(server.url)), check)


@needs_redis
@in_real_time
async def test_over_tls_with_a_password_and_what_is_kept_there() -> None:
    with RedisServer(tls=True, password="open sesame") as server:
        url = server.url.replace("://", "://:open%20sesame@")

        async def check(one: Gateway, two: Gateway) -> None:
            settings = Settings(url=Hidden(url), ca_file=server.ca_file, prefix="fleet")
            async with open_client(settings) as client:
                assert await client.xlen("{fleet}:replicas") >= 2
                assert 0 < await client.ttl("{fleet}:replicas") <= carrier.GONE_S

        await both(Settings(url=Hidden(url), ca_file=server.ca_file, prefix="fleet"), check)


@needs_redis
@in_real_time
async def test_a_key_that_is_no_stream_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        server.command("SET", "{infer-gateway}:replicas", "x")
        one = Gateway("one", Settings(url=Hidden(server.url)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.carrier.run)
            await until(lambda: "wrong kind of value" in one.carrier.statistics().reason)
            nursery.cancel_scope.cancel()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
