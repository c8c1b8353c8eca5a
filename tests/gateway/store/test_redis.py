"""A real Redis: it agrees with `Local`, is exact among many, and whatever happens to it, nothing fails."""

from __future__ import annotations

import logging
import math
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from coredis.exceptions import ResponseError
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gateway.config.decode import Duration, Hidden
from gateway.config.sharing import Redis as Settings
from gateway.store.batch import Batch, Granted, Outbox, answers
from gateway.store.connect import Failed, open_client
from gateway.store.local import Local
from gateway.store.redis import Redis
from gateway.types import Demand, Taken
from tests.redis_server import RedisServer, needs_redis

pytestmark = needs_redis
SCRIPT = Path(__file__, "../../../../gateway/store/limits.lua").resolve().read_bytes()
WITHIN_S = 30.0
"""Far above what anything here takes, for machines that are busy with something else."""
PATIENT = 20.0
"""A timeout that no answer of a server that answers comes near to."""
NEVER = 1e-30
"""Leaks at no rate worth the name: what is used stays used."""


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.command("FLUSHALL")
    return shared


def settings(server: RedisServer, timeout: float = PATIENT, **others: Any) -> Settings:
    return Settings(**{"url": Hidden(server.url), "timeout": Duration(timeout), **others})


@asynccontextmanager
async def running(wanted: Settings, *, connected: bool = True) -> AsyncIterator[Redis]:
    """A replica, in use unless it is not to be waited for."""
    store = Redis(wanted, Local())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        if connected:
            await until(lambda: store.statistics().connected)
        yield store
        nursery.cancel_scope.cancel()


async def until(condition: Any) -> None:
    with trio.fail_after(WITHIN_S):
        while not condition():  # noqa: ASYNC110 — a server has no events
            await trio.sleep(0.005)


def limit(burst: float, key: str = "k", amount: float = 1.0, rate: float = NEVER) -> tuple[Demand, ...]:
    return (Demand(key, amount, rate, burst),)


async def take(store: Redis, demands: tuple[Demand, ...]) -> Taken:
    with trio.fail_after(WITHIN_S):
        taken = store.take_nowait(demands, trio.current_time())
        return taken or await store.take(demands)


# --- the script -------------------------------------------------------------------------------------------------------


async def told(client: Any, batch: Batch) -> list[Granted]:
    return answers(await client.eval(SCRIPT, keys=batch.keys, args=(batch.body,)))


RATES = (Demand("a", 1.0, 0.5, 10.0), Demand("b", 1.0, 3.0, 7.0), Demand("c", 1.0, 100.0, 1000.0))
PLACES = Demand("d", 1.0, 0.0, 3.0)
AMOUNTS = st.one_of(st.integers(1, 12).map(float), st.floats(0.01, 1500.0))
WANTED = st.lists(st.tuples(st.sampled_from(RATES), AMOUNTS), max_size=3, unique_by=lambda each: each[0].key)
STEPS = st.one_of(
    st.tuples(st.just("pass"), st.one_of(st.integers(0, 5).map(float), st.floats(0.0, 20.0))),
    st.tuples(st.just("take"), WANTED, st.booleans()),
    st.tuples(st.just("settle"), st.integers(0, 5), st.floats(-1.0, 1.0)),
)


