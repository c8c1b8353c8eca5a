"""Limits through the program: who is refused, with what words, what failures cost, and what an edit leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.process import InferGateway, eventually, serve, simulate
from tests.whole.fleet import pool, settings, written


@pytest.fixture
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.0001") as running:
        yield running


def ask(gateway: InferGateway) -> dict[str, str]:
    """The header fields of an answer. Raises openai.APIStatusError."""
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=30.0) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=5
        )
    return dict(raw.headers)


def refused(gateway: InferGateway) -> openai.RateLimitError | None:
    try:
        ask(gateway)
    except openai.RateLimitError as error:
        return error
    return None


def test_a_limit_refuses_and_an_edit_keeps_what_was_used(tmp_path: Path, engine: InferGateway) -> None:
    limits = [{"requestsPerDay": 3}, {"totalTokensPerMonth": 10**9, "concurrentRequests": 50}]
    file = written(tmp_path, pool("m", [engine]), settings(limits=limits))
    with serve("-c", file) as gateway:
        fields = ask(gateway)
        assert (fields["x-ratelimit-limit-requests"], fields["x-ratelimit-remaining-requests"]) == ("3", "2")
        assert fields["x-ratelimit-limit-tokens"] == str(10**9)
        assert 0 < 10**9 - int(fields["x-ratelimit-remaining-tokens"]) < 500
        assert [ask(gateway)["x-ratelimit-remaining-requests"] for _ in range(2)] == ["1", "0"]

        error = refused(gateway)
        assert error is not None
        assert error.code == "rate_limit_exceeded"
        assert "requests per day of address '127.0.0.1': 3." in error.message
        assert 28_000 < int(error.response.headers["retry-after"]) <= 28_800
        assert error.response.headers["x-ratelimit-remaining-requests"] == "0"

        written(tmp_path, pool("m", [engine]), settings(limits=[{"requestsPerDay": 5}, *limits[1:]]))
        assert eventually(lambda: refused(gateway) is None)
        assert ask(gateway)["x-ratelimit-remaining-requests"] == "0"
        assert refused(gateway) is not None


def test_what_no_engine_answered_costs_nothing(tmp_path: Path, engine: InferGateway) -> None:
    file = written(tmp_path, pool("m", [engine]), settings(limits=[{"requestsPerDay": 2}]))
    with serve("-c", file) as gateway:
        ask(gateway)
        engine.kill()
        for _ in range(5):
            with pytest.raises(openai.InternalServerError):
                ask(gateway)


def test_a_route_limits_its_model(tmp_path: Path, engine: InferGateway) -> None:
    limited = pool("m", [engine])
    file = written(tmp_path, limited)
    text = Path(file).read_text()
    assert '"modelName": "m"' in text
    Path(file).write_text(
        text.replace('"modelName": "m"', '"modelName": "m", "rateLimit": {"outputTokensPerUnit": 5, "unit": "day"}')
    )
    with serve("-c", file) as gateway:
        assert ask(gateway)["x-ratelimit-limit-tokens"] == "5"
        error = refused(gateway)
        assert error is not None
        assert "output tokens per day of model 'm': 5." in error.message
