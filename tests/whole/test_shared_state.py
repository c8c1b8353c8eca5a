"""Two gateways that meet at a real Redis: one limit, no more and no less; and a Redis that goes away under load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from tests.process import InferGateway, eventually, serve, simulate
from tests.redis_server import RedisServer, needs_redis
from tests.whole.fleet import pool, settings, written

pytestmark = needs_redis

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
PATIENT = {"url": "", "timeout": "5s"}
"""A machine that is busy with something else is not what is tested here."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.0001") as running:
        yield running


def shared(directory: Path, engine: InferGateway, redis: RedisServer, **sections: object) -> Path:
    state = {"redis": {**PATIENT, "url": redis.url}}
    return written(directory, pool("m", [engine]), settings(state=state, **sections))


def metric(gateway: InferGateway, name: str) -> float | None:
    lines = httpx.get(f"http://{gateway.ready['admin']}/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), None)


def meet(*gateways: InferGateway) -> bool:
    return all(
        metric(gateway, "infer_gateway_store_connected") == 1
        and metric(gateway, "infer_gateway_replicas") == len(gateways) - 1
        for gateway in gateways
    )


class Load:
    """Requests to several gateways at once, the statuses they were answered with, and when how many were."""

    def __init__(self, *gateways: InferGateway) -> None:
        self.urls = [gateway.url for gateway in gateways]
        self.statuses: Counter[int] = Counter()
        self._reached: dict[int, trio.Event] = {}

    async def run(self, count: int) -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client, trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(self._ask, client, self.urls[number % len(self.urls)])

    async def _ask(self, client: httpx.AsyncClient, url: str) -> None:
        answer = await client.post(f"{url}/v1/chat/completions", json=ASK)
        self.statuses[answer.status_code] += 1
        if (event := self._reached.get(self.statuses.total())) is not None:
            event.set()

    async def wait_answered(self, count: int) -> None:
        if self.statuses.total() < count:
            await self._reached.setdefault(count, trio.Event()).wait()


def ask_at_once(gateways: list[InferGateway], count: int) -> Counter[int]:
    load = Load(*gateways)
    trio.run(load.run, count)
    return load.statuses


def test_two_gateways_share_one_limit_to_the_request(tmp_path: Path, engine: InferGateway, redis: RedisServer) -> None:
    file = shared(tmp_path, engine, redis, limits=[{"requestsPerMonth": 40}])
    with serve("-c", file) as first, serve("-c", file) as second:
        assert eventually(lambda: meet(first, second))
        assert ask_at_once([first, second], 200) == {200: 40, 429: 160}


def test_a_redis_that_is_killed_under_load_fails_nothing_and_is_used_again(
    tmp_path: Path, engine: InferGateway, redis: RedisServer
) -> None:
    file = shared(tmp_path, engine, redis, limits=[{"requestsPerDay": 1_000_000}], fairness={"enabled": True})
    with serve("-c", file) as first, serve("-c", file) as second:
        assert eventually(lambda: meet(first, second))
        load = Load(first, second)

        async def under_load() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run, 200)
                await load.wait_answered(60)
                redis.kill()
                await load.wait_answered(120)
                await trio.to_thread.run_sync(redis.start)

        trio.run(under_load)
        assert load.statuses == {200: 200}
        assert eventually(lambda: meet(first, second))
        assert ask_at_once([first, second], 10) == {200: 10}
        for gateway in (first, second):
            away = metric(gateway, "infer_gateway_store_away_total")
            assert away is not None
            assert 1 <= away == gateway.stderr.count("keeps limits by itself")