@given(st.one_of(st.lists(STEPS, max_size=12), st.lists(STEPS, min_size=30, max_size=120)))
@examples(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_the_script_and_local_agree(server: RedisServer, steps: list[Any]) -> None:
    server.command("FLUSHALL")
    trio.run(_agree, server, steps)


async def _agree(server: RedisServer, steps: list[Any]) -> None:
    local, outbox, now = Local(), Outbox("p", "a", 1e9), 1.7e9
    held: list[tuple[tuple[Demand, ...], Taken, Taken]] = []
    async with open_client(settings(server)) as client:
        for step in steps:
            if step[0] == "pass":
                now += step[1]
            elif step[0] == "take":
                demands = tuple(Demand(rate.key, amount, rate.rate, rate.burst) for rate, amount in step[1])
                demands += (PLACES,) if step[2] else ()
                mine, theirs = local.take_nowait(demands, now), (await told(client, outbox.batch([demands], now)))[0]
                assert (theirs.granted, theirs.wait, theirs.used) == (mine.granted, mine.wait, mine.used)
                if mine.granted:
                    outbox.granted(demands)
                    held.append((demands, mine, theirs))
            elif held:
                demands, mine, theirs = held.pop(step[1] % len(held))
                back = [each.amount * step[2] if each.rate else 1.0 for each in demands]
                local.settle(demands, mine, back, now)
                outbox.settle(demands, back, theirs.at)
                await told(client, outbox.batch([], now))


TAKINGS = st.lists(st.tuples(st.floats(0.01, 0.3), st.floats(1.0, 60.0)), min_size=40, max_size=60)


@given(TAKINGS, st.randoms(use_true_random=False))
@examples(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_more_marks_than_are_kept_are_thinned_out_alike(
    server: RedisServer, takings: list[tuple[float, float]], rng: Random
) -> None:
    """Every taking at a moment of its own, all given back in another order."""
    server.command("FLUSHALL")
    taken = [step for after, amount in takings for step in (("pass", after), ("take", [(RATES[2], amount)], False))]
    given_back = [("settle", rng.randrange(60), 1.0) for _ in takings]
    trio.run(_agree, server, [*taken, *given_back, ("take", [(RATES[2], 1.0)], False)])


def test_a_clock_that_goes_back_stands_still_in_both(server: RedisServer) -> None:
    taking = ("take", [(RATES[0], 2.0)], False)
    trio.run(_agree, server, [taking, ("pass", -3.0), taking, ("pass", 2.0), taking, ("pass", 2.0), taking])


def test_a_batch_sent_again_is_answered_as_before_and_an_older_one_not_at_all(server: RedisServer) -> None:
    async def main() -> None:
        outbox = Outbox("p", "a", 10.0)
        async with open_client(settings(server)) as client:
            first, second = outbox.batch([limit(5.0)]), outbox.batch([limit(5.0)])
            answer = await told(client, first)
            assert await told(client, first) == answer
            assert [taken.used for taken in await told(client, second)] == [(2.0,)]
            with pytest.raises(ResponseError, match="a later batch"):
                await told(client, first)
            assert [taken.used for taken in await told(client, outbox.batch([limit(5.0)]))] == [(3.0,)]

    trio.run(main)


def test_places_of_a_replica_that_crashed_come_free_with_its_lease(server: RedisServer) -> None:
    async def main() -> None:
        place = (Demand("p", 1.0, 0.0, 2.0),)
        crashed, other = Outbox("p", "a", 10.0), Outbox("p", "b", 10.0)
        async with open_client(settings(server)) as client:

            async def ask(outbox: Outbox, at: float) -> Granted:
                return (await told(client, outbox.batch([place], at)))[0]

            assert (await ask(crashed, 100.0)).granted
            crashed.granted(place)
            crashed.renew()
            await told(client, crashed.batch([], 105.0))
            assert (await ask(other, 106.0)).used == (2.0,)
            other.granted(place)
            refused = await ask(other, 114.9)
            assert (refused.granted, refused.wait, refused.used) == (False, 1.0, (2.0,))
            assert (await ask(other, 115.0)).granted

    trio.run(main)


def test_accounts_that_hold_nothing_are_gone(server: RedisServer) -> None:
    async def main() -> None:
        demands = (Demand("r", 5.0, 1.0, 10.0), Demand("p", 1.0, 0.0, 2.0))
        outbox = Outbox("p", "a", 10.0)
        async with open_client(settings(server)) as client:
            (taken,) = await told(client, outbox.batch([demands]))
            assert 5000 < await client.pttl("{p}:rate:r") <= 6000
            assert 9000 < await client.pttl("{p}:places:p") <= 10000
            outbox.granted(demands)
            outbox.settle(demands, [5.0, 1.0], taken.at)
            await told(client, outbox.batch([]))
            assert await client.keys("*") == {b"{p}:replica:a"}
            assert await client.ttl("{p}:replica:a") > 0

    trio.run(main)


# --- replicas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 3])
def test_two_hundred_at_once_get_exactly_what_there_is(server: RedisServer, replicas: int) -> None:
    async def main() -> None:
        demands = (*limit(50.0), Demand("p", 1.0, 0.0, 70.0))
        granted: list[Redis] = []

        async def ask(store: Redis) -> None:
            if (await take(store, demands)).granted:
                granted.append(store)

        async with running(settings(server)) as a, running(settings(server)) as b, running(settings(server)) as c:
            async with trio.open_nursery() as nursery:
                for index in range(200):
                    nursery.start_soon(ask, (a, b, c)[index % replicas])
            assert len(granted) == 50
            asked = [store.statistics() for store in (a, b, c)]
            assert sum(each.takes for each in asked) == 200
            assert sum(each.takes > 0 for each in asked) == replicas

    trio.run(main)


def test_what_was_not_used_is_free_for_the_others(server: RedisServer) -> None:
    async def main() -> None:
        demands = (*limit(10.0, amount=10.0), Demand("p", 1.0, 0.0, 1.0))
        async with running(settings(server)) as a, running(settings(server)) as b:
            taken = await take(a, demands)
            assert taken.granted
            assert not (await take(b, demands)).granted
            a.settle(demands, taken, (10.0, 1.0), trio.current_time())
            with trio.fail_after(WITHIN_S):
                while not (await take(b, demands)).granted:
                    pass

    trio.run(main)


def test_one_that_ends_gives_back_what_it_was_told_last(server: RedisServer) -> None:
    async def main() -> None:
        demands = (*limit(10.0, amount=10.0), Demand("p", 1.0, 0.0, 1.0))
        async with running(settings(server)) as a:
            taken = await take(a, demands)
            a.settle(demands, taken, (10.0, 1.0), trio.current_time())
        async with running(settings(server)) as b:
            assert (await take(b, demands)).granted

    trio.run(main)


def test_a_take_that_is_cancelled_holds_nothing(server: RedisServer) -> None:
    async def main() -> None:
        demands = (*limit(9.0), Demand("p", 1.0, 0.0, 9.0))
        async with running(settings(server)) as store:
            for under_way in (False, True):
                await take(store, limit(9.0, key="another"))
                server.pause()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(take, store, demands)
                    if under_way:
                        await until(lambda: store._under_way)
                    nursery.cancel_scope.cancel()
                server.resume()
            await until(lambda: store.statistics().takes == 3)  # one that nobody waits for among them
            await until(lambda: server.command("EXISTS", "{infer-gateway}:rate:k") == b":0\r\n")
            assert (await take(store, demands)).used == (1.0, 1.0)

    trio.run(main)


# --- slow, gone, and back ---------------------------------------------------------------------------------------------


def test_killed_and_restarted_under_load_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def main(server: RedisServer) -> None:
        demands = (*limit(1e9), Demand("p", 1.0, 0.0, 1000.0))
        served = 0

        async def client(store: Redis) -> None:
            nonlocal served
            while True:
                taken = await take(store, demands)
                assert taken.granted
                await trio.sleep(0.002)
                store.settle(demands, taken, (0.0, 1.0), trio.current_time())
                served += 1

        async with running(settings(server)) as store:
            async with trio.open_nursery() as load:
                for _ in range(20):
                    load.start_soon(client, store)
                await until(lambda: served > 200)
                server.kill()
                await until(lambda: not store.statistics().connected)
                before = served
                await until(lambda: served > before + 200)
                await trio.to_thread.run_sync(server.start)
                await until(lambda: store.statistics().connected)
                before = store.statistics().takes
                await until(lambda: store.statistics().takes > before + 200)
                load.cancel_scope.cancel()
            assert store.statistics().away == 1
            assert store.statistics().fallbacks > 200

    with RedisServer() as server, caplog.at_level(logging.INFO, logger="infer_gateway"):
        trio.run(main, server)
    there, gone, back = (record.getMessage() for record in caplog.records)
    assert there == back == f"Redis at 127.0.0.1:{server.port} keeps the limits"
    assert gone.startswith(f"Redis at 127.0.0.1:{server.port} is away, this process keeps limits by itself: ")


def test_what_was_taken_before_it_went_away_is_settled_when_it_is_back(server: RedisServer) -> None:
    """And what was granted to nobody any more is given back; what was taken alone is settled alone."""

    async def main() -> None:
        demands = (*limit(100.0, amount=10.0), Demand("p", 1.0, 0.0, 9.0))
        async with running(settings(server, 0.2)) as store:
            before = await take(store, demands)
            server.pause()
            alone = await take(store, demands)  # sent to Redis as well, which takes it when it is back
            assert not store.statistics().connected
            assert isinstance(before, Granted)
            assert not isinstance(alone, Granted)
            assert alone.used == (10.0, 1.0)
            store.settle(demands, alone, (4.0, 1.0), trio.current_time())
            assert store._local.take_nowait(demands, trio.current_time()).used == (16.0, 1.0)  # type: ignore[union-attr]
            store.settle(demands, before, (3.0, 1.0), trio.current_time())
            server.resume()
            await until(lambda: store.statistics().connected)
            await until(lambda: server.command("EXISTS", "{infer-gateway}:places:p") == b":0\r\n")
            assert (await take(store, demands)).used == (17.0, 1.0)

    trio.run(main)


def test_nobody_waits_longer_than_the_timeout() -> None:
    """By a clock that stands still while anything runs. The second waits for the first, and both waits count."""

    async def main() -> None:
        store = Redis(Settings(url=Hidden("redis://nowhere")), Local(), connect=answering(0.0, 0.0, 0.0, 0.06))
        waits: list[tuple[float, bool]] = []

        async def ask(after: float) -> None:
            await trio.sleep(after)
            asked = trio.current_time()
            taken = await take(store, limit(9.0))
            waits.append((round(trio.current_time() - asked, 6), isinstance(taken, Granted)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await until(lambda: store.statistics().connected)
            assert (await take(store, limit(9.0))).used == (7.0,)
            async with trio.open_nursery() as asking:
                for after in (0.0, 0.01, 0.07, 0.5):
                    asking.start_soon(ask, after)
            nursery.cancel_scope.cancel()
        assert sorted(waits) == [(0.0, False), (0.04, False), (0.06, True), (0.1, False)]
        assert store.statistics().reason == "no answer within 0.1 s"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def answering(*delays: float) -> Any:
    """A Redis that answers batches after so many seconds, each request with 7 used; and then none any more."""

    class Answering:
        def __init__(self) -> None:
            self.delays = iter(delays)

        async def evalsha(self, digest: str, keys: Any, args: Any) -> bytes:
            await trio.sleep(next(self.delays, math.inf))
            wanted = msgspec.msgpack.decode(args[0])[6]
            return msgspec.msgpack.encode((1.0, [(True, 0.0, (7.0,)) for _ in wanted]))

    @asynccontextmanager
    async def connect(_: Settings) -> AsyncIterator[Answering]:
        yield Answering()

    return connect


def test_a_script_that_is_forgotten_is_sent_again(server: RedisServer) -> None:
    async def main() -> None:
        async with running(settings(server)) as store:
            await take(store, limit(9.0))
            server.command("SCRIPT", "FLUSH")
            assert (await take(store, limit(9.0))).used == (2.0,)
            assert store.statistics().fallbacks == 0

    trio.run(main)


def test_what_the_server_refuses_is_dropped_and_not_sent_for_ever(server: RedisServer) -> None:
    async def main() -> None:
        async with running(settings(server)) as store:
            server.command("SET", "{infer-gateway}:rate:k", "spoilt")
            assert not isinstance(await take(store, limit(9.0)), Granted)
            await until(lambda: "WrongTypeError" in store.statistics().reason)
            await until(lambda: store.statistics().connected)
            assert isinstance(await take(store, limit(9.0, key="other")), Granted)

    trio.run(main)


def test_what_a_server_refuses_for_a_while_is_settled_afterwards(server: RedisServer) -> None:
    """A full one, one that has become a replica: whatever its state is, batches are as good as before."""

    async def main() -> None:
        async with running(settings(server)) as store:
            before = [await take(store, limit(100.0, key, 10.0)) for key in ("full", "reader")]
            for key, refuse, repair in (
                ("full", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
                ("reader", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
            ):
                server.command(refuse)
                store.settle(limit(100.0, key, 10.0), before.pop(0), (9.0,), trio.current_time())
                assert not isinstance(await take(store, limit(100.0, "other")), Granted)
                server.command(repair)
                await until(lambda: store.statistics().connected)
                assert (await take(store, limit(100.0, key))).used == (2.0,)
            assert store.statistics().dropped == 0

    trio.run(main)


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_said_and_not_shown(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("right-secret\n")

    async def main(server: RedisServer) -> None:
        url = Hidden(f"redis://:wrong-secret@127.0.0.1:{server.port}")
        async with running(settings(server, url=url), connected=False) as store:
            assert (await take(store, limit(9.0))).used == (1.0,)
            await until(lambda: store.statistics().reason)
            assert not store.statistics().connected
            assert "invalid username-password" in store.statistics().reason
            assert (await take(store, limit(9.0))).used == (2.0,)
        async with running(settings(server, url=url, password_file=str(tmp_path / "password"))) as store:
            assert (await take(store, limit(9.0))).used == (1.0,)

    with RedisServer(password="right-secret") as server, caplog.at_level(logging.DEBUG):
        trio.run(main, server)
    assert "invalid username-password" in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_quotes_what_it_was_sent_gives_no_password_away() -> None:
    """Redis 5 does: it does not know HELLO."""

    async def main() -> None:
        with pytest.raises(Failed, match="beginning with"):
            async with open_client(Settings(url=Hidden("redis://:my-secret@h"))) as _:
                raise ResponseError("unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `my-secret`")

    with pytest.raises(Failed) as caught:
        trio.run(_quoting)
    assert "my-secret" not in str(caught.value)
    assert "***" in str(caught.value)
    trio.run(main)


async def _quoting() -> None:
    async with open_client(Settings(url=Hidden("redis://:my-secret@h"))) as _:
        raise ResponseError("unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `my-secret`")


def test_over_tls_the_certificate_is_verified() -> None:
    async def main(server: RedisServer) -> None:
        async with running(settings(server, ca_file=server.ca_file)) as store:
            assert isinstance(await take(store, limit(9.0)), Granted)
        async with running(settings(server), connected=False) as store:
            await until(lambda: store.statistics().reason)
            assert "CERTIFICATE_VERIFY_FAILED" in store.statistics().reason

    with RedisServer(tls=True) as server:
        trio.run(main, server)


def test_through_a_socket_of_the_file_system() -> None:
    async def main(server: RedisServer) -> None:
        async with running(settings(server)) as store:
            assert isinstance(await take(store, limit(9.0)), Granted)

    with RedisServer(unix=True) as server:
        trio.run(main, server)


def test_the_master_that_sentinels_name() -> None:
    """One of them is not there, and the one that is may need a moment to start."""

    async def main(server: RedisServer, port: int) -> None:
        url = Hidden(f"redis+sentinel://:my-secret@127.0.0.1:1,127.0.0.1:{port}/main")
        async with running(settings(server, url=url)) as store:
            assert isinstance(await take(store, limit(9.0)), Granted)

    with RedisServer(password="my-secret") as server, server.sentinel("main") as port:
        trio.run(main, server, port)


def test_a_cluster() -> None:
    async def main(server: RedisServer) -> None:
        url = Hidden(server.url.replace("redis://", "redis+cluster://"))
        async with running(settings(server, url=url)) as store:
            taken = await take(store, (*limit(9.0), *limit(9.0, key="another")))
            assert isinstance(taken, Granted)

    with RedisServer(cluster=True) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):
            assert server.process is not None
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.05)
        trio.run(main, server)
