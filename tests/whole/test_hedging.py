"""Hedging as clients have it: engines that are slow at random, asked side by side."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.faults.stage import admin, unharmed
from tests.process import InferGateway, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import POOL, settings, written

MODEL = "m"
CHAT = "/v1/chat/completions"
WARM = 250
"""Requests by which the gateway learns what is usual, of each size: more than it needs."""


@contextmanager
def fleet(
    directory: Path, engines: int = 3, *, hedging: bool = True, share: float = 0.05, ttft: float = 0.03
) -> Iterator[tuple[InferGateway, Sequence[InferGateway]]]:
    """A gateway in front of engines none of which fails yet."""
    started = [simulate("vllm", MODEL, "--ttft", str(ttft), "--itl", "0.002", "--seed", str(n)) for n in range(engines)]
    with together(*started):
        urls = [engine.url for engine in started]
        server = {"model": MODEL, "inferenceEngine": "vLLM", "endpoints": urls}
        route = {
            "modelName": MODEL, "hedging": hedging, "rules": [{"targetModels": [{"modelServerName": MODEL}]}],
        }  # fmt: skip
        config = written(
            directory,
            settings(hedging={"budget": share}, health={"ejection": {"maxShare": 0}}),
            POOL.format(name=MODEL, server=json.dumps(server), route=json.dumps(route)),
        )
        with serve("--config", config, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0") as gateway:
            yield gateway, started


def troubled(engines: Sequence[InferGateway], *faults: str) -> None:
    for engine in engines:
        answer = raw.exchange(engine.address, raw.post("/sim/fail", {"fail": faults}, "connection: close"))
        assert answer is not None
        assert answer.status == 200


def asked(gateway: InferGateway, prompt: str, *, stream: bool = True) -> tuple[float, str]:
    """Seconds until the first token of one answer, and all of the text."""
    body = {"model": MODEL, "max_tokens": 8, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
    with raw.connect(gateway.address) as connection:
        began = time.monotonic()
        connection.sendall(raw.post(CHAT, body, "connection: close"))
        reply, first = b"", 0.0
        while data := connection.recv(65536):
            reply += data
            if not first and b'"content"' in reply:
                first = time.monotonic() - began
    head, _, text = reply.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0] + b" ", reply
    assert not stream or text.count(b"[DONE]") == 1, reply
    assert text.count(b'"finish_reason":"') == 1, reply
    return first, text.decode()


def crowd(gateway: InferGateway, count: int, clients: int = 8) -> list[float]:
    """Times to the first token of so many requests."""
    with ThreadPoolExecutor(clients) as pool:
        return sorted(first for first, _ in pool.map(lambda n: asked(gateway, f"question {n} " * 20), range(count)))


def metrics(gateway: InferGateway) -> str:
    answer = raw.exchange(admin(gateway), raw.get("/metrics", "connection: close"))
    assert answer is not None
    return answer.body.decode()


def counted(page: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    found = re.findall(rf"^{name}\{{([^}}]*)\}} (\S+)$", page, re.MULTILINE)
    return sum(float(value) for given, value in found if all(f'{n}="{v}"' in given for n, v in labels.items()))


def test_engines_that_are_slow_at_random_are_not_waited_for(tmp_path: Path) -> None:
    with fleet(tmp_path, share=1.0) as (gateway, engines):
        crowd(gateway, WARM)
        troubled(engines[:1], "slow:4@p=0.3")
        with unharmed(gateway, bystander=False):
            crowd(gateway, 100)
        page = metrics(gateway)
        assert counted(page, "infer_gateway_hedges_total", outcome="won") >= 3
        assert counted(page, "infer_gateway_requests_total", code="200") == WARM + 100
        assert counted(page, "infer_gateway_requests_total") == WARM + 100
        spent = counted(page, "infer_gateway_hedge_tokens_total")
        assert 0 < spent <= counted(page, "infer_gateway_tokens_total")


def test_without_the_route_asking_for_it_nothing_is_asked_twice(tmp_path: Path) -> None:
    with fleet(tmp_path, engines=2, hedging=False) as (gateway, engines):
        crowd(gateway, 40)
        troubled(engines, "slow:0.3@p=0.2")
        crowd(gateway, 40)
        assert counted(metrics(gateway), "infer_gateway_hedges_total") == 0
