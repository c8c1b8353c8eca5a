"""Redis that goes away and comes back in every way, under limits that hold places: no request fails or waits for it,
and every place comes back.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.faults.crooked import Crooked, Way, cut, mute, noise, relay, saying
from tests.faults.stage import CALM, at_rest, unharmed
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.redis_server import RedisServer, needs_redis
from tests.whole import raw
from tests.whole.fleet import CHAT, Client, pool, settings, state, written

pytestmark = needs_redis
PLACES = 6


class Stage(NamedTuple):
    gateway: InferGateway
    engines: list[InferGateway]
    between: Crooked
    redis: RedisServer
    directory: Path

    @property
    def there(self) -> bool:
        page = httpx.get(f"http://{self.gateway.ready['admin']}/metrics").text
        return "infer_gateway_store_connected 1.0\n" in page

    def status(self, model: str = CALM) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        answer = raw.exchange(self.gateway.address, raw.post(CHAT, body, "connection: close"))
        assert answer is not None
        return answer.status

    def anew(self, name: str) -> None:
        """As if there had been no trouble: who was away is left alone for longer and longer."""
        before = self.gateway.stderr.count("configuration reloaded")
        configured(self.directory, self.engines, self.between, name)
        self.gateway.signal(signal.SIGHUP)
        assert eventually(lambda: self.gateway.stderr.count("configuration reloaded") > before)

    def full(self, stack: ExitStack) -> list[Client]:
        """Streams that hold every place."""
        clients = [stack.enter_context(Client(self.gateway)) for _ in range(PLACES)]
        for client in clients:
            client.send("slow", "hi", stream=True, max_tokens=12)
        assert eventually(lambda: state(self.engines[1])["running"] == PLACES)
        return clients


def configured(directory: Path, engines: list[InferGateway], between: Crooked, prefix: str) -> str:
    redis = {"url": f"redis://127.0.0.1:{between.port}", "timeout": "300ms", "prefix": prefix}
    limits = [
        {"match": {"model": "slow"}, "concurrentRequests": PLACES},
        {"match": {"model": CALM}, "requestsPerDay": 1_000_000, "concurrentRequests": 1000},
    ]
    pools = pool(CALM, engines[:1]), pool("slow", engines[1:])
    return written(directory, *pools, settings(state={"redis": redis}, limits=limits))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Redis is away while it starts."""
    directory = tmp_path_factory.mktemp("redis")
    engines = [simulate("vllm", "m"), simulate("vllm", "m", "--itl", "0.1")]
    with RedisServer() as redis, Crooked(cut) as between, together(*engines):
        config = configured(directory, engines, between, "start")
        with serve("-c", config) as gateway:
            yield Stage(gateway, engines, between, redis, directory)


def test_it_is_away_at_the_start(stage: Stage) -> None:
    assert stage.status() == 200
    assert not stage.there
    stage.between.go(relay(stage.redis.port))
    assert eventually(lambda: stage.there)
    at_rest(stage.gateway)


WAYS: dict[str, Way] = {
    "mute": mute,
    "noise": noise,
    "loading": saying(b"-LOADING Redis is loading the dataset in memory\r\n"),
    "other answers": saying(b"+OK\r\n"),
}


@pytest.mark.parametrize("name", WAYS)
def test_it_does_what_no_redis_does(stage: Stage, name: str) -> None:
    _goes_and_comes_back(
        stage, name, lambda: stage.between.go(WAYS[name]), lambda: stage.between.go(relay(stage.redis.port))
    )


def _goes_and_comes_back(stage: Stage, name: str, goes: Callable[[], object], back: Callable[[], object]) -> None:
    stage.anew(name)
    assert eventually(lambda: stage.there)
    with unharmed(stage.gateway), ExitStack() as stack:
        clients = stage.full(stack)
        assert stage.status("slow") == 429
        goes()
        assert eventually(lambda: not stage.there)
        assert stage.status() == 200
        for client in clients:
            client.answer()
        back()
        assert eventually(lambda: stage.there)
    with ExitStack() as stack:
        for client in stage.full(stack):  # each place is there again
            client.socket.close()


def test_it_is_full(stage: Stage) -> None:
    _goes_and_comes_back(
        stage,
        "full",
        lambda: stage.redis.command("CONFIG SET maxmemory 1"),
        lambda: stage.redis.command("CONFIG SET maxmemory 0"),
    )


def test_it_wants_another_password(stage: Stage) -> None:
    def locked() -> None:
        with stage.redis._connected() as connection:
            connection.sendall(b"CONFIG SET requirepass another\r\nCLIENT KILL TYPE normal\r\n")
            assert connection.recv(100).startswith(b"+OK")

    def opened() -> None:
        with stage.redis._connected() as connection:
            connection.sendall(b'AUTH another\r\nCONFIG SET requirepass ""\r\n')
            assert connection.recv(100).startswith(b"+OK")

    _goes_and_comes_back(stage, "locked", locked, opened)


def test_it_stands_still(stage: Stage) -> None:
    _goes_and_comes_back(stage, "stopped", stage.redis.pause, stage.redis.resume)
