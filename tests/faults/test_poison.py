"""Requests that no engine can bear: each is answered 500 wherever it goes, and others must not pay for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.clients import chat
from tests.faults.engines import TEXT, Engine, acting, refusing, well
from tests.faults.stage import unharmed
from tests.process import InferGateway, serve
from tests.whole.fleet import pool, settings, written
from tests.whole.played import Call

POISON = 0.123
"""A temperature."""
DEADLY = refusing(500, "content-type: application/json")
MODELS = {"one": "x", "two": "ab", "five": "cdefg"}
"""Endpoints of each pool."""


def fragile(call: Call) -> None:
    (DEADLY if str(POISON).encode() in call.body else well)(call)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with acting() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    pools = [pool(name, [], endpoints=[f"{engine.url}/{path}" for path in paths]) for name, paths in MODELS.items()]
    with serve("-c", written(tmp_path_factory.mktemp("poison"), *pools, settings())) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", MODELS)
def test_who_asks_what_no_engine_can_bear_takes_no_pool_away(
    gateway: InferGateway, engine: Engine, model: str, stream: bool
) -> None:
    with unharmed(gateway, bystander=False):
        engine.then(*[fragile] * 1000)
        for _ in range(12):
            poisoned = [chat(gateway, model, stream=stream, temperature=POISON) for _ in range(5)]
            assert {(outcome.kind, outcome.status) for outcome in poisoned} == {("refused", 500)}
            outcome = chat(gateway, model, stream=stream)
            assert (outcome.kind, outcome.text) == ("whole", TEXT)
