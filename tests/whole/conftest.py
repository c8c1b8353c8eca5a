"""A gateway before four simulated engines, all real processes, shared by the tests that do not break them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.process import InferGateway, serve, simulate, together

ENGINES = ("vllm", "sglang", "tgi", "openai")


@pytest.fixture(scope="session")
def fleet() -> Iterator[InferGateway]:
    """One engine of each kind; engine ENGINE serves the model `ENGINE-model`."""
    engines = {name: simulate(name, f"{name}-model", "--ttft", "0.01", "--itl", "0.001") for name in ENGINES}
    with together(*engines.values()):
        backends = [word for name, engine in engines.items() for word in ("--backend", f"{name}={engine.url}")]
        with serve(*backends) as gateway:
            yield gateway


@pytest.fixture(scope="session")
def client(fleet: InferGateway) -> Iterator[OpenAI]:
    """The official SDK, told to show every error instead of trying again."""
    with OpenAI(base_url=f"{fleet.url}/v1", api_key="unused", max_retries=0, timeout=30.0) as sdk:
        yield sdk


@pytest.fixture(params=ENGINES)
def model(request: pytest.FixtureRequest) -> str:
    """A model of each engine in turn."""
    return f"{request.param}-model"
