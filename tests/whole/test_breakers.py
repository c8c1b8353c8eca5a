"""What breaks gateways: both ends of a request played by hand, byte by byte, with the program between them."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.played import DONE, EVENTS, Call, PlayedEngine, chunk, spoken, whole
from tests.whole.test_leaving_clients import running

CHAT = "/v1/chat/completions"
SETTINGS = """
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
listeners: {{http: {{maxBodyBytes: 1000000}}}}
retry: {{attempts: 3, budget: 1}}
streaming: {{keepAlive: {keep_alive}}}
timeouts: {{betweenTokens: {between_tokens}}}
---
"""
POOL = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {{name: {model}}}
spec: {{inferenceEngine: {engine}, endpoints: {urls}}}
---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {{name: {model}}}
spec: {{modelName: {model}, rules: [{{targetModels: [{{modelServerName: {model}}}]}}]}}
---
"""
SOLOS = [f"solo-{number}" for number in range(60)]
PAIRS = [f"pair-{number}" for number in range(20)]


def written(directory: Path, engine: PlayedEngine, keep_alive: str = "15s", between_tokens: str = "60s") -> str:
    """A configuration with a pool for each test, so that no failure is held against the next one's endpoints."""
    text = SETTINGS.format(keep_alive=keep_alive, between_tokens=between_tokens)
    for model in SOLOS:
        text += POOL.format(model=model, engine="vLLM", urls=json.dumps([engine.url]))
    for model in PAIRS:
        text += POOL.format(model=model, engine="vLLM", urls=json.dumps([f"{engine.url}/a", f"{engine.url}/b"]))
    file = directory / "gateway.yaml"
    file.write_text(text)
    return str(file)


@pytest.fixture(scope="module")
def port() -> Iterator[PlayedEngine]:
    engine = PlayedEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def gateway(port: PlayedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    with serve("-c", written(tmp_path_factory.mktemp("patient"), port)) as running:
        yield running


@pytest.fixture(scope="module")
def lively(port: PlayedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    """A gateway that comments on half a second of silence and bears one and a half."""
    file = written(tmp_path_factory.mktemp("lively"), port, "500ms", "1500ms")
    with serve("-c", file) as running:
        yield running


@pytest.fixture
def engine(port: PlayedEngine) -> Iterator[PlayedEngine]:
    """The played engine, which has to have been asked exactly what the test knows of."""
    yield port
    assert not port.called, "a request too many"


@pytest.fixture
def client(gateway: InferGateway) -> Iterator[Client]:
    with Client(gateway) as connection:
        yield connection


class Client:
    """One connection to a gateway."""

    def __init__(self, gateway: InferGateway) -> None:
        self.socket = raw.connect(gateway.address)
        self.reader = raw.Reader(self.socket)

    def ask(self, model: str, *headers: str, **more: object) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        self.socket.sendall(raw.post(CHAT, body, *headers))

    def answer(self) -> raw.Answer:
        answer = self.reader.answer()
        assert answer is not None
        return answer

    def error(self, status: int) -> dict[str, object]:
        answer = self.answer()
        assert answer.status == status, answer
        error = json.loads(answer.body)["error"]
        assert error.keys() >= {"message", "type", "param", "code"}
        assert error["code"] is None or isinstance(error["code"], str)
        assert isinstance(error, dict)
        return error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.__exit__()
        self.socket.close()


_counter = itertools.count()


@pytest.fixture
def solo() -> str:
    """A model that one endpoint serves, not used before."""
    return SOLOS[next(_counter) % len(SOLOS)]


_pair_counter = itertools.count()


@pytest.fixture
def pair() -> str:
    """A model that two endpoints serve, /a and /b of the same port."""
    return PAIRS[next(_pair_counter) % len(PAIRS)]
