"""What every fault has to pass can fail."""

from __future__ import annotations

import socket

import pytest

from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, serve, simulate
from tests.whole import raw

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1000, "stream": True}


def test_peace_and_a_stream_that_is_still_there() -> None:
    with (
        simulate("vllm", CALM) as calm,
        simulate("vllm", "m", "--itl", "0.05") as engine,
        serve("--backend", f"vllm={calm.url}", "--backend", f"vllm={engine.url}") as gateway,
    ):
        with unharmed(gateway, clients=0):
            pass
        with raw.connect(gateway.address) as connection, pytest.raises(AssertionError, match="calls"):
            left_running(gateway, connection)
        with pytest.raises(AssertionError, match="others have noticed"):
            without_the_calm_one(gateway, calm)


def left_running(gateway: InferGateway, connection: socket.socket) -> None:
    with unharmed(gateway, within_s=0.5):
        connection.sendall(raw.post("/v1/chat/completions", ASK))
        assert connection.recv(1)


def without_the_calm_one(gateway: InferGateway, calm: InferGateway) -> None:
    with unharmed(gateway):
        calm.kill()
        raw.exchange(gateway.address, raw.post("/v1/chat/completions", {**ASK, "model": CALM}))
