"""A client that hangs up frees its engine at once, whatever the gateway was waiting for."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw

NOTICED_S = 1.0
"""Four times the 250 ms in which it is noticed: the machine may be busy."""


@pytest.fixture(scope="module")
def engine() -> Iterator[InferGateway]:
    """Slow on both sides of the first token."""
    with simulate("vllm", "m", "--ttft", "0.5", "--itl", "0.05") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: InferGateway) -> Iterator[InferGateway]:
    with serve("--backend", f"vllm={engine.url}") as running:
        yield running


def running(engine: InferGateway) -> int:
    """How many requests the engine works for, by its own account."""
    answer = raw.exchange(engine.address, raw.get("/metrics", "connection: close"))
    assert answer is not None
    found = re.search(rb"^vllm:num_requests_running\{[^}]*\} ([0-9.]+)$", answer.body, re.MULTILINE)
    assert found, answer.body
    return int(float(found[1]))


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize("phase", ["before the first token", "streaming", "not streaming"])
def test_the_engine_stops(engine: InferGateway, gateway: InferGateway, phase: str, how: str) -> None:
    assert running(engine) == 0
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1000}
    with raw.connect(gateway.address) as connection, raw.Reader(connection) as reader:
        connection.sendall(raw.post("/v1/chat/completions", {**ask, "stream": phase != "not streaming"}))
        if phase == "streaming":
            assert reader.head() is not None
            assert all(reader.chunk() for _ in range(3))
        assert eventually(lambda: running(engine) == 1)
        if how == "half-close":
            connection.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reader.__exit__()
            connection.close()
        assert eventually(lambda: running(engine) == 0, within_s=NOTICED_S)


def test_a_client_that_stops_reading_holds_up_nobody_else(gateway: InferGateway) -> None:
    stuck = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1000, "stream": True}
    with raw.connect(gateway.address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(raw.post("/v1/chat/completions", stuck))
        answer = raw.exchange(gateway.address, raw.post("/v1/chat/completions", {**stuck, "max_tokens": 3}))
        assert answer is not None
        assert answer.whole
        assert raw.events(answer.body)[-1] == "[DONE]"
