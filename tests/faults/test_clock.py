"""Time that is not what it was: a gateway that was stopped for a while, and a wall clock that jumps."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.leap import Leaping
from tests.faults.stage import CALM, unharmed
from tests.gateway.issuing import ISSUER, Signer, key_set
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.redis_server import PROGRAM, RedisServer
from tests.whole import raw
from tests.whole.fleet import CHAT, Client, admin, endpoints, pool, settings, state, wait_scraped, written

AWAY_S = 3.0
TIMES = {"connect": "1s", "firstToken": "2s", "betweenTokens": "1s", "clientWrite": "1s"}


def ask(model: str, **more: object) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60, **more}
    return raw.post(CHAT, body)


def test_a_gateway_that_was_stopped_blames_nobody_else(tmp_path: Path) -> None:
    """As by a snapshot of its machine: engines went on, clients waited, and no phase has lasted any longer for it."""
    listener = {"http": {"headerTimeout": "2s", "idleTimeout": "2s"}}
    with simulate("vllm", "m", "--ttft", "0.5", "--itl", "0.04") as engine:
        config = written(tmp_path, pool("m", [engine]), settings(timeouts=TIMES, listeners=listener))
        with serve("-c", config) as gateway, ExitStack() as stack:
            wait_scraped(gateway)
            clients = [stack.enter_context(raw.connect(gateway.address)) for _ in range(6)]
            readers = [stack.enter_context(raw.Reader(client)) for client in clients]
            for client, reader in zip(clients[:2], readers, strict=False):
                client.sendall(ask("m", stream=True))
                assert reader.head() is not None
                assert reader.chunk()
            clients[2].sendall(ask("m", stream=True))
            clients[3].sendall(ask("m", max_tokens=20))
            late = ask("m", max_tokens=2)
            clients[4].sendall(late[:-10])
            gateway.signal(signal.SIGSTOP)
            time.sleep(AWAY_S)
            gateway.signal(signal.SIGCONT)
            for reader in readers[:2]:
                last = b""
                while chunk := reader.chunk():
                    last = chunk
                assert last.endswith(b"data: [DONE]\n\n"), last
            clients[4].sendall(late[-10:])
            clients[5].sendall(ask("m", max_tokens=2))
            for reader in readers[2:]:
                answer = reader.answer()
                assert answer is not None
                assert (answer.status, answer.whole) == (200, True), answer
            (shown,) = endpoints(gateway).values()
            assert shown["state"] in ("ready", "slow-start"), shown
            for judged in ("set aside", "not known any more", "does not answer"):
                assert judged not in gateway.stderr


HOUR_S = 3600.0
KEY = "sk-ann-0123456789"


class Leapt(NamedTuple):
    """A gateway whose time of day leaps. It believes keys and tokens, shares limits and writes down what it does."""

    gateway: Leaping
    signer: Signer
    directory: Path
    engine: InferGateway

    def status(self, credential: str) -> int:
        answer = raw.exchange(self.gateway.address, self._asked(credential))
        assert answer is not None
        return answer.status

    def token(self, lasts: float) -> str:
        now = time.time()
        return self.signer.token(exp=now + lasts, iat=now - 2 * HOUR_S).decode()

    def _asked(self, credential: str) -> bytes:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        return raw.post(CHAT, body, f"authorization: Bearer {credential}", "connection: close")

    def written(self, name: str) -> list[float]:
        """The times of what was written there."""
        rows = (self.directory / name).read_text().splitlines()
        return [datetime.fromisoformat(json.loads(row)["time"]).timestamp() for row in rows]


@pytest.fixture
def leapt(tmp_path: Path) -> Iterator[Leapt]:
    signer = Signer()
    (tmp_path / "jwks.json").write_bytes(key_set(signer.jwk()))
    key = {"name": "ann", "keySha256": hashlib.sha256(KEY.encode()).hexdigest()}
    issuer = {"issuer": ISSUER, "audiences": ["gateway"], "jwksUri": f"file://{tmp_path}/jwks.json"}
    sections: dict[str, Any] = {
        "auth": {"required": False, "apiKeys": [key], "issuers": [issuer]},
        "limits": [{"requestsPerDay": 100_000, "concurrentRequests": 1000}],
        "fairness": {"enabled": True},
        "timeouts": {**TIMES, "firstToken": "3s"},
        "listeners": {"http": {"headerTimeout": "3s", "idleTimeout": "30s"}},
        "accessLog": {"requests": "all", "file": "access.jsonl"},
        "usage": {"file": "usage.jsonl"},
    }
    with ExitStack() as stack:
        if PROGRAM is not None:
            redis = stack.enter_context(RedisServer())
            sections["state"] = {"redis": {"url": redis.url, "timeout": "5s"}}
        calm, engine = simulate("vllm", "m"), simulate("vllm", "m", "--ttft", "0.3", "--itl", "0.04")
        stack.enter_context(together(calm, engine))
        config = written(tmp_path, pool(CALM, [calm]), pool("m", [engine]), settings(**sections))
        gateway = stack.enter_context(Leaping(tmp_path / "off", "-c", config))
        wait_scraped(gateway)
        yield Leapt(gateway, signer, tmp_path, engine)


def test_a_time_of_day_that_leaps_is_nobody_s_lateness(leapt: Leapt) -> None:
    """An hour forth, two back: only what is dated goes by it, tokens that is."""
    gateway = leapt.gateway
    short, long, other = (leapt.token(HOUR_S * hours) for hours in (0.5, 1.5, 0.6))
    assert [leapt.status(each) for each in (KEY, short, long)] == [200, 200, 200]
    for off, expected in ((HOUR_S, [200, 401, 200]), (-HOUR_S, [200, 200, 200])):
        with unharmed(gateway), ExitStack() as stack:
            clients = [stack.enter_context(Client(gateway)) for _ in range(8)]
            for number, client in enumerate(clients):
                client.send("m", "hi", stream=number % 2 == 0, max_tokens=30)
            assert eventually(lambda: state(leapt.engine)["running"] == 8)
            gateway.off(off)
            since = time.time() + off
            assert [leapt.status(each) for each in (KEY, short, long)] == expected
            short = other  # what was refused is remembered for a moment
            for client in clients:
                client.answer()
            assert eventually(lambda: leapt.written("access.jsonl")[-1] >= since)  # noqa: B023
            for name in ("access.jsonl", "usage.jsonl"):
                assert all(time.time() - 60 < at - off < time.time() + 60 for at in leapt.written(name)[-8:])
    assert all(shown["state"] in ("ready", "slow-start") for shown in endpoints(gateway).values())
    page = raw.exchange(admin(gateway), raw.get("/metrics", "connection: close"))
    assert page is not None
    if PROGRAM is not None:
        assert "infer_gateway_store_away_total 0.0\n" in page.body.decode()
        assert "infer_gateway_store_connected 1.0\n" in page.body.decode()
    for judged in ("set aside", "not known any more", "does not answer", "is away"):
        assert judged not in gateway.stderr
