"""What the tests share: the demo, a gateway before simulated engines of each kind, and one whose engine can be told to
fail, as processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.process import ANY_PORT, InferGateway, serve, simulate, together
from tests.whole.troubled import Troubled
from tests.whole.troubled import troubled as in_trouble

ENGINES = ("vllm", "sglang", "tgi", "openai")
PROVIDERS = ("deepseek", "anthropic", "gemini", "huggingface", "llamacpp", "ollama", "trtllm")
"""Those that the demo does not have."""
NAMES = {"ollama": "demo-ollama:latest"}
"""Of models that are listed under another name than the engine was started with."""
BASES = {"gemini": "/v1beta/openai"}


@pytest.fixture(scope="session")
def fleet() -> Iterator[InferGateway]:
    """One quick engine of each kind, named as in the demo: engine ENGINE serves the model `demo-ENGINE`."""
    kinds = (*ENGINES, *PROVIDERS)
    engines = {name: simulate(name, f"demo-{name}", "--ttft", "0.01", "--itl", "0.001") for name in kinds}
    with together(*engines.values()):
        urls = {name: engine.url + BASES.get(name, "") for name, engine in engines.items()}
        with serve(*[word for name, url in urls.items() for word in ("--backend", f"{name}={url}")]) as gateway:
            yield gateway


@pytest.fixture(scope="session")
def demo() -> Iterator[InferGateway]:
    with InferGateway("demo", *ANY_PORT) as running:
        yield running


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    with in_trouble(tmp_path_factory.mktemp("troubled")) as running:
        yield running


@pytest.fixture(params=["demo", "fleet"])
def gateway(request: pytest.FixtureRequest) -> InferGateway:
    """Each of the two in turn."""
    running = request.getfixturevalue(request.param)
    assert isinstance(running, InferGateway)
    return running


@pytest.fixture
def client(gateway: InferGateway) -> Iterator[OpenAI]:
    """The official SDK, told to show every error instead of trying again."""
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=30.0) as sdk:
        yield sdk


@pytest.fixture(params=[*ENGINES, *PROVIDERS])
def any_model(request: pytest.FixtureRequest) -> str:
    """A model of each engine that the fleet has in turn."""
    return NAMES.get(request.param, f"demo-{request.param}")


@pytest.fixture(params=ENGINES)
def model(request: pytest.FixtureRequest) -> str:
    """A model of each engine in turn."""
    return f"demo-{request.param}"
